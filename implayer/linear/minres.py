"""MINRES for symmetric Jacobians, definite or not."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..types import Vectors
from .krylov import AbstractKrylovSolver, Cycle, System, above, safe_divide


@dataclass(frozen=True)
class MINRES(AbstractKrylovSolver):
    """Minimal residuals by the Lanczos process: matrix-free, seven vectors, for symmetric J that may be indefinite.

        x_k = argmin |b - A x| over the Krylov space of degree k

    What saddle points, KKT systems and shifted Laplacians ask for; `CG` is a little cheaper where J is definite. A J
    that is not symmetric shows as a true residual that does not shrink: MAX_STEPS.

    **Arguments**

    - `atol`, `rtol`: stop at |b - A x| <= max(rtol |b|, atol min(1, |b|)). None means 1e-9 (float64) or 1e-5 (float32);
      an `atol` of None follows `rtol`.
    - `max_steps`: None means 4 n, at least 50 and at most 1000.
    - `preconditioner`: a callable operator -> (v -> M^-1 v), M symmetric positive definite even where J is not. It is
      called with `operator.T` for the transposed solve.
    - `initial`: a callable b -> x0, tried as the start; kept only where its residual is smaller than |b|.

    **Returns** from `freeze`: an inverse that holds the operator; one product a step.

    **Raises** ShapeError where J is not square.

    Reference: Paige and Saunders, SIAM J. Numer. Anal. 12, 1975.

    >>> import torch
    >>> from implayer.operators import MatrixOperator
    >>> inverse = MINRES().freeze(MatrixOperator(torch.tensor([[[1.0, 0.0], [0.0, -2.0]]])))
    >>> x, report = inverse.solve(torch.tensor([[1.0, -2.0]]))
    >>> x.round(decimals=4).tolist(), report.steps.tolist()
    ([[1.0, 1.0]], [2])
    """

    def cycle(self, system: System, r: Vectors, active: Tensor) -> Cycle:
        """Until the recurrence says that all samples are done. Letters as in the reference."""
        x, w, w_old = torch.zeros_like(r), torch.zeros_like(r), torch.zeros_like(r)
        r_old, y = r, system.precondition(r)
        beta = _norm(r, y)
        # With a preconditioner the recurrence knows the residual in the norm of M^-1 only; the stop is scaled to that.
        target = system.target * safe_divide(beta, torch.linalg.vector_norm(r, dim=-1), active)
        beta_old, phi_bar, epsilon = torch.ones_like(beta), beta, torch.zeros_like(beta)
        d_bar, c, s = torch.zeros_like(beta), -torch.ones_like(beta), torch.zeros_like(beta)
        steps = torch.zeros_like(active, dtype=torch.int64)
        indefinite_m = active & ~(beta > 0)
        active = active & ~indefinite_m
        for k in range(system.budget):
            steps += active
            v = y * safe_divide(torch.ones_like(beta), beta, active).unsqueeze(-1)
            y = system.product(v)
            if k:
                y = torch.addcmul(y, safe_divide(beta, beta_old, active).unsqueeze(-1), r_old, value=-1)
            alpha = torch.linalg.vecdot(v, y)
            y = torch.addcmul(y, safe_divide(alpha, beta, active).unsqueeze(-1), r, value=-1)
            r_old, r = r, y
            y = system.precondition(r)
            beta_old, beta = beta, _norm(r, y)
            epsilon_old, delta, g_bar = epsilon, c * d_bar + s * alpha, s * d_bar - c * alpha
            epsilon, d_bar = s * beta, -c * beta
            gamma = torch.hypot(g_bar, beta)
            sound = active & (gamma > 0)
            c, s = safe_divide(g_bar, gamma, sound), safe_divide(beta, gamma, sound)
            phi, phi_bar = c * phi_bar, torch.where(sound, s * phi_bar, phi_bar)
            w_next = v - epsilon_old.unsqueeze(-1) * w_old - delta.unsqueeze(-1) * w
            w_old, w = w, w_next * safe_divide(torch.ones_like(gamma), gamma, sound).unsqueeze(-1)
            x = torch.addcmul(x, torch.where(sound, phi, 0).unsqueeze(-1), w)
            active = sound & above(phi_bar, target) & (beta > 0)
            if not bool(active.any()):
                break
        return Cycle(x, steps, indefinite_m, torch.zeros_like(indefinite_m))


def _norm(r: Tensor, y: Tensor) -> Tensor:
    """sqrt(r' M^-1 r); zero where M shows that it is not positive definite."""
    square = torch.linalg.vecdot(r, y)
    return torch.where(square < 0, 0, square).sqrt()
