"""Solve and attach the derivative outside torch.func: one taped evaluation of F serves J and the gradient of all it uses.

Where nobody else watches the tape the derivative is postponed until it is asked for (`on_demand`); otherwise, and where a
sample failed, y is attached by chord steps on the live tape.
"""

import numpy as np
import torch
from torch import Tensor

from . import _tree
from ._records import changed
from .failures import enforce
from .forward import Outcome, judge, run
from .implicit import Fence, Limit, attach
from .linear.auto import Auto
from .linear.base import AbstractDenseInverse, AbstractInverse
from .linear.lu import LUInverse, well_conditioned
from .linearise import Request, advanced, curved, detach, linearise
from .modes import forward_mode, plain, saving_is_hooked
from .on_demand import OnDemand, Sources
from .problem import Problem
from .solution import Solution, Status
from .tape import Tape
from .unsolved import as_failed, failed_samples, nothing_solved, stand_in, without_derivative

_FEW = 16  # unknowns up to which a Jacobian costs no more than the products that would refine a factor nearby
_ROUNDING = 16  # a chord step of so many units of rounding changes nothing


def solve_eager(request: Request, device: torch.device) -> Solution:
    """The solution with derivatives to the order that the request asks for."""
    detached, explicit = detach(request.problem), _explicit(request)
    own = torch.is_grad_enabled() and not forward_mode() and not saving_is_hooked()  # else others watch the tape
    with plain(device):
        factored = own and explicit and isinstance(request.linear_solver, Auto)
        solved = run(detached, request.solver, factored=factored)
        outcome, close = _polished(solved)
    sources = Sources.of(request, outcome, outcome.y) if own and outcome.y.numel() else None
    if sources is None:  # chord steps want the inverse itself
        outcome, close = changed(solved, factored=None), None
    polished = sources is not None and outcome.y is not solved.y
    if sources is not None and polished:
        norm = torch.linalg.vector_norm(sources.tape.root, dim=-1)
        polished = _at_most(norm, 2 * solved.residual_norm)
        if polished:
            outcome = changed(outcome, residual_norm=norm)
        else:
            outcome, sources, close = solved, sources.at(solved.y), None
    tape = _live_tape(request, outcome, explicit, own) if sources is None else sources.tape
    if not outcome.judged:
        with plain(device):
            outcome = judge(detached, outcome, None if tape is None else tape.root)
    clean = not bool(outcome.status.any())  # all CONVERGED, which is 0
    if not clean:
        enforce(outcome.solution(), request.on_failure, request.who, detached)
    if tape is None or (sources is not None and not (sources.tensors or sources.live)):
        return outcome.solution() if clean else without_derivative(request, outcome)
    if outcome.y.numel() == 0:
        y = outcome.y + tape.r.sum()  # an empty sum: connects the empty result to the graph
        return outcome.solution().replace(value=outcome.layout.unpack(y))
    if not clean:
        return _attached(request, detached, outcome, _live(request, outcome, tape, sources))
    with plain(device):
        inverse, outcome, singular = linearise(request, detached, outcome, tape.operator(), close)
    if sources is None or singular is not None:
        return _chords(request, detached, outcome, _live(request, outcome, tape, sources), inverse, singular)
    return _on_demand(request, outcome, sources, inverse, close is not None, polished)


def _at_most(norm: Tensor, limit: Tensor) -> bool:
    """Whether all are; by NumPy, which needs a fifth of the time for so few numbers."""
    return bool(np.less_equal(norm.cpu().numpy(), limit.cpu().numpy()).all())


def _explicit(request: Request) -> bool:
    return bool(request.trainable) or any(
        isinstance(leaf, Tensor) and leaf.requires_grad for leaf in _tree.leaves(request.problem.x)
    )


def _polished(outcome: Outcome) -> tuple[Outcome, LUInverse | None]:
    """One more step with the solver's own factor, and that factor if it is to serve the derivative, too."""
    factored = outcome.factored
    if factored is None:
        return outcome, None
    if outcome.layout.n <= _FEW:
        step, close = torch.linalg.lu_solve(factored.lu, factored.pivots, factored.r.unsqueeze(-1)).squeeze(-1), None
    else:
        close = well_conditioned(factored.lu, factored.pivots, factored.matrix)
        if close is None:
            return outcome, None
        step = close.apply(factored.r)
    return changed(outcome, y=factored.y - step), close


