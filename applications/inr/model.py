"""The networks of "(Implicit)^2": a map F(x, z), evaluated once at z = 0 (explicit) or solved for z (implicit)."""

import abc
import math
from typing import Any

import torch
from torch import Tensor, nn

import implayer

from .config import IMPLICIT, ImageConfig
from .filters import InputMap

TILE = 1024  # points that are solved for at a time where no gradient is wanted: 1 MiB an array at width 256
_TYPICAL = 0.3  # root mean square of an entry of z, which makes an absolute tolerance of a relative one


def _stay(problem: implayer.Problem) -> Any:
    """The solver of a training step: none, for the truncated adjoint evaluates the map once and returns its value (11)."""
    return problem.y0


class AbstractMap(nn.Module, abc.ABC):
    """F(x, z) of depth L: the entry filter is added to z, then each hidden map is joined with its own input.

    **Arguments**: `inputs` coordinates, `width` D, `depth` L, `scale` of the input frequencies.
    """

    injections: nn.ModuleList  # L + 1: the entry, then one for each hidden map
    hidden: nn.ModuleList  # L linear maps D -> D

    def __init__(self, inputs: int, width: int, depth: int, scale: float, dtype: torch.dtype):
        super().__init__()
        share = scale / math.sqrt(depth + 1)
        kinds = [True] + [self.injects_sine()] * depth
        self.injections = nn.ModuleList(InputMap(inputs, width, share, sine=sine, dtype=dtype) for sine in kinds)
        self.hidden = nn.ModuleList(nn.Linear(width, width, dtype=dtype) for _ in range(depth))
        for linear in self.hidden:
            assert isinstance(linear, nn.Linear)
            nn.init.uniform_(linear.weight, -1 / math.sqrt(width), 1 / math.sqrt(width))

    @classmethod
    @abc.abstractmethod
    def injects_sine(cls) -> bool:
        """Whether the inputs of the hidden maps pass through a sine."""

    @abc.abstractmethod
    def join(self, hidden: Tensor, injection: Tensor) -> Tensor:
        """The output of a hidden map with its injected input, both (points, D)."""

    def inject(self, x: Tensor) -> tuple[Tensor, ...]:
        """What depends on the coordinates alone: L + 1 arrays (points, D), evaluated once for a whole solve."""
        return tuple(injection(x) for injection in self.injections)

    def forward(self, x: Tensor | tuple[Tensor, ...], z: Tensor | None) -> Tensor:
        """F(x, z), x being coordinates (points, inputs) or what `inject` made of them; None stands for z = 0."""
        entry, *injections = self.inject(x) if isinstance(x, Tensor) else x
        state = entry if z is None else z + entry
        del entry  # where autograd does not need it, an array of (points, D) less
        for linear, injection in zip(self.hidden, injections, strict=True):
            state = self.join(linear(state), injection)
        return state


class MultiplicativeMap(AbstractMap):
    """Equation (8) with Fourier filters: (W (z + sin(V x + c)) + b) * sin(U x + c')."""

    @classmethod
    def injects_sine(cls) -> bool:
        """Filters are sines."""
        return True

    def join(self, hidden: Tensor, injection: Tensor) -> Tensor:
        """The filter multiplies."""
        return hidden * injection


class SineMap(AbstractMap):
    """Equation (7): sin(W (z + sin(V x + c)) + b + U x + c')."""

    @classmethod
    def injects_sine(cls) -> bool:
        """The input is added inside the sine."""
        return False

    def join(self, hidden: Tensor, injection: Tensor) -> Tensor:
        """The input is added, then the sine."""
        return (hidden + injection).sin()


