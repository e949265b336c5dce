"""The shape that a command names, and what a run keeps of it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from implayer import LevelSetLayer, Surface
from implayer.layers.surface_file import MeshFileError

from ...shared.application import Material
from ...shared.data import data_root, find_file
from ...shared.errors import InputError
from ...shared.inside import InsideTest
from ...shared.points import TABLES, read_points
from ...shared.soundness import Boundary, repaired

_LEAST = 4  # points of a cloud
_PROBES = 4096  # points in the box, and as many near the surface, that tell whether anything is inside
_APART = 0.02  # of the length of the shape: how near those are
_NO_FACES = "points without faces: what is inside is told by the normals alone"
_NOTHING = f"none of {2 * _PROBES} points in its box and near it is inside: it encloses nothing"
_FOLDERS = ("meshes", "3d_occupancy", "sdf", ".")  # of the data root; the second and third are those of the authors
_GENERATED = "torus"


class MeshReadError(InputError):
    """A file is not a mesh, is damaged, or encloses nothing."""


@dataclass(frozen=True)
class SolidSource:
    """Where the shape of a run is from, and where its box lies: point = centre + size * coordinate."""

    source: str
    sha256: str  # of what was made of it
    centre: list  # (3,)
    size: float
    lower: list  # (3,) of the bounding box, in coordinates
    upper: list


@dataclass(frozen=True)
class Shape:
    """A shape in coordinates of its own: its mean at zero, within [-1, 1].

    **Arguments**

    - `surface`: the mesh; without faces for a cloud of points.
    - `normals`: (V, 3) of the points of a cloud; None for a mesh.
    - `inside`: which points are inside; None for a cloud, and for a mesh that encloses nothing.
    - `closed`: whether the mesh encloses a volume.
    """

    name: str
    surface: Surface
    normals: Tensor | None
    inside: InsideTest | None
    closed: bool


def load_shape(
    source: str, data: Path | None, *, extent: float = 1.0, cloud: bool = False
) -> Material[SolidSource, Shape]:
    """The mesh that `source` names (a file, one of the data root, or torus), or with `cloud` also points with normals."""
    if source == _GENERATED and not Path(source).exists():
        return _material(source, source, repaired(*torus()), None, extent)
    what = "mesh (PLY, OBJ, STL, GLB)" + (", or points with normals (xyz, npy)" if cloud else "")
    path = find_file(source, data_root(data), *_FOLDERS, what=what).resolve()
    if path.suffix.lower() in TABLES:
        if not cloud:
            raise InputError(
                f"`{path}` holds points; what is inside of them is not known. `implayer fit sdf` takes them."
            )
        points, normals = _with_normals(path)
        bare = Boundary(points, torch.zeros(0, 3).long(), torch.zeros(0, 2).long(), True, ())
        return _material(str(path), path.stem, bare, normals, extent)
    try:
        mesh = Surface.read(path, dtype=torch.float64)
    except MeshFileError as error:
        raise MeshReadError(str(error)) from error
    found = _material(str(path), path.stem, repaired(mesh.vertices, mesh.faces), None, extent)
    if found.content.inside is None and not cloud:
        raise MeshReadError(f"`{path}`: {_NOTHING}. `implayer fit sdf` takes a surface alone.")
    return found


def torus(nodes: int = 40) -> tuple[Tensor, Tensor]:
    """Vertices and faces of a torus, for runs without any file."""
    x, y, z = torch.meshgrid(*[torch.linspace(-1, 1, nodes, dtype=torch.float64)] * 3, indexing="ij")
    phi = ((x.square() + z.square()).sqrt() - 0.65).square() + y.square() - 0.25**2
    surface = LevelSetLayer(spacing=2 / (nodes - 1), origin=-1.0)(phi)
    return surface.vertices, surface.faces


def _with_normals(path: Path) -> tuple[Tensor, Tensor]:
    points, normals = read_points(path)
    if normals is None or len(points) < _LEAST:
        found = f"{len(points)} points with" + ("out normals" if normals is None else " normals")
        raise MeshReadError(f"`{path}` has {found}; expected at least {_LEAST} rows of x, y, z and a normal.")
    return points, normals


def _material(source: str, name: str, boundary: Boundary, normals: Tensor | None, extent: float) -> Material:
    points, notes = boundary.vertices, boundary.notes
    centre = points.mean(0) if len(points) else torch.zeros(3)
    size = float((points - centre).abs().max()) / extent if len(points) else 0.0
    if not size > 0 or (normals is None and not float(Surface(points, boundary.faces).area()) > 0):
        raise MeshReadError(f"`{source}`: {len(boundary.faces)} faces without any area; expected a surface.")
    points = (points - centre) / size
    boundary = Boundary(points, boundary.faces, boundary.rim, boundary.even, ())
    inside, told = _inside(boundary) if normals is None else (None, [_NO_FACES])
    notes = tuple(f"{source}: {note}" for note in (*notes, *told))
    surface = Surface(points.float(), boundary.faces)
    digest = hashlib.sha256(surface.vertices.numpy().tobytes() + surface.faces.numpy().tobytes()).hexdigest()
    lower, upper = (end.tolist() for end in (surface.vertices.amin(0), surface.vertices.amax(0)))
    kept = SolidSource(source, digest, centre.tolist(), size, lower, upper)
    drawn = None if normals is None else normals.float()
    return Material(kept, Shape(name, surface, drawn, inside, inside is not None and boundary.closed), notes)


def _inside(boundary: Boundary) -> tuple[InsideTest | None, list[str]]:
    """What is inside of a mesh, or None where that is nothing; and what there is to say of it."""
    test, surface = InsideTest(boundary), Surface(boundary.vertices, boundary.faces)
    if boundary.closed and abs(float(surface.volume())) > 0:
        return test, test.remarks()
    generator = torch.Generator().manual_seed(0)
    low, high = boundary.vertices.amin(0) - _APART, boundary.vertices.amax(0) + _APART
    near = surface.sample(_PROBES, generator=generator)[0]
    near = near + _APART * torch.randn(near.shape, dtype=near.dtype, generator=generator)
    probes = torch.cat([low + (high - low) * torch.rand(near.shape, dtype=near.dtype, generator=generator), near])
    return (test, test.remarks()) if bool(test(probes).any()) else (None, [_NOTHING])
