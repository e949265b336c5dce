"""SciPy's root finders, one sample after the other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..linear.base import default_tolerance
from ..operators import JacobianOperator
from ..problem import Problem, VectorProblem
from ..solution import Solution, Status
from .base import require_square

_WITH_JACOBIAN = ("hybr", "lm")
_LIMITS = {"hybr": "maxfev", "lm": "maxiter", "df-sane": "maxfev"}  # what SciPy calls `max_steps`; "maxiter" otherwise


@dataclass(frozen=True, kw_only=True)
class _Tolerances:
    atol: float | int | None = None
    rtol: float | int | None = None
    max_steps: int | None = None


@dataclass(frozen=True)
class ScipyRoot(_Tolerances):
    r"""`scipy.optimize.root` for every sample alone: MINPACK and others, as a reference or for its methods.

    $$F_b(x, y_b) = 0,\qquad b = 1 \dots B$$

    SciPy is asked for an answer exact to rounding; whether a sample converged is then judged by its own residual,
    $\|F\| \le \text{atol} + \text{rtol}\,\|F(x, y_0)\|$, whatever SciPy says. It computes in float64 on the CPU. An F
    that cannot be evaluated for one sample is evaluated for all of them each time, the others held where they are.

    **Arguments**

    - `method` (default "hybr"): any method of `scipy.optimize.root`. "hybr" and "lm" get the Jacobian; "krylov",
      "anderson" and "df-sane" need none and suit many unknowns.
    - `options` (default None): dict for SciPy, such as `{"factor": 0.1}`.
    - `atol`, `rtol`, `max_steps` (keywords): None means 1e-9 in float64 and 1e-5 in float32, and SciPy's own limit of
      steps.

    **Returns** from `solver(problem)`: a `Solution`; `steps` are evaluations of F (iterations where SciPy counts
    those).

    **Raises** ShapeError where F has not as many equations as unknowns.

    **Reference**: J. J. More, B. S. Garbow, K. E. Hillstrom, "User Guide for MINPACK-1", ANL-80-74 (1980).

        >>> import torch, implayer
        >>> problem = implayer.Problem(lambda x, y: y**2 - x, torch.tensor([[2.0]]), torch.ones(1, 1))
        >>> round(implayer.ScipyRoot()(problem).value.item(), 4)
        1.4142
    """

    method: str = "hybr"
    options: Mapping[str, Any] | None = None

    def __call__(self, problem: Problem) -> Solution:
        """Solve for every sample; failures are in the status, nothing is raised for them."""
        vectors = problem.vectors()
        y, r0 = vectors.y0.clone(), vectors.residual(vectors.y0)
        require_square(y, r0, "ScipyRoot")
        atol, rtol = (default_tolerance(None if t is None else float(t), y.dtype) for t in (self.atol, self.rtol))
        target = atol + rtol * _norm(r0)
        steps = torch.zeros(len(y), dtype=torch.long, device=y.device)
        good = torch.isfinite(r0).all(-1) & torch.isfinite(y).all(-1)
        for b in (good & (_norm(r0) > target)).nonzero().squeeze(-1).tolist():
            y[b], steps[b] = self._one(vectors, y, b)
        norm = _norm(vectors.residual(y)) if y.numel() else _norm(r0)
        status = torch.where(norm <= target, int(Status.CONVERGED), int(Status.MAX_STEPS))
        status = torch.where(norm.isfinite() & good, status, int(Status.NONFINITE))
        return vectors.solution(y, status=status, residual_norm=norm, steps=steps)

    def _one(self, problem: VectorProblem, y: Tensor, b: int) -> tuple[Tensor, int]:
        """The root of sample b, or SciPy's last iterate if that is finite, else the start."""
        from scipy.optimize import root  # half a second at the first import

        residual = _alone(problem, y, b)
        to_torch = lambda v: torch.as_tensor(v, dtype=y.dtype, device=y.device).reshape(1, -1)  # noqa: E731

        def jacobian(v: np.ndarray) -> np.ndarray:
            return JacobianOperator(residual, to_torch(v)).materialise()[0].double().cpu().numpy()

        options = dict(self.options or {})
        if self.max_steps is not None:
            options.setdefault(_LIMITS.get(self.method, "maxiter"), self.max_steps)
        found = root(
            lambda v: residual(to_torch(v))[0].double().cpu().numpy(),
            y[b].double().cpu().numpy(),
            method=self.method,
            jac=jacobian if self.method in _WITH_JACOBIAN else None,
            tol=4 * torch.finfo(y.dtype).eps if self.method in _WITH_JACOBIAN else None,
            options=options,
        )
        answer = to_torch(found.x)[0]
        steps = int(found.get("nit", found.get("nfev", 0)))
        return (answer if bool(answer.isfinite().all()) else y[b]), steps


def _norm(r: Tensor) -> Tensor:
    return torch.linalg.vector_norm(r, dim=-1)


def _alone(problem: VectorProblem, y: Tensor, b: int) -> Callable[[Tensor], Tensor]:
    """(1, n) -> (1, n): F of sample b."""
    if problem.samples == 1:
        return problem.residual
    small = problem.restrict(torch.tensor([b], device=y.device))
    if small is not None:
        return small.residual
    held = y.clone()
    chosen = torch.zeros(len(y), 1, dtype=torch.bool, device=y.device)
    chosen[b] = True
    return lambda v: problem.residual(torch.where(chosen, v, held))[b : b + 1]
