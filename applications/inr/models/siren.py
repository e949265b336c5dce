"""Sine networks: the input-injected map of siren-inj and isiren, and the plain siren."""

import math

import torch
from torch import Tensor, nn

from .maps import InputMap, SineMap
from .networks import PlainNetwork


def injected_sine_map(inputs: int, width: int, depth: int, scale: float, dtype: torch.dtype) -> SineMap:
    """Equation (7): sin(W (z + sin(V x + c)) + b + U x + c'). There is no factor omega here (authors)."""
    share = scale / math.sqrt(depth + 1)
    return SineMap(
        (InputMap(inputs, width, share, sine=number == 0, dtype=dtype) for number in range(depth + 1)), width, dtype
    )


class Siren(PlainNetwork):
    """h <- sin(omega (W h + b)), depth + 1 times; the first W ~ U(+-1/d), the others ~ U(+-sqrt(6/D)/omega).

    With `gain` above one all weights but the last layer's begin larger by it, which trains several times as fast.

    Reference: Sitzmann et al., "Implicit Neural Representations with Periodic Activation Functions", NeurIPS 2020; for the
    gain Yeom et al., "Fast Training of Sinusoidal Neural Fields via Scaling Initialization", 2024.
    """

    def __init__(
        self, inputs: int, width: int, depth: int, outputs: int, *, omega: float, gain: float, dtype: torch.dtype
    ):
        last = nn.Linear(width, outputs, dtype=dtype)
        super().__init__(width, last)
        self.omega = omega
        sizes = [inputs] + [width] * depth
        self.layers = nn.ModuleList(nn.Linear(size, width, dtype=dtype) for size in sizes)
        sine_init(list(self.layers), omega, gain)
        nn.init.uniform_(last.weight, -math.sqrt(6 / width) / omega, math.sqrt(6 / width) / omega)

    def features(self, x: Tensor) -> Tensor:
        """(points, inputs) -> (points, width)."""
        for layer in self.layers:
            x = (self.omega * layer(x)).sin()
        return x


def sine_init(layers: list[nn.Module], omega: float, gain: float = 1.0) -> None:
    """Weights of a chain of sine layers: inputs and hidden states of every layer then have one distribution."""
    for number, layer in enumerate(layers):
        assert isinstance(layer, nn.Linear)
        bound = 1 / layer.in_features if number == 0 else math.sqrt(6 / layer.in_features) / omega
        nn.init.uniform_(layer.weight, -gain * bound, gain * bound)