def _live_tape(request: Request, outcome: Outcome, explicit: bool, own: bool) -> Tape | None:
    """F at the solution with its graph, or None where no derivative can be asked for."""
    if not torch.is_grad_enabled() and not forward_mode():
        return None
    tape = Tape(request.problem, outcome, outcome.y, shared=own and outcome.y.numel() > 0)
    return tape if explicit or forward_mode() or tape.r.requires_grad else None


def _live(request: Request, outcome: Outcome, tape: Tape, sources: Sources | None) -> Tape:
    """The tape of F on the tensors of x themselves."""
    return tape if sources is None else Tape(request.problem, outcome, outcome.y, shared=True)


def _on_demand(
    request: Request, outcome: Outcome, sources: Sources, inverse: AbstractInverse, close: bool, polished: bool
) -> Solution:
    """The value, polished by one step where that changes it, with its derivative for later."""
    start = sources.point
    if isinstance(inverse, AbstractDenseInverse) and not polished and request.steps(inverse) > 1:
        with plain(start.device):
            step = inverse.apply(sources.tape.r.detach())
            floor = _ROUNDING * torch.finfo(start.dtype).eps * torch.linalg.vector_norm(start, dim=-1)
            worth = bool((torch.linalg.vector_norm(step, dim=-1) > floor).any())
        if worth:
            before, sources = outcome.residual_norm, sources.at(start - step)
            outcome = changed(outcome, residual_norm=torch.linalg.vector_norm(sources.tape.r.detach(), dim=-1))
            with plain(start.device):
                close = close or curved(before, outcome.residual_norm, step, start) is not None
    y = OnDemand(request, sources, inverse, start, close).value(sources.point)
    return outcome.solution().replace(value=outcome.layout.unpack(y))


def _attached(request: Request, detached: Problem, outcome: Outcome, tape: Tape) -> Solution:
    """The same where some samples failed: they are evaluated at a stand-in, and their derivative is not valid."""
    bad = outcome.status == Status.NONFINITE
    if bool(bad.any()):
        if bool(bad.all()):
            y = nothing_solved(request, outcome.layout, outcome.y, bad)
            return outcome.solution().replace(value=outcome.layout.unpack(y))
        tape = tape.moved(*stand_in(request.problem, outcome, bad))
    with plain(outcome.layout.device):
        inverse, outcome, singular = linearise(request, detached, outcome, tape.operator())
    return _chords(request, detached, outcome, tape, inverse, bad if singular is None else bad | singular)


def _chords(
    request: Request, detached: Problem, outcome: Outcome, tape: Tape, inverse: AbstractInverse, bad: Tensor | None
) -> Solution:
    """The value attached by chord steps; `bad` samples keep what the solver found."""
    layout, original, hold = outcome.layout, outcome.y, None
    if bad is None and request.steps(inverse) > 1:
        with plain(layout.device):
            again = advanced(inverse, tape.residual, tape.r.detach(), tape.y.detach())
        if again is not None:
            y, norm, hold = again
            tape = tape.moved(tape.problem.x, y)
            with plain(layout.device):
                outcome = changed(outcome, y=y, residual_norm=norm)
                inverse, outcome, bad = linearise(request, detached, outcome, tape.operator())
    failed = None if bad is None else failed_samples(outcome)
    steps = request.steps(inverse)
    hold = hold if failed is None else failed if hold is None else failed | hold
    attachment = attach(
        tape.residual, tape.y.detach(), inverse, steps, first=tape.r, hold=hold, judge=request.judge_linear
    )
    y = attachment.y
    if failed is not None and bad is not None:
        y = as_failed(request, layout, y, original, bad, outcome.status == Status.NONFINITE, failed)
    y = Fence.apply(y, y, Limit(steps, steps))
    if steps > 1 and attachment.polished:
        norm = torch.linalg.vector_norm(attachment.residual, dim=-1)
        outcome = changed(
            outcome, residual_norm=norm if hold is None else torch.where(hold, outcome.residual_norm, norm)
        )
    return outcome.solution().replace(value=layout.unpack(y))
