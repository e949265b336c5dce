"""The figures of a fitted shape."""

from typing import Any

import torch
from scipy.spatial import KDTree
from torch import Tensor
from torch.nn.functional import cosine_similarity

from implayer import Surface

from .config import OccupancyConfig, SolidConfig
from .data import Shape
from .field import SpaceField
from .points import SurfacePoints, overlap, test_sets, uniform

_SAMPLES = 20_000  # of either surface for the Chamfer distance
_GRADIENTS = 4096  # points at most at which gradients are looked at
_SEED = 7


def classified(field: SpaceField, shape: Shape, config: SolidConfig) -> dict[str, float]:
    """`iou_easy`, `accuracy_hard`, ...: what is inside, on the three test sets. Nothing for a cloud of points."""
    if shape.inside is None:
        return {}
    occupancy = isinstance(config, OccupancyConfig)
    figures = {}
    for name, points in test_sets(shape, config.test_points, config.draw if occupancy else "area").items():
        values = field(points).cpu()
        found = overlap(values > 0 if occupancy else values < 0, shape.inside(points))
        figures |= {f"{figure}_{name}": value for figure, value in found.items()}
    return figures


def compared(surface: Surface, shape: Shape, size: float) -> dict[str, Any]:
    """Area, volume and Chamfer distance of a mesh in coordinates, in the units of the shape's file."""
    figures: dict[str, Any] = {
        "mesh_faces": len(surface),
        "mesh_area": float(surface.area()) * size**2,
        "mesh_volume": float(surface.volume()) * size**3,
    }
    generator = torch.Generator().manual_seed(_SEED)
    if shape.normals is not None:
        points = shape.surface.vertices
        found, _ = surface.sample(_SAMPLES, generator=generator)
        return figures | {"chamfer": _between(found, points) * size, "chamfer_relative": _between(found, points) / 2}
    apart = float(surface.chamfer(shape.surface, _SAMPLES, generator=generator))
    alike = float(surface.normal_consistency(shape.surface, _SAMPLES, generator=generator))
    figures |= {"chamfer": apart * size, "chamfer_relative": apart / 2, "normal_consistency": alike}
    figures["target_area"] = float(shape.surface.area()) * size**2
    if shape.closed:
        figures["target_volume"] = float(shape.surface.volume()) * size**3
    return figures


def _between(p: Tensor, q: Tensor) -> float:

    return float(KDTree(q.numpy()).query(p.numpy())[0].mean() + KDTree(p.numpy()).query(q.numpy())[0].mean()) / 2


def differentiated(field: SpaceField, shape: Shape, config: SolidConfig) -> dict[str, float]:
    """Of a distance: mean |phi| and mean cosine to the normals on the surface, mean and root mean square of |grad phi| - 1."""
    count = min(_GRADIENTS, config.test_points)
    generator = torch.Generator().manual_seed(_SEED)
    on, normals = SurfacePoints(shape, "area")(count, generator)
    values, gradients = (part.cpu() for part in field.gradient(on))
    ends = torch.ones(3, dtype=on.dtype)
    _, elsewhere = field.gradient(uniform(count, -ends, ends, generator))
    stretch = torch.linalg.vector_norm(elsewhere, dim=-1) - 1
    return {
        "surface": float(values.abs().mean()),
        "normal_cosine": float(cosine_similarity(gradients, normals, dim=-1).mean()),
        "eikonal": float(stretch.abs().mean()),
    }
