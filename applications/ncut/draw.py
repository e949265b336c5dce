"""Pictures with masks laid over them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .data import Example, fitted

SHOWN = 6  # test pictures of a sheet
_WIDTH = 240  # pixels of each of its pictures
_GAP = 6
_TINT = (1.0, 0.25, 0.1)


def overlay(pixels: Tensor, mask: Tensor | None) -> Tensor:
    """(height, width, 3): the picture (3, height, width), reddish where the mask is, with a line along its border."""
    picture = pixels.permute(1, 2, 0)
    if mask is None:
        return picture
    colour = torch.tensor(_TINT, dtype=picture.dtype)
    tinted = torch.where(mask.unsqueeze(-1), 0.55 * picture + 0.45 * colour, picture)
    return torch.where(_border(mask).unsqueeze(-1), colour, tinted)


def contact_sheet(examples: Sequence[Example], masks: Sequence[Sequence[Tensor | None]]) -> Tensor:
    """(height, width, 3): a row for each example: the picture, the true mask, then each of its `masks`."""
    rows = []
    for example, found in zip(examples, masks, strict=True):
        height = round(_WIDTH * example.mask.shape[0] / example.mask.shape[1])
        pixels = fitted(example.pixels, (height, _WIDTH))[0]
        shown = [None, example.mask, *found]
        cells = [overlay(pixels, None if mask is None else _fitted_mask(mask, height)) for mask in shown]
        rows.append(_joined(cells, 1))
    return _joined(rows, 0)


def _fitted_mask(mask: Tensor, height: int) -> Tensor:
    return fitted(mask[None].float(), (height, _WIDTH))[0, 0] > 0.5


def _joined(parts: Sequence[Tensor], axis: int) -> Tensor:
    """Parts with white gaps between them."""
    pieces = []
    for part in parts:
        shape = [*part.shape]
        shape[axis] = _GAP
        pieces += [part, torch.ones(shape, dtype=part.dtype)]
    return torch.cat(pieces[:-1], axis)


def _border(mask: Tensor) -> Tensor:
    """Pixels of the mask next to others."""
    edge = torch.zeros_like(mask)
    edge[:, :-1] |= mask[:, :-1] & ~mask[:, 1:]
    edge[:, 1:] |= mask[:, 1:] & ~mask[:, :-1]
    edge[:-1] |= mask[:-1] & ~mask[1:]
    edge[1:] |= mask[1:] & ~mask[:-1]
    return edge
