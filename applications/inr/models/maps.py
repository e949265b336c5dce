"""The maps F(x, z) of "(Implicit)^2": evaluated once at z = 0 (explicit) or solved for z (implicit)."""

import abc
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .compiled import affine
from .precision import single


class AbstractMap(nn.Module, abc.ABC):
    """F(x, z) of depth L: the entry filter is added to z, then each hidden map is joined with its own input.

    **Arguments**: `injections`, what brings the coordinates in, first the entry, then one for each hidden map; `width` D.
    """

    injections: nn.ModuleList  # L + 1
    hidden: nn.ModuleList  # L linear maps D -> D, drawn from U(+-1/sqrt(D))

    def __init__(self, injections: Iterable[nn.Module], width: int, dtype: torch.dtype):
        super().__init__()
        self.injections = nn.ModuleList(injections)
        self.hidden = nn.ModuleList(nn.Linear(width, width, dtype=dtype) for _ in range(len(self.injections) - 1))
        for linear in self.hidden:
            assert isinstance(linear, nn.Linear)
            nn.init.uniform_(linear.weight, -1 / math.sqrt(width), 1 / math.sqrt(width))

    @abc.abstractmethod
    def join(self, hidden: Tensor, injection: Tensor) -> Tensor:
        """The output of a hidden map with its injected input, both (points, D)."""

    def inject(self, x: Tensor) -> tuple[Tensor, ...]:
        """What depends on the coordinates alone: L + 1 arrays (points, D), evaluated once for a whole solve."""
        with single():
            return tuple(injection(x) for injection in self.injections)

    def forward(
        self,
        x: Tensor | tuple[Tensor, ...],
        z: Tensor | None,
        multiply: Callable[[Any, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """F(x, z), x being coordinates (points, inputs) or what `inject` made of them; None stands for z = 0.

        `multiply` evaluates a hidden map in another way than it does itself.
        """
        entry, *injections = self.inject(x) if isinstance(x, Tensor) else x
        state = entry if z is None else z + entry
        del entry  # where autograd does not need it, an array of (points, D) less
        for linear, injection in zip(self.hidden, injections, strict=True):
            state = self.join(linear(state) if multiply is None else multiply(linear, state), injection)
        return state


class MultiplicativeMap(AbstractMap):
    """Equation (8): (W (z + g(x)) + b) * g'(x), with whatever filters g."""

    def join(self, hidden: Tensor, injection: Tensor) -> Tensor:
        """The filter multiplies."""
        return hidden * injection


class SineMap(AbstractMap):
    """Equation (7): sin(W (z + sin(V x + c)) + b + U x + c')."""

    def join(self, hidden: Tensor, injection: Tensor) -> Tensor:
        """The input is added, then the sine."""
        return (hidden + injection).sin()


class InputMap(nn.Module):
    """x -> x V + c, or its sine: what is added to, or multiplied into, the hidden state. V ~ U(+-1/sqrt(d)) times `scale`.

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
        waves = affine(self.phase, x, self.frequency)
        return waves.sin() if self.sine else waves
