"""FINER: sines whose frequency grows with their argument."""

import torch
from torch import Tensor, nn

from .networks import PlainNetwork
from .siren import sine_init


class Finer(PlainNetwork):
    """h <- sin(omega (|a| + 1) a) with a = W h + b, depth + 1 times; weights as siren, the first b ~ U(+-`first_bias`).

    Reference: Liu et al., "FINER: Flexible spectral-bias tuning in Implicit NEural Representation by Variable-periodic
    Activation Functions", CVPR 2024.
    """

    def __init__(
        self, inputs: int, width: int, depth: int, outputs: int, *, omega: float, first_bias: float, dtype: torch.dtype
    ):
        super().__init__(width, nn.Linear(width, outputs, dtype=dtype))
        self.omega = omega
        sizes = [inputs] + [width] * depth
        layers = [nn.Linear(size, width, dtype=dtype) for size in sizes]
        self.layers = nn.ModuleList(layers)
        sine_init([*layers, self.readout], omega)
        nn.init.uniform_(layers[0].bias, -first_bias, first_bias)

    def features(self, x: Tensor) -> Tensor:
        """(points, inputs) -> (points, width)."""
        for layer in self.layers:
            argument = layer(x)
            x = (self.omega * (argument.abs() + 1) * argument).sin()
        return x
