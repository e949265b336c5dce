"""What the training works on: pictures, occupied voxels, fields and points on the true surfaces."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from implayer import Surface

from .config import ShapesConfig
from .grid import signed_distances, surfaces_of
from .pictures import drawn, rendered
from .voxels import Shape, Shapes

_CHUNK = 16  # shapes that are looked at in one go


@dataclass(frozen=True)
class Examples:
    """Tensors of shapes, one row each."""

    names: tuple[str, ...]
    pictures: Tensor  # (shapes, views, 64, 64) bytes
    occupied: Tensor  # (shapes, 32, 32, 32) bool
    fields: Tensor  # (shapes, 32, 32, 32) in voxels, in half precision
    points: Tensor  # (shapes, points, 3) on the surface, in the unit cube
    normals: Tensor  # (shapes, points, 3)
    surfaces: tuple[Surface, ...]  # of the test alone: they are large

    def __len__(self) -> int:
        """The number of shapes."""
        return len(self.names)


_last: dict[tuple, tuple[Examples, Examples]] = {}  # of a program that trains several networks on the same shapes


def prepared(shapes: Shapes, config: ShapesConfig) -> tuple[Examples, Examples]:
    """What to train on and what to test with, the same for every seed; a test shape is seen from one side."""
    key = (shapes.sha256, config.shapes, config.views, config.points)
    if key not in _last:
        train, test = (_spread(part, config.shapes) for part in (shapes.train, shapes.test))
        _last.clear()
        _last[key] = _examples(train, config.views, config.points), _examples(test, 1, config.points, test=True)
    return _last[key]


def _spread(shapes: tuple[Shape, ...], count: int) -> tuple[Shape, ...]:
    """So many of them, evenly spaced; all where `count` is 0 or as large."""
    if not 0 < count < len(shapes):
        return shapes
    return tuple(shapes[k * len(shapes) // count] for k in range(count))


def _examples(shapes: Sequence[Shape], views: int, count: int, *, test: bool = False) -> Examples:
    generator = torch.Generator().manual_seed(int(test))
    pictures, fields, points, normals = [], [], [], []
    kept: list[Surface] = []
    for first in range(0, len(shapes), _CHUNK):
        part = shapes[first : first + _CHUNK]
        phi = signed_distances(torch.stack([shape.occupied for shape in part]))
        surfaces = surfaces_of(phi)
        fields.append(phi.half())
        for shape, surface in zip(part, surfaces, strict=True):
            p, n = surface.sample(count, generator=generator)
            points.append(p)
            normals.append(n)
            pictures.append(_seen(shape.pictures, surface, views, 360 * float(torch.rand((), generator=generator))))
        kept += surfaces if test else []
    occupied = torch.stack([shape.occupied for shape in shapes])
    return Examples(
        tuple(shape.name for shape in shapes), torch.stack(pictures), occupied, torch.cat(fields),
        torch.stack(points), torch.stack(normals), tuple(kept),
    )  # fmt: skip


def _seen(folder: Path | None, surface: Surface, views: int, start: float) -> Tensor:
    return drawn(surface, views, start) if folder is None else rendered(folder, views)
