"""Freeze dF/dy at a solution: the step between a forward solve and its derivative."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import _tree
from ._records import changed
from .causes import warn
from .errors import AdjointError, SingularJacobianError, SolveWarning
from .failures import OnFailure, enforce, warn_ill_conditioned
from .forward import Outcome
from .linear.auto import Auto
from .linear.base import AbstractDenseInverse, AbstractInverse, AbstractLinearSolver, LinearReport
from .operators import JacobianOperator
from .problem import Problem, quasi_random
from .solution import Solution, Status
from .types import Vectors


@dataclass(frozen=True)
class Request:
    """One call of a layer: what is asked, how, by whom, and what to do about failures.

    - `linear_solver`, `order`: those of the adjoint; `order=None` is 2 for a dense inverse and 1 for a matrix-free one.
    - `trainable`: the parameters of the layer that require grad.
    - `who`: its `str` names the solver in messages.
    - `told`: whether the caller sees `Solution.aux`, numbers in which cost time.
    - `probe`: called with the Jacobian operator; refuses an F that mixes samples, once per shape.
    """

    problem: Problem
    solver: Callable[[Problem], Any]
    on_failure: OnFailure
    who: object
    trainable: tuple[Tensor, ...]
    probe: Callable[[JacobianOperator], None]
    linear_solver: AbstractLinearSolver | None = None
    order: int | None = None
    told: bool = True

    def steps(self, inverse: AbstractInverse) -> int:
        """Number of chord steps that the order asks for."""
        if self.order is not None:
            return self.order
        return 2 if isinstance(inverse, AbstractDenseInverse) else 1

    def judge_linear(self, report: LinearReport) -> Tensor | None:
        """What happens when a linear solve of the derivative misses its tolerance; for "nan" the mask of those samples."""
        failed = report.status != Status.CONVERGED
        if self.on_failure == "ignore" or not bool(failed.any()):
            return None
        if self.on_failure == "nan":
            return failed
        solution = Solution(None, report.status, report.residual_norm, report.steps)
        singular = bool((report.status[failed] == Status.SINGULAR).all())
        message = (
            f"`{self.who}`: the linear solve of the derivative failed: {solution.message()}, after at most "
            f"{int(report.steps.max())} steps. Increase its `max_steps`, loosen `atol`/`rtol`, give a preconditioner, "
            f"or use a dense `linear_solver` such as `LU()`."
        )
        if self.on_failure == "raise":
            raise (SingularJacobianError if singular else AdjointError)(message, solution)
        warn(message, SolveWarning)
        return None


def detach(problem: Problem) -> Problem:
    """The problem without the graphs of x and y0."""
    off = torch.Tensor.detach
    return changed(problem, x=_tree.map_tensors(off, problem.x), y0=_tree.map_tensors(off, problem.y0))


def linearise(
    request: Request,
    problem: Problem,
    outcome: Outcome,
    operator: JacobianOperator,
    close: AbstractInverse | None = None,
) -> tuple[AbstractInverse, Outcome, Tensor | None]:
    """The frozen inverse of dF/dy, or `close` where that will do; where it is singular samples get that status, and the
    policy applies.

    Returns also the mask of singular samples, or None where there are none.
    """
    assert request.linear_solver is not None
    request.probe(operator)
    inverse = _reusable(outcome.inverse, operator) if close is None else close
    if inverse is None and isinstance(request.linear_solver, Auto) and not request.told:
        inverse = request.linear_solver.freeze_untold(operator)
    elif inverse is None:
        inverse = request.linear_solver.freeze(operator)
    told = outcome.aux if inverse.condition is None else {**outcome.aux, "condition": inverse.condition}
    outcome, singular = changed(outcome, inverse=None, aux=told), inverse.singular
    if singular is None or not bool(singular.any()):
        warn_ill_conditioned(inverse.condition, request.on_failure, outcome.layout.dtype)
        return inverse, outcome, None
    # A solver that says DEGENERATE and hands over no inverse has not said what the derivative is.
    newly = singular & ((outcome.status == Status.CONVERGED) | (outcome.status == Status.DEGENERATE))
    if bool(newly.any()):
        status = torch.where(newly, torch.full_like(outcome.status, Status.SINGULAR), outcome.status)
        outcome = changed(outcome, status=status)
        enforce(outcome.solution(), request.on_failure, request.who, problem)
    return inverse, outcome, singular


def curved(before: Tensor, after: Tensor, step: Tensor, y: Vectors) -> Tensor | None:
    """The samples whose J at y is not good for chord steps, by the norms of F before and after one; None for none.

    Chord steps are exact if J is as good as constant on the way to the root, which the first of them then reaches. At a
    multiple root, or where the solver was told to stop early, it does not.
    """
    eps = torch.finfo(y.dtype).eps
    left = after * torch.linalg.vector_norm(step, dim=-1)  # of the step to the root, times `before`
    floor = before * _ROUNDING * eps * torch.linalg.vector_norm(y, dim=-1)
    mask = ~(after <= eps**0.4 * before) & (left > floor)
    return mask if bool(mask.any()) else None


def advanced(
    inverse: AbstractInverse, residual: Callable[[Tensor], Tensor], r: Tensor, y: Vectors
) -> tuple[Vectors, Tensor, Tensor] | None:
    """For `curved` samples: the point after the chord step, the norm of F there, and their mask. None where there are none.

    They are to be linearised there, and held, before two chord steps or more.
    """
    if not isinstance(inverse, AbstractDenseInverse) or inverse.constant or inverse.trusted:
        return None
    step = inverse.apply(r)
    before, moved = torch.linalg.vector_norm(r, dim=-1), y - step
    after = torch.linalg.vector_norm(residual(moved), dim=-1)
    mask = curved(before, after, step, y)
    if mask is None:
        return None
    better = mask & (after <= before)
    return torch.where(better.unsqueeze(-1), moved, y), torch.where(better, after, before), mask


_ROUNDING = 2**10  # units of it that say nothing about J
_WRONG = 0.1  # error of a probe beyond which an inverse is not stale, but that of something else


def _reusable(inverse: Any, operator: JacobianOperator) -> AbstractInverse | None:
    """A solver's own factor, if a probe finds J^-T J' v = v, or J' J^-T J' v = J' v for a pseudo-inverse.

    A stale one is not used, a wrong one is an error.
    """
    if inverse is None or getattr(inverse, "trusted", False):
        return inverse
    v = quasi_random((operator.samples, operator.rows), torch.zeros((), dtype=operator.dtype, device=operator.device))
    image = operator.rmv(v)
    back = inverse.apply_transposed(image) if isinstance(inverse, AbstractDenseInverse) else inverse.rsolve(image)[0]
    error = float(torch.linalg.vector_norm(back - v) / torch.linalg.vector_norm(v))
    if not error <= _WRONG:  # a pseudo-inverse of a singular J gives another v, with the same image
        error = float(torch.linalg.vector_norm(operator.rmv(back) - image) / torch.linalg.vector_norm(image))
    if not error <= _WRONG:
        raise AdjointError(
            f"`Solution.inverse` is not the inverse of dF/dy at the answer: J^-T (J' v) differs from v by {error:.1e} of |v|. "
            f"Likely causes: (a) `solve` and `rsolve` are exchanged (`rsolve` has the transpose), (b) a sign, (c) it belongs "
            f"to another point or to another scaling of F."
        )
    return inverse if error <= torch.finfo(operator.dtype).eps ** 0.6 else None
