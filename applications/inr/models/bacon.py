"""BACON: multiplicative filters of fixed frequencies, whose layers have known bandwidths."""

import math

import torch
from torch import Tensor, nn

from .networks import PlainNetwork


class _FixedSine(nn.Module):
    """x -> sin(pi k x + c) with integers k drawn once from -`most` ... `most`: waves that fit [-1, 1]. Only c is trained."""

    def __init__(self, inputs: int, width: int, most: int, dtype: torch.dtype):
        super().__init__()
        self.waves: Tensor
        self.register_buffer("waves", torch.randint(-most, most + 1, (inputs, width)).to(dtype))
        self.phase = nn.Parameter(torch.empty(width, dtype=dtype).uniform_(-math.pi, math.pi))

    def forward(self, x: Tensor) -> Tensor:
        """(points, inputs) -> (points, width)."""
        return torch.addmm(self.phase, x, math.pi * self.waves).sin()


class Bacon(PlainNetwork):
    """h_0 = g_0(x), h_i = (W_i h_{i-1} + b_i) * g_i(x); the output is the sum of what is read out of every h_i, i > 0.

    h_i holds no frequency above the sum of the bands of g_0 ... g_i, so `coarse` is a low-pass version without
    supervision. The whole band is `scale` pi per unit, the highest that the samples carry where `scale` is the default.

    Reference: Lindell et al., "BACON: Band-limited Coordinate Networks for Multiscale Scene Representation", CVPR 2022. Here
    every layer adds to the layers before, so that one loss trains all readouts.
    """

    def __init__(self, inputs: int, width: int, depth: int, outputs: int, *, scale: float, dtype: torch.dtype):
        super().__init__(width * depth, nn.Linear(width * depth, outputs, dtype=dtype))
        shares = [1 / 2 ** min(depth - number, 2) for number in range(depth + 1)]  # the first layers: narrow bands
        bands = [max(round(scale * share / sum(shares)), 1) for share in shares]
        self.depth, self.bands = depth, tuple(math.pi * sum(bands[: number + 1]) for number in range(depth + 1))
        self.filters = nn.ModuleList(_FixedSine(inputs, width, most, dtype) for most in bands)
        self.hidden = nn.ModuleList(nn.Linear(width, width, dtype=dtype) for _ in range(depth))
        for linear in self.hidden:
            assert isinstance(linear, nn.Linear)
            nn.init.uniform_(linear.weight, -math.sqrt(6 / width), math.sqrt(6 / width))

    def features(self, x: Tensor) -> Tensor:
        """(points, inputs) -> (points, depth * width): h_1 ... h_depth."""
        first, *others = self.filters
        h, found = first(x), []
        for linear, waves in zip(self.hidden, others, strict=True):
            h = linear(h) * waves(x)
            found.append(h)
        return torch.cat(found, dim=-1)

    def coarse(self, x: Tensor, level: int) -> Tensor:
        """(points, outputs) of the first `level` layers alone: no frequency above `bands[level]`."""
        z = self.features(x)
        return self.readout(
            torch.cat([z[:, : level * self.width // self.depth], 0 * z[:, level * self.width // self.depth :]], -1)
        )
