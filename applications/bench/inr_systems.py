"""Training steps on the camera picture, each system in a process of its own: ours, plain torch, the authors' programs."""

import abc
import importlib
import json
import os
import subprocess
import sys
import time
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..inr.config import ImageConfig, ModelName
from ..inr.draw import draw
from ..inr.fit import PictureTask
from ..inr.grid import grid, scale_of
from ..shared.errors import InputError
from ..shared.memory import PeakMemory
from ..shared.metrics import psnr, squared_error
from ..shared.pictures import Picture, camera, shrink

_AUTHORS_NAMES = {"fourier": "fourier", "gabor": "gabor", "siren": "siren_like", "isiren": "siren_like"}


@dataclass(frozen=True)
class Asked:
    """One system and what is asked of it.

    **Arguments**

    - `system`: ours, plain or authors.
    - `model`, `depth`, `width`: of the network. `norm` bounds the hidden maps.
    - `authors`: everything as the authors have it: five power iterations, states in full precision.
    - `chunk`: of ours; None is what it chooses by itself.
    - `marks`: the steps after which quality is measured, the last of which ends the run.
    - `official`: a checkout of the authors' programs; ours begins with the weights of theirs then.
    - `quality`: whether PSNR is wanted at the marks.
    - `compile`: whether training steps of ours are compiled.
    - `huge_pages`: whether torch asks the kernel for huge pages for large arrays, as `THP_MEM_ALLOC_ENABLE=1` makes it do.
    """

    system: str
    model: ModelName = "fourier-imfn"
    depth: int = 1
    size: int = 256
    width: int = 256
    norm: Any = "none"
    authors: bool = False
    chunk: int | None = None
    marks: tuple[int, ...] = (12,)
    seed: int = 0
    threads: int = 1
    official: str | None = None
    quality: bool = True
    huge_pages: bool = False
    compile: bool = False

    @property
    def label(self) -> str:
        """For a table."""
        name = {"ours": self.model, "plain": "plain torch", "authors": f"authors' {self.model}"}[self.system]
        chunked = {None: "", 0: ", all at once"}.get(self.chunk, f", {self.chunk} at a time")
        compiled = ", compiled" if self.compile else ""
        return f"{name} {self.depth}L-{self.width}D" + (chunked + compiled if self.system == "ours" else "")


