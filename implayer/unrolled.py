"""Take the steps of a forward solver once more, on the tape."""

from typing import Any

import torch
from torch import Tensor

from ._records import changed
from .errors import ImplayerError
from .failures import enforce
from .forward import Outcome, judge, run
from .linearise import Request, detach
from .modes import forward_mode, plain, transforms
from .problem import Problem, VectorProblem
from .solution import Solution, Status
from .solvers.base import AbstractIterativeSolver
from .types import Vectors
from .unsolved import as_failed, failed_samples, nothing_solved, stand_in, without_derivative

_MORE = 2  # steps after the value has converged: the derivative, for which J is a constant, lags behind it


def require_step(solver: Any, who: str) -> None:
    """Raise a TypeError unless the solver is one of ours that iterates by `step`."""
    if not isinstance(solver, AbstractIterativeSolver):
        raise TypeError(
            f"`{who}` needs a forward solver with `init` and `step` (such as `Picard()` or `Anderson()`), but got "
            f"{type(solver).__name__}. Use `ImplicitAdjoint()`, which works with any solver."
        )


def solve_unrolled(request: Request, device: torch.device) -> Solution:
    """The solution of the solver, with the graph of its steps."""
    if transforms():
        raise ImplayerError(
            "`UnrolledAdjoint` differentiates a loop that branches on data, which torch.func cannot follow: use "
            "torch.autograd with it, or `ImplicitAdjoint()`, which works under every transform."
        )
    detached, solver = detach(request.problem), request.solver
    assert isinstance(solver, AbstractIterativeSolver)
    with plain(device):
        outcome = judge(detached, run(detached, solver))
    if bool((outcome.status != Status.CONVERGED).any()):
        enforce(outcome.solution(), request.on_failure, request.who, detached)
    if not (torch.is_grad_enabled() or forward_mode()) or outcome.y.numel() == 0:
        return without_derivative(request, outcome)
    bad = outcome.status == Status.NONFINITE
    y = _taken(request, detached, outcome, bad, False)
    lost = ~torch.isfinite(y.detach()).all(-1) & ~bad
    if bool(lost.any()):  # a step through a singular Jacobian, which the tape cannot have
        newly = lost & (outcome.status == Status.CONVERGED)
        outcome = changed(outcome, status=torch.where(newly, int(Status.SINGULAR), outcome.status))
        if bool(newly.any()):
            enforce(outcome.solution(), request.on_failure, request.who, detached)
        bad = bad | lost
        y = _taken(request, detached, outcome, bad, True)
    failed = failed_samples(outcome)
    if failed is not None and not bool(bad.all()):
        y = as_failed(request, outcome.layout, y, outcome.y, bad, bad, failed)
    return outcome.solution().replace(value=outcome.layout.unpack(y))


def _taken(request: Request, detached: Problem, outcome: Outcome, bad: Tensor, whole: bool) -> Vectors:
    """The end of the steps that the solver took, and a few more; of `bad` samples at a stand-in."""
    if bool(bad.all()):
        return nothing_solved(request, outcome.layout, outcome.y, bad)
    solver, start, problem = request.solver, detached.vectors().y0, request.problem
    assert isinstance(solver, AbstractIterativeSolver)
    if bool(bad.any()):
        x, start = stand_in(problem, changed(outcome, y=start), bad, whole)
        problem = changed(problem, x=x)
    live = VectorProblem(problem, outcome.layout, start)
    y, r = start, live.residual(start)
    if r.shape[1] > outcome.layout.n:
        raise ImplayerError(
            f"`UnrolledAdjoint` cannot follow least squares (F has {r.shape[1]} equations for {outcome.layout.n} unknowns): "
            f"its solver's steps depend on derivatives that are constants of the tape. Use `ImplicitAdjoint()`."
        )
    state = solver.init(live, y, r)
    steps = outcome.steps + torch.where(outcome.status == Status.CONVERGED, _MORE, 0)
    steps = torch.where(bad, steps[~bad].max(), steps)
    for count in range(int(steps.max())):
        new, r, state = solver.step(live, y, r, state)
        y = torch.where((steps > count).unsqueeze(-1), new, y)
        r = live.residual(y)
    return y
