"""Pictures of shapes, seen by the network: shaded ones of the voxels, or those that came with them."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from implayer import Surface

from ..shared.errors import ImageReadError
from ..shared.view import on_cube, shaded

SIZE = 64  # pixels of a side
_SPREAD = torch.tensor([[2, 2, 2], [4, 1, 1], [1, 4, 1], [1, 1, 4]], dtype=torch.float32) / 6  # points of a triangle


def drawn(surface: Surface, views: int, start: float) -> Tensor:
    """(views, 64, 64) bytes: parallel projections from all around, the first from azimuth `start` in degrees."""
    if not len(surface):
        return torch.zeros(views, SIZE, SIZE, dtype=torch.uint8)
    points = torch.einsum("kc,fcd->fkd", _SPREAD, surface.corners()).reshape(-1, 3)  # nowhere wider apart than pixels
    normals = surface.normals().repeat_interleave(len(_SPREAD), 0)
    cameras = [on_cube(start + 360 * view / views, SIZE) for view in range(views)]
    pictures = [shaded(points, normals, camera) for camera in cameras]
    return _bytes(torch.stack(pictures))


def rendered(folder: Path, views: int) -> Tensor:
    """(views, 64, 64) bytes: grey values of renderings in a folder, cut to a square, black where they are transparent."""
    paths = sorted(folder.glob("*.png"))
    return torch.stack([_read(paths[view * len(paths) // views]) for view in range(views)])


def _read(path: Path) -> Tensor:
    try:
        with Image.open(path) as image:
            wide = image.convert("RGBA")
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageReadError(f"`{path}` is no picture that can be read, or is damaged: {error}.") from error
    black = Image.new("RGBA", wide.size, (0, 0, 0, 255))
    grey = Image.alpha_composite(black, wide).convert("L")
    side = min(grey.size)
    left, top = (grey.width - side) // 2, (grey.height - side) // 2
    square = grey.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(square).copy())


def _bytes(pictures: Tensor) -> Tensor:
    return (255 * pictures).round().to(torch.uint8)
