"""Newton's method for many small systems at once, as long as it goes well.

The general loop looks after samples that stall, diverge, need a line search or another Jacobian; for a system of a few
unknowns that costs as much as the steps. Here a step is F, a Jacobian (from the graph of F, else by differences), a
factorisation and comparisons of a few numbers, by NumPy. A sample for which anything is out of the ordinary is left.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..operators import JacobianOperator
from ..problem import VectorProblem
from .base import Factored
from .differences import Differences

_EASY = (
    0.25  # no new J for a step that at twice the rate of the last one, as is to be expected, reaches half the target
)


@dataclass(frozen=True)
class SmallRun:
    """What the samples came to, (samples,) each."""

    y: Tensor
    norm: Tensor
    steps: Tensor
    contraction: Tensor
    left: Tensor | None  # those that did not get there; None where all have converged
    factored: Factored | None  # the last Jacobian, where all have converged and there was a step


def small_newton(problem: VectorProblem, rtol: float, atol: float, max_steps: int, serves: float) -> SmallRun | None:
    """Steps until |F| <= atol + rtol |F(x, y0)| for every sample.

    Left are those that a step does not bring to `serves` of their |F| or less, and those for which `max_steps` do not
    suffice. None where F is not square, or refuses the larger batch of differences.
    """
    y, differences = problem.y0, None
    tape: JacobianOperator | None = JacobianOperator(problem.residual, y)
    r = tape.value
    if r.shape != y.shape:
        return None
    now = torch.linalg.vector_norm(r, dim=-1).cpu().numpy()
    samples, target, rate = len(now), now * rtol + atol, now * np.nan
    sure = _EASY * target
    steps, left = np.zeros(samples, dtype=np.int64), ~np.isfinite(now)
    norm = torch.from_numpy(now).to(y.device)
    lu = pivots = matrix = None
    for _ in range(max_steps):
        going = (now > target) & ~left
        count = np.count_nonzero(going)
        if not count:
            break
        complete = count == samples
        easy = now * rate <= sure  # not so where the rate is NaN
        fresh = lu is None or np.count_nonzero(easy & going) < count
        if fresh:
            if differences is None and tape is None:
                tape = JacobianOperator(problem.residual, y)
            new = tape.formula() if tape is not None else None
            if new is None:
                differences = Differences(problem) if differences is None else differences
                new = differences.jacobian(y, r)
            if new is None:
                return None
            first, second, _ = torch.linalg.lu_factor_ex(new)
            if lu is not None and pivots is not None and matrix is not None and np.count_nonzero(easy):
                keep = torch.from_numpy(easy).to(y.device).unsqueeze(-1)
                column = keep.unsqueeze(-1)
                first, second = torch.where(column, lu, first), torch.where(keep, pivots, second)
                new = torch.where(column, matrix, new)
            lu, pivots, matrix = first, second, new
        assert pivots is not None
        trial = y - torch.linalg.lu_solve(lu, pivots, r.unsqueeze(-1)).squeeze(-1)
        if not complete:
            trial = torch.where(torch.from_numpy(going).to(y.device).unsqueeze(-1), trial, y)
        if fresh and differences is None:
            tape = JacobianOperator(problem.residual, trial)
            r = tape.value
        else:  # no new J is to be expected there
            tape, r = None, problem.residual(trial)
        norm = torch.linalg.vector_norm(r, dim=-1)
        found = norm.cpu().numpy()
        rate = found / now if complete else np.divide(found, now, out=rate.copy(), where=going)
        served = rate <= serves
        if np.count_nonzero(served) < samples:
            left |= going & ~served
        steps, y, now = steps + going, trial, found
    left |= ~(now <= target)
    missing = torch.from_numpy(left).to(y.device) if np.count_nonzero(left) else None
    factored = None
    if lu is not None and pivots is not None and matrix is not None and missing is None:
        factored = Factored(lu, pivots, matrix, y, r)
    counts, contraction = torch.from_numpy(steps).to(y.device), torch.from_numpy(rate).to(y.device)
    return SmallRun(y.clone() if y is problem.y0 else y, norm, counts, contraction, missing, factored)
