"""SciPy's constrained minimisers, one sample after the other."""

import warnings
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ..problem import Problem
from ..solution import Solution, Status
from .feasible import nearest_feasible
from .newton import Newton
from .polish import Polished, settle
from .program import Derivatives, Program, largest

Method = Literal["SLSQP", "trust-constr"]
_ACTIVE = 1e-5  # an inequality above minus this may push; which ones do is found by nonnegative least squares
_STATIONARY = 1e-3  # relative gradient of the Lagrangian from which on Newton steps on the KKT conditions go on
_FEASIBLE = 1e-5
_UNBOUNDED = 1e10
_LARGEST_GRADIENT = 100.0  # f, h, g are scaled to that at the start


@dataclass(frozen=True)
class ScipyMinimize:
    r"""`scipy.optimize.minimize` for every sample alone: SLSQP or trust-constr, as an alternative to `InteriorPoint`.

    $$\min_y f(x_b, y) \quad\text{s.t.}\quad h(x_b, y) = 0,\; g(x_b, y) \le 0,\qquad b = 1 \dots B$$

    SciPy finds the minimiser with exact gradients (and Hessians, for trust-constr); the multipliers are recovered by
    nonnegative least squares, and Newton steps on the KKT conditions make all of it exact to rounding. Whether a sample
    converged is judged by its KKT residual, whatever SciPy says. It computes in float64 on the CPU.

    **Arguments**

    - `method` (default "SLSQP"): "SLSQP" (sequential quadratic programming, fast up to a hundred unknowns) or
      "trust-constr" (trust-region interior point, slower, for badly behaved functions).
    - `options` (default None): dict for SciPy, such as `{"ftol": 1e-9}`.
    - `atol`, `max_steps` (keywords): None means SciPy's limit of steps, and as accurate as it can.

    **Returns** from `solver(problem)`: a `Solution` as that of `InteriorPoint`; `steps` are SciPy's iterations.

    **Raises** ValueError for another method.

    **References** Kraft, "A software package for sequential quadratic programming", 1988; Byrd, Hribar, Nocedal, "An
    interior point algorithm for large-scale nonlinear programming", 1999.

    >>> import torch, implayer
    >>> layer = implayer.ArgminLayer(lambda x, y: ((y - x) ** 2).sum(-1), inequality=lambda x, y: -y,
    ...                              forward_solver=ScipyMinimize(), initial=torch.ones_like)
    >>> layer(torch.tensor([[-1.0, 2.0]])).round(decimals=4).abs().tolist()
    [[0.0, 2.0]]
    """

    method: Method = "SLSQP"
    options: Mapping[str, Any] | None = None
    _: KW_ONLY
    atol: float | int | None = None
    max_steps: int | None = None

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(f"`method` is {self.method!r}; expected 'SLSQP' or 'trust-constr'.")

    def __call__(self, problem: Problem) -> Solution:
        """Solve for every sample; failures are in the status, nothing is raised for them."""
        program = Program.of(problem, "ScipyMinimize")
        start = program.vectors.y0
        y = program.split(start)[0].clone()
        status = torch.zeros(len(y), dtype=torch.long, device=y.device)
        steps = torch.zeros_like(status)
        if not y.numel():
            none = status.bool()
            return program.vectors.solution(
                start, status=status, residual_norm=y.sum(-1), steps=steps, aux={"redundant": none}
            )
        try:
            program = program.scaled(y, _LARGEST_GRADIENT)
        except (
            ValueError,
            RuntimeError,
        ):  # verification wraps F: the KKT residual is left, and its root near the start
            return Newton()(problem)
        at = program.derivatives(y, *(y.new_zeros(len(y), k) for k in (program.m, program.p)))
        finite = at.finite()
        known = y.new_full((len(y), program.m + program.p), torch.nan)
        status[~finite] = int(Status.NONFINITE)
        for b in finite.nonzero().squeeze(-1).tolist():
            y[b], steps[b], known[b] = self._one(_Alone(program, y, b), y[b])
        nu, lam, good = _recovered(program, y, known)
        low = (program.parts(y)[0] < -_UNBOUNDED * (1 + at.f.abs())) | (y.abs().amax(-1) > _UNBOUNDED)
        status = torch.where(finite & low, int(Status.UNBOUNDED), status)
        failed = (status == 0) & ~good
        if bool(failed.any()):
            near, violation = nearest_feasible(program, y, 1e-9)
            lost = failed & (violation > _FEASIBLE)
            y, nu, lam = (torch.where(lost.unsqueeze(-1), a, b) for a, b in ((near, y), (0 * nu, nu), (0 * lam, lam)))
            status = torch.where(failed, int(Status.MAX_STEPS), status)
            status = torch.where(lost, int(Status.INFEASIBLE), status)
        polished = Polished.of(program, torch.cat([y, nu, lam], -1), status == Status.CONVERGED)
        return settle(polished, start, status, steps)

    def _one(self, alone: "_Alone", y0: Tensor) -> tuple[Tensor, int, Tensor]:
        """SciPy's last iterate of one sample if that is finite, else the start; its multipliers, NaN where unknown."""
        from scipy.optimize import minimize  # half a second at the first import

        slsqp = self.method == "SLSQP"
        options = {"ftol": 1e-13, "maxiter": 200} if slsqp else {"gtol": 1e-10, "xtol": 1e-12, "maxiter": 1000}
        options.update(self.options or {})
        if self.max_steps is not None:
            options["maxiter"] = self.max_steps
        if self.atol is not None:
            options["ftol" if slsqp else "gtol"] = self.atol
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about steps that SciPy finds too small or delta_grad == 0
            found = minimize(
                alone.value,
                y0.double().cpu().numpy(),
                jac=alone.gradient,
                hess=None if slsqp else alone.hessian,
                constraints=alone.dictionaries() if slsqp else alone.constraints(),
                method=self.method,
                options=options,
            )
        answer = torch.as_tensor(found.x, dtype=y0.dtype, device=y0.device)
        known = torch.full((alone.program.m + alone.program.p,), torch.nan, dtype=y0.dtype, device=y0.device)
        if not slsqp and len(known):  # it may stop with a barrier far from zero, where no constraint looks active
            known = torch.as_tensor(np.concatenate(found.v), dtype=y0.dtype, device=y0.device)
        return (answer if bool(answer.isfinite().all()) else y0), int(found.get("nit", 0)), known


