"""Coordinates of pixels."""

import torch
from torch import Tensor


def grid(height: int, width: int, rows: slice = slice(None), dtype: torch.dtype = torch.float32) -> Tensor:
    """(pixels, 2) coordinates in [-1, 1], end points included: x along the width, then y along the height."""
    y = torch.linspace(-1, 1, height, dtype=torch.float64)[rows]
    x = torch.linspace(-1, 1, width, dtype=torch.float64)
    return torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), dim=-1).reshape(-1, 2).to(dtype)
