"""Solve and attach the derivative under torch.func: the solver runs below all transforms, the chord steps above."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from . import _tree
from ._capture import captured_tensors, substituted
from .errors import ClosureError
from .failures import enforce
from .forward import Outcome, judge, run
from .implicit import Below, Descent, Fence, Limit, attach
from .linear.base import AbstractDenseInverse, AbstractInverse
from .linearise import Request, advanced, detach, linearise
from .modes import plain, transform_counts, transforms
from .operators import JacobianOperator
from .problem import Layout, Problem
from .residuals import equation
from .solution import Solution, Status
from .types import Tree
from .unsolved import as_failed, nothing_solved, stand_in

_functorch = torch._C._functorch  # type: ignore[attr-defined]
_TENSOR = object()  # marks the place of a tensor in a nest


def solve_transformed(request: Request, device: torch.device) -> Solution:
    """The solution with derivatives to the order of the nested transforms."""
    lifted = _Lifted.of(request.problem)
    solved = _solve_below(request, lifted)
    y, layout = solved.y, solved.layout
    if lifted.start is None:
        lifted = _Lifted.of(request.problem, layout.unpack(y))
    settled = _settle_below(request, lifted, solved)
    solution = replace(solved.outcome, status=settled.status, residual_norm=settled.residual_norm).solution()
    if settled.inverse is None:
        if not settled.any_failed:
            return solution
        return solution.replace(value=layout.unpack(nothing_solved(request, layout, y, settled.failed)))
    x = _repaired(request.problem.x, settled, layout)
    problem = replace(request.problem, x=x)
    residual = equation(problem, layout, settled.rows)
    steps = _steps(request, settled.inverse, residual(settled.start))
    attachment = attach(
        residual, settled.start, settled.inverse, steps, judge=request.judge_linear, levels=tuple(settled.levels),
        hold=settled.held if settled.any_held else None,
    )  # fmt: skip
    value = attachment.y
    if settled.any_failed:
        value = as_failed(request, layout, value, y, settled.bad, settled.swapped, settled.failed)
    if not sum(transform_counts()):
        value = Fence.apply(value, value, Limit(steps, steps))
    # A view of its own: Dynamo (2.13) cannot take up the very output of an autograd Function inside a transform.
    return solution.replace(value=layout.unpack(value.view_as(value)))


def _steps(request: Request, inverse: AbstractInverse, r: Tensor) -> int:
    """As many as transforms are nested, at least the order; both where eager autograd surrounds the transforms."""
    base, levels, order = r, sum(transform_counts()), request.steps(inverse)
    while _functorch.is_functorch_wrapped_tensor(base):
        base = _functorch.get_unwrapped(base)
    return levels + order if base.requires_grad and levels else max(levels, order)


# ----------------------------------------------------------------------------------------- handing F down the levels
@dataclass(frozen=True)
class _Lifted:
    """F as a function of lists of tensors: `function(tensors, unknowns)`."""

    tensors: tuple[Tensor, ...]  # captured tensors, then those of x; all detached
    captured: int
    x_leaves: tuple[Any, ...]  # `_TENSOR` where a tensor stands
    x_spec: _tree.TreeSpec
    start: Tree
    y_leaves: tuple[Any, ...] | None = None
    y_spec: Any = None
    F: Any = None

    @staticmethod
    def of(problem: Problem, y: Tree = None) -> "_Lifted":
        start = problem.y0 if y is None else y
        leaves, spec = _tree.flatten(problem.x)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        captured: list[Tensor] = []
        if start is not None:
            known = [*tensors, *[leaf for leaf in _tree.leaves(start) if isinstance(leaf, Tensor)]]
            captured = captured_tensors(lambda: problem.F(problem.x, start), known)
        y_leaves, y_spec = _tree.flatten(start) if start is not None else (None, None)
        return _Lifted(
            tuple(t.detach() for t in [*captured, *tensors]),
            len(captured),
            tuple(_TENSOR if isinstance(leaf, Tensor) else leaf for leaf in leaves),
            spec,
            start,
            None if y_leaves is None else tuple(_TENSOR if isinstance(leaf, Tensor) else leaf for leaf in y_leaves),
            y_spec,
            substituted(problem.F, captured),
        )

    def x(self, tensors: tuple[Tensor, ...]) -> Tree:
        return _filled(tensors[self.captured :], self.x_leaves, self.x_spec)

    def function(self, tensors: tuple[Tensor, ...], unknowns: Any) -> Tree:
        """F, with the captured tensors replaced. `unknowns` is y where its structure is not known beforehand."""
        y = unknowns if self.y_spec is None else _filled(unknowns, self.y_leaves or (), self.y_spec)
        return self.F(tensors[: self.captured], self.x(tensors), y)

    def problem(self, request: Request, descent: Descent, tensors: tuple[Tensor, ...], start: Tree) -> Problem:
        """The problem on the tensors that have arrived below; the batch axes of all vmap levels lead."""

        def F(x: Tree, y: Tree) -> Tree:
            arrived = tuple(leaf for leaf in _tree.leaves(x) if isinstance(leaf, Tensor))
            unknowns = y if self.y_spec is None else tuple(t for t in _tree.leaves(y) if isinstance(t, Tensor))
            r = descent.function((*tensors[: self.captured], *arrived), unknowns)
            for leaf in _tree.leaves(r):
                if isinstance(leaf, Tensor) and _functorch.maybe_get_level(leaf) > len(transforms()):
                    raise ClosureError(
                        "F uses a tensor of a surrounding torch.func transform that could not be found (it is reached "
                        "only inside another transform within F). Pass it through x."
                    )
            return r

        return replace(request.problem, F=F, x=self.x(tensors), y0=start)


def _filled(tensors: Any, leaves: tuple[Any, ...], spec: Any) -> Tree:
    parts = iter(tensors)
    return _tree.unflatten([next(parts) if leaf is _TENSOR else leaf for leaf in leaves], spec)


# -------------------------------------------------------------------------------------------------- first descent
@dataclass
class _Solved:
    """What the solver found, seen from above the transforms."""

    outcome: Any = None
    levels: list[int] = field(default_factory=list)
    carried: Any = None  # the solver's own inverse, if it is one that travels
    factors: tuple[Tensor, ...] = ()

    @property
    def y(self) -> Tensor:
        return self.outcome.y

    @property
    def layout(self) -> Layout:
        return self.outcome.layout


def _solve_below(request: Request, lifted: _Lifted) -> _Solved:
    notes: dict[str, Any] = {}
    start = (
        []
        if lifted.start is None
        else [leaf.detach() for leaf in _tree.leaves(lifted.start) if isinstance(leaf, Tensor)]
    )

    def run_below(descent: Descent, *tensors: Tensor) -> tuple[Tensor, ...]:
        count = len(lifted.tensors)
        y0 = None
        if lifted.start is not None:
            y0 = _filled(tensors[count:], lifted.y_leaves or (), lifted.y_spec)
        problem = lifted.problem(request, descent, tensors[:count], y0)
        with plain(tensors[0].device if tensors else torch.device("cpu")):
            outcome = run(problem, request.solver)
        samples = outcome.layout.samples
        flows = {k: v for k, v in outcome.aux.items() if isinstance(v, Tensor) and v.ndim and v.shape[0] == samples}
        carried = outcome.inverse if getattr(outcome.inverse, "travels", False) else None
        factors = () if carried is None else carried.tensors
        notes.update(layout=outcome.layout, aux=outcome.aux, flows=tuple(flows), carried=carried, factors=len(factors),
                     judged=outcome.judged, added=descent.batch)  # fmt: skip
        status = outcome.status if outcome.status is not None else torch.full((samples,), -1, device=outcome.y.device)
        norm = (
            outcome.residual_norm
            if outcome.residual_norm is not None
            else torch.full_like(outcome.y[:, :1].sum(-1), -1)
        )
        return outcome.y, status, norm, outcome.steps, *factors, *flows.values()

    descent = Descent(run_below, lifted.function, len(lifted.tensors))
    y, status, norm, steps, *rest = Below.apply(descent, *lifted.tensors, *start)
    factors, flows = rest[: notes["factors"]], rest[notes["factors"] :]
    layout = notes["layout"].with_batch(notes["layout"].batch[len(notes["added"]) :])
    aux = {**notes["aux"], **dict(zip(notes["flows"], flows, strict=True))}
    outcome = Outcome(layout, y, status, norm, steps, aux, judged=notes["judged"])
    return _Solved(outcome, descent.levels, notes["carried"], tuple(factors))


# ------------------------------------------------------------------------------------------------- second descent
@dataclass
class _Settled:
    """Judgement and frozen Jacobian, seen from above the transforms."""

    status: Tensor
    residual_norm: Tensor
    start: Tensor
    bad: Tensor
    failed: Tensor
    swapped: Tensor
    x: tuple[Tensor, ...]
    places: tuple[int, ...]
    inverse: AbstractInverse | None
    levels: list[int]
    rows: int
    any_failed: bool
    held: Tensor  # those whose value is not polished
    any_held: bool


def _settle_below(request: Request, lifted: _Lifted, solved: _Solved) -> _Settled:
    notes: dict[str, Any] = {}
    layout, judged, count = solved.layout, solved.outcome.judged, len(lifted.tensors)

    def run_below(descent: Descent, *tensors: Tensor) -> tuple[Tensor, ...]:
        batch = (*descent.batch, *layout.batch)
        below = layout.with_batch(batch)
        y, status, norm, steps, *factors = (t.flatten(0, len(descent.batch)) for t in tensors[count:])
        inverse = None if solved.carried is None else solved.carried.arrived(tuple(factors))
        problem = detach(lifted.problem(request, descent, tensors[:count], below.unpack(y)))
        with plain(y.device):
            told = status if judged else _told(status)
            outcome = Outcome(below, y, told, norm, steps, {}, inverse, judged=judged)
            return _settle(request, problem, outcome, notes)

    descent = Descent(run_below, lifted.function, count)
    outputs = Below.apply(
        descent, *lifted.tensors, solved.y, solved.outcome.status, solved.outcome.residual_norm, solved.outcome.steps,
        *solved.factors,
    )  # fmt: skip
    status, norm, start, bad, failed, swapped, held, *rest = outputs
    inverse = notes["inverse"]
    factors, x = rest[: notes["factors"]], rest[notes["factors"] :]
    if isinstance(inverse, AbstractDenseInverse):
        inverse = inverse.with_tensors(tuple(factors))
    return _Settled(
        status, norm, start, bad, failed, swapped, tuple(x), notes["places"], inverse, descent.levels, notes["rows"],
        notes["any_failed"], held, notes["any_held"],
    )  # fmt: skip


def _told(status: Tensor) -> Tensor | None:
    return None if bool((status < 0).any()) else status


def _settle(request: Request, problem: Problem, outcome: Outcome, notes: dict[str, Any]) -> tuple[Tensor, ...]:
    outcome = judge(problem, outcome)
    enforce(outcome.solution(), request.on_failure, request.who, problem)
    bad, y, given = outcome.status == Status.NONFINITE, outcome.y, problem.x
    swapped, layout = bad, outcome.layout
    if bool(bad.any()):
        x, y = stand_in(problem, outcome, bad)
        problem = replace(problem, x=x)
    rows = equation(problem, layout, layout.n)(y).shape[1] if y.numel() else layout.n
    inverse: AbstractInverse | None = None
    again = None
    if y.numel() and not bool(bad.all()):
        residual = equation(problem, layout, rows)
        operator = JacobianOperator(residual, y, sign=problem.sign)
        inverse, outcome, singular = linearise(request, problem, outcome, operator)
        if singular is None:
            again = advanced(inverse, residual, operator.value, y)
        if again is not None:
            y, norm, _ = again
            outcome = replace(outcome, residual_norm=norm)
            operator = JacobianOperator(residual, y, sign=problem.sign)
            inverse, outcome, singular = linearise(request, problem, outcome, operator)
        bad = bad if singular is None else bad | singular
    failed = (outcome.status != Status.CONVERGED) & (outcome.status != Status.DEGENERATE)
    factors = inverse.tensors if isinstance(inverse, AbstractDenseInverse) else ()
    before, after = _tree.leaves(given), _tree.leaves(problem.x)
    places = tuple(k for k, leaf in enumerate(after) if leaf is not before[k])
    repaired = [after[k].reshape(layout.samples, *after[k].shape[len(layout.batch) :]) for k in places]
    held, any_failed = failed if again is None else failed | again[2], bool(failed.any())
    notes.update(inverse=inverse, factors=len(factors), rows=rows, places=places, any_failed=any_failed,
                 any_held=any_failed or again is not None)  # fmt: skip
    return outcome.status, outcome.residual_norm, y, bad, failed, swapped, held, *factors, *repaired


def _repaired(x: Tree, settled: _Settled, layout: Layout) -> Tree:
    """x with the rows of bad samples replaced by those of a good one, in the leaves where that was needed."""
    leaves, spec = _tree.flatten(x)
    for place, safe in zip(settled.places, settled.x, strict=True):
        leaf = leaves[place]
        mask = settled.swapped.reshape(layout.batch + (1,) * (leaf.ndim - len(layout.batch)))
        leaves[place] = torch.where(mask, safe.reshape(leaf.shape), leaf)
    return _tree.unflatten(leaves, spec)
