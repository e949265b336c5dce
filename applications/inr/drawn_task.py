"""Training on a signal without samples: fresh points of the continuum in every step."""

import abc
from collections.abc import Iterator

import torch
from torch import Tensor

from .cache import AbstractCache
from .task import Batch, FieldTask


class DrawnTask(FieldTask):
    """A signal that is known everywhere. A step has `config.batch` points, of which nothing is kept unless a subclass does."""

    @abc.abstractmethod
    def draw(self, points: int, generator: torch.Generator) -> Batch:
        """Fresh points."""

    @property
    def points(self) -> int:
        """As many as the configuration has."""
        return self.config.batch

    def make_cache(self) -> AbstractCache | None:
        """Nowhere."""
        return None

    def batches(self, done: int) -> Iterator[Batch]:
        """The same points in every run; several processes take turns with the chunks."""
        chunk = min(self.chunk or self.points, self.points)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + done)
        for number, first in enumerate(range(0, self.points, chunk)):
            batch = self.draw(min(chunk, self.points - first), generator)
            if number % self.team.count == self.team.rank:
                yield batch

    def some(self, points: int, generator: torch.Generator) -> Batch:
        """Fresh points, too."""
        return self.draw(points, generator)

    def place(self, batch: Batch) -> Tensor:
        """Their coordinates."""
        return batch.x