class AbstractNetwork(nn.Module, abc.ABC):
    """Phi(x) = W' z(x) + b', equation (9)."""

    def __init__(self, map: AbstractMap, width: int, outputs: int):
        super().__init__()
        self.map = map
        self.readout = nn.Linear(width, outputs, dtype=map.hidden[0].bias.dtype)  # type: ignore[arg-type]

    @abc.abstractmethod
    def state(self, x: Tensor) -> implayer.Solution:
        """z(x) for coordinates (points, inputs), from scratch."""

    @abc.abstractmethod
    def improved(self, x: Tensor, z: Tensor | None) -> implayer.Solution:
        """z(x) for training, starting from the z of the last step where that helps."""

    def forward(self, x: Tensor) -> Tensor:
        """(points, inputs) -> (points, outputs)."""
        return self.readout(self.state(x).value)

    def follow_weights(self) -> None:
        """Let bounds on the hidden maps follow the weights, once a step: how often F is evaluated must not matter."""
        self.train()
        for linear in self.map.hidden:
            _ = linear.weight
        self.eval()


class ExplicitNetwork(AbstractNetwork):
    """z = F(x, 0)."""

    def state(self, x: Tensor) -> implayer.Solution:
        """One evaluation."""
        return implayer.Solution(self.map(x, None))

    def improved(self, x: Tensor, z: Tensor | None) -> implayer.Solution:
        """The same: there is nothing to improve on."""
        del z
        return self.state(x)


class ImplicitNetwork(AbstractNetwork):
    """z = F(x, z), through a fixed-point layer whose adjoint is the truncated Neumann series (14)."""

    def __init__(self, map: AbstractMap, width: int, outputs: int, config: ImageConfig):
        super().__init__(map, width, outputs)
        self.width, self.reuse = width, config.reuse
        adjoint = implayer.ImplicitAdjoint(linear_solver=implayer.Neumann(terms=config.terms))
        cold = implayer.Picard(atol=0.0, rtol=config.tolerance, max_steps=config.max_solve_steps)
        warm = implayer.Picard(
            atol=config.tolerance * _TYPICAL * math.sqrt(width), rtol=0.0, max_steps=config.max_solve_steps
        )
        solvers = {"cold": cold, "warm": warm, "step": _stay}
        # In a dict, for the parameters of the shared map are registered already. "ignore": one step suffices (11).
        self._layers: dict[str, Any] = {
            name: implayer.FixedPointLayer(map, solver, adjoint=adjoint, on_failure="ignore")
            for name, solver in solvers.items()
        }

    def state(self, x: Tensor) -> implayer.Solution:
        """A full solve from zero; the inputs are evaluated once for all its steps."""
        return self._layers["cold"].solve(self.map.inject(x), y0=x.new_zeros(len(x), self.width))

    def improved(self, x: Tensor, z: Tensor | None) -> implayer.Solution:
        """One step of the map from the last fixed point, equation (11); a full solve before it where there is none."""
        if z is None:
            with torch.no_grad():
                z = torch.cat([self.state(tile).value for tile in x.split(TILE)])
        elif not self.reuse:
            with torch.no_grad():
                z = self._layers["warm"].solve(self.map.inject(x), y0=z).value
        return self._layers["step"].solve(x, y0=z)


def build_model(
    config: ImageConfig, channels: int, longer_side: int, dtype: torch.dtype = torch.float32
) -> AbstractNetwork:
    """The network that the configuration names, with the initial weights of its seed.

    All initialisations are those of the authors: input maps U(+-1/sqrt(2)) times scale / sqrt(L + 1), phases U(+-pi),
    hidden maps U(+-1/sqrt(D)), readout as PyTorch has it.
    """
    torch.manual_seed(config.seed)
    scale = 256 * longer_side / 512 if config.scale is None else config.scale
    kind = MultiplicativeMap if config.model in ("fourier-mfn", "fourier-imfn") else SineMap
    map = kind(2, config.width, config.depth, scale, dtype)
    if config.norm == "spectral":
        for linear in map.hidden:
            assert isinstance(linear, nn.Linear)
            implayer.spectral_norm(linear, config.norm_target, config.power_iterations)
    if config.model in IMPLICIT:
        return ImplicitNetwork(map, config.width, channels, config)
    return ExplicitNetwork(map, config.width, channels)
