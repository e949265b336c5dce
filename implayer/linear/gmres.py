"""Restarted GMRES for general square Jacobians."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..types import Vectors
from .krylov import AbstractKrylovSolver, Cycle, System, above, safe_divide

_REPEAT = 0.1  # a vector that lost more than this in the orthogonalisation is orthogonalised once more


@dataclass(frozen=True)
class GMRES(AbstractKrylovSolver):
    """Generalised minimal residuals: matrix-free, one product a step, any square J; the safe Krylov method.

        x_k = argmin |b - A x| over the Krylov space of degree k;   A V_k = V_{k+1} H_k

    Fast where the eigenvalues of J cluster away from zero: a contraction of rate q takes about log(rtol) / log(q)
    steps. Preconditioned from the right, so that the residual it minimises is the true one.

    **Arguments**

    - `atol`, `rtol`: stop at |b - A x| <= max(rtol |b|, atol min(1, |b|)). None means 1e-9 (float64) or 1e-5 (float32);
      an `atol` of None follows `rtol`.
    - `max_steps`: in all cycles together; None means 4 n, at least 50 and at most 1000.
    - `preconditioner`: a callable operator -> (v -> M^-1 v) with M close to J. It is called with `operator.T` for the
      transposed solve and has to return the transposed one then; `lambda J: LU().freeze(M_of(J)).apply` does.
    - `initial`: a callable b -> x0, tried as the start; kept only where its residual is smaller than |b|.
    - `restart`: steps between restarts, and memory: `restart + 1` vectors (those used are touched, no more). Raise it
      where the report says MAX_STEPS and memory allows; lower it, or take `BiCGSTAB`, for very large y.

    **Returns** from `freeze`: an inverse that holds the operator. The transposed solve uses products with J' only.

    **Raises** ShapeError where J is not square.

    Reference: Saad and Schultz, SIAM J. Sci. Stat. Comput. 7, 1986.

    >>> import torch
    >>> from implayer.operators import MatrixOperator
    >>> inverse = GMRES().freeze(MatrixOperator(torch.tensor([[[2.0, 1.0], [0.0, 4.0]]])))
    >>> x, report = inverse.solve(torch.tensor([[3.0, 4.0]]))
    >>> x.round(decimals=4).tolist(), report.steps.tolist()
    ([[1.0, 1.0]], [2])
    """

    restart: int = 30

    def cycle(self, system: System, r: Vectors, active: Tensor) -> Cycle:
        """At most `restart` Arnoldi steps; samples that are done or broken down get zero columns from then on."""
        samples, n = r.shape
        size = max(min(self.restart, system.budget, n), 1)
        beta = torch.linalg.vector_norm(r, dim=-1)
        basis = torch.empty(size + 1, samples, n, dtype=r.dtype, device=r.device)
        torch.mul(r, safe_divide(torch.ones_like(beta), beta, active).unsqueeze(-1), out=basis[0])
        small = _Hessenberg(samples, size, r.device)
        steps = torch.zeros_like(active, dtype=torch.int64)
        singular = torch.zeros_like(active)
        used = 0
        for j in range(size):
            steps += active
            w = system.product(system.precondition(basis[j]))
            w, h, subdiagonal = _orthogonalise(basis[: j + 1].transpose(0, 1), w, active)
            broken = small.append(j, h.double(), subdiagonal.double(), active)
            used, singular = j + 1, singular | broken
            active = active & ~broken & above(beta * small.residual(j).to(beta.dtype), system.target)
            if j + 1 == size or not bool(active.any()):
                break
            torch.mul(w, safe_divide(torch.ones_like(beta), subdiagonal, active).unsqueeze(-1), out=basis[j + 1])
        weights = (small.solve(used) * beta.double().unsqueeze(-1)).to(r.dtype)
        correction = (weights.unsqueeze(-2) @ basis[:used].transpose(0, 1)).squeeze(-2)
        return Cycle(system.precondition(correction), steps, torch.zeros_like(singular), singular)


def _orthogonalise(basis: Tensor, w: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Classical Gram-Schmidt, twice where the first pass cancelled much. Inactive samples give zeros."""
    w = torch.where(active.unsqueeze(-1), w, 0)
    before = torch.linalg.vector_norm(w, dim=-1)
    h = w.unsqueeze(-2) @ basis.mT  # rows times matrices: three times faster on a CPU than matrices times columns
    w = w - (h @ basis).squeeze(-2)
    after = torch.linalg.vector_norm(w, dim=-1)
    # On a GPU the second pass costs less than to ask whether it is needed.
    if w.is_cuda or bool((after < _REPEAT * before).any()):
        more = w.unsqueeze(-2) @ basis.mT
        w, h = w - (more @ basis).squeeze(-2), h + more
        after = torch.linalg.vector_norm(w, dim=-1)
    tiny = 4 * torch.finfo(w.dtype).eps * before
    return w, h.squeeze(-2), torch.where(after > tiny, after, 0)  # zero: the Krylov space is complete


class _Hessenberg:
    """Least squares with the Hessenberg matrices of all samples, by Givens rotations kept as a product.

    In float64. The samples are the last axis, so that each step is a few operations on contiguous rows; nothing is
    touched before it is used.
    """

    def __init__(self, samples: int, size: int, device: torch.device):
        self.triangle = torch.empty(size, size, samples, dtype=torch.float64, device=device)
        self.rotation = torch.empty(size + 1, size + 1, samples, dtype=torch.float64, device=device)
        self.rotation[0, 0] = 1

    def append(self, j: int, h: Tensor, subdiagonal: Tensor, active: Tensor) -> Tensor:
        """Column j of H; returns the active samples whose H, and hence A, is singular."""
        column = (self.rotation[: j + 1, : j + 1] * h.mT).sum(1)
        diagonal = column[j]
        length = torch.hypot(diagonal, subdiagonal)
        floor = 4 * torch.finfo(torch.float64).eps * torch.linalg.vector_norm(h, dim=-1)
        sound = active & (length > floor)
        safe = torch.where(sound, length, 1)
        # Other samples: c = 0, s = -1 hands the residual on to the next row and leaves a zero weight in this one.
        c, s = torch.where(sound, diagonal / safe, 0), torch.where(sound, subdiagonal / safe, -1)
        self.triangle[:j, j], self.triangle[j, j] = torch.where(sound, column[:j], 0), safe
        row = self.rotation[j, : j + 1]
        self.rotation[j + 1, : j + 1] = -s * row
        row *= c
        self.rotation[:j, j + 1], self.rotation[j, j + 1], self.rotation[j + 1, j + 1] = 0, s, c
        return active & ~sound

    def residual(self, j: int) -> Tensor:
        """|b - A x| / |b| after column j."""
        return self.rotation[j + 1, 0].abs()

    def solve(self, used: int) -> Tensor:
        """(samples, used) weights of the basis for a right-hand side of norm one."""
        triangle, right = self.triangle[:used, :used].movedim(-1, 0), self.rotation[:used, 0].mT.unsqueeze(-1)
        return torch.linalg.solve_triangular(triangle, right, upper=True).squeeze(-1)
