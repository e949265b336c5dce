"""Marching squares and cubes on a batch of grids: vertices on grid edges, faces that look outwards, ambiguities resolved.

All cells at once, by torch operations on any device. A face whose corners alternate is decided by the value at the saddle
of its bilinear interpolant; a cell whose loops the trilinear interpolant joins by a tunnel is told by the hexagon in which
its asymptotic planes meet the surface. Both cells beside a face decide alike, so surfaces are watertight inside the grid.

Reference: Lorensen and Cline, "Marching cubes", SIGGRAPH 1987; Nielson and Hamann, "The asymptotic decider", Visualization
1991; Nielson, "On marching cubes", IEEE TVCG 9(3), 2003; Grosso, "Construction of topologically correct and manifold
isosurfaces", Computer Graphics Forum 35(5), 2016.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .marching_topology import INSIDE_TUNNEL, OUTSIDE_TUNNEL, Cases, cases, edges, rings


@dataclass(frozen=True)
class Marched:
    """The surfaces of a batch of grids, vertices and faces sample after sample.

    - `faces`: (all faces, d) vertices.
    - `ends`: (2, vertices) places of the low and the high end of the vertex's grid edge in the flat batch of grids.
    - `axis`: (vertices,) direction of that edge; `corner`: (d, vertices) integer coordinates of its low end.
    - `values`: (2, vertices) phi - level at the two ends, and `fall` (vertices,) the first less the second.
    - `t`: (vertices,) the place on the edge, 0 at the low end and 1 at the high.
    - `vertex_counts`, `face_counts`: of each sample.
    - `ties`, `ambiguous`, `tunnels`: the samples of vertices that lie on a grid point, of such cells; `finite`: whether phi is.
    """

    faces: Tensor
    ends: Tensor
    axis: Tensor
    corner: Tensor
    values: Tensor
    fall: Tensor
    t: Tensor
    vertex_counts: list[int]
    face_counts: list[int]
    ties: Tensor
    ambiguous: Tensor
    tunnels: Tensor
    finite: bool


class _Crossings(NamedTuple):
    """Cells that the surface meets (one for each grid point, so also beyond the border), and their own edges."""

    cells: Tensor  # (cells,) places of their low corners
    at: Tensor  # (d, cells) their coordinates
    real: Tensor  # (cells,) whether all of their corners are on the grid
    code: Tensor  # (cells,) which corners are inside; beyond the border anything
    row: Tensor  # (vertices,) the cell whose edge it is
    axis: Tensor  # (vertices,)


class _Grid(NamedTuple):
    """What depends on the shape of a grid and the device alone."""

    table: Cases
    steps: Tensor  # (d,) between neighbours in the flat grid
    strides: tuple[int, ...]  # the same as numbers, the shortest first
    sizes: Tensor  # (1 + d, 1) grid points of a whole grid, of a plane, ... of a point
    shape: Tensor  # (d, 1)
    beyond: Tensor  # zeros of the distance in the flat grid between the corners of a cell
    lows: Tensor  # (edges,) from the low corner of a cell to that of an edge
    axes: Tensor  # (edges,)
    corners: Tensor  # (corners,) from the low corner of a cell to its corners
    crossed: Tensor  # (codes, d) whether the edges at the low corner of a cell are crossed


@lru_cache(maxsize=64)
def _grid(shape: tuple[int, ...], device: torch.device) -> _Grid:
    ndim = len(shape)
    steps = [math.prod(shape[k + 1 :]) for k in range(ndim)]
    places = [sum(step * (c >> ndim - 1 - k & 1) for k, step in enumerate(steps)) for c in range(2**ndim)]
    numbers = (steps, [places[c] for c, _ in edges(ndim)], [axis for _, axis in edges(ndim)], places)
    flat_steps, lows, axes, corners = (torch.tensor(part, device=device) for part in numbers)
    sizes, extent = (torch.tensor(part, device=device).unsqueeze(-1) for part in ([math.prod(shape), *steps], shape))
    codes = torch.arange(2**2**ndim, device=device)
    crossed = torch.stack([codes ^ codes >> (1 << ndim - 1 - axis) for axis in range(ndim)], -1) & 1 == 1
    beyond = torch.zeros(sum(steps), dtype=torch.uint8, device=device)
    table = Cases(*(part.to(device) for part in cases(ndim)))
    return _Grid(table, flat_steps, tuple(steps[::-1]), sizes, extent, beyond, lows, axes, corners, crossed)


def march(phi: Tensor, level: Tensor, positive: bool) -> Marched:
    """The surfaces phi = level of grids phi (samples, *grid), with level (samples or 1,).

    The inside is where phi < level, or phi > level for `positive`; a value equal to the level is outside, and the vertices of
    edges that end there are one. Cells with a corner that is not finite are left out.
    """
    size, flat = phi.shape[1:].numel(), phi.view(-1)
    finite = bool(phi.sum().isfinite()) or bool(phi.isfinite().all())
    grid = _grid(tuple(phi.shape[1:]), phi.device)
    found = _crossings(phi, level, positive, grid)
    low, axis = found.cells.index_select(0, found.row), found.axis
    ends = torch.stack([low, low + grid.steps.index_select(0, axis)])
    values = flat.index_select(0, ends.view(-1)).view(2, -1) - (level if len(level) == 1 else level[low // size])
    near, far = values.unbind(0)
    fall = near - far
    t = near / fall
    if not finite:
        found.real.logical_and_(_corners(~phi.isfinite(), grid).index_select(0, found.cells) == 0)
    faces, owner, ambiguous, tunnels = _faces(found, flat, level, positive, size, grid)
    corner = found.at.index_select(1, found.row)
    tied = t == t.round()
    ties = low[:0]
    if not finite or bool(tied.any()):
        faces, owner, kept, tied = _merged(faces, owner, torch.where(t == 0, *ends.unbind(0)), tied)
        axis, fall, t = (part[kept] for part in (axis, fall, t))
        ends, values, corner = (part[:, kept] for part in (ends, values, corner))
        ties = ends[0, tied]
    counted = torch.arange(1, len(phi) + 1, device=phi.device) * size
    return Marched(
        faces, ends, axis, corner, values, fall, t, _counts(ends[0], counted), _counts(owner, counted),
        ties // size, ambiguous // size, tunnels // size, finite,
    )  # fmt: skip


def _counts(places: Tensor, ends: Tensor) -> list[int]:
    if len(ends) == 1:
        return [len(places)]
    return torch.searchsorted(places, ends).diff(prepend=ends.new_zeros(1)).tolist()


def _crossings(phi: Tensor, level: Tensor, positive: bool, grid: _Grid) -> _Crossings:
    bound = level.view(-1, *[1] * (phi.ndim - 1))
    code = _corners(phi > bound if positive else phi < bound, grid)
    full = len(grid.crossed) - 1
    cells = ((code - 1) < full - 1).nonzero().view(-1)  # unsigned: 0 wraps around, so neither 0 nor all corners
    at = _coordinates(cells, grid)
    within = at < grid.shape - 1
    code = code.index_select(0, cells).long()
    row, axis = grid.crossed.index_select(0, code).logical_and_(within.mT).nonzero(as_tuple=True)
    return _Crossings(cells, at, within.all(0), code, row, axis)


def _coordinates(places: Tensor, grid: _Grid) -> Tensor:
    """(d, places) on the grid, of places in a flat batch of grids."""
    whole = torch.div(places, grid.sizes, rounding_mode="trunc")
    return torch.addcmul(whole[1:], whole[:-1], grid.shape, value=-1)


def _corners(inside: Tensor, grid: _Grid) -> Tensor:
    """(grid points,) the bits of all corners of the cell above every grid point of a flat batch of grids.

    Beyond the border they are those of the next row: what is read there has to be left out.
    """
    code = torch.cat([inside.view(-1).view(torch.uint8), grid.beyond])
    for k, step in enumerate(grid.strides):
        code = torch.add(code[:-step], code[step:], alpha=1 << (1 << k))
    return code


def _faces(
    found: _Crossings, flat: Tensor, level: Tensor, positive: bool, size: int, grid: _Grid
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Faces (faces, d) of the real cells, the place of the cell of each, and the places of ambiguous cells and tunnels."""
    ndim, device, table = len(grid.steps), flat.device, grid.table
    row = table.row.index_select(0, found.code)
    unclear = (table.ambiguous.index_select(0, found.code) & found.real).nonzero().view(-1)
    tunnels = unclear[:0]
    if len(unclear):
        cells = found.cells[unclear]
        values = flat[cells.unsqueeze(-1) + grid.corners] - level[cells // size % len(level)].unsqueeze(-1)
        extra, tunnel = _decided(-values if positive else values, ndim)
        row[unclear] = table.row[found.code[unclear] | extra]
        tunnels = cells[tunnel]
    count = table.count.index_select(0, row) * found.real
    before = count.cumsum(0) - count
    cell = torch.repeat_interleave(count)
    first = (table.start.index_select(0, row) - before).index_select(0, cell)
    simplices = table.simplices.index_select(0, first + torch.arange(len(cell), device=device)).view(-1)
    owners = found.cells.index_select(0, cell)
    rank = torch.empty(len(flat), dtype=torch.int32, device=device)  # written and read only where the surface is
    rank.scatter_(0, found.cells, torch.arange(len(found.cells), dtype=torch.int32, device=device))
    number = torch.empty(len(found.cells) * ndim, dtype=torch.int64, device=device)
    number.scatter_(0, torch.add(found.axis, found.row, alpha=ndim), torch.arange(len(found.row), device=device))
    low = grid.lows.index_select(0, simplices).view(-1, ndim) + owners.unsqueeze(-1)
    row = rank.index_select(0, low.view(-1)).long()
    faces = number.index_select(0, torch.add(grid.axes.index_select(0, simplices), row, alpha=ndim)).view(-1, ndim)
    return faces, owners, found.cells[unclear], tunnels


def _decided(v: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
    """The bits of the key beyond those of the corners, and the cells with a tunnel; v (cells, corners), negative inside."""
    ring = torch.tensor(rings(ndim), device=v.device)
    around = v[:, ring]  # (cells, faces, 4)
    products = (
        around[..., :2] * around[..., 2:]
    )  # the saddle of the bilinear interpolant has the sign of their difference
    inside = around < 0
    alternate = (inside[..., :2] == inside[..., 2:]).all(-1) & (inside[..., 0] != inside[..., 1])
    first, second = products.unbind(-1)
    joined = alternate & torch.where(inside[..., 0], first > second, second > first)
    extra = (joined << torch.arange(len(ring), device=v.device)).sum(-1) << 2**ndim
    if ndim == 2:
        return extra, torch.zeros_like(extra, dtype=torch.bool)
    tunnel, within = _hexagon(v.view(-1, 2, 2, 2))
    kind = torch.where(within, INSIDE_TUNNEL, OUTSIDE_TUNNEL) << 14
    return extra | torch.where(tunnel, kind, 0), tunnel


def _hexagon(v: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the trilinear interpolant has a tunnel in the cell, and whether the inside goes through it.

    In the section of the cell across an axis at height s, the bilinear saddle has the sign of a(s) c(s) - b(s) d(s), a
    quadratic. A tunnel (or, with a single loop, a twisted disk) is there exactly where both its roots are within the cell,
    for all three axes: the six points are the corners of a hexagon around the neck.
    """
    m = torch.stack([v, v.transpose(1, 2), v.transpose(1, 3)], 1).flatten(3)  # (cells, axes, 2, 4)
    low, step = m[:, :, 0], m[:, :, 1] - m[:, :, 0]
    (a, b, d, c), (da, db, dd, dc) = low.unbind(-1), step.unbind(-1)
    two, one, zero = da * dc - db * dd, a * dc + c * da - b * dd - d * db, a * c - b * d
    sign = two.sign()
    middle = -one / torch.where(two == 0, 1, 2 * two)
    whole = (one * one > 4 * two * zero) & (sign * zero > 0) & (sign * (two + one + zero) > 0)
    whole &= (middle > 0) & (middle < 1)
    for w in middle.unbind(-1):
        w = w.view(-1, *[1] * (v.ndim - 2))
        v = v[:, 0] * (1 - w) + v[:, 1] * w
    return whole.all(-1), v < 0


def _merged(faces: Tensor, owner: Tensor, place: Tensor, tied: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Vertices at the same grid point made one, faces without area and unused vertices dropped.

    Returns faces, the cell of each, which vertices are left, and which of those are tied.
    """
    count = len(place)
    target = torch.arange(count, device=faces.device)
    points = tied.nonzero().view(-1)
    values, group = place[points].unique(return_inverse=True)
    first = torch.full_like(values, count).scatter_reduce(0, group, points, "amin")
    target[points] = first[group]
    faces = target[faces]
    distinct = faces[:, 0] != faces[:, 1]
    if faces.shape[1] == 3:
        distinct &= (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    faces, owner = faces[distinct], owner[distinct]
    used = torch.zeros(count, dtype=torch.bool, device=faces.device)
    used[faces.reshape(-1)] = True
    kept = used.nonzero().view(-1)
    renumber = torch.empty(count, dtype=torch.int64, device=faces.device)
    renumber[kept] = torch.arange(len(kept), device=faces.device)
    return renumber[faces], owner, kept, tied[kept]
