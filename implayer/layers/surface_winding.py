"""Winding numbers: how often a surface goes around a point, from the faces that a ray crosses and from solid angles."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .surface_edges import edges, rim

_ANGLES = 2**16  # pairs of points and faces that are looked at in one go, for solid angles
_PAIRS = 2**20  # the same, for crossings
_FINEST = 1024  # columns of the plan on a side
_ENTRIES = 64  # columns that a face lies in, on average, at most
_ASIDE = (0.0731, 0.0419, 0.0587)  # of a rim, how far from its middle its cone ends: points may lie in its plane


class _Met(NamedTuple):
    """Crossings of rays that go straight up: of which ray, how high, and 1 for a way out or -1 for a way in."""

    ray: Tensor
    height: Tensor
    side: Tensor


class Columns:
    """Triangles sorted into the columns of a plan, so that a ray that goes straight up meets few of them.

    The side of an edge is computed from its ends in one order, so that neighbours agree and no ray slips through between.

    **Arguments**: `vertices` (V, 3) in double precision, `faces` (F, 3).
    """

    def __init__(self, vertices: Tensor, faces: Tensor):
        self.corners, plan = vertices[faces], vertices[:, :2]
        flat = self.corners[..., :2].flatten(0, 1)
        self.top = self.corners[..., 2].amax(-1)
        a, b = faces, faces[:, [1, 2, 0]]
        self.origin = plan[torch.minimum(a, b)]
        self.along = plan[torch.maximum(a, b)] - self.origin
        self.sign = torch.where(a < b, 1.0, -1.0).to(vertices)
        self.low, self.extent = flat.amin(0), flat.amax(0) - flat.amin(0)
        self._sort(min(max(math.ceil(math.sqrt(len(faces)) * 1.5), 1), _FINEST))

    def _sort(self, side: int) -> None:
        """List the faces of each of `side` x `side` columns, or of fewer where faces are large."""
        flat, count, faces = self.corners[..., :2], torch.zeros(1), len(self.corners)
        while True:
            self.side, self.step = side, (self.extent / side).clamp_min(torch.finfo(flat.dtype).tiny)
            low, high = self._cell(flat.amin(1)), self._cell(flat.amax(1))
            across = high - low + 1
            count = across.prod(-1)
            if side == 1 or int(count.sum()) <= _ENTRIES * faces:
                break
            side //= 2
        face = torch.repeat_interleave(count)
        rank = torch.arange(len(face), device=face.device) - (count.cumsum(0) - count)[face]
        column = (low[face, 0] + rank // across[face, 1]) * side + low[face, 1] + rank % across[face, 1]
        self.listed = face[column.argsort(stable=True)]
        ends = torch.bincount(column, minlength=side**2).cumsum(0)
        self.start = torch.cat([ends.new_zeros(1), ends])

    def _cell(self, places: Tensor) -> Tensor:
        return ((places - self.low) / self.step).floor().nan_to_num(0.0).clamp(0, self.side - 1).long()

    def crossings(self, points: Tensor) -> Tensor:
        """(P, 3) -> (P,) ways out of the faces less ways in, above each point."""
        total = points.new_zeros(len(points))
        for first, part in self._parts(points):
            met = self._met(part)
            total[first : first + len(part)].index_add_(0, met.ray, met.side)
        return total

    def on_grid(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """(X, Y, Z) the same at the points of a grid with ascending coordinates: all points of a line at once."""
        lines = torch.cartesian_prod(x, y)
        lines = torch.cat([lines, torch.full_like(lines[:, :1], -torch.inf)], -1)
        sums = x.new_zeros(len(lines), len(z) + 1)
        for first, part in self._parts(lines):
            met = self._met(part)
            below = torch.searchsorted(z, met.height)  # so many points of the line are below
            sums.view(-1).index_add_(0, (first + met.ray) * (len(z) + 1) + below, met.side)
        above = sums.flip(1).cumsum(1).flip(1)[:, 1:]
        return above.reshape(len(x), len(y), len(z))

    def _parts(self, points: Tensor) -> list[tuple[int, Tensor]]:
        column = self._columns(points)
        size = self.start[column + 1] - self.start[column]
        counts = (size.cumsum(0) // _PAIRS).unique_consecutive(return_counts=True)[1].tolist()
        parts, first = [], 0
        for part in points.split(counts):
            parts.append((first, part))
            first += len(part)
        return parts

    def _columns(self, points: Tensor) -> Tensor:
        cell = self._cell(points[:, :2])
        return cell[:, 0] * self.side + cell[:, 1]

    def _met(self, points: Tensor) -> _Met:
        """What the rays from the points cross."""
        column = self._columns(points)
        first = self.start[column]
        size = self.start[column + 1] - first
        ray = torch.repeat_interleave(size)
        rank = torch.arange(len(ray), device=ray.device) - (size.cumsum(0) - size)[ray]
        face = self.listed[first[ray] + rank]
        above = (self.top[face] > points[ray, 2]).nonzero().view(-1)
        ray, face = ray[above], face[above]
        gap, along = points[ray, None, :2] - self.origin[face], self.along[face]
        left_of = along[..., 0] * gap[..., 1] - along[..., 1] * gap[..., 0]  # the same number for both faces of an edge
        left = (left_of >= 0) == (self.sign[face] > 0)
        hit = (left.all(-1) | ~left.any(-1)).nonzero().view(-1)
        ray, face, out = ray[hit], face[hit], left[hit].all(-1)
        weight = (left_of[hit] * self.sign[face])[:, [1, 2, 0]]  # of the corner across from each side
        total = weight.sum(-1)
        height = (weight * self.corners[face][..., 2]).sum(-1) / torch.where(total == 0, 1.0, total)
        kept = ((height > points[ray, 2]) & (total != 0)).nonzero().view(-1)
        return _Met(ray[kept], height[kept], torch.where(out[kept], 1.0, -1.0).to(height))


class WindingNumber:
    r"""The generalised winding number of triangles, $w(p) = \tfrac{1}{4\pi} \sum_f \Omega_f(p)$, without a sum over all faces.

    The ways out of a closed surface less the ways in, along any ray, are its winding number. A surface M with holes and the
    cones C over its rims (each from near the middle of the rim, turned the right way) are closed together, so
    w(M) = w(M + C) - w(C): a count of crossings, less the solid angles of the cones. That is exact, for the price of the rims
    alone.

    **Arguments**: `vertices` (V, 3), `faces` (F, 3).

    **Reference** Jacobson et al., "Robust inside-outside segmentation using generalized winding numbers", SIGGRAPH 2013.
    """

    def __init__(self, vertices: Tensor, faces: Tensor):
        vertices, open_edges = vertices.detach().double(), rim(faces, edges(faces))
        self.cones = None
        if len(open_edges):
            own, ends = _ends(vertices, open_edges)
            caps = torch.cat([len(vertices) + own.unsqueeze(-1), open_edges.flip(-1)], -1)
            vertices, faces = torch.cat([vertices, ends]), torch.cat([faces, caps])
            self.cones, self.balls = vertices[caps], _Balls.around(vertices[caps], own, ends)
        self.columns = Columns(vertices, faces)

    def __call__(self, points: Tensor, tolerance: float = 0.0) -> Tensor:
        """(P, 3) -> (P,) in double precision.

        Where cones are known to add less than `tolerance`, by their areas and distances, they are left out, so that the
        number there is a whole one.
        """
        points = points.detach().double()
        found = self.columns.crossings(points)
        return torch.where(points.isnan().any(-1), torch.nan, self._less_cones(found, points, tolerance))

    def on_grid(self, x: Tensor, y: Tensor, z: Tensor, tolerance: float = 0.0) -> Tensor:
        """(X, Y, Z) at the points of a grid with ascending coordinates."""
        x, y, z = (part.detach().double() for part in (x, y, z))
        found = self.columns.on_grid(x, y, z)
        if self.cones is None:
            return found
        for plane, place in zip(found, x.split(1), strict=True):  # one by one: the grid may be large
            points = torch.cartesian_prod(place, y, z)
            plane.copy_(self._less_cones(plane.flatten(), points, tolerance).view_as(plane))
        return found

    def _less_cones(self, found: Tensor, points: Tensor, tolerance: float) -> Tensor:
        if self.cones is None:
            return found
        near = (self.balls.bound(points) >= tolerance).nonzero().view(-1)
        return found.index_add(0, near, solid_angles(points[near], self.cones), alpha=-1)


class _Balls(NamedTuple):
    """Of each cone a ball that holds it, and its area: seen from outside the ball, its solid angle is bounded by them."""

    centre: Tensor
    radius: Tensor
    area: Tensor

    @staticmethod
    def around(cones: Tensor, own: Tensor, ends: Tensor) -> "_Balls":
        """From faces (E, 3, 3) of cones, and which cone each belongs to."""
        reach = torch.linalg.vector_norm(cones - ends[own].unsqueeze(1), dim=-1).amax(-1)
        sizes = torch.linalg.cross(cones[:, 1] - cones[:, 0], cones[:, 2] - cones[:, 0])
        areas = torch.linalg.vector_norm(sizes, dim=-1) / 2
        zero = ends.new_zeros(len(ends))
        return _Balls(ends, zero.scatter_reduce(0, own, reach, "amax"), zero.index_add(0, own, areas))

    def bound(self, points: Tensor) -> Tensor:
        """(P,) at least the winding number of all cones together, in modulus."""
        found = points.new_zeros(len(points))
        for centre, radius, area in zip(*self, strict=True):
            gap = (torch.linalg.vector_norm(points - centre, dim=-1) - radius).clamp_min(0)
            found += area / (4 * math.pi * gap.square())
        return found.nan_to_num(nan=0.0, posinf=torch.inf)  # a cone without area, seen from within its ball


def _ends(vertices: Tensor, open_edges: Tensor) -> tuple[Tensor, Tensor]:
    """(E,) which of the connected rims an edge belongs to, and (rims, 3) where the cone over each ends: near its middle."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends, number = open_edges.unique(return_inverse=True)
    rows, columns = number.cpu().unbind(1)
    graph = coo_array((torch.ones(len(rows)).numpy(), (rows.numpy(), columns.numpy())), shape=(len(ends), len(ends)))
    rims, label = connected_components(graph, directed=False)
    own = torch.from_numpy(label).long()[rows].to(vertices.device)
    halves = vertices[open_edges].mean(1)
    sums = vertices.new_zeros(rims, 3).index_add(0, own, halves)
    middles = sums / torch.bincount(own, minlength=rims).unsqueeze(-1)
    reach = torch.linalg.vector_norm(halves - middles[own], dim=-1)
    sizes = vertices.new_zeros(rims).scatter_reduce(0, own, reach, "amax")
    return own, middles + sizes.unsqueeze(-1) * vertices.new_tensor(_ASIDE)


