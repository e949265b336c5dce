"""Figures of merit."""

import math

import torch
from torch import Tensor

EXACT_DB = (
    200.0  # stands for a reconstruction without any error, whose PSNR would be infinite (and infinity is no JSON)
)


def squared_error(output: Tensor, target: Tensor) -> float:
    """Sum of squares of clamp(output) - target after both are mapped from [-1, 1] to [0, 1], in double precision."""
    difference = (output.detach().clamp(-1, 1) - target) / 2
    return float(difference.square().sum(dtype=torch.float64))


def psnr(mean_square: float) -> float:
    """Peak signal-to-noise ratio in dB, -10 log10(mean square error), of values in [0, 1]."""
    if mean_square <= 0:
        return EXACT_DB
    return min(-10 * math.log10(mean_square), EXACT_DB) if math.isfinite(mean_square) else -EXACT_DB