def measured(asked: Asked) -> dict[str, float]:
    """What a process of its own found: `ms`, `cpu` (medians of a step), `mib`, `parameters`, `psnr@STEP`."""
    code = f"from {__name__} import main; main()"
    home = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(entry for entry in (home, os.environ.get("PYTHONPATH")) if entry)
    settings = {"OMP_NUM_THREADS": str(asked.threads), "MKL_NUM_THREADS": str(asked.threads), "PYTHONPATH": path}
    if asked.huge_pages:
        settings["THP_MEM_ALLOC_ENABLE"] = "1"
    command = [sys.executable, "-c", code, json.dumps(vars(asked))]
    done = subprocess.run(command, env={**os.environ, **settings}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise InputError(f"`{asked.label}` could not be measured; what it said is above.")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """The process that measures: its argument is an `Asked` as JSON."""
    fields = json.loads(sys.argv[1])
    asked = Asked(**{**fields, "marks": tuple(fields["marks"])})
    torch.set_num_threads(asked.threads)
    print(json.dumps(_measure(asked)))


def _measure(asked: Asked) -> dict[str, float]:
    for side in (8, 16):  # code that is loaded on first use is no memory of a step, nor is its time
        trial = _task(asked, side)
        trial.step()
        trial.step()
        trial.quality()
    task = _task(asked, asked.size)
    memory, found = PeakMemory(torch.device("cpu")), {}
    wall, cpu = [], []
    for step in range(1, max(asked.marks) + 1):
        begin, work = time.perf_counter(), time.process_time()
        task.step()
        wall.append(time.perf_counter() - begin)
        cpu.append(time.process_time() - work)
        if step in asked.marks:
            found["mib"] = memory.pause()
            if asked.quality:
                found[f"psnr@{step}"] = task.quality()
            memory.resume()
    skip = 2 if len(wall) > 4 else 0
    found["ms"], found["cpu"] = (1e3 * float(torch.tensor(times[skip:]).median()) for times in (wall, cpu))
    return found | {"parameters": float(sum(parameter.numel() for parameter in task.model.parameters()))}


def _task(asked: Asked, size: int) -> Any:
    kinds = {"ours": _Ours, "plain": _Plain, "authors": _Authors}
    return kinds[asked.system](asked, size)


def _picture(size: int) -> Picture:
    picture = shrink(camera(), size, "camera")
    if max(picture.pixels.shape) >= size:
        return picture
    pixels = picture.pixels.movedim(-1, 0).unsqueeze(0)
    larger = nn.functional.interpolate(pixels, size=(size, size), mode="bilinear")[0].movedim(0, -1)
    return Picture(larger, "camera")


class _Ours:
    def __init__(self, asked: Asked, size: int):
        self.picture = _picture(size)
        oddities: dict[str, Any] = {}
        if asked.authors:
            oddities = {"power_iterations": 5, "half_states": False, "gabor_entry_alpha": 6.0}
        config = ImageConfig(
            model=asked.model, width=asked.width, depth=asked.depth, size=size, norm=asked.norm, chunk=asked.chunk,
            seed=asked.seed, steps=max(asked.marks), compile=asked.compile, **oddities,
        )  # fmt: skip
        self.task = PictureTask(config, self.picture, torch.device("cpu"))
        self.model, self.step = self.task.model, self.task.step
        if asked.official is not None:
            _begin_with(self.model, _Authors(asked, size))

    def quality(self) -> float:
        target = self.picture.pixels
        pixels, _ = draw(self.model, target.shape[0], target.shape[1])
        return psnr(squared_error(pixels * 2 - 1, target * 2 - 1) / target.numel())


class _Reference(abc.ABC):
    """What both references share: coordinates, target, Adam, and PSNR from what `output` says."""

    model: Any

    def __init__(self, size: int):
        self.x, self.target = grid(size, size), _picture(size).pixels.reshape(-1, 1) * 2 - 1

    def quality(self) -> float:
        with torch.no_grad():
            error = squared_error(self.output(), self.target)
        return psnr(error / self.target.numel())

    @abc.abstractmethod
    def output(self) -> Tensor:
        """(pixels, 1), in the range of the target."""


class _Plain(_Reference):
    """The explicit network as one would write it in torch, with nothing of ours."""

    def __init__(self, asked: Asked, size: int):
        super().__init__(size)
        torch.manual_seed(asked.seed)
        self.model = _PlainNetwork(asked.width, asked.depth, scale_of(size, size))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)

    def step(self) -> None:
        loss = (self.model(self.x) - self.target).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def output(self) -> Tensor:
        return torch.cat([self.model(rows) for rows in self.x.split(16384)])


class _Authors(_Reference):
    """The programs of the authors, from the checkout that is named; they run as they are, with their training recipe."""

    def __init__(self, asked: Asked, size: int):
        super().__init__(size)
        torch.manual_seed(asked.seed)
        build = _authors_modules(asked.official)
        name = asked.model.split("-")[0]
        arguments = build.construct_model_args(
            "implicit", asked.depth, 2, asked.width, 1, input_scale=scale_of(size, size),
            use_implicit=asked.model in ("fourier-imfn", "gabor-imfn", "isiren"), filter_type=_AUTHORS_NAMES[name],
            filter_options={"alpha": 3.0}, norm_type={"none": "none", "spectral": "spectral_norm"}[asked.norm],
            forward_solver="forward_iter", backward_solver="onestep",
        )  # fmt: skip
        self.model = build.get_model(arguments)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.z, self.first, self.width = torch.zeros(len(self.x), asked.width), True, asked.width

    def step(self) -> None:
        found = self.model(self.x, self.z, skip_solver=not self.first)
        self.first, self.z = False, found["imp_layer_output"].detach()
        loss = (found["output"] - self.target).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def output(self) -> Tensor:
        return self.model(self.x, torch.zeros(1, self.width))["output"]


