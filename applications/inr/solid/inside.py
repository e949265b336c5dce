"""Which points are inside a mesh: by its exact winding number, for closed meshes and for open ones."""

import math

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from implayer.layers.surface_distance import winding

from .soundness import Boundary

_PAIRS = 2**20  # of points and faces that are looked at in one go
_FINEST = 1024  # columns of the plan on a side
_PROBED = 2000  # faces whose two sides are looked at
_NEAR = 1e-4  # of the size of such a face: how far from it


class InsideTest:
    """The winding number of a mesh, and what it says of points.

    A ray that goes straight up from a point crosses faces from inside outwards or from outside inwards; one count less the
    other is the winding number of a closed mesh. Faces lie in the columns of a plan, so that few are looked at; the side of
    an edge is computed from its ends in one order, so that neighbours agree and no ray slips through between.

    An open mesh M and the cones C over its rims (each from the middle of the rim, turned the right way) are closed together,
    so w(M) = w(M + C) - w(C): a count of crossings, less the solid angles of the cones. That is the generalised winding
    number, exactly, for the price of the rims alone.

    Inside is where w is at least one half in modulus. Where faces cannot agree with their neighbours (surfaces with one side),
    but edges have even numbers of faces, the parity of the crossings decides.

    Reference: Jacobson et al., "Robust inside-outside segmentation using generalized winding numbers", SIGGRAPH 2013.
    """

    def __init__(self, boundary: Boundary):
        vertices, faces, rim = boundary.vertices, boundary.faces, boundary.rim
        self.parity = not boundary.closed and boundary.even
        self.cone = None
        if not boundary.closed and not self.parity:
            apex, middles = _middles(vertices, rim)
            cap = torch.cat([len(vertices) + apex.unsqueeze(-1), rim.flip(-1)], -1)
            vertices, faces = torch.cat([vertices, middles]), torch.cat([faces, cap])
            self.cone = vertices[cap]
        self.boundary = boundary
        self._fill(vertices, faces)

    def __call__(self, points: Tensor) -> Tensor:
        """(P, 3) -> (P,) bool."""
        w = self.winding(points)
        return w % 2 == 1 if self.parity else w.abs() >= 0.5

    def winding(self, points: Tensor) -> Tensor:
        """(P, 3) -> (P,) winding numbers, in double precision."""
        points = points.double()
        w = torch.zeros(len(points), dtype=torch.float64)
        column = self._column(points[:, :2])
        size = self.start[column + 1] - self.start[column]
        parts = (size.cumsum(0) // _PAIRS).unique_consecutive(return_counts=True)[1].tolist()
        first = 0
        for count in parts:
            part = slice(first, first + count)
            w[part] = self._crossings(points[part], column[part], size[part])
            first += count
        return w if self.cone is None else w - winding(points, self.cone)

    def crossing(self) -> int:
        """Faces, of at most 2000 probed, whose two sides are not the outside and the inside: the mesh cuts itself there."""
        if not self.boundary.closed:
            return 0
        p = self.boundary.vertices[self.boundary.faces]
        p = p[:: max(1, -(-len(p) // _PROBED))]
        normal = torch.linalg.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])
        length = torch.linalg.vector_norm(normal, dim=-1)
        p, step = p[length > 0], (normal * (_NEAR / length.sqrt()).unsqueeze(-1))[length > 0]
        outer, inner = (self.winding(p.mean(1) + sign * step) for sign in (1, -1))
        return int(((outer != 0) | (inner != 1)).sum())

    def _fill(self, vertices: Tensor, faces: Tensor) -> None:
        """Sort the faces into the columns that they lie in."""
        self.corners = vertices[faces]
        flat = vertices[:, :2]
        self.side = min(max(math.ceil(math.sqrt(len(faces)) * 1.5), 1), _FINEST)
        self.low = flat.amin(0)
        self.step = ((flat.amax(0) - self.low) / self.side).clamp_min(torch.finfo(flat.dtype).tiny)
        self._edges(faces, flat)
        self.top = self.corners[..., 2].amax(-1)
        low, high = (self._cell(ends) for ends in (self.corners[..., :2].amin(1), self.corners[..., :2].amax(1)))
        across = high - low + 1
        count = across.prod(-1)
        face = torch.repeat_interleave(count)
        rank = torch.arange(len(face)) - (count.cumsum(0) - count)[face]
        x, y = low[face, 0] + rank // across[face, 1], low[face, 1] + rank % across[face, 1]
        column = x * self.side + y
        order = column.argsort(stable=True)
        self.listed = face[order]
        self.start = torch.cat(
            [torch.zeros(1, dtype=torch.long), torch.bincount(column, minlength=self.side**2).cumsum(0)]
        )

    def _edges(self, faces: Tensor, flat: Tensor) -> None:
        """(F, 3, 3) the affine functions that are positive on the left of each side, seen from above."""
        a, b = faces, faces[:, [1, 2, 0]]
        low, high = flat[torch.minimum(a, b)], flat[torch.maximum(a, b)]
        along = high - low
        sign = torch.where(a < b, 1.0, -1.0).unsqueeze(-1)
        self.origin, self.along, self.sign = low, along, sign.squeeze(-1).double()

    def _crossings(self, points: Tensor, column: Tensor, size: Tensor) -> Tensor:
        """(P,) crossings outwards less those inwards, above the points."""
        point = torch.repeat_interleave(size)
        rank = torch.arange(len(point)) - (size.cumsum(0) - size)[point]
        face = self.listed[self.start[column][point] + rank]
        above = (self.top[face] > points[point, 2]).nonzero().view(-1)
        point, face = point[above], face[above]
        gap = points[point, None, :2] - self.origin[face]
        along = self.along[face]
        side = along[..., 0] * gap[..., 1] - along[..., 1] * gap[..., 0]  # the same number for both faces of an edge
        left = (side >= 0) == (self.sign[face] > 0)
        hit = (left.all(-1) | ~left.any(-1)).nonzero().view(-1)
        point, face, side = point[hit], face[hit], side[hit] * self.sign[face[hit]]
        corner = self.corners[face]
        weight = side[:, [1, 2, 0]]  # of the corner across from each side
        total = weight.sum(-1)
        height = (weight * corner[..., 2]).sum(-1) / torch.where(total == 0, 1.0, total)
        counted = torch.where((height > points[point, 2]) & (total != 0), left[hit].all(-1) * 2.0 - 1.0, 0.0)
        return torch.zeros(len(points), dtype=torch.float64).index_add(0, point, counted.double())

    def _cell(self, places: Tensor) -> Tensor:
        return ((places - self.low) / self.step).floor().long().clamp(0, self.side - 1)

    def _column(self, places: Tensor) -> Tensor:
        cell = self._cell(places)
        return cell[:, 0] * self.side + cell[:, 1]


def _middles(vertices: Tensor, rim: Tensor) -> tuple[Tensor, Tensor]:
    """(E,) which of the connected rims an edge belongs to, and (rims, 3) the mean of the ends of the edges of each."""

    ends, number = rim.unique(return_inverse=True)
    rows, columns = number.unbind(1)
    graph = coo_array((np.ones(len(rim), bool), (rows.numpy(), columns.numpy())), shape=(len(ends), len(ends)))
    rims, label = connected_components(graph, directed=False)
    own = torch.from_numpy(label).long()[rows]
    sums = vertices.new_zeros(rims, 3).index_add(0, own, vertices[rim].mean(1))
    return own, sums / torch.bincount(own, minlength=rims).unsqueeze(-1)
