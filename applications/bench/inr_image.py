"""`implayer bench inr-image`: a step of the implicit network beside explicit ones, under equal settings."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from ..inr.config import ImageConfig
from ..inr.draw import draw
from ..inr.fit import PictureTask
from ..inr.grid import grid
from ..shared.memory import PeakMemory
from ..shared.metrics import psnr, squared_error
from ..shared.pictures import camera, shrink

SYSTEMS = {"implicit": ("fourier-imfn", 1), "explicit": ("fourier-mfn", 4), "plain": ("plain torch", 4)}


@dataclass(frozen=True)
class Options:
    """Grey camera picture: time of a step, growth of memory, PSNR; each system in a process of its own."""

    size: int = 256
    """Pixels on a side."""
    width: int = 256
    """Entries of the hidden state."""
    steps: int = 12
    """Steps of each run; 200 and more to compare PSNR."""
    seeds: int = 1
    """Runs of each system, of which the median is shown."""
    threads: int = 1
    """Of torch."""
    norm: str = "none"
    """none or spectral (plain torch: without)."""
    chunk: int = 0
    """Pixels at a time; 0 is all, as the paper."""
    child: str = ""
    """For the program itself: the one system that this process runs."""
    seed: int = 0
    """For the program itself: its seed."""


def main(arguments: list[str]) -> int:
    """Run with command-line arguments; returns the exit code."""
    options = tyro.cli(Options, args=arguments, prog="implayer bench inr-image")
    if options.child:
        print(json.dumps(_measure(options)))
        return 0
    print(
        f"camera {options.size} x {options.size}, width {options.width}, norm {options.norm}, {options.steps} steps, "
        f"{options.seeds} seed(s), {options.threads} thread(s), torch {torch.__version__}, {platform.machine()}"
    )
    print(f"  {'system':24} {'ms a step':>10} {'CPU ms':>8} {'MiB':>7} {'parameters':>11} {'PSNR dB':>8}")
    # Seed by seed, so that all systems meet the same moods of a shared machine.
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in SYSTEMS}
    for seed in range(options.seeds):
        for name in SYSTEMS:
            runs[name].append(_child(options, name, seed))
    rows = {
        name: {key: statistics.median(run[key] for run in found) for key in found[0]} for name, found in runs.items()
    }
    for name, row in rows.items():
        label = f"{SYSTEMS[name][0]} {SYSTEMS[name][1]}L"
        print(
            f"  {label:24} {row['ms']:10.0f} {row['cpu']:8.0f} {row['mib']:7.0f} {row['parameters']:11.0f} "
            f"{row['psnr']:8.2f}"
        )
    _ratio("implicit / explicit", rows["implicit"], rows["explicit"])
    _ratio("explicit / plain torch", rows["explicit"], rows["plain"])
    return 0


def _ratio(label: str, ours: dict[str, float], other: dict[str, float]) -> None:
    time, cpu, memory = (ours[key] / other[key] for key in ("ms", "cpu", "mib"))
    print(
        f"  {label}: time {time:.2f} (CPU {cpu:.2f}), memory {memory:.2f}, PSNR {ours['psnr'] - other['psnr']:+.2f} dB"
    )


def _child(options: Options, name: str, seed: int) -> dict[str, float]:
    command = [sys.executable, "-m", "applications", "bench", "inr-image", "--child", name, "--seed", str(seed)]
    for key in ("size", "width", "steps", "threads", "norm", "chunk"):
        command += [f"--{key}", str(getattr(options, key))]
    home = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(entry for entry in (home, os.environ.get("PYTHONPATH")) if entry)
    threads = {"OMP_NUM_THREADS": str(options.threads), "MKL_NUM_THREADS": str(options.threads)}
    done = subprocess.run(
        command, env={**os.environ, **threads, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def _measure(options: Options) -> dict[str, float]:
    torch.set_num_threads(options.threads)
    _task(options, 8).step()  # code that torch loads on first use is no memory of a step
    task = _task(options, options.size)
    memory = PeakMemory(torch.device("cpu"))
    wall, cpu = [], []
    for _ in range(options.steps):
        begin, work = time.perf_counter(), time.process_time()
        task.step()
        wall.append(time.perf_counter() - begin)
        cpu.append(time.process_time() - work)
    peak = memory.pause()
    skip = 2 if options.steps > 4 else 0
    return {
        "ms": 1e3 * statistics.median(wall[skip:]),
        "cpu": 1e3 * statistics.median(cpu[skip:]),
        "mib": peak,
        "parameters": float(sum(parameter.numel() for parameter in task.model.parameters())),
        "psnr": _quality(task, options.size),
    }


def _task(options: Options, size: int) -> Any:
    picture = shrink(camera(), size, "camera")
    name, depth = SYSTEMS[options.child]
    if options.child == "plain":
        return PlainTask(picture.pixels, options.width, depth, options.seed)
    settings: dict[str, Any] = {key: getattr(options, key) for key in ("width", "norm", "chunk", "seed")}
    config = ImageConfig(model=name, depth=depth, size=size, **settings)  # type: ignore[arg-type]
    return PictureTask(config, picture, torch.device("cpu"))


def _quality(task: Any, size: int) -> float:
    target = shrink(camera(), size, "camera").pixels
    if isinstance(task, PlainTask):
        with torch.no_grad():
            parts = [task.model(rows) for rows in grid(size, size).split(16384)]
        pixels = (torch.cat(parts).reshape(size, size, 1) + 1) / 2
    else:
        pixels, _ = draw(task.model, size, size, torch.device("cpu"))
    return psnr(squared_error(pixels * 2 - 1, target * 2 - 1) / target.numel())


class PlainTask:
    """The four-layer network as one would write it in torch, with nothing of ours."""

    def __init__(self, pixels: Tensor, width: int, depth: int, seed: int):
        torch.manual_seed(seed)
        size = max(pixels.shape[:2])
        self.model = _PlainNetwork(width, depth, 256 * size / 512)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.x, self.target = grid(pixels.shape[0], pixels.shape[1]), pixels.reshape(-1, 1) * 2 - 1

    def step(self) -> None:
        """One step."""
        loss = (self.model(self.x) - self.target).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


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
        hidden = torch.sin(self.filters[0](x))
        for linear, waves in zip(self.hidden, list(self.filters)[1:], strict=True):
            hidden = linear(hidden) * torch.sin(waves(x))
        return self.readout(hidden)
