"""Conjugate gradients for symmetric definite Jacobians."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..types import Vectors
from .krylov import AbstractKrylovSolver, Cycle, System, above, safe_divide


@dataclass(frozen=True)
class CG(AbstractKrylovSolver):
    """Preconditioned conjugate gradients: matrix-free, for symmetric J that are definite (of either sign).

        x_k = argmin |x - A^-1 b|_A over the Krylov space of degree k;   about sqrt(cond) log(1/rtol) / 2 steps

    A sample whose J turns out to be indefinite stops there with its best answer and its true residual, never reported
    as converged; use `MINRES` for those.

    **Arguments**

    - `atol`, `rtol`: stop at |b - A x| <= max(rtol |b|, atol min(1, |b|)). None means 1e-9 (float64) or 1e-5 (float32);
      an `atol` of None follows `rtol`. Lower `rtol` for more exact digits of the gradient (error: cond(J) rtol).
    - `max_steps`: None means 4 n, at least 50 and at most 1000. Raise it where the report says MAX_STEPS.
    - `preconditioner`: a callable operator -> (v -> M^-1 v) with M symmetric positive definite, M close to J. It is
      called with `operator.T` for the transposed solve.
    - `initial`: a callable b -> x0, tried as the start; kept only where its residual is smaller than |b|.

    **Returns** from `freeze`: an inverse that holds the operator; each solve costs one product a step and one more at
    the end for the true residual.

    **Raises** ShapeError where J is not square.

    Reference: Hestenes and Stiefel, J. Res. Nat. Bur. Stand. 49, 1952.

    >>> import torch
    >>> from implayer.operators import MatrixOperator
    >>> inverse = CG().freeze(MatrixOperator(torch.tensor([[[2.0, 1.0], [1.0, 2.0]]])))
    >>> x, report = inverse.solve(torch.tensor([[3.0, 3.0]]))
    >>> x.tolist(), report.steps.tolist()
    ([[1.0, 1.0]], [1])
    """

    def cycle(self, system: System, r: Vectors, active: Tensor) -> Cycle:
        """Until the recurrence says that all samples are done."""
        x, z = torch.zeros_like(r), system.precondition(r)
        p, rz = z, torch.linalg.vecdot(r, z)
        sign = torch.zeros_like(rz)
        steps = torch.zeros_like(active, dtype=torch.int64)
        indefinite = torch.zeros_like(active)
        for _ in range(system.budget):
            q = system.product(p)
            curvature = torch.linalg.vecdot(p, q)
            sign = torch.where(sign == 0, curvature.sign(), sign)
            indefinite |= active & ~(curvature * sign > 0)
            active = active & ~indefinite
            steps += active
            alpha = safe_divide(rz, curvature, active).unsqueeze(-1)
            x, r = torch.addcmul(x, alpha, p), torch.addcmul(r, alpha, q, value=-1)
            active = active & above(torch.linalg.vector_norm(r, dim=-1), system.target)
            if not bool(active.any()):
                break
            z = system.precondition(r)
            previous, rz = rz, torch.linalg.vecdot(r, z)
            p = torch.addcmul(z, safe_divide(rz, previous, active).unsqueeze(-1), p)
        return Cycle(x, steps, indefinite, torch.zeros_like(indefinite))
