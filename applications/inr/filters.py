"""The maps that bring coordinates into a network: scaled affine maps, with or without a sine."""

import math

import torch
from torch import Tensor, nn


class InputMap(nn.Module):
    """x -> x V + c, or its sine: what is added to, or multiplied into, the hidden state.

    V is stored as (inputs, width), the transpose of what `nn.Linear` has: its gradient is then the product of a thin
    matrix with the large one, six times as fast on a CPU as the other way round.
    """

    def __init__(self, inputs: int, width: int, scale: float, *, sine: bool, dtype: torch.dtype):
        super().__init__()
        self.sine = sine
        bound = 1 / math.sqrt(inputs)
        self.frequency = nn.Parameter(torch.empty(inputs, width, dtype=dtype).uniform_(-bound, bound) * scale)
        self.phase = nn.Parameter(torch.empty(width, dtype=dtype).uniform_(-math.pi, math.pi))

    def forward(self, x: Tensor) -> Tensor:
        """(points, inputs) -> (points, width)."""
        waves = torch.addmm(self.phase, x, self.frequency)
        return waves.sin() if self.sine else waves
