"""Small quadratic programs one after the other in NumPy, where a call of torch costs more than its arithmetic."""

from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np

from .quadratic import BOUND, WEAK, daqp, daqp_solve, guessed

_UNIT = 64 * float(np.finfo(np.float64).eps)
_STEEP = 1e8  # rows whose norms in the metric of Q differ by more are left to the others


@dataclass(frozen=True)
class SmallAnswer:
    """Arrays z = (y, multipliers) (samples, n + k), J of the KKT system (samples, n + k, n + k), and steps (samples,)."""

    z: Any
    jacobian: Any
    steps: Any


def solve_small(
    saddle: Any, high: Any, low: Any | None, start: Any | None, equations: int, n: int
) -> SmallAnswer | None:
    r"""The plain cases of the dual active-set method: a definite Q, one solution, strict complementarity.

    Arrays $K = \begin{pmatrix} Q & C' \\ C & 0 \end{pmatrix}$ (samples, n + k, n + k) and bounds `high`, `low`
    (samples, n + k), which hold -q in front; `start` (samples, n + k) or None. Returns None where any sample is out of the
    ordinary (not finite, not definite, infeasible, degenerate, ...): those are for the solvers that tell what is the matter.
    """
    if daqp() is None:
        return None
    samples, size = high.shape
    z, steps, jacobian = np.empty((samples, size)), np.empty(samples, dtype=np.int64), saddle.copy()
    sense, identity = _constants(n, size - n, equations)
    for i in range(samples):
        bounds = high[i, n:], np.where(sense == 0, -np.inf, high[i, n:]) if low is None else low[i, n:]
        guess = None
        if start is not None:
            guess = guessed(saddle[i, n:, :n] @ start[i, :n], start[i, n:], bounds[1], bounds[0], equations)
        with np.errstate(all="ignore"):  # what overflows is not plain, and is found out below
            found = _one(saddle[i], high[i, :n], bounds, sense, identity, guess)
        if found is None:
            return None
        z[i, :n], z[i, n:], idle, steps[i] = found
        rows = n + idle.nonzero()[0]
        jacobian[i, rows] = 0
        jacobian[i, rows, rows] = -1
    return SmallAnswer(z, jacobian, steps)


def _one(
    saddle: Any, pull: Any, bounds: tuple[Any, Any], sense: Any, identity: Any, guess: Any
) -> tuple[Any, Any, Any, int] | None:
    """y, multipliers, which rows are inactive, and the steps of one sample; `pull` is -q."""
    n, (high, low) = len(pull), bounds
    lower, info = _lapack().dpotrf(saddle[:n, :n], lower=1)
    diagonal = lower.diagonal().tolist()  # the extremes of a short list are found faster than those of an array
    if info or not min(diagonal) ** 2 > _UNIT * n * max(diagonal) ** 2:
        return None
    # Not LAPACK's dtrtrs: OpenBLAS shares its right-hand sides among threads, which takes 12 ms where a core is busy.
    white = _blas().dtrsm(1.0, lower, np.concatenate((saddle[n:, :n], pull[None])).T, lower=1).T
    rows, linear = white[:-1], white[-1]
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    lengths = norms.tolist()
    if not min(lengths) * _STEEP > max(lengths):  # a row of zeros, or NaN
        return None
    upper, under = high / norms, low / norms
    reach = max(np.maximum(under, -upper).tolist())  # the way from y = 0 to the farthest row that it violates
    size = max(float(linear.dot(linear)) ** 0.5, reach)
    if not np.isfinite(upper + linear.sum()).all() and not _bounded(high, low, sense, linear):
        return None
    if not reach < BOUND or not 0 < size < BOUND:
        return None
    upper, under = np.minimum(upper / size, BOUND), np.maximum(under / size, -BOUND)
    rows = rows / norms[:, None]
    x, _, flag, info = daqp_solve((identity, linear / -size, rows, upper, under), sense, guess)
    mu, value, loose = info["lam"], rows.dot(x), sense == 0
    idle = (abs(mu) <= WEAK) & loose
    if flag != 1 or (idle & (np.minimum(upper - value, value - under) <= WEAK)).any():
        return None
    mu = mu * (size / norms)
    faint = abs(mu) <= 2 * _UNIT * (1 + size * norms * abs(value))  # the residual might take such a row for inactive
    if (faint > (idle | ~loose)).any():
        return None
    return _blas().dtrsv(lower, x * size, lower=1, trans=1), mu, idle, info["iterations"]


def _bounded(high: Any, low: Any, sense: Any, linear: Any) -> bool:
    """Whether what is not finite are bounds of inequalities that say nothing."""
    there = np.isfinite(linear).all() and not (np.isnan(high) | np.isnan(low)).any()
    return bool(there and (np.isfinite(high) | (sense == 0)).all())


@cache
def _constants(n: int, rows: int, equations: int) -> tuple[Any, Any]:
    """What DAQP is told of the rows (5: always active, an equation), and the identity."""
    sense = np.zeros(rows, dtype=np.int32)
    sense[:equations] = 5
    return sense, np.eye(n)


@cache
def _lapack() -> Any:
    """The functions of LAPACK, which SciPy makes at run time, without types."""
    from scipy.linalg import lapack

    return cast(Any, lapack)


@cache
def _blas() -> Any:
    """The same for BLAS."""
    from scipy.linalg import blas

    return cast(Any, blas)
