"""Draw a network at any resolution, in tiles, so that memory stays flat."""

import torch
from torch import Tensor

from .grid import grid
from .model import TILE, AbstractNetwork


@torch.no_grad()
def draw(model: AbstractNetwork, height: int, width: int, device: torch.device) -> tuple[Tensor, int]:
    """(height, width, channels) in [0, 1] but not clamped, and the most steps that a solve took."""
    training, dtype = model.training, model.readout.weight.dtype
    model.eval()
    rows, most, parts = max(TILE // width, 1), 0, []
    for first in range(0, height, rows):
        solution = model.state(grid(height, width, slice(first, first + rows), dtype).to(device))
        parts.append(model.readout(solution.value).cpu())
        most = max(most, 0 if solution.steps is None else int(solution.steps.max()))
    model.train(training)
    return (torch.cat(parts).reshape(height, width, -1) + 1) / 2, most
