"""Draw a network of a picture at any resolution: all of it or a part, its values or derivatives."""

from typing import NamedTuple

import torch
from torch import Tensor

from .grid import grid_rows
from .models.networks import AbstractNetwork
from .values import derivatives_of, values_of

_LARGEST = 0.99  # the part of the pixels that is drawn without being cut off


class Frame(NamedTuple):
    """Pixels of a drawing: those of the rows and columns in the ranges, of a whole of `height` x `width`."""

    height: int
    width: int
    rows: range
    columns: range

    @classmethod
    def whole(cls, height: int, width: int) -> "Frame":
        """All of it."""
        return cls(height, width, range(height), range(width))

    @property
    def count(self) -> int:
        """How many pixels are drawn."""
        return len(self.rows) * len(self.columns)

    def places(self, numbers: Tensor, dtype: torch.dtype) -> Tensor:
        """(pixels, 2) coordinates of the drawn pixels of these numbers."""
        row = numbers.div(len(self.columns), rounding_mode="floor") + self.rows.start
        column = numbers % len(self.columns) + self.columns.start
        return grid_rows(self.height, self.width, row * self.width + column, dtype)


def draw(model: AbstractNetwork, height: int, width: int) -> tuple[Tensor, int]:
    """(height, width, channels) in [0, 1] but not clamped, and the most steps that a solve took."""
    return draw_part(model, Frame.whole(height, width))


def draw_part(model: AbstractNetwork, frame: Frame) -> tuple[Tensor, int]:
    """The same of a part."""
    dtype = next(model.parameters()).dtype
    values, steps = values_of(model, frame.count, lambda numbers: frame.places(numbers, dtype))
    return (values.reshape(len(frame.rows), len(frame.columns), -1) + 1) / 2, steps


def draw_derivative(model: AbstractNetwork, frame: Frame, *, laplacian: bool) -> Tensor:
    """(rows, columns, 1) in [0, 1]: the length of the gradient, or the Laplacian around 0.5."""
    dtype = next(model.parameters()).dtype
    found = derivatives_of(model, frame.count, lambda numbers: frame.places(numbers, dtype), laplacian=laplacian)
    drawn = found.mean((1, 2)) if laplacian else found.norm(dim=-1).mean(1)
    largest = float(drawn.abs().kthvalue(max(round(_LARGEST * len(drawn)), 1)).values)
    scaled = drawn / max(largest, torch.finfo(dtype).tiny)
    scaled = (scaled + 1) / 2 if laplacian else scaled
    return scaled.clamp(0, 1).reshape(len(frame.rows), len(frame.columns), 1)
