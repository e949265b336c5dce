"""The direct way from parameters of a cone program to its solution and back, on numbers, for eager reverse mode."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..failures import OnFailure, warn_ill_conditioned
from ..implicit import Demand, Fence, Limit, Postponed, attach
from ..linear.base import AbstractDenseInverse, AbstractInverse
from ..modes import plain
from ..solution import Solution
from ..solvers.conic import ConicSolver, Solved
from .canonical import Canonical
from .cone_program import ConeData, Point
from .units import Units

_CPU = torch.device("cpu")
_TOLERANCE = 1e-9  # of a residual, beyond which it is for the layer to judge


def solve_directly(
    canonical: Canonical, solver: ConicSolver, tensors: Sequence[Tensor], batched: Sequence[bool], batch: int,
    on_failure: OnFailure,
) -> tuple[Solution, Units, bool]:  # fmt: skip
    """The solution in its units, and whether it is whole: if not, it is what the solver found, without a derivative."""
    program = canonical.program
    with plain(_CPU):
        data = with_batch(ConeData(*canonical.numbers(tensors, batched)), batch)
        unit = Units.of(data, program)
        scaled = unit.scaled(data, program)
        found = solver.solved(scaled if batch == 1 else scaled.samples()[1])
    point = found.point
    if point is None or bool(found.status.any()) or not (point.norm <= _TOLERANCE).all():
        parts = (found.z, found.status, found.steps, {"redundant": found.redundant}, found.inverse)
        return Solution(program.split(parts[0]), parts[1], None, *parts[2:]), unit, False
    aux = {"redundant": found.redundant}
    z = found.z
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        assert found.inverse is not None
        warn_ill_conditioned(found.inverse.condition, on_failure, torch.float64)
        if found.inverse.condition is not None:
            aux["condition"] = found.inverse.condition
        gradient = _Gradient(canonical, tuple(batched), batch, unit, found, found.inverse)
        (z,) = Postponed.apply(Demand(gradient.pull, gradient.attached), 1, z, *tensors)
    parts = program.split(z)
    return Solution(Point(*parts), found.status, torch.from_numpy(point.norm), found.steps, aux), unit, True


@dataclass(frozen=True, eq=False)
class _Gradient:
    """From cotangents of z, in its units, to those of the parameters."""

    canonical: Canonical
    batched: tuple[bool, ...]
    batch: int
    unit: Units
    found: Solved
    inverse: AbstractInverse

    def pull(self, g: Tensor) -> list[Tensor]:
        """-dF/d(parameters)' J^-T g."""
        inverse = self.inverse
        u = inverse.apply_transposed(g) if isinstance(inverse, AbstractDenseInverse) else inverse.rsolve(g)[0]
        cotangents = self.unit.pulled(self.found.point.cotangents(-u.numpy()), self.canonical.program)
        return [torch.from_numpy(part) for part in self.canonical.pulled(cotangents, self.batched)]

    def attached(self, *tensors: Tensor) -> tuple[Tensor]:
        """z with derivatives of every order that is wanted."""
        program = self.canonical.program
        data = with_batch(ConeData(*self.canonical.data(tensors, self.batched)), self.batch)
        scaled = self.unit.scaled(data, program)
        steps = 2 if isinstance(self.inverse, AbstractDenseInverse) else 1
        z = attach(lambda z: torch.cat(program(scaled, program.split(z)), -1), self.found.z, self.inverse, steps).y
        return (Fence.apply(z, z, Limit(steps, steps)),)


def with_batch(data: ConeData, batch: int) -> ConeData:
    """One leaf says how many instances there are, if no parameter that has a batch axis counts."""
    if batch == 1 or any(len(part) == batch for part in data):
        return data
    return data._replace(q=data.q.expand(batch, -1))
