"""One use of an inverse: which way, and who judges the outcome."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..modes import plain
from .base import AbstractInverse, LinearReport


@dataclass(frozen=True)
class LinearCall:
    """How `FrozenSolve` applies an inverse: which way, below which vmap levels, and who judges the outcome."""

    inverse: AbstractInverse
    judge: Callable[[LinearReport], Tensor | None]
    levels: tuple[int, ...] = ()
    transposed: bool = False
    skip: bool = False  # the value is known to be zero to tolerance; only the derivative is wanted
    last: bool = False  # the chord step whose cotangents are those of y itself, which an inverse may `watch`

    def turned(self) -> "LinearCall":
        """The transposed map."""
        return replace(self, transposed=not self.transposed, skip=False)

    def solve(self, b: Tensor) -> Tensor:
        """J^-1 b or J^-T b; an iteration that branches on data is not for a compiler."""
        return torch.compiler.disable(self._solve)(b)  # type: ignore[operator]

    def _solve(self, b: Tensor) -> Tensor:
        with plain(b.device):
            value, report = (self.inverse.rsolve if self.transposed else self.inverse.solve)(b.detach())
        spoiled = self.judge(report)
        if self.last and self.transposed and hasattr(self.inverse, "watch"):
            watched = self.inverse.watch(b.detach())  # type: ignore[attr-defined]
            spoiled = watched if spoiled is None else spoiled
        return value if spoiled is None else torch.where(spoiled.unsqueeze(-1), torch.nan, value)
