"""Finite differences that choose their step and know their error."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import SolveError

_FIRST_STEP = 2.0**-4
_LEVELS = 5
_SHRINK = 2.0**-5
_ENOUGH = 0.55  # likewise: an estimate that needs no further halving
_GOOD = 0.25  # power of the unit of rounding: a relative error estimate that good ends the search for a better step


def derivative(phi: Callable[[float], Tensor]) -> tuple[Tensor, float]:
    """phi'(0) by central differences and Richardson extrapolation, with an estimate of its error.

        D_0(h) = (phi(h) - phi(-h)) / 2h,    D_k(h) = D_{k-1}(h/2) + (D_{k-1}(h/2) - D_{k-1}(h)) / (4^k - 1)

    The entry of the table that changes least from its two neighbours is taken, and that change (Euclidean norm) is its
    error, and never less than eps |phi| / h: truncation, rounding and the tolerance of a solver all show in it. Steps
    that leave the domain of phi (a `SolveError`, a value that is not finite), or that cross a kink, are replaced by
    shorter ones.

    **Arguments**

    - `phi`: a tensor-valued function of one number, with the scale of its argument about one.

    **Returns** the derivative and the error estimate; infinity where no step gave a finite value.

    **Reference** C. Ridders, "Accurate computation of F'(x) and F'(x)F''(x)", Adv. Eng. Software 4, 1982.

    >>> import torch
    >>> value, error = derivative(lambda t: torch.exp(torch.tensor(2 * t, dtype=torch.float64)))
    >>> abs(float(value) - 2) < 1e-9, error < 1e-7
    (True, True)
    """
    best: Tensor | None = None
    best_error, h = float("inf"), _FIRST_STEP
    for _ in range(4):
        try:
            value, error = _table(phi, h)
        except SolveError:
            value, error = None, float("inf")
        if value is not None and error < best_error:
            best, best_error = value, error
        # a derivative of zero is good enough when its error is small beside phi itself
        if best is not None and best_error <= torch.finfo(best.dtype).eps ** _GOOD * max(_norm(best), _norm(phi(0.0))):
            break
        h *= _SHRINK
    if best is None:
        return torch.full_like(phi(0.0), torch.nan), float("inf")
    return best, best_error


def _table(phi: Callable[[float], Tensor], h: float) -> tuple[Tensor | None, float]:
    """Ridders' table that starts with the step h."""
    previous: list[Tensor] = []
    best, best_error = None, float("inf")
    for level in range(_LEVELS):
        step = h / 2**level
        above, below = phi(step), phi(-step)
        rounding = torch.finfo(above.dtype).eps * float(torch.linalg.vector_norm(above)) / step
        row = [(above - below) / (2 * step)]
        for k, coarse in enumerate(previous, start=1):
            row.append(row[-1] + (row[-1] - coarse) / (4**k - 1))
            error = max(_distance(row[-1], row[-2]), _distance(row[-1], coarse), rounding)
            if error < best_error:
                best, best_error = row[-1], error
        if best is not None and best_error <= torch.finfo(best.dtype).eps ** _ENOUGH * float(
            torch.linalg.vector_norm(best)
        ):
            break
        previous = row
    return best, best_error


def _norm(t: Tensor) -> float:
    return float(torch.linalg.vector_norm(t))


def _distance(a: Tensor, b: Tensor) -> float:
    gap = float(torch.linalg.vector_norm(a - b))
    return gap if gap == gap else float("inf")
