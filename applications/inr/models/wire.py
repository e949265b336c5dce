"""WIRE: complex Gabor wavelets as activation."""

import math

import torch
from torch import Tensor, nn

from .networks import PlainNetwork


class _Wavelet(nn.Module):
    """a = W h + b, then exp(i omega a - |sigma a|^2); weights of nn.Linear, complex after the first layer.

    Complex weights are stored as pairs of real ones, which every file format and optimiser knows.
    """

    def __init__(self, inputs: int, width: int, shape: tuple[float, float], *, first: bool, dtype: torch.dtype):
        super().__init__()
        self.omega, self.sigma = shape
        bound, pair = 1 / math.sqrt(inputs), () if first else (2,)
        self.weight = nn.Parameter(torch.empty(inputs, width, *pair, dtype=dtype).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(width, *pair, dtype=dtype).uniform_(-bound, bound))

    def forward(self, h: Tensor) -> Tensor:
        """(points, inputs), real for the first layer -> (points, width), complex."""
        if self.weight.ndim == 2:
            a = torch.addmm(self.bias, h, self.weight)
            return torch.polar((-(self.sigma * a).square()).exp(), self.omega * a)
        a = torch.view_as_complex(self.bias) + h @ torch.view_as_complex(self.weight)
        envelope = -self.omega * a.imag - self.sigma**2 * (a.real.square() + a.imag.square())
        return torch.polar(envelope.exp(), self.omega * a.real)


class _RealPart(nn.Module):
    """The real part of a complex affine map, for the readout."""

    def __init__(self, width: int, outputs: int, dtype: torch.dtype):
        super().__init__()
        bound = 1 / math.sqrt(width)
        self.weight = nn.Parameter(torch.empty(2 * width, outputs, dtype=dtype).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs, dtype=dtype).uniform_(-bound, bound))

    def forward(self, z: Tensor) -> Tensor:
        """(points, 2 width) real and imaginary parts -> (points, outputs)."""
        return torch.addmm(self.bias, z, self.weight)


class Wire(PlainNetwork):
    """Complex wavelets of `width` / sqrt(2) units, depth + 1 times: as many real parameters as a real network of `width`.

    Reference: Saragadam et al., "WIRE: Wavelet Implicit Neural Representations", CVPR 2023.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        depth: int,
        outputs: int,
        *,
        shape: tuple[float, float],
        dtype: torch.dtype,
    ):
        units = max(round(width / math.sqrt(2)), 1)
        super().__init__(2 * units, _RealPart(units, outputs, dtype))
        sizes = [inputs] + [units] * depth
        self.layers = nn.ModuleList(
            _Wavelet(size, units, shape, first=number == 0, dtype=dtype) for number, size in enumerate(sizes)
        )

    def features(self, x: Tensor) -> Tensor:
        """(points, inputs) -> (points, width): real parts, then imaginary ones."""
        for layer in self.layers:
            x = layer(x)
        return torch.cat([x.real, x.imag], dim=-1)
