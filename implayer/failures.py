"""What a layer does when samples fail: raise, warn, return NaN, or go on."""

from typing import Any, Literal

import torch
from torch import Tensor

from .causes import caller, first_cause, warn
from .errors import (
    DegenerateWarning,
    IllConditionedWarning,
    InfeasibleError,
    SingularJacobianError,
    SolveError,
    SolveWarning,
    UnboundedError,
)
from .problem import Problem
from .solution import Solution, Status

OnFailure = Literal["raise", "warn", "nan", "ignore"]

KINDS: dict[Status, type[SolveError]] = {
    Status.SINGULAR: SingularJacobianError,
    Status.INFEASIBLE: InfeasibleError,
    Status.UNBOUNDED: UnboundedError,
}

_HINTS = {
    Status.MAX_STEPS: "Increase `max_steps`, loosen `atol`/`rtol`, start nearer (`y0`), use damping or another solver",
    Status.SINGULAR: "Regularise F, add a `gauge`, or take the minimal-norm derivative with "
    "`adjoint=ImplicitAdjoint(linear_solver=LSMR())`",
    Status.INFEASIBLE: "Relax the constraints of those samples, or give them slack variables with a penalty",
    Status.UNBOUNDED: "Add bounds or a quadratic term",
}


def enforce(solution: Solution, on_failure: OnFailure, who: object, problem: Problem) -> None:
    """Raise or warn about failed samples as `on_failure` says; "nan" and "ignore" are silent here."""
    status, who = solution.status, caller(who)
    if not bool(status.any()):  # CONVERGED is 0
        return
    if on_failure in ("raise", "warn") and not bool(solution.converged.all()):
        message = _explain(solution, who, problem)
        if on_failure == "raise":
            failed = {Status(int(value)) for value in status[~solution.converged].unique()}
            kind = KINDS.get(failed.pop(), SolveError) if len(failed) == 1 else SolveError
            raise kind(message, solution)
        warn(message, SolveWarning)
    if on_failure != "ignore" and bool((status == Status.DEGENERATE).any()):
        warn(f"`{who}`: {solution.message()}", DegenerateWarning)


def warn_ill_conditioned(condition: Tensor | None, on_failure: OnFailure, dtype: torch.dtype) -> None:
    """Warn where the condition of dF/dy leaves few digits of the derivative."""
    if condition is None or on_failure == "ignore" or not condition.numel():
        return
    limit = 1e12 if dtype in (torch.float64, torch.complex128) else 1e6
    if float(condition.max()) <= limit:
        return
    worst = float(torch.nan_to_num(condition, nan=0.0, posinf=0.0).max())
    if worst > limit:
        count = int((torch.nan_to_num(condition, nan=0.0, posinf=0.0) > limit).sum())
        warn(
            f"dF/dy is ill conditioned at the solution of {count} of {condition.numel()} samples (condition about "
            f"{worst:.1e}, limit {limit:.0e} in {dtype}): few digits of the derivative are certain. Use float64, rescale "
            f"F and y, or check the result with `implayer.verify.certify`.",
            IllConditionedWarning,
        )


def _explain(solution: Solution, who: object, problem: Problem) -> str:
    status = solution.status
    failed = status[~solution.converged]
    most = 0 if solution.steps is None else int(solution.steps[~solution.converged].max())
    steps = f", after at most {most} steps" if most else ""
    lines = [f"`{who}`: {solution.message()}{steps}. The implicit gradient of those samples is not valid."]
    advice = dict(_HINTS)
    if bool((failed == Status.NONFINITE).any()):
        cause, advice[Status.NONFINITE] = first_cause(problem)
        lines.append(cause)
    if bool((failed == Status.MAX_STEPS).any()):
        lines.append(_other_sign(solution, problem))
    hints = [hint for member, hint in advice.items() if bool((failed == member).any())]
    lines.append("; ".join(hints) + ('; or pass `on_failure="warn"`, "nan" or "ignore".' if hints else ""))
    return " ".join(line for line in lines if line)


def _other_sign(solution: Solution, problem: Problem) -> str:
    contraction = (solution.aux or {}).get("contraction")
    if not isinstance(contraction, Tensor):
        return ""
    rate = float(torch.nan_to_num(contraction[solution.status == Status.MAX_STEPS], posinf=0.0).max())
    if rate <= 1.01:
        return ""
    text = f"The map y + ({problem.sign:+d}) * F(x, y) expands (factor {rate:.2g} per step)"
    if rate >= 3 or hasattr(problem.F, "f"):  # with the other sign it would not contract; a map f has no other sign
        return f"{text}; `Newton()` needs no contraction."
    return f"{text}; if F is meant with the other sign, pass `sign={-problem.sign:+d}`."


def describe(solver: Any) -> str:
    """The name of a solver for messages."""
    return getattr(solver, "__name__", None) or type(solver).__name__
