"""Square equations out of any F: as it is, with gauge rows, or stationary."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import _tree
from .compiled import always_differentiable, differentiable
from .problem import Layout, Problem, pack_residual
from .types import Residual, Tree


def with_gauge(F: Residual, gauge: Residual | None) -> Residual:
    """(x, y) -> (F, gauge): the rows of a gauge make a wide F square; solvers see one system."""
    F = always_differentiable(F)
    return F if gauge is None else Gauged(F, always_differentiable(gauge))


@dataclass(frozen=True)
class Gauged:
    """F and its gauge rows as one residual."""

    F: Residual
    gauge: Residual

    def __call__(self, x: Tree, y: Tree) -> Tree:
        """The residual (F(x, y), gauge(x, y))."""
        return (self.F(x, y), self.gauge(x, y))


def equation(problem: Problem, layout: Layout, rows: int) -> Callable[[Tensor], Tensor]:
    """The equation on vectors (samples, n) whose Jacobian the derivative inverts.

    - as many rows as unknowns: F itself;
    - fewer: F itself, to be inverted by its frozen pseudo-inverse, so that y moves in y* + range(J');
    - more (least squares): the stationary point J'F = 0, whose Jacobian is the exact Hessian J'J + sum_i F_i F_i''.
    """

    def residual(y: Tensor) -> Tensor:
        return pack_residual(problem.residual(layout.unpack(y)), layout, problem.event_ndim)

    if rows <= layout.n:
        return residual

    def stationary(y: Tensor) -> Tensor:
        r, pullback = torch.func.vjp(residual, y)[:2]
        return pullback(r)[0]

    return stationary


class Displacement(torch.nn.Module):
    """F = f(x, y) - y."""

    def __init__(self, f: Residual):
        super().__init__()
        self.f = f

    def forward(self, x: Tree, y: Tree) -> Tree:
        """The displacement."""
        image = differentiable(self.f)(x, y)
        if isinstance(y, Tensor) and isinstance(image, Tensor):
            return image - y
        pairs = zip(_tree.leaves(image), _tree.leaves(y), strict=True)
        leaves = [a - b if _tree.differentiable(b) else b for a, b in pairs]
        return _tree.unflatten(leaves, _tree.flatten(y)[1])
