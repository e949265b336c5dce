"""Coordinates of pixels."""

import torch
from torch import Tensor


def grid(height: int, width: int, rows: slice = slice(None)) -> Tensor:
    """(pixels, 2) coordinates in [-1, 1], end points included: x along the width, then y along the height."""
    y, x = torch.linspace(-1, 1, height)[rows], torch.linspace(-1, 1, width)
    return torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), dim=-1).reshape(-1, 2)
