"""The training core of all signals: a network, points with targets, a loss, fixed points that are reused, Adam."""

import abc
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..shared.checkpoint import under_prefix, with_prefix
from ..shared.errors import CheckpointError
from ..shared.metrics import psnr, squared_error
from ..shared.ranks import ranks
from ..shared.training import AbstractTask
from .cache import AbstractCache, Rows
from .check import check_device
from .config import FieldConfig
from .models.build import build_model
from .models.networks import AbstractNetwork
from .models.precision import tensor_float

_CHUNK_ENTRIES = {"cpu": 2**19, "cuda": 2**26}  # of (points, width): arrays of 2 MiB stay in a CPU's last cache
_PROBES = 4096  # points of the signal from which a guard takes its own


@dataclass(frozen=True)
class Batch:
    """Points that are worked on together.

    **Arguments**

    - `x`: (points, inputs), on the device.
    - `target`: (points, anything), on the device.
    - `weight`: (points,) factors of the loss, or None.
    - `rows`: where the points lie in the signal: indices or a slice; None for points drawn from the continuum.
    """

    x: Tensor
    target: Tensor
    weight: Tensor | None = None
    rows: Rows | None = None


class FieldTask(AbstractTask):
    """A network for one signal, in one of two forms: `SampledTask` for signals with samples, `DrawnTask` for others.

    What a subclass may override, most need none of it:

    - `penalty(output, batch)`: (points,) the loss at each point; mean square error over the outputs by default.
    - `losses(batch, z)`: where the loss needs more than the output, as derivatives: (points,) losses, what is reported, and
      the hidden states to start from next time.
    - `figures(loss, reported)`: what a step reports; loss and PSNR by default.

    The points of a step are worked on `chunk` at a time: the gradient is that of all of them, memory is that of a chunk.
    """

    model: AbstractNetwork
    remedy = "the map of the layer is no contraction any more: use `--norm guard` or `--norm spectral`"

    def __init__(self, config: FieldConfig, device: torch.device, *, inputs: int, outputs: int, scale: float):
        self.config, self.device, self.team = config, device, ranks()
        check_device(config, device)
        self.seed, self.total_steps = config.seed, config.steps
        self.model = build_model(config, inputs, outputs, scale).to(device).eval()
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.rate)
        self.kept = torch.float16 if config.half_states else torch.float32
        entries = _CHUNK_ENTRIES.get(device.type, _CHUNK_ENTRIES["cuda"])
        self.chunk = max(entries // self.model.width, 1) if config.chunk is None else config.chunk
        self.cache = self.make_cache() if self.model.implicit else None
        self._watched = False

    # ------------------------------------------------------------------------------------- what a signal is made of
    @property
    @abc.abstractmethod
    def points(self) -> int:
        """How many points a step has."""

    @abc.abstractmethod
    def batches(self, done: int) -> Iterator[Batch]:
        """The points of step `done`, those of this process, at most `chunk` at a time."""

    @abc.abstractmethod
    def some(self, points: int, generator: torch.Generator) -> Batch:
        """Any points of the whole signal."""

    @abc.abstractmethod
    def make_cache(self) -> AbstractCache | None:
        """Where fixed points are kept from step to step, or nowhere."""

    @abc.abstractmethod
    def place(self, batch: Batch) -> Rows | Tensor:
        """Where the fixed points of these points are kept in this process."""

    def penalty(self, output: Tensor, batch: Batch) -> Tensor:
        """(points, outputs) -> (points,)."""
        loss = (output - batch.target).square().mean(-1)
        return loss if batch.weight is None else loss * batch.weight

    def losses(self, batch: Batch, z: Tensor | None) -> tuple[Tensor, dict[str, float], Tensor | None]:
        """(points,) losses, sums that are reported, and the states to keep, from the states of the last step."""
        state = self.model.improved(batch.x, z).value
        kept = state.detach() if self.model.implicit else None
        output = self.model.readout(state)
        del state  # so that it does not outlive the graph's need of it
        error = squared_error(output, batch.target) / output.shape[-1]
        return self.penalty(output, batch), {"squared_error": error}, kept

    def figures(self, loss: float, reported: dict[str, float]) -> dict[str, float]:
        """From the mean loss of the step, and the means over its points of what `losses` reported."""
        return {"loss": loss, "psnr": psnr(reported["squared_error"])}

    # ------------------------------------------------------------------------------------------------------ one step
    def step(self) -> dict[str, float]:
        """One step of the optimiser."""
        done = self.steps_done()
        self._watch()
        measured = self.model.follow_weights()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(done)
        loss, reported, points = 0.0, {}, self.points
        with tensor_float(self.config.precision):
            for batch in self.batches(done):
                part, sums = self._accumulate(batch, points)
                loss += part
                for name, value in sums.items():
                    reported[name] = reported.get(name, 0.0) + value / points
        sums = self.team.total(reported | {"": loss})
        loss, reported = sums.pop(""), sums
        self.synchronise()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return self.figures(loss, reported) | measured

    def rate(self, done: int) -> float:
        """The learning rate of step `done`."""
        config = self.config
        way = done / max(config.steps - 1, 1)
        left = 1 - way if config.schedule == "linear" else (1 + math.cos(math.pi * way)) / 2
        return config.rate * (config.decay + (1 - config.decay) * left)

    def steps_done(self) -> int:
        """How many steps the optimiser has made."""
        state = self.optimizer.state.get(self.parameters[0])
        return int(state["step"]) if state else 0

    def synchronise(self) -> None:
        """Between the gradient of this process and the step; where several share the points, they add theirs up here."""
        if self.team.count > 1:
            for parameter in self.parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            self.team.add(parameter.grad for parameter in self.parameters if parameter.grad is not None)

    def _accumulate(self, batch: Batch, points: int) -> tuple[float, dict[str, float]]:
        place = self.place(batch)
        start = self._start(batch, place)
        losses, reported, state = self.losses(batch, start)
        del start
        if self.cache is not None and state is not None:
            self.cache.keep(place, state)
        del state
        loss = losses.sum() / points
        # `inputs`: without them the unused gradient of the start would be formed, too.
        torch.autograd.backward(loss, inputs=self.parameters)
        return float(loss.detach()), reported

    def _start(self, batch: Batch, place: Rows | Tensor) -> Tensor | None:
        """The fixed points of the last step; where there is none, by a full solve."""
        found = None if self.cache is None else self.cache.recall(place)
        if found is None or not bool(found[1].any()):
            return None
        z, known = found[0].to(batch.x.dtype), found[1]
        if bool(known.all()):
            return z
        new = (~known).nonzero().squeeze(-1)
        return z.index_copy(0, new, self.model.solved(batch.x.detach()[new]))

    def _watch(self) -> None:
        """Show points of the whole signal to the network before its first step; later ones know them from the state."""
        if self._watched:
            return
        self._watched = True
        if self.steps_done():
            return
        generator = torch.Generator().manual_seed(self.seed)
        self.model.watch(self.some(_PROBES, generator).x)

    # --------------------------------------------------------------------------------------------------- checkpoints
    def further_state(self) -> dict[str, Tensor]:
        """The fixed points, those of each process under a name of its own."""
        parts = self.team.at_first({} if self.cache is None else self.cache.tensors()) or []
        return {
            key: value
            for number, part in enumerate(parts)
            for key, value in with_prefix(self._kept_as(number), part).items()
        }

    def _kept_as(self, rank: int) -> str:
        """With another number of processes nothing is found under this name, and all is solved for anew."""
        return "fixed_points" if self.team.count == 1 else f"fixed_points_{rank}_of_{self.team.count}"

    def restore_further(self, tensors: dict[str, Tensor]) -> None:
        """The same from a checkpoint."""
        found = under_prefix(self._kept_as(self.team.rank), tensors)
        if found and self.cache is None:
            raise CheckpointError("the checkpoint holds fixed points, but the model of the configuration has none.")
        if self.cache is not None:
            self.cache.restore(found)
