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

TABLES = (".xyz", ".txt", ".csv", ".npy")  # of points; other files are meshes, or PLY files of points
_LEAST = 16  # points of a cloud
_HUGE = 1e12


class ShapeReadError(InputError):
    """A file holds no mesh and no point cloud, or is damaged."""


@dataclass(frozen=True)
class Target:
    """A mesh, or points with or without normals.

    - `scale`, `middle`: x in the file is at (x - middle) * scale + 1/2 in the unit cube.
    - `closed`, `signed`: whether the mesh has an inside without doubt, and whether its faces tell which side that is.
    - `notes`: what is wrong with it, counted.
    """

    name: str
    points: Tensor
    normals: Tensor | None
    surface: Surface | None
    scale: float = 1.0
    middle: Tensor = field(default_factory=lambda: torch.full((3,), 0.5))
    closed: bool = False
    signed: bool = False
    notes: tuple[str, ...] = ()

    def fitted(self, margin: float) -> "Target":
        """The same with its longest side in the middle of the unit cube, `margin` away from the walls."""
        low, high = self.points.amin(0), self.points.amax(0)
        scale, middle = (1 - 2 * margin) / float((high - low).max()), (low + high) / 2
        surface = self.surface
        if surface is not None:
            surface = Surface((surface.vertices - middle) * scale + 0.5, surface.faces)
        return replace(self, points=(self.points - middle) * scale + 0.5, surface=surface, scale=scale, middle=middle)

    def original(self, surface: Surface) -> Surface:
        """A surface of the unit cube in the coordinates of the file."""
        return Surface((surface.vertices.double() - 0.5) / self.scale + self.middle, surface.faces)

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Points in single precision, uniform on the mesh or drawn from the cloud, and their normals where there are any."""
        if self.surface is not None:
            points, normals = self.surface.sample(count, generator=generator)
            return points.float(), normals.float()
        chosen = torch.randint(len(self.points), (count,), generator=generator)
        return self.points[chosen].float(), None if self.normals is None else self.normals[chosen].float()


def read_target(path: Path) -> Target:
    """The mesh or point cloud of a file.

    **Raises** `ShapeReadError`, which names the file: missing, truncated, empty, without extent, not finite or huge.
    """
    if path.suffix.lower() in TABLES:
        return _cloud(path, _table(path))
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
        return _cloud(path, points)
    _require_extent(path, surface.vertices)
    if not bool(surface.area() > 0):
        raise ShapeReadError(f"`{path}`: none of its {len(surface)} faces has an area.")
    found = surface.defects()
    wrong = {name: count for name, count in vars(found).items() if count and name not in ("repeated", "unused")}
    joined = surface if not found.repeated else _merged(surface)
    if found.repeated:  # vertices of a file without shared ones: look again
        found = joined.defects()
        wrong = {name: count for name, count in vars(found).items() if count and name not in ("repeated", "unused")}
    closed = not (found.open_edges or found.flipped or found.crowded_edges)
    notes = () if not wrong else (_said(path, wrong, closed),)
    used = joined.vertices[joined.faces.unique()]
    return Target(path.stem, used, None, joined, closed=closed, signed=closed and not found.inward, notes=notes)


def _said(path: Path, wrong: dict[str, int], closed: bool) -> str:
    counts = ", ".join(f"{count} {name}" for name, count in wrong.items())
    rest = (
        "" if closed else "; what is inside is decided by looking along the three axes, and it has no volume to compare"
    )
    return f"warning: `{path.name}` has {counts}{rest}"


def _merged(surface: Surface) -> Surface:
    """Vertices at the same place made one, and what then has no three corners left out."""
    vertices, place = surface.vertices.unique(dim=0, return_inverse=True)
    faces = place[surface.faces]
    a, b, c = faces.unbind(-1)
    return Surface(vertices, faces[(a != b) & (b != c) & (c != a)])


def _table(path: Path) -> np.ndarray:
    try:
        if path.suffix.lower() == ".npy":
            return np.asarray(np.load(path, allow_pickle=False), dtype=np.float64)
        return np.loadtxt(path, delimiter="," if path.suffix.lower() == ".csv" else None, ndmin=2)
    except FileNotFoundError as error:
        raise ShapeReadError(f"`{path}` does not exist; expected a mesh or a point cloud.") from error
    except (OSError, ValueError, EOFError, UnicodeDecodeError) as error:
        raise ShapeReadError(f"`{path}` cannot be read as a table of points ({str(error)[:120]}).") from error


def _bare_points(path: Path) -> np.ndarray | None:
    """The points of a mesh file that has no faces, or None."""
    import trimesh

    try:
        found: Any = trimesh.load(path, process=False)
    except Exception:  # whatever its parsers meet in a damaged file, which has been reported already
        return None
    return np.asarray(found.vertices, dtype=np.float64) if isinstance(found, trimesh.PointCloud) else None


def _cloud(path: Path, table: np.ndarray) -> Target:
    if table.ndim != 2 or table.shape[1] not in (3, 6):
        raise ShapeReadError(
            f"`{path}` holds an array of {table.shape}; expected x, y, z, or x, y, z and a normal, in a row."
        )
    rows = torch.from_numpy(np.ascontiguousarray(table, dtype=np.float64))
    points, normals = rows[:, :3].contiguous(), rows[:, 3:] if table.shape[1] == 6 else None
    _require_extent(path, points)
    if len(points.unique(dim=0)) < _LEAST:
        raise ShapeReadError(f"`{path}` has {len(points)} points; expected at least {_LEAST} different ones.")
    if normals is not None:
        normals = torch.nn.functional.normalize(normals, dim=-1)
    note = f"`{path.name}` is a cloud of {len(points)} points: there is no inside and no volume to compare with"
    return Target(path.stem, points, normals, None, notes=(note,))


def _require_extent(path: Path, points: Tensor) -> None:
    bad = int((~points.isfinite()).any(-1).sum()) if len(points) else 0
    if bad:
        raise ShapeReadError(f"`{path}`: {bad} of {len(points)} points are not finite. The file is damaged.")
    largest = float(points.abs().max()) if len(points) else 0.0
    if largest > _HUGE:
        raise ShapeReadError(f"`{path}` has coordinates up to {largest:.1e}; expected at most {_HUGE:.0e}. Rescale it.")
    extent = float((points.amax(0) - points.amin(0)).max()) if len(points) else 0.0
    if not extent > 1e-12 * largest:
        raise ShapeReadError(
            f"`{path}`: its {len(points)} points are all at one place; expected a shape with an extent."
        )
