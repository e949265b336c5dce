"""Training on a signal that is a list of samples: all of them in every step, or mini-batches without repetition."""

import abc
from collections.abc import Iterator

import torch
from torch import Tensor

from .cache import AbstractCache, FixedPointCache, Rows
from .config import FieldConfig
from .task import Batch, FieldTask

_PERMUTED = 2**26  # more points than these are drawn with repetition, for their permutation would take 0.5 GiB


class SampledTask(FieldTask):
    """A signal with `count` samples. A step has `config.batch` of them (0: all); fixed points are kept by index."""

    def __init__(
        self, config: FieldConfig, device: torch.device, *, inputs: int, outputs: int, scale: float, count: int
    ):
        self.count = count
        super().__init__(config, device, inputs=inputs, outputs=outputs, scale=scale)
        self._order: tuple[int, Tensor] = (-1, torch.empty(0, dtype=torch.long))  # the epoch and its permutation

    @abc.abstractmethod
    def take(self, rows: Rows) -> Batch:
        """The samples of these rows: a slice, or a tensor of indices on the CPU."""

    @property
    def points(self) -> int:
        """All samples, or those of a mini-batch."""
        return self.config.batch or self.count

    @property
    def own(self) -> range:
        """The samples whose fixed points are kept, and which are worked on, in this process."""
        return self.team.share(self.count)

    def make_cache(self) -> AbstractCache | None:
        """By index."""
        own, budget = self.own, self.config.cache_mb
        if not own:
            return None
        return FixedPointCache(len(own), self.model.width, dtype=self.kept, device=self.device, budget_mb=budget)

    def batches(self, done: int) -> Iterator[Batch]:
        """The samples in their order, or a mini-batch that is drawn."""
        chunk = min(self.chunk or self.points, self.points)
        if self.points >= self.count:
            for first in range(self.own.start, self.own.stop, chunk):
                yield self.take(slice(first, min(first + chunk, self.own.stop)))
            return
        drawn = self._drawn(done, self.points)
        if self.team.count > 1:
            drawn = drawn[(drawn >= self.own.start) & (drawn < self.own.stop)]
        for rows in drawn.split(chunk) if len(drawn) else ():
            yield self.take(rows)

    def some(self, points: int, generator: torch.Generator) -> Batch:
        """Some samples."""
        return self.take(torch.randint(self.count, (points,), generator=generator))

    def place(self, batch: Batch) -> Rows:
        """Their numbers, counted from the first sample of this process."""
        rows, first = batch.rows, self.own.start
        assert rows is not None
        return slice(rows.start - first, rows.stop - first) if isinstance(rows, slice) else rows - first

    def _drawn(self, done: int, points: int) -> Tensor:
        if self.count > _PERMUTED:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + done)
            return torch.randint(self.count, (points,), generator=generator)
        epoch, place = divmod(done, max(self.count // points, 1))
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._order = (epoch, torch.randperm(self.count, generator=generator))
        return self._order[1][place * points : (place + 1) * points]
