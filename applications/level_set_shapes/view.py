"""Pictures of surfaces: points on them, projected in parallel and shaded, the nearest ones seen."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from implayer import Surface

HALF = 0.8  # of the width of a picture, where the unit cube with its diagonal has 0.87 at most
ELEVATION = 30.0  # degrees above the horizon
_LIGHT = (0.35, 0.5, 0.8)  # from where it shines: to the right, up, and towards the eye
_AMBIENT = 0.25
_LAYER = 1.2  # pixels: points within it behind the nearest one are seen too, as the same piece of surface


def shaded(points: Tensor, normals: Tensor, azimuth: float, size: int, elevation: float = ELEVATION) -> Tensor:
    """(size, size) grey values of points in the unit cube; 0 where there is none, 0.25 to 1 on the surface.

    The last coordinate is up; `azimuth` in degrees is that of the eye.
    """
    right, up, towards = _axes(azimuth, elevation, points)
    centred = points - 0.5
    x, y, depth = centred @ right, centred @ up, -centred @ towards
    column = ((x / HALF + 1) / 2 * size).floor().long().clamp(0, size - 1)
    row = ((1 - y / HALF) / 2 * size).floor().long().clamp(0, size - 1)
    pixel = row * size + column
    nearest = depth.new_full((size * size,), torch.inf).scatter_reduce(0, pixel, depth, "amin")
    seen = depth <= nearest[pixel] + _LAYER * 2 * HALF / size
    light = points.new_tensor(_LIGHT) / math.hypot(*_LIGHT)
    lit = (normals @ torch.stack([right, up, towards], 1) @ light).clamp(min=0)
    value = _AMBIENT + (1 - _AMBIENT) * lit
    sums = value.new_zeros(size * size).index_add(0, pixel[seen], value[seen])
    counts = torch.bincount(pixel[seen], minlength=size * size)
    return (sums / counts.clamp(min=1)).view(size, size)


def _axes(azimuth: float, elevation: float, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    a, e = math.radians(azimuth), math.radians(elevation)
    right = (-math.sin(a), math.cos(a), 0.0)
    up = (-math.sin(e) * math.cos(a), -math.sin(e) * math.sin(a), math.cos(e))
    towards = (math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e))
    return tuple(torch.tensor(axis, dtype=like.dtype) for axis in (right, up, towards))  # type: ignore[return-value]


def portrait(surface: Surface, azimuth: float, size: int, elevation: float = ELEVATION) -> Tensor:
    """(size, size, 1): a surface in the unit cube, dark on white, from points all over it; white where it is empty."""
    if not len(surface):
        return torch.ones(size, size, 1, dtype=torch.float32)
    count = 8 * size * size
    points, normals = surface.sample(count, generator=torch.Generator().manual_seed(0))
    return on_white(shaded(points.float(), normals.float(), azimuth, size, elevation))


def on_white(picture: Tensor) -> Tensor:
    """(size, size, 1) with the empty background white."""
    return torch.where(picture > 0, picture, 1.0).unsqueeze(-1)


def sheet(rows: Sequence[Sequence[Tensor]], gap: int = 6) -> Tensor:
    """(height, width, 1): pictures of one size in rows, with white between."""
    lines = []
    for row in rows:
        cells = [torch.nn.functional.pad(cell, (0, 0, 0, gap, 0, gap), value=1.0) for cell in row]
        lines.append(torch.cat(cells, 1))
    return torch.cat(lines)[:-gap, :-gap]
