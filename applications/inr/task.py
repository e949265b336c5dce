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
from .cache import AbstractCache, FixedPointCache, Rows
from .config import FieldConfig
from .models.build import build_model
from .models.networks import AbstractNetwork

_CHUNK_ENTRIES = {"cpu": 2**19, "cuda": 2**26}  # of (points, width): arrays of 2 MiB stay in a CPU's last cache
_PERMUTED = 2**26  # more points than these are drawn with repetition, for their permutation would take 0.5 GiB
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
    """A network for one signal. A signal with samples gives `count` and `take`; one without overrides `draw`.

    What a subclass may override, most need the first alone:

    - `take(rows)`: the points of these rows of the signal (a slice, or a tensor of indices on the CPU).
    - `draw(points, generator)`: fresh points, for signals that are no list of samples (with `count` 0).
    - `penalty(output, batch)`: (points,) the loss at each point; mean square error over the outputs by default.
    - `losses(batch, z)`: where the loss needs more than the output, as derivatives: (points,) losses, what is reported, and
      the hidden states to start from next time.
    - `figures(loss, reported)`: what a step reports; loss and PSNR by default.
    - `make_cache()`: where fixed points are kept; by index, or nowhere for drawn points.

    One step has `config.batch` points (0: all), which are worked on `chunk` at a time: the gradient is that of all of them,
    memory is that of a chunk.
    """

    model: AbstractNetwork
    remedy = "the map of the layer is no contraction any more: use `--norm guard` or `--norm spectral`"

    def __init__(
        self, config: FieldConfig, device: torch.device, *, inputs: int, outputs: int, scale: float, count: int
    ):
        self.config, self.device, self.count = config, device, count
        self.team = ranks()
        self.own = self.team.share(count)  # the points whose fixed points are kept, and which are worked on, here
        self.seed, self.total_steps = config.seed, config.steps
        self.model = build_model(config, inputs, outputs, scale).to(device).eval()
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.rate)
        self.kept = torch.float16 if config.half_states else torch.float32
        entries = _CHUNK_ENTRIES.get(device.type, _CHUNK_ENTRIES["cuda"])
        self.chunk = max(entries // self.model.width, 1) if config.chunk is None else config.chunk
        self.cache = self.make_cache() if self.model.implicit else None
        self._order: tuple[int, Tensor] = (-1, torch.empty(0, dtype=torch.long))  # the epoch and its permutation
        self._watched = False

    # ------------------------------------------------------------------------------------- what a signal is made of
    @abc.abstractmethod
    def take(self, rows: Rows) -> Batch:
        """The points of these rows."""

    def draw(self, points: int, generator: torch.Generator) -> Batch:
        """Fresh points; only signals without a list of samples have them."""
        raise NotImplementedError(f"`{type(self).__name__}` has no samples and draws none")

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

    def make_cache(self) -> AbstractCache | None:
        """Where fixed points are kept from step to step."""
        if not self.own:
            return None
        return FixedPointCache(
            len(self.own), self.model.width, dtype=self.kept, device=self.device, budget_mb=self.config.cache_mb
        )

    # ------------------------------------------------------------------------------------------------------ one step
    def step(self) -> dict[str, float]:
        """One step of the optimiser."""
        done = self.steps_done()
        self._watch()
        measured = self.model.follow_weights()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(done)
        loss, reported, points = 0.0, {}, self.config.batch or self.count
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

    def batches(self, done: int) -> Iterator[Batch]:
        """The points of step `done`, at most `chunk` at a time."""
        points = self.config.batch or self.count
        chunk = min(self.chunk or points, points)
        if not self.count:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + done)
            for number, first in enumerate(range(0, points, chunk)):
                batch = self.draw(min(chunk, points - first), generator)
                if number % self.team.count == self.team.rank:
                    yield batch
        elif points >= self.count:
            for first in range(self.own.start, self.own.stop, chunk):
                yield self.take(slice(first, min(first + chunk, self.own.stop)))
        else:
            drawn = self._drawn(done, points)
            if self.team.count > 1:
                drawn = drawn[(drawn >= self.own.start) & (drawn < self.own.stop)]
            for rows in drawn.split(chunk) if len(drawn) else ():
                yield self.take(rows)

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
        place = batch.x if batch.rows is None else self._kept_at(batch.rows)
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

    def _kept_at(self, rows: Rows) -> Rows:
        """Where the fixed points of these points are kept in this process."""
        first = self.own.start
        return slice(rows.start - first, rows.stop - first) if isinstance(rows, slice) else rows - first

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

    def _drawn(self, done: int, points: int) -> Tensor:
        if self.count > _PERMUTED:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + done)
            return torch.randint(self.count, (points,), generator=generator)
        epoch, place = divmod(done, max(self.count // points, 1))
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._order = (epoch, torch.randperm(self.count, generator=generator))
        return self._order[1][place * points : (place + 1) * points]

    def _watch(self) -> None:
        """Show points of the whole signal to the network before its first step; later ones know them from the state."""
        if self._watched:
            return
        self._watched = True
        if self.steps_done():
            return
        generator = torch.Generator().manual_seed(self.seed)
        if self.count:
            batch = self.take(torch.randint(self.count, (_PROBES,), generator=generator))
        else:
            batch = self.draw(_PROBES, generator)
        self.model.watch(batch.x)

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
