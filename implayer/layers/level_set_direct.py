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
    slope = (marched.far - marched.near).abs() / raw.spacing.index_select(0, marched.axis)
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
            places, shares = torch.cat([marched.low, marched.high]), torch.cat([v - high, high])
            found[0] = torch.zeros_like(raw.phi).view(-1).index_add_(0, places, shares).view_as(raw.phi)
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
        marched, back = self.report.marched, self.backward
        axis, down = marched.axis.unsqueeze(0), (marched.near - marched.far).unsqueeze(0)
        scale = (
            self.raw.spacing.unsqueeze(-1) * back.mean
        )  # squares of slopes that are not near 1 might leave the range
        if back.wide:
            slopes = _downwards(marched, self.raw.phi).scatter_(0, axis, down).div_(scale)
            size = slopes.square().sum(0).sqrt_()  # `vector_norm` over the first axis is ten times slower
        else:
            g, slopes = g.gather(0, axis), down / scale.expand(len(g), len(down[0])).gather(0, axis)
            size = slopes.abs().squeeze(0)
        return (g * slopes).sum(0) / size / (size.clamp_min(back.floor) * back.mean)


@lru_cache(maxsize=64)
def _ways(grid: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """(d, 1) each: the steps along the axes in the flat grid, and the last coordinates."""
    numbers = [math.prod(grid[k + 1 :]) for k in range(len(grid))], [n - 1 for n in grid]
    steps, last = (torch.tensor(part, device=device).unsqueeze(-1) for part in numbers)
    return steps, last


def _downwards(marched: Marched, phi: Tensor) -> Tensor:
    """(d, vertices) how much the field falls in a cell across each edge, the mean of the cells around; along it anything."""
    steps, last = _ways(tuple(phi.shape[1:]), phi.device)
    flat = phi.view(-1)
    up, down = marched.corner < last, marched.corner > 0
    ends = torch.stack([marched.low, marched.high]).unsqueeze(1)
    places = (
        (ends + steps * up).clamp_(max=len(flat) - 1),
        ends - steps * down,
    )  # along the edge it may be beyond the grid
    above, below = (flat.index_select(0, place.view(-1)) for place in places)
    first, second = (below - above).view(2, len(steps), -1)
    widths = up.to(flat.dtype) + down  # in cells between above and below: 2, at a border 1
    return torch.lerp(first, second, marched.t).div_(widths)
