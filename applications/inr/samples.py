"""What of a picture is learned from, and what is tested on: all of it, a part, or means over squares."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..shared.errors import InputError
from ..shared.pictures import Picture
from .config import ImageConfig
from .grid import grid_rows, scale_of


@dataclass(frozen=True)
class Samples:
    """Points with values.

    **Arguments**

    - `values`: (points, channels) in [0, 1].
    - `rows`: (points,) numbers of pixels, row by row; None is all pixels.
    - `x`: (points, 2) coordinates, where they are no pixels.
    - `tested`: (pixels,) bool, which pixels the quality is measured on; None is all of them.
    - `scale`: of the input frequencies, that of the density of these points.
    """

    values: Tensor
    rows: Tensor | None
    x: Tensor | None
    tested: Tensor | None
    scale: float


def samples_of(picture: Picture, config: ImageConfig) -> Samples:
    """What the configuration asks for. **Raises** `InputError` where nothing is left to learn from or to test on."""
    height, width, channels = picture.pixels.shape
    pixels, scale = picture.pixels.reshape(-1, channels), scale_of(height, width)
    if config.samples == "all":
        return Samples(pixels, None, None, None, scale)
    if config.samples == "blocks":
        return _blocks(picture.pixels, config.block, scale)
    learned, tested = _parts(picture, config)
    if not bool(learned.any()) or not bool(tested.any()):
        raise InputError(
            f"`--samples {config.samples}` leaves {int(learned.sum())} pixels to learn from; expected some."
        )
    rows = learned.reshape(-1).nonzero().squeeze(-1)
    density = 0.5 if config.samples == "even" else math.sqrt(len(rows) / len(pixels))
    return Samples(pixels[rows], rows, None, tested.reshape(-1), scale * density)


def _parts(picture: Picture, config: ImageConfig) -> tuple[Tensor, Tensor]:
    """(height, width) bool: what is learned from, and what is tested on."""
    height, width, _ = picture.pixels.shape
    if config.samples == "even":
        learned, tested = torch.zeros(2, height, width, dtype=torch.bool)
        learned[::2, ::2], tested[1::2, 1::2] = True, True
        return learned, tested
    if config.samples == "random":
        generator = torch.Generator().manual_seed(config.seed)
        learned = torch.rand(height, width, generator=generator, dtype=torch.float32) < config.keep
        return learned, ~learned
    if picture.known is None:
        raise InputError("`--samples mask` needs `--mask FILE`.")
    return picture.known, ~picture.known


def _blocks(pixels: Tensor, side: int, scale: float) -> Samples:
    """Means over squares, at the middle of their pixels; rows and columns that fill no square are left out."""
    height, width, channels = pixels.shape
    if side > min(height, width):
        raise InputError(
            f"`--block` is {side}; expected at most {min(height, width)}, the shorter side of the picture."
        )
    means = nn.functional.avg_pool2d(pixels.permute(2, 0, 1).unsqueeze(0), side)[0].permute(1, 2, 0)
    rows, columns = means.shape[:2]
    y = (torch.arange(rows, dtype=torch.float64) * side + (side - 1) / 2) * (2 / (height - 1)) - 1
    x = (torch.arange(columns, dtype=torch.float64) * side + (side - 1) / 2) * (2 / (width - 1)) - 1
    places = torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), -1).reshape(-1, 2)
    return Samples(means.reshape(-1, channels), None, places.to(torch.float32), None, scale / side)


def places(samples: Samples, height: int, width: int, rows: Tensor) -> Tensor:
    """(rows, 2) the coordinates of points of the samples."""
    if samples.x is not None:
        return samples.x[rows]
    return grid_rows(height, width, rows if samples.rows is None else samples.rows[rows])