def _begin_with(ours: nn.Module, authors: "_Authors") -> None:
    """Copy the weights of the authors' network of one layer into ours, so that both take the same steps up to rounding.

    Theirs iterates for the spectral norm in every evaluation of its first solve, too, ours once a step. So the evaluations
    of that solve are counted, and ours gets the estimate that theirs has after as many, which is still on its way: another
    one would change the hidden map of the first steps by some per cent.
    """
    theirs, evaluations = authors.model, 0
    hidden = theirs.implicit_layer.f.layers[0].z_map
    buffers = {name: buffer.clone() for name, buffer in hidden.named_buffers()}

    def count(*_: Any) -> None:
        nonlocal evaluations
        evaluations += 1

    handle = hidden.register_forward_pre_hook(count)
    with torch.no_grad():
        theirs(authors.x, authors.z)
        handle.remove()
        for name, buffer in hidden.named_buffers():
            buffer.copy_(buffers[name])
        for _ in range(evaluations - 1):  # the last one is of the step itself
            hidden(authors.z[:1])
    theirs_of = {
        "map.hidden.0.bias": "implicit_layer.f.layers.0.z_map.bias",
        "map.hidden.0.parametrizations.weight.original": "implicit_layer.f.layers.0.z_map.weight_orig",
        "map.hidden.0.parametrizations.weight.0.u": "implicit_layer.f.layers.0.z_map.weight_u",
        "map.hidden.0.parametrizations.weight.0.v": "implicit_layer.f.layers.0.z_map.weight_v",
        "readout.weight": "output_map.weight",
        "readout.bias": "output_map.bias",
    }
    for place, injection in enumerate(("init_filter", "layers.0.filter")):
        for name, other in (
            ("frequency", "x_map.weight"),
            ("phase", "x_map.bias"),
            ("centre", "mu"),
            ("sharpness", "gamma"),
        ):
            theirs_of[f"map.injections.{place}.{name}"] = f"implicit_layer.f.{injection}.{other}"
    given = theirs.state_dict()
    with torch.no_grad():
        for name, tensor in ours.state_dict().items():
            value = given[theirs_of[name]]
            tensor.copy_(value.mT if name.endswith(("frequency", "centre")) else value)


def _authors_modules(folder: str | None) -> Any:
    if folder is None or not (Path(folder) / "modules" / "modeling_utils.py").is_file():
        raise InputError(
            f"`--official {folder}` is no checkout of locuslab/ImpSq: it has no `modules/modeling_utils.py`."
        )
    sys.path.insert(0, folder)
    while True:  # their modules import packages that only their scripts use
        try:
            return importlib.import_module("modules.modeling_utils")
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("modules"):
                raise
            stand_in = types.ModuleType(error.name)
            stand_in.__getattr__ = lambda name: None  # type: ignore[method-assign]
            sys.modules[error.name] = stand_in
            for loaded in [name for name in sys.modules if name.split(".")[0] == "modules"]:
                del sys.modules[loaded]


class _PlainNetwork(nn.Module):
    def __init__(self, width: int, depth: int, scale: float):
        super().__init__()
        self.filters = nn.ModuleList(nn.Linear(2, width) for _ in range(depth + 1))
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.readout = nn.Linear(width, 1)
        for layer in self.filters:
            assert isinstance(layer, nn.Linear)
            layer.weight.data *= scale / (depth + 1) ** 0.5
            nn.init.uniform_(layer.bias, -torch.pi, torch.pi)
        for layer in self.hidden:
            nn.init.uniform_(layer.weight, -(width**-0.5), width**-0.5)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        filters: Sequence[nn.Module] = list(self.filters)
        hidden = torch.sin(filters[0](x))
        for linear, waves in zip(self.hidden, filters[1:], strict=True):
            hidden = linear(hidden) * torch.sin(waves(x))
        return self.readout(hidden)
