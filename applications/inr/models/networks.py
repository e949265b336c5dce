"""What all coordinate networks have in common, and the explicit and implicit networks around a map F(x, z)."""

import abc
import math
from typing import Any

import torch
from torch import Tensor, nn

import implayer

from ..cache import AbstractCache
from ..config import EXACT, FieldConfig
from .compiled import CompiledMap
from .guard import Guard
from .maps import AbstractMap
from .precision import RoundedMap, single

TILE = 1024  # points that are solved for at a time where no gradient is wanted: 1 MiB an array at width 256
_TYPICAL = 0.3  # root mean square of an entry of z, which makes an absolute tolerance of a relative one
_SHARP = 1e-5  # of solves whose solution is differentiated with respect to the coordinates


def _stay(problem: implayer.Problem) -> Any:
    """The solver of a training step: none, for the truncated adjoint evaluates the map once and returns its value (11)."""
    return problem.y0


def _step_map(map: nn.Module, config: FieldConfig) -> nn.Module:
    """The map as training steps evaluate it."""
    map = RoundedMap(map) if config.precision == "bf16" else map
    return CompiledMap(map) if config.compile else map


class AbstractNetwork(nn.Module, abc.ABC):
    """Phi(x) = readout(z(x)), equation (9). Coordinates may require grad: derivatives with respect to them are exact."""

    implicit: bool = False  # whether z is a fixed point, which the next step can start from
    width: int  # entries of z
    readout: nn.Module  # (points, width) -> (points, outputs)

    @abc.abstractmethod
    def state(self, x: Tensor, *, order: int = 2) -> implayer.Solution:
        """z(x) for coordinates (points, inputs), from scratch.

        `order`: where x requires grad, derivatives are exact up to it, and raise `implayer.OrderError` beyond: 2 for a loss
        on gradients (eikonal) or for drawing second derivatives, 3 for a loss on these.
        """

    def improved(self, x: Tensor, z: Tensor | None, *, order: int = 2) -> implayer.Solution:
        """z(x) for training, starting from the z of the last step where that helps."""
        del z
        return self.state(x, order=order)

    def solved(self, x: Tensor) -> Tensor:
        """z(x) without derivative, (points, width), a tile at a time."""
        with torch.no_grad():
            return torch.cat([self.state(tile).value for tile in x.split(TILE)])

    def forward(self, x: Tensor) -> Tensor:
        """(points, inputs) -> (points, outputs)."""
        return self.readout(self.state(x).value)

    def watch(self, x: Tensor) -> None:
        """Any points (some hundred, inputs) of the signal, at which a guard may measure the iteration."""
        del x

    def follow_weights(self) -> dict[str, float]:
        """To be called once before every optimiser step: bounds follow the weights. **Returns** what was measured."""
        return {}


class PlainNetwork(AbstractNetwork):
    """z = features(x): a chain of layers without a fixed point."""

    def __init__(self, width: int, readout: nn.Module):
        super().__init__()
        self.width, self.readout = width, readout

    @abc.abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """(points, inputs) -> (points, width)."""

    def state(self, x: Tensor, *, order: int = 2) -> implayer.Solution:
        """The features; autograd differentiates them to any order."""
        del order
        return implayer.Solution(self.features(x))


class AbstractMapNetwork(AbstractNetwork):
    """A network around a map."""

    def __init__(self, map: AbstractMap, width: int, outputs: int):
        super().__init__()
        self.map, self.width = map, width
        self.readout = nn.Linear(width, outputs, dtype=map.hidden[0].bias.dtype)  # type: ignore[arg-type]

    def follow_weights(self) -> dict[str, float]:
        """Once a step, for how often F is evaluated must not matter."""
        self.train()
        for linear in self.map.hidden:
            _ = linear.weight
        self.eval()
        return {}


