"""The direct way from a field to its vertices and back, on numbers, for eager reverse mode."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..implicit import Demand, Postponed
from ..solvers.marching import Marched
from .level_set_report import Field, Report
from .level_set_residual import mean_slope


@dataclass(frozen=True, eq=False)
class Backward:
    """How the derivative is taken: with slopes of at least `floor` times the mean; across edges too if `wide` (normal gauge).

    `attached(*field)` makes the same vertices with derivatives of all orders, for those beyond the first.
    """

    mean: Tensor
    floor: float
    wide: bool
    attached: Callable[..., Tensor]


def vertices_directly(field: Field, raw: Field, report: Report, backward: Backward | None = None) -> Tensor:
    """(vertices, d) in space; with a graph where it is said how to go back."""
    marched = report.marched
    u = marched.corner.to(raw.phi.dtype).scatter_add_(0, marched.axis.unsqueeze(0), marched.t.unsqueeze(0))
    vertices = torch.addcmul(raw.origin.unsqueeze(-1), raw.spacing.unsqueeze(-1), u).mT
    if backward is None:
        return vertices
    gradient = _Gradient(raw, report, u, backward, tuple(part.requires_grad for part in field))
    demand = Demand(gradient.pull, lambda *parts: (backward.attached(*parts),))
    return Postponed.apply(demand, 1, vertices, *field)[0]


def mean_and_weak(raw: Field, report: Report, floor: float) -> tuple[Tensor, Tensor]:
    """The mean slope along edges, and (vertices,) where the gradient may be below the floor: that along the edge is."""
    marched = report.marched
    slope = marched.fall.abs() / raw.spacing.index_select(0, marched.axis)
    mean = mean_slope(slope, marched.vertex_counts, report.sample)
    return mean, slope < floor * mean


@dataclass(frozen=True, eq=False)
class _Gradient:
    """From cotangents of the vertices to those of phi, level, spacing and origin."""

    raw: Field
    report: Report
    u: Tensor  # (d, vertices) in cells
    backward: Backward
    wanted: tuple[bool, ...]

    def pull(self, g: Tensor) -> list[Tensor | None]:
        """For the field, with v = -g . grad phi / |grad phi|^2 at each vertex: (1 - t) v at the low end of its edge, t v at
        the high one; where the gauge is that of the edge, grad phi is its part along it.
        """
        raw, marched, t = self.raw, self.report.marched, self.report.marched.t
        g = g.mT
        v = self._answer(g)
        found: list[Tensor | None] = [None] * len(raw)
        if self.wanted[0]:
            high = t * v
            shares = torch.cat([v - high, high])
            found[0] = torch.zeros_like(raw.phi).view(-1).index_add_(0, marched.ends.view(-1), shares).view_as(raw.phi)
        if self.wanted[1]:
            sample = self.report.sample
            total = v.sum().view(1) if sample is None else v.new_zeros(len(raw.phi)).index_add_(0, sample, v)
            found[1] = -total if len(raw.level) == len(total) else -total.sum().view(1)
        if self.wanted[2]:
            found[2] = (g * self.u).sum(1)
        if self.wanted[3]:
            found[3] = g.sum(1)
        return found

    def _answer(self, g: Tensor) -> Tensor:
        """v (vertices,); no slope is below the floor here."""
        marched, back = self.report.marched, self.backward
        axis = marched.axis.unsqueeze(0)
        if not back.wide:
            return g.gather(0, axis).squeeze(0).mul_(self.raw.spacing.index_select(0, marched.axis)).div_(marched.fall)
        scale = (
            self.raw.spacing.unsqueeze(-1) * back.mean
        )  # squares of slopes that are not near 1 might leave the range
        slopes = _downwards(marched, self.raw.phi).scatter_(0, axis, marched.fall.unsqueeze(0)).div_(scale)
        return (g * slopes).sum(0).div_(slopes.square_().sum(0)).div_(back.mean)


@lru_cache(maxsize=64)
def _ways(grid: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """(2, d, 1) the steps in the flat grid, up along the axes and then down, and (d, 1) the last coordinates."""
    steps = torch.tensor([math.prod(grid[k + 1 :]) for k in range(len(grid))], device=device)
    return torch.stack([steps, -steps]).unsqueeze(-1), torch.tensor(grid, device=device).unsqueeze(-1) - 1


def _downwards(marched: Marched, phi: Tensor) -> Tensor:
    """(d, vertices) how much the field falls in a cell across each edge, the mean of the cells around; along it anything."""
    grid, flat, corner = tuple(phi.shape[1:]), phi.view(-1), marched.corner
    steps, last = _ways(grid, phi.device)
    first, end = (int(part) for part in corner.aminmax())
    widths: Tensor | float = 2.0  # in cells between above and below
    if first > 0 and end + 2 < min(grid):
        places = marched.ends.view(2, 1, 1, -1) + steps
    else:  # at a border 1; along the edge a place may be beyond the grid
        here = torch.stack([corner < last, corner > 0])
        places = torch.addcmul(marched.ends.view(2, 1, 1, -1), steps, here.long()).clamp_(0, len(flat) - 1)
        widths = here.sum(0).to(flat.dtype)
    above, below = flat.index_select(0, places.view(-1)).view(places.shape).unbind(1)
    low, high = (below - above).unbind(0)
    return torch.lerp(low, high, marched.t).div_(widths)
