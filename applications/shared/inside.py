"""Which points are inside a mesh: by its exact winding number, for closed meshes and for open ones."""

import torch
from torch import Tensor

from implayer.layers.surface_winding import Columns, WindingNumber

from .soundness import Boundary

_PROBED = 2000  # faces whose two sides are looked at
_NEAR = 1e-4  # of the size of such a face: how far from it
_DOUBT = 0.25  # between a winding number and the next whole one


class InsideTest:
    """Inside is where the winding number is at least one half in modulus.

    Where faces cannot agree with their neighbours (surfaces with one side), but edges have even numbers of faces, the parity
    of the crossings of a ray decides.
    """

    def __init__(self, boundary: Boundary):
        self.boundary, self.parity = boundary, not boundary.closed and boundary.even
        self._columns = Columns(boundary.vertices, boundary.faces) if self.parity else None
        self._winding = None if self.parity else WindingNumber(boundary.vertices, boundary.faces)

    def __call__(self, points: Tensor) -> Tensor:
        """(P, 3) -> (P,) bool."""
        return self._decided(self.winding(points))

    def winding(self, points: Tensor) -> Tensor:
        """(P, 3) -> (P,) in double precision: winding numbers, whole ones where no hole has a say; or crossings above."""
        if self._columns is not None:
            return self._columns.crossings(points.double())
        assert self._winding is not None
        return self._winding(points, _DOUBT)

    def on_grid(self, n: int) -> tuple[Tensor, float]:
        """(n, n, n) bool at the points of a grid over the unit cube, and at what share of them holes leave it in doubt."""
        line = torch.linspace(0, 1, n, dtype=torch.float64)
        if self._columns is not None:
            return self._decided(self._columns.on_grid(line, line, line)), 0.0
        assert self._winding is not None
        w = self._winding.on_grid(line, line, line, _DOUBT)
        return self._decided(w), float(((w - w.round()).abs() > _DOUBT).double().mean())

    def _decided(self, w: Tensor) -> Tensor:
        return w % 2 == 1 if self.parity else w.abs() >= 0.5

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

    def remarks(self) -> list[str]:
        """How it is decided what is inside, where that is not plain."""
        if self.parity:
            return ["faces cannot agree with their neighbours: inside is where a ray crosses an odd number of them"]
        if not self.boundary.closed:
            return ["inside is where the winding number is at least one half"]
        crossing = self.crossing()
        if crossing:
            found = f"the mesh cuts itself or holds a second sheet ({crossing} faces of those probed)"
            return [f"{found}: inside is what is enclosed at all"]
        return []
