"""Run a forward solver and judge its answer: whatever it was, the residual of what it returns is what counts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import _tree
from ._records import changed
from .errors import DtypeError, ShapeError
from .linear.base import default_tolerance
from .operators import JacobianOperator
from .problem import Layout, Problem, VectorProblem
from .solution import Solution, Status
from .solvers.base import AbstractIterativeSolver, Factored
from .types import Samples, Tree, Vectors


@dataclass(frozen=True)
class Outcome:
    """The answer of a solver on vectors: every tensor has the samples as first axis."""

    layout: Layout
    y: Vectors
    status: Any  # (samples,) after `judge`
    residual_norm: Any  # (samples,) after `judge`
    steps: Tensor
    aux: dict[str, Any]
    inverse: Any = None
    judged: bool = False
    cut_short: bool = False  # by the `max_steps` of one of our solvers, which left the last residual to be evaluated
    factored: Factored | None = None  # what the solver knows of J at y

    def solution(self) -> Solution:
        """As a `Solution` with nests and batch axes."""
        batch = self.layout.batch

        def restore(value: Any) -> Any:
            if len(batch) != 1 and isinstance(value, Tensor) and value.ndim and value.shape[0] == self.layout.samples:
                return value.reshape(batch + tuple(value.shape[1:]))
            return value

        aux = {name: restore(value) for name, value in self.aux.items()}
        return Solution(
            self.layout.unpack(self.y),
            restore(self.status),
            restore(self.residual_norm),
            restore(self.steps),
            aux,
            self.inverse,
        )


def run(problem: Problem, solver: Callable[[Problem], Any], *, factored: bool = False) -> Outcome:
    """Call the solver, check what it returned and bring it into one form. `factored`: a factor of J is of use."""
    ours, factor = isinstance(solver, AbstractIterativeSolver), None
    if factored and isinstance(solver, AbstractIterativeSolver):
        answer, factor = solver.solved(problem)
    else:
        answer = solver(problem)
    solution = answer if isinstance(answer, Solution) else Solution(answer)
    value = _tree.map_tensors(torch.Tensor.detach, solution.value)
    layout = Layout.of(value, problem.event_ndim, "y")
    if problem.y0 is not None:
        _check_against_start(layout, Layout.of(problem.y0, problem.event_ndim))
    told = solution.status is not None and solution.residual_norm is not None
    return Outcome(
        layout,
        layout.pack(value),
        _per_sample(solution.status, layout, "status"),
        _per_sample(solution.residual_norm, layout, "residual_norm"),
        _steps(solution.steps, layout),
        {name: _flat(entry, layout) for name, entry in (solution.aux or {}).items()},
        solution.inverse,
        ours and told,
        ours and not told,
        factor,
    )


def _check_against_start(found: Layout, start: Layout) -> None:
    if found.spec != start.spec or found.events != start.events or found.batch != start.batch:
        raise ShapeError(
            f"the forward solver returned a y with batch axes {found.batch} and leaves {found.events}; expected the "
            f"structure of y0: batch axes {start.batch} and leaves {start.events}."
        )
    if found.dtype != start.dtype:
        raise DtypeError(f"the forward solver returned {found.dtype}; expected the dtype of y0, {start.dtype}.")


def _per_sample(value: Any, layout: Layout, name: str) -> Tensor | None:
    if value is None:
        return None
    tensor = value.detach() if isinstance(value, Tensor) else torch.as_tensor([int(v) for v in _listed(value)])
    tensor = tensor.to(layout.device)
    if tensor.numel() != layout.samples:
        raise ShapeError(
            f"`Solution.{name}` has {tensor.numel()} entries for {layout.samples} samples; give one a sample."
        )
    return tensor if tensor.ndim == 1 else tensor.reshape(layout.samples)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _steps(value: Any, layout: Layout) -> Tensor:
    if value is None:
        return torch.zeros(layout.samples, dtype=torch.int64, device=layout.device)
    tensor = torch.as_tensor(value, device=layout.device)
    if tensor.ndim == 1:
        return tensor
    return tensor.expand(layout.samples) if tensor.ndim == 0 else tensor.reshape(layout.samples)


def _flat(entry: Any, layout: Layout) -> Any:
    nb = len(layout.batch)
    if nb != 1 and isinstance(entry, Tensor) and tuple(entry.shape[:nb]) == layout.batch:
        return entry.detach().reshape(layout.samples, *entry.shape[nb:])
    return entry.detach() if isinstance(entry, Tensor) else entry


def judge(problem: Problem, outcome: Outcome, residual: Tensor | None = None) -> Outcome:
    """Fill in residual norm and status from F itself; a solver's own word is kept only where it says more than success."""
    if outcome.judged:
        return outcome
    vectors = VectorProblem(problem, outcome.layout, outcome.y)
    r = vectors.residual(outcome.y) if residual is None else residual
    tall = r.shape[1] > outcome.layout.n
    measure = _stationarity(vectors, outcome.y) if tall else torch.linalg.vector_norm(r, dim=-1)
    tolerance = default_tolerance(None, outcome.layout.dtype)
    good = measure <= tolerance
    if bool(good.all()) and bool(torch.isfinite(outcome.y).all()):
        status = torch.zeros_like(measure, dtype=torch.long) if outcome.status is None else outcome.status.long()
        return changed(outcome, status=status, residual_norm=measure, judged=True)
    if not outcome.cut_short and not bool(good.all()):  # the rest costs evaluations of F
        scale = _scale(problem, outcome.layout, tall)
        good = measure <= tolerance + tolerance * scale
        if not tall and not bool(good.all()):
            good = good | (measure <= _rounding_floor(vectors, outcome.y, scale))
    finite = torch.isfinite(outcome.y).all(-1) & torch.isfinite(measure)
    status = torch.where(good, Status.CONVERGED, Status.MAX_STEPS)
    status = torch.where(finite, status, torch.full_like(status, Status.NONFINITE))
    if outcome.status is not None:
        told = outcome.status.to(status.dtype)
        status = torch.where((told != Status.CONVERGED) & finite, told, status)
    return changed(outcome, status=status, residual_norm=measure, judged=True)


def _stationarity(vectors: VectorProblem, y: Vectors) -> Samples:
    operator = JacobianOperator(vectors.residual, y)
    return torch.linalg.vector_norm(operator.rmv(operator.value), dim=-1)


def _scale(problem: Problem, layout: Layout, tall: bool) -> Samples:
    """norm(F(x, y0)), or with y = 0 where there was no start; the same of J'F for least squares."""
    start: Tree = problem.y0
    if start is None:
        start = layout.unpack(torch.zeros(layout.samples, layout.n, dtype=layout.dtype, device=layout.device))
    vectors = problem.vectors(start)
    measure = (
        _stationarity(vectors, vectors.y0) if tall else torch.linalg.vector_norm(vectors.residual(vectors.y0), dim=-1)
    )
    return torch.nan_to_num(measure, nan=0.0, posinf=0.0)


def _rounding_floor(vectors: VectorProblem, y: Vectors, scale: Samples) -> Samples:
    """16 eps |J| |y|: below it the residual of an exact answer is nothing but rounding."""
    size = torch.linalg.vector_norm(JacobianOperator(vectors.residual, y).mv(y), dim=-1)
    return 16 * torch.finfo(y.dtype).eps * torch.maximum(torch.nan_to_num(size, nan=0.0, posinf=0.0), scale)
