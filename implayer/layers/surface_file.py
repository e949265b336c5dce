"""Meshes in files, through `trimesh`, which is imported only here and only when needed."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import DtypeError, ImplayerError, ShapeError

ENDINGS = (".ply", ".obj", ".glb")


class MeshFileError(ImplayerError, ValueError):
    """A file does not hold a mesh, or holds a damaged one."""


def _trimesh() -> Any:
    try:
        import trimesh
    except ImportError as error:
        raise ImportError(
            "mesh files need `trimesh`, which is not installed: `pip install implayer[meshes]`."
        ) from error
    return trimesh


def write_mesh(vertices: Tensor, faces: Tensor, path: Path) -> Path:
    """Write the file in one go: either all of it is there or nothing is."""
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise ValueError(f"`{path.name}` ends with `{path.suffix}`; expected one of {', '.join(ENDINGS)}.")
    if not len(faces):
        raise ShapeError(f"no faces to write to `{path}`: the surface is empty.")
    bad = int((~vertices.isfinite()).any(-1).sum())
    if bad:
        raise ShapeError(f"{bad} of {len(vertices)} vertices are not finite; `{path}` is not written.")
    outside = int(((faces < 0) | (faces >= len(vertices))).any(-1).sum())
    if outside:
        raise ShapeError(f"{outside} of {len(faces)} faces name vertices that do not exist; `{path}` is not written.")
    points, triangles = vertices.double().cpu(), faces.cpu()
    if points.shape[-1] == 2:
        raise ShapeError("a curve in the plane is no mesh; `export` writes triangles. Draw it, or save its tensors.")
    mesh = _trimesh().Trimesh(points.numpy(), triangles.numpy(), process=False)
    data = mesh.export(file_type=ending[1:])
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(data if isinstance(data, bytes) else data.encode())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def read_mesh(path: Path, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Vertices (V, 3) and faces (F, 3) of a mesh file."""
    if not dtype.is_floating_point:
        raise DtypeError(f"`dtype` is {dtype}; expected one of floating point for the coordinates.")
    if not path.is_file():
        raise FileNotFoundError(f"there is no mesh file `{path}`.")
    if not path.stat().st_size:
        raise MeshFileError(f"`{path}` is empty; expected a mesh.")
    trimesh = _trimesh()
    if path.suffix[1:].lower() not in trimesh.available_formats():
        raise MeshFileError(f"`{path}` ends with `{path.suffix}`; expected a mesh, as .ply, .obj, .stl or .glb.")
    try:
        mesh = trimesh.load(path, force="mesh", process=False)
    except Exception as error:  # trimesh raises whatever its parsers meet in a damaged file
        raise MeshFileError(
            f"`{path}` could not be read as {path.suffix or 'a mesh'}: {type(error).__name__}: {str(error)[:200]}. It may be "
            f"truncated, or of another format than its ending says."
        ) from error
    vertices = torch.from_numpy(mesh.vertices.copy()).to(torch.float64)
    faces = torch.from_numpy(mesh.faces.copy()).to(torch.int64).reshape(-1, 3)
    if not len(faces):
        raise MeshFileError(f"`{path}` has {len(vertices)} vertices and no faces; expected a mesh with faces.")
    outside = int(((faces < 0) | (faces >= len(vertices))).any(-1).sum())
    lost = int((~vertices.isfinite()).any(-1).sum())
    if outside or lost:
        raise MeshFileError(
            f"`{path}`: {outside} of {len(faces)} faces name vertices that do not exist, and {lost} of {len(vertices)} "
            f"vertices are not finite. The file is damaged."
        )
    largest = float(vertices.abs().max())
    if largest > torch.finfo(dtype).max or largest > HUGE:
        raise MeshFileError(
            f"`{path}` has coordinates up to {largest:.1e}; expected at most {HUGE:.0e}. Rescale the mesh."
        )
    return vertices.to(dtype), faces


HUGE = 1e12