class _Alone:
    """One sample as functions of NumPy vectors. An F that cannot be restricted is evaluated for all samples."""

    def __init__(self, program: Program, y: Tensor, b: int):
        small = program.restricted(torch.tensor([b], device=y.device)) if len(y) > 1 else program
        self.program, self.b = (program, b) if small is None else (small, 0)
        self.held = y.clone() if small is None else y[b : b + 1]
        self.at: tuple[bytes, Derivatives] | None = None

    def value(self, v: np.ndarray) -> float:
        """f."""
        return float(self._derivatives(v).f[self.b])

    def gradient(self, v: np.ndarray) -> np.ndarray:
        """The gradient of f."""
        return self._numpy(self._derivatives(v).gradient)

    def hessian(self, v: np.ndarray) -> np.ndarray:
        """The Hessian of f."""
        return self._numpy(self._derivatives(v).hessian)

    def dictionaries(self) -> list[dict[str, Any]]:
        """The constraints for SLSQP, which wants g >= 0."""
        equality = {"type": "eq", "fun": lambda v: self._numpy(self._derivatives(v).h),
                    "jac": lambda v: self._numpy(self._derivatives(v).A)}  # fmt: skip
        inequality = {"type": "ineq", "fun": lambda v: -self._numpy(self._derivatives(v).g),
                      "jac": lambda v: -self._numpy(self._derivatives(v).G)}  # fmt: skip
        return [equality] * bool(self.program.m) + [inequality] * bool(self.program.p)

    def constraints(self) -> list[Any]:
        """The constraints for trust-constr."""
        from scipy.optimize import NonlinearConstraint

        make: Any = NonlinearConstraint  # whose annotations know no functions
        found = []
        if self.program.m:
            zero = np.zeros(self.program.p)
            found.append(make(
                lambda v: self._numpy(self._derivatives(v).h), 0, 0, jac=lambda v: self._numpy(self._derivatives(v).A),
                hess=lambda v, u: self._bend(v, u, zero),
            ))  # fmt: skip
        if self.program.p:
            none = np.zeros(self.program.m)
            found.append(make(
                lambda v: self._numpy(self._derivatives(v).g), -np.inf, 0,
                jac=lambda v: self._numpy(self._derivatives(v).G), hess=lambda v, u: self._bend(v, none, u),
            ))  # fmt: skip
        return found

    def _bend(self, v: np.ndarray, nu: np.ndarray, lam: np.ndarray) -> np.ndarray:
        """sum_i u_i times the Hessian of constraint i."""
        like = self.held
        u, w = (torch.as_tensor(t, dtype=like.dtype, device=like.device).expand(len(like), -1) for t in (nu, lam))
        return self._numpy(self.program.derivatives(self._point(v), u, w).hessian) - self.hessian(v)

    def _point(self, v: np.ndarray) -> Tensor:
        y = self.held.clone()
        y[self.b] = torch.as_tensor(v, dtype=y.dtype, device=y.device)
        return y

    def _derivatives(self, v: np.ndarray) -> Derivatives:
        """With zero multipliers; kept for the next question about the same point."""
        key = v.tobytes()
        if self.at is None or self.at[0] != key:
            zero = self.held.new_zeros(len(self.held), self.program.m + self.program.p)
            nu, lam = zero.split([self.program.m, self.program.p], -1)
            self.at = (key, self.program.derivatives(self._point(v), nu, lam))
        return self.at[1]

    def _numpy(self, t: Tensor) -> np.ndarray:
        return t[self.b].double().cpu().numpy()


def _recovered(program: Program, y: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(nu, lam), by nonnegative least squares if not known, and where y is feasible and stationary with them."""
    from scipy.optimize import lsq_linear

    zero = y.new_zeros(len(y), program.m + program.p)
    u = known.nan_to_num(0.0)
    at = program.derivatives(y, *zero.split([program.m, program.p], -1))
    rows = torch.cat([at.A, at.G], 1)
    free = torch.arange(program.m + program.p, device=y.device) < program.m
    finite = at.finite()
    for b in (finite & known.isnan().any(-1)).nonzero().squeeze(-1).tolist():
        near = torch.cat([free[: program.m], at.g[b] > -_ACTIVE * (1 + at.G[b].abs().sum(-1))])
        if bool(near.any()):
            lower = np.where(free[near].cpu().numpy(), -np.inf, 0.0)
            matrix, target = (t.double().cpu().numpy() for t in (rows[b][near].mT, -at.gradient[b]))
            u[b, near] = torch.as_tensor(lsq_linear(matrix, target, (lower, np.inf), method="bvls").x).to(u)
    nu, lam = u.split([program.m, program.p], -1)
    slope = at.slope(nu, lam).abs().amax(-1)
    violation = torch.cat([at.h.abs(), at.g.clamp(min=0)], -1)
    return (
        nu,
        lam,
        finite & (largest(violation) <= _FEASIBLE) & (slope <= _STATIONARY * (1 + at.gradient.abs().amax(-1))),
    )
