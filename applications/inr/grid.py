"""Coordinates of pixels."""

import torch
from torch import Tensor


def scale_of(height: int, width: int) -> float:
    """The input scale that a picture of this size asks for: 256 at 512 pixels, the density of the paper's picture."""
    return max(height, width) / 2


def grid(height: int, width: int, rows: slice = slice(None), dtype: torch.dtype = torch.float32) -> Tensor:
    """(pixels, 2) coordinates in [-1, 1], end points included: x along the width, then y along the height."""
    y = torch.linspace(-1, 1, height, dtype=torch.float64)[rows]
    x = torch.linspace(-1, 1, width, dtype=torch.float64)
    return torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), dim=-1).reshape(-1, 2).to(dtype)


def grid_rows(height: int, width: int, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(rows, 2) the same coordinates of single pixels, counted along the rows of the picture."""
    x = (rows % width).to(torch.float64) * (2 / (width - 1)) - 1
    y = rows.div(width, rounding_mode="floor").to(torch.float64) * (2 / (height - 1)) - 1
    return torch.stack([x, y], dim=-1).to(dtype)
