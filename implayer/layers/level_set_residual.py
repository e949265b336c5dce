"""The equation of a level set at the vertices of its surface, F(phi, y) = phi_tri(y) - level, and its frozen inverse.

A vertex lies on a grid edge, which up to 2^(d-1) cells share. phi_tri is the mean of their multilinear interpolants:
along the edge it is that of all of them, and across it it has their mean slope. F is one equation for d unknowns, whose
frozen inverse says how a vertex answers: along the mean gradient (normal gauge) or along the edge (edge gauge).

Inside, vertices are the last axis: operations on three long rows are several times faster than on many short ones.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..linear.dense import AbstractMatrixInverse
from ..solvers.marching import Marched


@dataclass(frozen=True)
class Beside:
    """The points next to the edges, for the normal gauge.

    - `axes`: (d - 1, vertices) the directions across.
    - `places`: (2, sides, vertices) in the flat field, at both ends: above and below in the first direction, then in the
      second, and then, in 3-D, the four diagonals (above, above), (above, below), (below, above), (below, below).
    - `widths`: (d - 1, vertices) distances between above and below in cells: 2, at a border 1, alone 0.
    """

    axes: Tensor
    places: Tensor
    widths: Tensor


@dataclass(frozen=True)
class Stencil:
    """Where on the grid each vertex lies; constants.

    The unknown w of a vertex is its place in cells from the low end of its edge: along the edge alone (edge gauge), or also
    in the directions that follow it cyclically (normal gauge).

    - `corner`: (d, vertices) coordinates of the low end of its edge, in the dtype of the field.
    - `axis`: (vertices,) direction of the edge.
    - `ends`: (2 vertices,) places in the flat field, of the low ends and then of the high ones.
    """

    corner: Tensor
    axis: Tensor
    ends: Tensor
    beside: Beside | None = None

    @staticmethod
    def of(marched: Marched, phi: Tensor, wide: bool) -> "Stencil":
        """The ends of the edges on grids phi (samples, *grid), and the points beside them if `wide`."""
        beside = _beside(marched, phi) if wide else None
        return Stencil(marched.corner.to(phi.dtype), marched.axis, marched.ends.view(-1), beside)

    def start(self, t: Tensor) -> Tensor:
        """w (vertices, d or 1) of the vertices at t on their edges."""
        if self.beside is None:
            return t.unsqueeze(-1)
        return torch.cat([t.unsqueeze(0), t.new_zeros(len(self.corner) - 1, len(t))]).mT

    def turned(self, w: Tensor) -> Tensor:
        """(d, vertices) the vectors w in the directions of the grid."""
        axes = torch.arange(len(self.corner), device=w.device).unsqueeze(-1)
        if self.beside is None:
            return (self.axis == axes) * w.mT
        return w.mT.gather(0, (axes - self.axis) % len(axes))


def _beside(marched: Marched, phi: Tensor) -> Beside:
    grid, ndim, device = phi.shape[1:], phi.ndim - 1, phi.device
    axes = torch.stack([(marched.axis + k) % ndim for k in range(1, ndim)])
    last = torch.tensor(grid, device=device)[axes] - 1
    steps = torch.tensor([grid[k + 1 :].numel() for k in range(ndim)], device=device)[axes]
    at = marched.corner.gather(0, axes)
    up, down = (at < last).long(), (at > 0).long()
    ends = marched.ends.unsqueeze(1)
    places = ends + _sides(up * steps, -down * steps)
    if not marched.finite:  # only the edge itself, where any value beside it is not finite
        sound = phi.view(-1)[places].isfinite().all(0).all(0)
        up, down = up * sound, down * sound
        places = ends + _sides(up * steps, -down * steps)
    return Beside(axes, places, (up + down).to(phi.dtype))


def _sides(above: Tensor, below: Tensor) -> Tensor:
    sides = [side for pair in zip(above, below, strict=True) for side in pair]
    if len(above) == 2:
        sides += [p[0] + q[1] for p in (above, below) for q in (above, below)]
    return torch.stack(sides)


def differences(flat: Tensor, beside: Beside) -> Tensor:
    """(2, 1 or 3, vertices) at both ends, means over the cells around each edge: slopes across, and in 3-D the mixed one."""
    places, count = beside.places, 2 * len(beside.axes)
    values = flat.index_select(0, places.view(-1)).view(places.shape)
    widths = beside.widths.clamp(min=1)  # no neighbour on either side: both values are the same
    slopes = (values[:, 0:count:2] - values[:, 1:count:2]) / widths
    if count == 2:
        return slopes
    mixed = (values[:, 4:6] - values[:, 6:8]).diff(dim=1) / -(widths[0] * widths[1])
    return torch.cat([slopes, mixed], 1)


def residual(x: dict[str, Tensor], w: Tensor, spared: Callable[[Tensor], Tensor] = lambda part: part) -> Tensor:
    """F(x, w) (vertices, 1) for vertices at w: the field minus the level.

    x has `values` (2, vertices) at the ends of the edges, `level` (vertices or 1,), and for the normal gauge `beside`, the
    differences across. `spared` is put around the part that they make, which is zero and matters to second derivatives only.
    """
    near, far = x["values"].unbind(0)
    t, *off = w.unbind(-1)
    value = torch.addcmul(near - x["level"], t, far - near)
    return (value + spared(_across(x["beside"], t, off)) if off else value).unsqueeze(-1)


def _across(beside: Tensor, t: Tensor, off: list[Tensor]) -> Tensor:
    """The part of the field that is zero on the edge."""
    first, second = beside.unbind(0)
    slopes = torch.addcmul(first, t, second - first)
    if len(off) == 1:
        return off[0] * slopes[0]
    return torch.addcmul(off[1] * slopes[1], off[0], torch.addcmul(slopes[0], off[1], slopes[2]))


@dataclass(frozen=True)
class VertexInverse(AbstractMatrixInverse):
    """How a vertex answers to the residual: `column` (vertices, d or 1) times it.

    `row` is the gradient of the field, or its part along the edge, by w.
    """

    column: Tensor
    row: Tensor
    singular: Tensor | None = None

    constant = True  # J at the vertex is that which is frozen: cotangents of the earlier chord steps are zero

    @property
    def matrix(self) -> Tensor:  # type: ignore[override]
        """(vertices, 1, d or 1) the Jacobian."""
        return self.row.unsqueeze(-2)

    def _apply(self, b: Tensor) -> Tensor:
        return b * self.column

    def _apply_transposed(self, c: Tensor) -> Tensor:
        return (c * self.column).sum(-1, keepdim=True)


def frozen_inverse(
    marched: Marched, stencil: Stencil, across: Tensor | None, spacing: Tensor, sample: Tensor | None, floor: float
) -> tuple[VertexInverse, Tensor]:
    """The inverse at the vertices, of minimal norm in space, and which of them have a gradient below the floor.

    `across`: the differences of the normal gauge. The floor is relative to the mean slope along the edges of the same
    surface; there the gradient counts as that long.
    """
    row = -marched.fall.unsqueeze(0)
    h = spacing.index_select(0, stencil.axis).unsqueeze(0)
    mean = mean_slope((row / h).abs().squeeze(0), marched.vertex_counts, sample)
    if stencil.beside is not None and across is not None:
        first, second = across[:, : len(spacing) - 1].unbind(0)
        row = torch.cat([row, torch.addcmul(first, marched.t, second - first)])
        h = torch.cat([h, spacing[stencil.beside.axes]])
    slopes = row / (h * mean)  # squares of slopes that are not near 1 might leave the range
    size = slopes.square().sum(0).sqrt() if len(row) > 1 else slopes.abs().squeeze(0)
    column = slopes / size / (h * size.clamp_min(floor) * mean)
    return VertexInverse(column.mT, row.mT), size < floor


def mean_slope(slope: Tensor, counts: list[int], sample: Tensor | None) -> Tensor:
    """() for one surface, or for the surface of each of the vertices."""
    if sample is None:
        return slope.mean()
    sums = slope.new_zeros(len(counts)).index_add(0, sample, slope)
    return (sums / torch.tensor(counts, device=slope.device).clamp(min=1)).index_select(0, sample)