def windings(points: Tensor, vertices: Tensor, faces: Tensor, corners: Tensor) -> Tensor:
    """(P,) winding numbers of triangles around points, in 2-D those of segments; NaN where a corner (F, d, d) is."""
    if vertices.shape[-1] == 2:
        return solid_angles(points, corners)
    if not len(faces):
        return points.new_zeros(len(points))
    if not bool(corners.isfinite().all()):
        return torch.full_like(points[:, 0], torch.nan)
    return WindingNumber(vertices, faces)(points).to(points.dtype)


def solid_angles(points: Tensor, corners: Tensor) -> Tensor:
    """(P,) sum of the solid angles of the faces (F, d, d), seen from each point, in units of the full one."""
    found = [_angles(part, corners) for part in points.split(max(1, _ANGLES // max(len(corners), 1)))]
    return torch.cat(found) if found else points.new_zeros(len(points))


def _angles(points: Tensor, corners: Tensor) -> Tensor:
    """The same, coordinate by coordinate: long rows are several times faster than many of three numbers."""
    eye = points.mT.unsqueeze(-1)
    rays = [[corners[:, k, i] - eye[i] for i in range(points.shape[-1])] for k in range(points.shape[-1])]
    if points.shape[-1] == 2:
        a, b = rays
        return torch.atan2(a[0] * b[1] - a[1] * b[0], _dot(a, b)).sum(-1) / (2 * math.pi)
    a, b, c = rays
    la, lb, lc = (_dot(ray, ray).sqrt() for ray in rays)
    normal = [b[1] * c[2] - b[2] * c[1], b[2] * c[0] - b[0] * c[2], b[0] * c[1] - b[1] * c[0]]
    below = la * lb * lc + _dot(a, b) * lc + _dot(b, c) * la + _dot(c, a) * lb
    return torch.atan2(_dot(a, normal), below).sum(-1) / (2 * math.pi)


def _dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    total = a[0] * b[0]
    for s, t in zip(a[1:], b[1:], strict=True):
        total = torch.addcmul(total, s, t)
    return total
