"""The shape that a command names, and what a run keeps of it."""

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from implayer import LevelSetLayer, Surface
from implayer.layers.surface_file import MeshFileError

from ...shared.application import Material
from ...shared.data import data_root, find_file
from ...shared.errors import InputError
from .inside import InsideTest
from .soundness import Boundary, repaired

_TABLES = (".xyz", ".txt", ".npy")  # of points with normals
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
    - `inside`: which points are inside; None for a cloud.
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
    path = find_file(source, data_root(data), "meshes", ".", what=what).resolve()
    if path.suffix.lower() in _TABLES:
        if not cloud:
            raise InputError(
                f"`{path}` holds points; what is inside of them is not known. `implayer fit sdf` takes them."
            )
        points, normals = _table(path)
        bare = Boundary(points, torch.zeros(0, 3).long(), torch.zeros(0, 2).long(), True, ())
        return _material(str(path), path.stem, bare, normals, extent)
    try:
        mesh = Surface.read(path, dtype=torch.float64)
    except MeshFileError as error:
        raise MeshReadError(str(error)) from error
    return _material(str(path), path.stem, repaired(mesh.vertices, mesh.faces), None, extent)


def torus(nodes: int = 40) -> tuple[Tensor, Tensor]:
    """Vertices and faces of a torus, for runs without any file."""
    x, y, z = torch.meshgrid(*[torch.linspace(-1, 1, nodes, dtype=torch.float64)] * 3, indexing="ij")
    phi = ((x.square() + z.square()).sqrt() - 0.65).square() + y.square() - 0.25**2
    surface = LevelSetLayer(spacing=2 / (nodes - 1), origin=-1.0)(phi)
    return surface.vertices, surface.faces


def _table(path: Path) -> tuple[Tensor, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy warns of empty files
            rows = np.load(path, allow_pickle=False) if path.suffix.lower() == ".npy" else np.loadtxt(path, ndmin=2)
        values = torch.from_numpy(np.asarray(rows, np.float64))
    except (OSError, ValueError, TypeError, EOFError, UserWarning) as error:
        raise MeshReadError(f"`{path}` could not be read as a table of points: {error}. It may be damaged.") from error
    if values.ndim != 2 or values.shape[1] != 6 or len(values) < 4:
        raise MeshReadError(
            f"`{path}` has shape {tuple(values.shape)}; expected (points, 6): x y z and a normal, 4 points."
        )
    length = torch.linalg.vector_norm(values[:, 3:], dim=-1, keepdim=True)
    bad = int((~values.isfinite()).any(-1).sum()), int((length == 0).sum())
    if any(bad) or float(values[:, :3].abs().max()) > 1e12:
        raise MeshReadError(f"`{path}`: of {len(values)} points {bad[0]} are not finite and {bad[1]} have no normal.")
    return values[:, :3], values[:, 3:] / length


def _material(source: str, name: str, boundary: Boundary, normals: Tensor | None, extent: float) -> Material:
    points, notes = boundary.vertices, boundary.notes
    centre = points.mean(0) if len(points) else torch.zeros(3)
    size = float((points - centre).abs().max()) / extent if len(points) else 0.0
    if not size > 0 or (normals is None and not float(Surface(points, boundary.faces).area()) > 0):
        raise MeshReadError(f"`{source}`: {len(boundary.faces)} faces without any area; expected a surface.")
    points = (points - centre) / size
    boundary = Boundary(points, boundary.faces, boundary.rim, boundary.even, ())
    inside = InsideTest(boundary) if normals is None else None
    notes = tuple(f"{source}: {note}" for note in (*notes, *_remarks(boundary, inside)))
    surface = Surface(points.float(), boundary.faces)
    digest = hashlib.sha256(surface.vertices.numpy().tobytes() + surface.faces.numpy().tobytes()).hexdigest()
    lower, upper = (end.tolist() for end in (surface.vertices.amin(0), surface.vertices.amax(0)))
    kept = SolidSource(source, digest, centre.tolist(), size, lower, upper)
    drawn = None if normals is None else normals.float()
    return Material(kept, Shape(name, surface, drawn, inside, inside is not None and boundary.closed), notes)


def _remarks(boundary: Boundary, inside: InsideTest | None) -> list[str]:
    """How it is decided what is inside, where that is not plain."""
    if inside is None:
        return ["points without faces: what is inside is told by the normals alone"]
    if inside.parity:
        return ["faces cannot agree with their neighbours: inside is where a ray crosses an odd number of them"]
    if not boundary.closed:
        return ["inside is where the winding number is at least one half"]
    crossing = inside.crossing()
    if crossing:
        found = f"the mesh cuts itself or holds a second sheet ({crossing} faces of those probed)"
        return [f"{found}: inside is what is enclosed at all"]
    return []
