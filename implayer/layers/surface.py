"""Surfaces made of triangles, or curves made of segments: measures, samples, distances, files."""

import math
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

import torch
from torch import Tensor

from .._tree import register_pytree_node
from ..errors import ShapeError
from ..types import Float, Int
from .surface_check import Defects, examined, require_closed, require_faces, require_points
from .surface_distance import closest, matched
from .surface_file import read_mesh, write_mesh
from .surface_winding import windings


@dataclass(frozen=True)
class Surface:
    r"""Triangles in space, or segments in the plane; all measures are differentiable in the vertices.

    **Arguments**

    - `vertices`: (V, d) points, d = 3 or 2.
    - `faces`: (F, d) integer vertex numbers; triangles are counterclockwise as seen from outside, segments have the inside
      on their left.

    In 2-D, area means length and volume the area inside.

    **Reference** Mirtich, "Fast and accurate computation of polyhedral mass properties", 1996 (volume and centroid by the
    divergence theorem); Jacobson et al., "Robust inside-outside segmentation using generalized winding numbers", 2013.

    **Example**

    ```python
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    implayer.Surface(corners, faces).volume()      # tensor(0.1667)
    ```
    """

    vertices: Float[Tensor, "vertices d"]
    faces: Int[Tensor, "faces d"]

    def __len__(self) -> int:
        """The number of faces."""
        return len(self.faces)

    def corners(self) -> Float[Tensor, "faces d d"]:
        """(F, d, d) the points of every face."""
        require_faces(self.vertices, self.faces)
        d = self.vertices.shape[-1]
        try:
            return self.vertices.index_select(0, self.faces.reshape(-1)).view(-1, d, d)
        except IndexError as error:
            wrong = ((self.faces < 0) | (self.faces >= len(self.vertices))).any(-1)
            raise ShapeError(
                f"{int(wrong.sum())} of {len(self.faces)} faces name vertices that do not exist: the first is "
                f"{self.faces[wrong][0].tolist()}, of {len(self.vertices)} vertices. Leave those faces out."
            ) from error

    def _directed(self) -> Tensor:
        """(F, d) outward normals, as long as the area of the face."""
        p = self.corners()
        if p.shape[-1] == 2:
            along = p[:, 1] - p[:, 0]
            return torch.stack([along[:, 1], -along[:, 0]], -1)
        return torch.linalg.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]) / 2

    def areas(self) -> Float[Tensor, " faces"]:
        """(F,) the area of every face; where it is zero, so is its derivative."""
        return _length(self._directed())

    def area(self) -> Float[Tensor, ""]:
        """The area; the length of a curve."""
        return self.areas().sum()

    def normals(self) -> Float[Tensor, "faces d"]:
        """(F, d) outward unit normals of the faces; zero for faces without area."""
        return _unit(self._directed())

    def vertex_normals(self) -> Float[Tensor, "vertices d"]:
        """(V, d) unit normals at the vertices: means over their faces, weighted by area."""
        own = self._directed().repeat_interleave(self.faces.shape[-1], 0)
        return _unit(torch.zeros_like(self.vertices).index_add(0, self.faces.reshape(-1), own))

    def volume(self) -> Float[Tensor, ""]:
        """The volume inside (in 2-D the area), positive where the faces look outwards. Warns where the surface is open."""
        require_closed(self.vertices, self.faces, "volume")
        return self._moment().sum()

    def _moment(self) -> Tensor:
        p = self.corners()
        return ((p[:, 0] - self._middle()) * self._directed()).sum(-1) / p.shape[-1]

    def _middle(self) -> Tensor:
        """A constant point amid the surface: sums of volumes from there lose no digits far from the origin."""
        return (
            self.vertices.detach().mean(0) if len(self.vertices) else self.vertices.new_zeros(self.vertices.shape[-1])
        )

    def centroid(self) -> Float[Tensor, " d"]:
        """(d,) the centre of mass of what is inside. Warns where the surface is open."""
        require_closed(self.vertices, self.faces, "centroid")
        volumes, middle, d = self._moment(), self._middle(), self.vertices.shape[-1]
        centres = (self.corners() - middle).sum(1) / (d + 1)
        return middle + (volumes.unsqueeze(-1) * centres).sum(0) / volumes.sum()

    def sample(
        self, count: int, *, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "count d"], Float[Tensor, "count d"]]:
        """`count` points and their normals, uniform by area: for losses that do not depend on how the surface is cut.

        Points move with the vertices of the face that they were drawn on; which face that is, is a constant.
        """
        if not isinstance(count, Integral) or count < 1:
            raise ValueError(f"`count` is {count!r}; expected a whole number of samples, at least 1.")
        weights = self.areas().detach()
        area = float(weights.sum())
        if not 0 < area < math.inf:
            raise ShapeError(
                f"`sample` of a surface with {len(self.faces)} faces and the area {area:g}; expected at least one face with an "
                f"area, and none that is not finite: see `defects()`."
            )
        chosen = torch.multinomial(weights, count, replacement=True, generator=generator)
        p, d = self.corners()[chosen], self.vertices.shape[-1]
        u = torch.rand(count, d - 1, dtype=p.dtype, device=p.device, generator=generator)
        if d == 2:
            weight = torch.cat([1 - u, u], -1)
        else:
            root = u[:, :1].sqrt()  # uniform on the triangle
            weight = torch.cat([1 - root, root * (1 - u[:, 1:]), root * u[:, 1:]], -1)
        return (weight.unsqueeze(-1) * p).sum(1), self.normals()[chosen]

    def chamfer(
        self, other: "Surface", count: int = 2048, *, squared: bool = False, generator: torch.Generator | None = None
    ) -> Float[Tensor, ""]:
        r"""Mean distance of samples to the nearest sample of the other surface, halved over both directions:

        $$\tfrac12 \operatorname{mean}_i \min_j |p_i - q_j| + \tfrac12 \operatorname{mean}_j \min_i |p_i - q_j|$$

        `squared` squares the distances, which is smooth and weighs far points more.
        """
        self._require_alike(other)
        p, q = (surface.sample(count, generator=generator)[0] for surface in (self, other))
        forth, back = p - q[matched(p, q)], q - p[matched(q, p)]
        if squared:
            return (forth.square().sum(-1).mean() + back.square().sum(-1).mean()) / 2
        return (_length(forth).mean() + _length(back).mean()) / 2

    def _require_alike(self, other: object) -> None:
        if not isinstance(other, Surface) or other.vertices.shape[-1:] != self.vertices.shape[-1:]:
            raise ShapeError(f"`other` is {type(other).__name__}; expected a Surface of as many dimensions.")

    def normal_consistency(
        self, other: "Surface", count: int = 2048, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, ""]:
        """Mean |cosine| between the normals of samples and those of the nearest samples of the other, over both ways."""
        self._require_alike(other)
        (p, n), (q, m) = (surface.sample(count, generator=generator) for surface in (self, other))
        forth, back = (n * m[matched(p, q)]).sum(-1), (m * n[matched(q, p)]).sum(-1)
        return (forth.abs().mean() + back.abs().mean()) / 2

    def distance(self, points: Float[Tensor, "points d"]) -> Float[Tensor, " points"]:
        """(P,) distance of every point to the surface itself, differentiable in points and vertices."""
        require_faces(self.vertices, self.faces)
        require_points(points, self.vertices.shape[-1], "distance")
        if not len(self.faces):
            raise ShapeError("`distance` to a surface without faces; expected at least one.")
        return _length(points - closest(points, self.corners()))

    def winding_number(self, points: Float[Tensor, "points d"]) -> Float[Tensor, " points"]:
        """(P,) how often the surface goes around each point: 1 inside, 0 outside, between where it has holes there."""
        require_faces(self.vertices, self.faces)
        require_points(points, self.vertices.shape[-1], "winding_number")
        return windings(points.detach(), self.vertices.detach(), self.faces, self.corners().detach())

    def defects(self) -> Defects:
        """Counts of what is wrong with the surface: open, flipped, repeated, degenerate, not finite."""
        require_faces(self.vertices, self.faces)
        return examined(self.vertices.detach(), self.faces)

    def export(self, path: str | Path) -> Path:
        """Write a PLY, OBJ or GLB file (by its ending). Needs `trimesh`; an empty surface is an error, not an empty file."""
        require_faces(self.vertices, self.faces)
        return write_mesh(self.vertices.detach(), self.faces, Path(path))

    @staticmethod
    def read(path: str | Path, *, dtype: torch.dtype = torch.float32) -> "Surface":
        """The triangles of a mesh file. Needs `trimesh`. A damaged file is an error; see `defects` for the rest."""
        return Surface(*read_mesh(Path(path), dtype))


def _length(v: Tensor) -> Tensor:
    """Norms of the last axis, with derivative zero where they are zero."""
    squares = v.square().sum(-1)
    zero = squares == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, squares).sqrt())


def _unit(v: Tensor) -> Tensor:
    length = _length(v).unsqueeze(-1)
    return v / torch.where(length == 0, 1.0, length)


register_pytree_node(Surface, lambda s: ([s.vertices, s.faces], None), lambda children, _: Surface(*children))