class ExplicitNetwork(AbstractMapNetwork):
    """z = F(x, 0)."""

    def __init__(self, map: AbstractMap, outputs: int, config: FieldConfig):
        super().__init__(map, config.width, outputs)
        self._of_steps = [_step_map(map, config)]  # in a list: the map is a submodule already

    def state(self, x: Tensor, *, order: int = 2) -> implayer.Solution:
        """One evaluation."""
        del order
        return implayer.Solution(self.map(x, None))

    def improved(self, x: Tensor, z: Tensor | None, *, order: int = 2) -> implayer.Solution:
        """The same in the precision of training."""
        del z, order
        return implayer.Solution(self._of_steps[0](x, None))


class ImplicitNetwork(AbstractMapNetwork):
    """z = F(x, z), through fixed-point layers: truncated gradients (14) for training, exact ones for everything else."""

    implicit = True
    stored: AbstractCache | None = None  # fixed points by coordinates, where `state` begins instead of at zero

    def __init__(self, map: AbstractMap, inputs: int, outputs: int, config: FieldConfig):
        super().__init__(map, config.width, outputs)
        self.terms, self.reuse = config.terms, config.reuse
        self.guard = Guard(map, inputs, config.guard_rate) if config.norm == "guard" else None
        self._most, self._tolerance = config.max_solve_steps, config.tolerance
        truncated = implayer.ImplicitAdjoint(linear_solver=implayer.Neumann(terms=max(config.terms, 0)))
        # In a dict, for the parameters of the shared map are registered already. "ignore": one step suffices (11).
        self._layers: dict[Any, Any] = {
            "step": implayer.FixedPointLayer(_step_map(map, config), _stay, adjoint=truncated, on_failure="ignore")
        }

    def state(self, x: Tensor, *, order: int = 2) -> implayer.Solution:
        """A full solve, from zero or from `stored`; the inputs are evaluated once for all its steps."""
        found = None if self.stored is None else self.stored.recall(x.detach())
        if found is None:
            return self._solve(x, x.new_zeros(len(x), self.width), order, warm=False)
        return self._solve(x, found[0], order, warm=True)

    def improved(self, x: Tensor, z: Tensor | None, *, order: int = 2) -> implayer.Solution:
        """One step of the map from the last fixed point, equation (11); a full solve before it where there is none.

        With coordinates that require grad, or `terms` for the exact gradient: a solve from there, exactly differentiated.
        """
        if self.terms == EXACT or x.requires_grad:
            return self.state(x, order=order) if z is None else self._solve(x, z, order, warm=True)
        if z is None:
            z = self.solved(x)
        elif not self.reuse:
            with torch.no_grad():
                z = self._solve(x, z, 1, warm=True).value
        return self._layers["step"].solve(x, y0=z)

    def watch(self, x: Tensor) -> None:
        """Points for the guard."""
        if self.guard is not None:
            self.guard.watch(x)

    def follow_weights(self) -> dict[str, float]:
        """Bounds of the weights, and the guard of the iteration where there is one."""
        super().follow_weights()
        return {} if self.guard is None else self.guard.follow()

    def _solve(self, x: Tensor, z: Tensor, order: int, *, warm: bool) -> implayer.Solution:
        with single():
            return self._layer(order if x.requires_grad else 1, x.requires_grad, warm).solve(self.map.inject(x), y0=z)

    def _layer(self, order: int, sharp: bool, warm: bool) -> Any:
        key = (order, sharp, warm)
        if key not in self._layers:
            tolerance = min(self._tolerance, _SHARP) if sharp else self._tolerance
            absolute = tolerance * _TYPICAL * math.sqrt(self.width)
            atol, rtol = (absolute, 0.0) if warm else (0.0, tolerance)
            solver = implayer.Picard(atol=atol, rtol=rtol, max_steps=self._most)
            adjoint = implayer.ImplicitAdjoint(linear_solver=implayer.BiCGSTAB(rtol=tolerance), order=order)
            self._layers[key] = implayer.FixedPointLayer(self.map, solver, adjoint=adjoint, on_failure="ignore")
        return self._layers[key]
