"""Fourier filters: the map of fourier-mfn and fourier-imfn."""

import math

import torch

from .maps import InputMap, MultiplicativeMap


def fourier_map(inputs: int, width: int, depth: int, scale: float, dtype: torch.dtype) -> MultiplicativeMap:
    """Equation (8) with the sines of (4): (W (z + sin(V x + c)) + b) * sin(U x + c').

    Reference: Fathony et al., "Multiplicative Filter Networks", ICLR 2021.
    """
    share = scale / math.sqrt(depth + 1)
    filters = [InputMap(inputs, width, share, sine=True, dtype=dtype) for _ in range(depth + 1)]
    return MultiplicativeMap(filters, width, dtype)
