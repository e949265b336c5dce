"""BiCGSTAB for general square Jacobians with little memory."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..types import Vectors
from .krylov import AbstractKrylovSolver, Cycle, System, above, safe_divide

_WEAK = 1e-2  # cosine of r and A r below which r is no good shadow of itself
_BREAKDOWN = 1e-10  # |<r0, r>| below this part of |r0| |r|: the shadow residual sees nothing any more


@dataclass(frozen=True)
class BiCGSTAB(AbstractKrylovSolver):
    """Stabilised bi-conjugate gradients: matrix-free, eight vectors whatever the number of steps, any square J.

        r_k = Q_k(A) P_k(A) r_0,   P_k the bi-conjugate gradient polynomial, Q_k = prod (1 - omega_i A)

    Two products a step and a residual that need not fall in every step; `GMRES` needs fewer products and is the safer
    choice while its basis fits into memory. A sample that breaks down starts again from its residual with a new shadow.

    **Arguments**

    - `atol`, `rtol`: stop at |b - A x| <= max(rtol |b|, atol min(1, |b|)). None means 1e-9 (float64) or 1e-5 (float32);
      an `atol` of None follows `rtol`.
    - `max_steps`: None means 4 n, at least 50 and at most 1000; each step has two products.
    - `preconditioner`: a callable operator -> (v -> M^-1 v) with M close to J, applied from the right. It is called
      with `operator.T` for the transposed solve and has to return the transposed one then.
    - `initial`: a callable b -> x0, tried as the start; kept only where its residual is smaller than |b|.

    **Returns** from `freeze`: an inverse that holds the operator. The transposed solve uses products with J' only.

    **Raises** ShapeError where J is not square.

    Reference: van der Vorst, SIAM J. Sci. Stat. Comput. 13, 1992.

    >>> import torch
    >>> from implayer.operators import MatrixOperator
    >>> inverse = BiCGSTAB().freeze(MatrixOperator(torch.tensor([[[2.0, 1.0], [0.0, 4.0]]])))
    >>> x, report = inverse.solve(torch.tensor([[3.0, 4.0]]))
    >>> x.round(decimals=4).tolist(), report.steps.tolist()
    ([[1.0, 1.0]], [2])
    """

    def cycle(self, system: System, r: Vectors, active: Tensor) -> Cycle:
        """Until all samples are done or broken down; those are started again from their true residual."""
        x, p, shadow = torch.zeros_like(r), r, r
        shadow_norm = rho = torch.zeros_like(system.target)
        steps = torch.zeros_like(active, dtype=torch.int64)
        for k in range(system.budget):
            steps += active
            p_hat = system.precondition(p)
            v = system.product(p_hat)
            if k == 0:
                shadow = _shadow(r, v)
                shadow_norm, rho = torch.linalg.vector_norm(shadow, dim=-1), torch.linalg.vecdot(shadow, r)
            sigma = torch.linalg.vecdot(shadow, v)
            active = active & (sigma.abs() > _BREAKDOWN * shadow_norm * torch.linalg.vector_norm(v, dim=-1))
            alpha = safe_divide(rho, sigma, active)
            s = torch.addcmul(r, alpha.unsqueeze(-1), v, value=-1)
            x = torch.addcmul(x, alpha.unsqueeze(-1), p_hat)
            s_hat = system.precondition(s)
            t = system.product(s_hat)
            tt = torch.linalg.vecdot(t, t)
            omega = safe_divide(torch.linalg.vecdot(t, s), tt, active & (tt > 0))
            x = torch.addcmul(x, omega.unsqueeze(-1), s_hat)
            r = torch.addcmul(s, omega.unsqueeze(-1), t, value=-1)
            norm = torch.linalg.vector_norm(r, dim=-1)
            previous, rho = rho, torch.linalg.vecdot(shadow, r)
            sees = rho.abs() > _BREAKDOWN * shadow_norm * norm
            active = active & above(norm, system.target) & sees & (omega != 0)
            if not bool(active.any()):
                break
            beta = safe_divide(rho * alpha, previous * omega, active).unsqueeze(-1)
            p = r + beta * (p - omega.unsqueeze(-1) * v)
        never = torch.zeros_like(active)
        return Cycle(x, steps, never, never)


def _shadow(r: Tensor, v: Tensor) -> Tensor:
    """r, as is usual; where A r is nearly orthogonal to it, which would break down at once, the sum of both."""
    r_norm, v_norm = torch.linalg.vector_norm(r, dim=-1), torch.linalg.vector_norm(v, dim=-1)
    weak = torch.linalg.vecdot(r, v).abs() < _WEAK * r_norm * v_norm
    return torch.addcmul(r, safe_divide(r_norm, v_norm, weak & (v_norm > 0)).unsqueeze(-1), v)
