"""Gabor filters: the map of gabor-mfn and gabor-imfn."""

import math

import torch
from torch import Tensor, nn

from .compiled import affine
from .maps import MultiplicativeMap


class GaborFilter(nn.Module):
    """x -> sin(x V + c) exp(-relu(gamma) |x - mu|^2 / 2), all trained.

    mu ~ U(-1, 1), gamma ~ Gamma(`alpha`, 1), V ~ U(+-1/sqrt(d)) times `scale` sqrt(gamma): narrow filters oscillate faster.
    """

    def __init__(self, inputs: int, width: int, scale: float, alpha: float, dtype: torch.dtype):
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.centre = nn.Parameter(torch.empty(inputs, width, dtype=dtype).uniform_(-1, 1))
        shape = torch.full((width,), alpha, dtype=dtype)
        self.sharpness = nn.Parameter(torch.distributions.Gamma(shape, 1.0).sample())
        waves = torch.empty(inputs, width, dtype=dtype).uniform_(-bound, bound) * scale
        self.frequency = nn.Parameter(waves * self.sharpness.detach().sqrt())
        self.phase = nn.Parameter(torch.empty(width, dtype=dtype).uniform_(-math.pi, math.pi))

    def forward(self, x: Tensor) -> Tensor:
        """(points, inputs) -> (points, width)."""
        # The exponent as one affine map of (x, |x|^2): one array instead of the inputs + 1 that x - mu would take.
        gamma = self.sharpness.relu()
        rows = torch.cat([gamma * self.centre, -gamma.unsqueeze(0) / 2])
        squared = x.square().sum(-1, keepdim=True)
        exponent = affine(-gamma * self.centre.square().sum(0) / 2, torch.cat([x, squared], -1), rows)
        return affine(self.phase, x, self.frequency).sin() * exponent.exp()


def gabor_map(
    inputs: int, width: int, depth: int, scale: float, alphas: tuple[float, float], dtype: torch.dtype
) -> MultiplicativeMap:
    """Equation (8) with the Gabor filters of (4); `alphas` are those of the entry and of the other filters, each over L + 1.

    Reference: Fathony et al., "Multiplicative Filter Networks", ICLR 2021.
    """
    share, entry, others = scale / math.sqrt(depth + 1), alphas[0] / (depth + 1), alphas[1] / (depth + 1)
    filters = [GaborFilter(inputs, width, share, alpha, dtype) for alpha in [entry] + [others] * depth]
    return MultiplicativeMap(filters, width, dtype)
