"""LSMR: matrix-free least squares and minimal norm, for Jacobians of any shape and rank."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..operators import AbstractOperator
from ..solution import Status
from ..types import Vectors
from .base import AbstractInverse, AbstractLinearSolver, LinearReport, default_tolerance
from .krylov import default_steps, safe_divide, sizes, stopping_norm


@dataclass(frozen=True)
class LSMR(AbstractLinearSolver):
    """Least squares by bidiagonalisation: the smallest of the minimisers of |b - A x|, any shape, any rank.

        x_k = argmin |A'(b - A x)| over the Krylov space of A'A and A'b

    Equivalent to `MINRES` on the normal equations, without forming them: the answer has the error of cond(A), not of
    its square, though the steps grow with cond(A). Two products a step. `ImplicitAdjoint(linear_solver=LSMR())` asks
    for the minimal-norm derivative where J is singular or F has fewer rows than unknowns.

    **Arguments**

    - `atol`, `rtol`: done where |b - A x| <= max(rtol |b|, atol min(1, |b|)); or, for more equations than unknowns,
      where |A'(b - A x)| <= rtol |A'b|; or where it is zero within rounding (a singular, inconsistent system). None
      means 1e-9 (float64) or 1e-5 (float32).
    - `max_steps`: None means 4 max(m, n), at least 50 and at most 1000.
    - `initial`: a callable b -> x0; then x - x0, instead of x, has the smallest norm. Kept only where its residual is
      smaller than |b|.

    There is no preconditioner: it would change the norm that is minimal. Scale the unknowns of F instead.

    **Returns** from `freeze`: an inverse that holds the operator. Reports give |b - A x|, or, for more equations than
    unknowns, |A'(b - A x)|.

    Reference: Fong and Saunders, SIAM J. Sci. Comput. 33, 2011.

    >>> import torch
    >>> from implayer.operators import MatrixOperator
    >>> inverse = LSMR().freeze(MatrixOperator(torch.tensor([[[3.0, 4.0]]])))
    >>> inverse.solve(torch.tensor([[25.0]]))[0].round(decimals=4).tolist()
    [[3.0, 4.0]]
    """

    atol: float | None = None
    rtol: float | None = None
    max_steps: int | None = None
    initial: Callable[[Vectors], Vectors] | None = None

    def freeze(self, operator: AbstractOperator) -> "LSMRInverse":
        """Keep the operator; the work is done for each right-hand side."""
        return LSMRInverse(self, operator)

    def run(self, operator: AbstractOperator, b: Vectors) -> tuple[Tensor, LinearReport]:
        """The solve with any operator; the transposed solve is that of `operator.T`."""
        with torch.no_grad():
            size = sizes(b.detach())
            start = None if self.initial is None else self.initial(b).detach() / size
            x, report = _solve(
                self, operator, b.detach() / size, stopping_norm(b.detach(), self.atol, self.rtol) / size[:, 0], start
            )
            return x * size, LinearReport(report.status, report.residual_norm * size[:, 0], report.steps)


@dataclass(frozen=True)
class LSMRInverse(AbstractInverse):
    """An operator and the iteration that applies its pseudo-inverse."""

    solver: LSMR
    operator: AbstractOperator

    def solve(self, b: Vectors) -> tuple[Tensor, LinearReport]:
        """J^+ b."""
        return self.solver.run(self.operator, b)

    def rsolve(self, c: Vectors) -> tuple[Tensor, LinearReport]:
        """The transposed J^+ applied to c."""
        return self.solver.run(self.operator.T, c)


@dataclass
class _Progress:
    """Best answer of each sample, and when it is good enough."""

    x: Tensor
    r: Tensor
    normal: Tensor  # A' r
    growth: Tensor  # |A|, from below
    target: Tensor
    normal_target: Tensor  # zero where there are not more equations than unknowns
    rounding: float

    def done(self) -> Tensor:
        r, s = torch.linalg.vector_norm(self.r, dim=-1), torch.linalg.vector_norm(self.normal, dim=-1)
        return (r <= self.target) | (s <= self.normal_target) | (s <= self.rounding * self.growth * r)

    def at_rounding_floor(self) -> Tensor:
        floor = 16 * torch.finfo(self.x.dtype).eps * self.growth * torch.linalg.vector_norm(self.x, dim=-1)
        return torch.linalg.vector_norm(self.r, dim=-1) <= floor

    def offer(self, x: Tensor, r: Tensor, normal: Tensor) -> Tensor:
        """Take over what is better by one of the two residuals without loss in the other; returns whether it was."""
        old, new = torch.linalg.vector_norm(self.r, dim=-1), torch.linalg.vector_norm(r, dim=-1)
        old_s, new_s = torch.linalg.vector_norm(self.normal, dim=-1), torch.linalg.vector_norm(normal, dim=-1)
        eps = 1 + 64 * torch.finfo(r.dtype).eps
        won = ((new < old) | (new_s < old_s)) & (new <= eps * old)
        mask = won.unsqueeze(-1)
        self.x, self.r = torch.where(mask, x, self.x), torch.where(mask, r, self.r)
        self.normal = torch.where(mask, normal, self.normal)
        return won & ((new < 0.9 * old) | (new_s < 0.9 * old_s))


def _solve(solver: LSMR, operator: AbstractOperator, b: Tensor, target: Tensor,
           start: Tensor | None) -> tuple[Tensor, LinearReport]:  # fmt: skip
    rows, columns = operator.rows, operator.columns
    normal = operator.rmv(b)
    rtol = default_tolerance(solver.rtol, b.dtype) if rows > columns else 0.0
    progress = _Progress(
        torch.zeros_like(normal), b, normal, torch.zeros_like(target), target,
        rtol * torch.linalg.vector_norm(normal, dim=-1), max(4 * max(rows, columns), 256) * torch.finfo(b.dtype).eps,
    )  # fmt: skip
    if start is not None:
        residual = b - operator.mv(start)
        progress.offer(start, residual, operator.rmv(residual))
    steps = torch.zeros(len(b), dtype=torch.int64, device=b.device)
    left = default_steps(max(rows, columns)) if solver.max_steps is None else solver.max_steps
    finite = torch.isfinite(b).all(-1) & torch.isfinite(normal).all(-1)
    active = finite & ~progress.done()
    while left > 0 and bool(active.any()):
        correction, taken = _cycle(operator, progress, active, left)
        steps, left = steps + taken, left - max(int(taken.max()), 1)
        x = progress.x + torch.where(active.unsqueeze(-1), correction, 0)
        residual = b - operator.mv(x)
        finite &= ~active | torch.isfinite(residual).all(-1)
        active = progress.offer(x, residual, operator.rmv(residual)) & active & ~progress.done()
    done = progress.done() | progress.at_rounding_floor()
    status = torch.where(done, int(Status.CONVERGED), int(Status.MAX_STEPS))
    status = torch.where(finite, status, int(Status.NONFINITE))
    reported = progress.normal if rows > columns else progress.r
    return progress.x, LinearReport(status, torch.linalg.vector_norm(reported, dim=-1), steps)


def _cycle(operator: AbstractOperator, progress: _Progress, active: Tensor, budget: int) -> tuple[Tensor, Tensor]:
    """LSMR from the present residual. Letters as in the reference, with the damping zero."""
    u, beta = _unit(progress.r, active)
    v, alpha = _unit(operator.rmv(u), active)
    one, zero = torch.ones_like(beta), torch.zeros_like(beta)
    x, h, h_bar = torch.zeros_like(v), v, torch.zeros_like(v)
    zeta_bar, alpha_bar, rho, rho_bar, c_bar, s_bar = alpha * beta, alpha, one, one, one, zero
    residual = _ResidualNorm(beta)
    steps = torch.zeros_like(active, dtype=torch.int64)
    active = active & (alpha > 0)
    for _ in range(budget):
        steps += active
        u, beta = _unit(operator.mv(v) - alpha.unsqueeze(-1) * u, active)
        previous = alpha
        v, alpha = _unit(operator.rmv(u) - beta.unsqueeze(-1) * v, active)
        progress.growth = torch.maximum(progress.growth, torch.where(active, torch.hypot(previous, beta), 0))
        rho_old, rho = rho, torch.hypot(alpha_bar, beta)
        sound = active & (rho > 0)
        c, s = safe_divide(alpha_bar, rho, sound), safe_divide(beta, rho, sound)
        theta, alpha_bar = s * alpha, c * alpha
        theta_bar, rho_bar_old, rho_bar = s_bar * rho, rho_bar, torch.hypot(c_bar * rho, theta)
        sound &= rho_bar > 0
        c_bar, s_bar = safe_divide(c_bar * rho, rho_bar, sound), safe_divide(theta, rho_bar, sound)
        zeta, zeta_bar = c_bar * zeta_bar, -s_bar * zeta_bar
        back = safe_divide(theta_bar * rho, rho_old * rho_bar_old, sound)
        h_bar = h - back.unsqueeze(-1) * h_bar
        x = torch.addcmul(x, safe_divide(zeta, rho * rho_bar, sound).unsqueeze(-1), h_bar)
        h = v - safe_divide(theta, rho, sound).unsqueeze(-1) * h
        r, s_norm = residual.update(c, s, theta_bar, rho_bar, zeta, sound), zeta_bar.abs()
        enough = (r <= progress.target) | (s_norm <= progress.normal_target)
        active = sound & ~enough & (s_norm > progress.rounding * progress.growth * r) & (alpha > 0) & (beta > 0)
        if not bool(active.any()):
            break
    return x, steps


class _ResidualNorm:
    """|b - A x| by the recurrence of section 5.1 of the reference."""

    def __init__(self, beta: Tensor):
        self.beta_dd, self.beta_d, self.rho_d = beta, torch.zeros_like(beta), torch.ones_like(beta)
        self.tau, self.theta, self.zeta = (torch.zeros_like(beta) for _ in range(3))

    def update(self, c: Tensor, s: Tensor, theta_bar: Tensor, rho_bar: Tensor, zeta: Tensor, sound: Tensor) -> Tensor:
        beta_hat, self.beta_dd = c * self.beta_dd, -s * self.beta_dd
        rho = torch.hypot(self.rho_d, theta_bar)
        c_tilde, s_tilde = safe_divide(self.rho_d, rho, sound), safe_divide(theta_bar, rho, sound)
        theta_old, self.theta, self.rho_d = self.theta, s_tilde * rho_bar, c_tilde * rho_bar
        self.beta_d = c_tilde * beta_hat - s_tilde * self.beta_d
        self.tau = safe_divide(self.zeta - theta_old * self.tau, rho, sound)
        self.zeta = zeta
        tau_d = safe_divide(zeta - self.theta * self.tau, self.rho_d, sound & (self.rho_d != 0))
        return torch.hypot(self.beta_d - tau_d, self.beta_dd)


def _unit(v: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
    """v / |v| and |v|; zeros for samples that are done."""
    norm = torch.where(active, torch.linalg.vector_norm(v, dim=-1), 0)
    return torch.where((norm > 0).unsqueeze(-1), v / torch.where(norm > 0, norm, 1).unsqueeze(-1), 0), norm
