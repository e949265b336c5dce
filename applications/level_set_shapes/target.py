"""What a fit aims at: the triangles of a mesh or the points of a cloud, brought into the unit cube."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from implayer import Surface
from implayer.layers.surface_file import MeshFileError

from ..shared.errors import InputError
from ..shared.inside import InsideTest
from ..shared.points import HUGE, TABLES, read_points
from ..shared.soundness import Boundary, repaired

_LEAST = 16  # points of a cloud


class ShapeReadError(InputError):
    """A file holds no mesh and no point cloud, or is damaged."""


@dataclass(frozen=True)
class Target:
    """A mesh, or points with or without normals.

    - `boundary`: of a mesh, with faces that agree wherever they can.
    - `scale`, `middle`: x in the file is at (x - middle) * scale + 1/2 in the unit cube.
    - `notes`: what was found and done.
    """

    name: str
    points: Tensor
    normals: Tensor | None
    boundary: Boundary | None
    scale: float = 1.0
    middle: Tensor = field(default_factory=lambda: torch.full((3,), 0.5))
    notes: tuple[str, ...] = ()

    @property
    def surface(self) -> Surface | None:
        """The triangles of a mesh."""
        return None if self.boundary is None else Surface(self.boundary.vertices, self.boundary.faces)

    @property
    def closed(self) -> bool:
        """Whether it is a mesh that bounds a volume."""
        return self.boundary is not None and self.boundary.closed

    def fitted(self, margin: float) -> "Target":
        """The same with its longest side in the middle of the unit cube, `margin` away from the walls."""
        low, high = self.points.amin(0), self.points.amax(0)
        scale, middle = (1 - 2 * margin) / float((high - low).max()), (low + high) / 2
        points, boundary = (self.points - middle) * scale + 0.5, self.boundary
        if boundary is not None:
            boundary = replace(boundary, vertices=(boundary.vertices - middle) * scale + 0.5)
        return replace(self, points=points, boundary=boundary, scale=scale, middle=middle)

    def original(self, surface: Surface) -> Surface:
        """A surface of the unit cube in the coordinates of the file."""
        return Surface((surface.vertices.double() - 0.5) / self.scale + self.middle, surface.faces)

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Points in single precision, uniform on the mesh or drawn from the cloud, and their normals where there are any."""
        surface = self.surface
        if surface is not None:
            points, normals = surface.sample(count, generator=generator)
            return points.float(), normals.float()
        chosen = torch.randint(len(self.points), (count,), generator=generator)
        return self.points[chosen].float(), None if self.normals is None else self.normals[chosen].float()


def read_target(path: Path) -> Target:
    """The mesh or point cloud of a file.

    **Raises** `ShapeReadError`, which names the file: missing, truncated, empty, without extent, not finite or huge.
    """
    if path.suffix.lower() in TABLES:
        return _cloud(path, *read_points(path))
    try:
        surface = Surface.read(path, dtype=torch.float64)
    except FileNotFoundError as error:
        raise ShapeReadError(f"`{path}` does not exist; expected a mesh or a point cloud.") from error
    except ImportError as error:
        raise ShapeReadError(str(error)) from error
    except MeshFileError as error:
        points = _bare_points(path)
        if points is None:
            raise ShapeReadError(str(error)) from error
        return _cloud(path, points, None)
    _require_extent(path, surface.vertices)
    if not bool(surface.area() > 0):
        raise ShapeReadError(f"`{path}`: none of its {len(surface)} faces has an area.")
    boundary = repaired(surface.vertices, surface.faces)
    notes = [*boundary.notes, *InsideTest(boundary).remarks()]
    if not boundary.closed:
        notes.append("there is no volume to compare")
    return Target(path.stem, boundary.vertices, None, boundary, notes=tuple(f"{path.name}: {note}" for note in notes))


def _bare_points(path: Path) -> Tensor | None:
    """The points of a mesh file that has no faces, or None."""
    import trimesh

    try:
        found: Any = trimesh.load(path, process=False)
    except Exception:  # whatever its parsers meet in a damaged file, which has been reported already
        return None
    if not isinstance(found, trimesh.PointCloud):
        return None
    return torch.from_numpy(np.array(found.vertices, dtype=np.float64))


def _cloud(path: Path, points: Tensor, normals: Tensor | None) -> Target:
    _require_extent(path, points)
    if len(points.unique(dim=0)) < _LEAST:
        raise ShapeReadError(f"`{path}` has {len(points)} points; expected at least {_LEAST} different ones.")
    note = f"`{path.name}` is a cloud of {len(points)} points: there is no inside and no volume to compare with"
    return Target(path.stem, points, normals, None, notes=(note,))


def _require_extent(path: Path, points: Tensor) -> None:
    bad = int((~points.isfinite()).any(-1).sum()) if len(points) else 0
    if bad:
        raise ShapeReadError(f"`{path}`: {bad} of {len(points)} points are not finite. The file is damaged.")
    largest = float(points.abs().max()) if len(points) else 0.0
    if largest > HUGE:
        raise ShapeReadError(f"`{path}` has coordinates up to {largest:.1e}; expected at most {HUGE:.0e}. Rescale it.")
    extent = float((points.amax(0) - points.amin(0)).max()) if len(points) else 0.0
    if not extent > 1e-12 * largest:
        raise ShapeReadError(
            f"`{path}`: its {len(points)} points are all at one place; expected a shape with an extent."
        )
