"""The Jacobian of a KKT system with its active set frozen, inverted by two Cholesky factors instead of one large LU."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .dense import AbstractMatrixInverse, matvec

_PENALTY = (
    1.0  # weight of the active rows, relative to Q, in the Hessian of samples whose Q alone has no Cholesky factor
)


@dataclass(frozen=True)
class KKTInverse(AbstractMatrixInverse):
    r"""Inverse of J, for unknowns (y, mu) with the multipliers mu of all rows C, of which those in `active` hold.

    $$J = \begin{pmatrix} Q & C' \\ D C & -(I - D) \end{pmatrix},\qquad D = \mathrm{diag}(\text{active})$$

    With $Q = L L'$, $M = L^{-1} C' D$ and $S = M' M + (I - D) = K K'$ a solve costs products with M and triangular solves.
    Where Q has no Cholesky factor, the active rows are added to it: $Q + \rho\,C' D C$ has the same solutions.
    """

    lower: Tensor  # L (samples, n, n)
    whitened: Tensor  # M (samples, n, rows)
    schur: Tensor  # K (samples, rows, rows)
    hessian: Tensor  # Q (samples, n, n)
    rows: Tensor  # C (samples, rows, n)
    active: Tensor  # D (samples, rows)
    singular: Tensor  # (samples,)
    penalty: Tensor | None = None  # rho (samples)
    general: Tensor | None = None  # pseudo-inverse of J (samples, n + rows, n + rows) where `redundant`
    redundant: Tensor | None = None  # (samples,)

    trusted = constant = True
    condition = None

    @property
    def n(self) -> int:
        """Number of unknowns y."""
        return self.lower.shape[-1]

    @property
    def held(self) -> Tensor:
        """(samples, rows) the active ones."""
        return self.active

    def _apply(self, b: Tensor) -> Tensor:
        first, second = b.split([self.n, b.shape[-1] - self.n], -1)
        held = torch.where(self.active, second, 0)
        loose = second - held
        y, mu = self._solve(first + _vecmat(loose, self.rows), held)
        return self._else(torch.cat([y, mu - loose], -1), b, transposed=False)

    def _apply_transposed(self, c: Tensor) -> Tensor:
        first, second = c.split([self.n, c.shape[-1] - self.n], -1)
        held = torch.where(self.active, second, 0)
        y, mu = self._solve(first, held)
        loose = torch.where(self.active, 0, matvec(self.rows, y) - second)
        return self._else(torch.cat([y, mu + loose], -1), c, transposed=True)

    def _solve(self, r: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
        """Q y + C' D mu = r and D C y = held, mu zero elsewhere."""
        if self.penalty is not None:
            r = r + self.penalty.unsqueeze(-1) * _vecmat(held, self.rows)
        w = _triangular(self.lower, r)
        mu = _cholesky_solve(self.schur, _vecmat(w, self.whitened) - held)
        y = _triangular(self.lower, w - matvec(self.whitened, mu), transposed=True)
        return y, mu

    def _else(self, answer: Tensor, b: Tensor, *, transposed: bool) -> Tensor:
        if self.general is None or self.redundant is None:
            return answer
        other = _vecmat(b, self.general) if transposed else matvec(self.general, b)
        return torch.where(self.redundant.unsqueeze(-1), other, answer)

    def _product(self, x: Tensor) -> Tensor:
        y, mu = x.split([self.n, x.shape[-1] - self.n], -1)
        low = torch.where(self.active, matvec(self.rows, y), -mu)
        return torch.cat([matvec(self.hessian, y) + _vecmat(mu, self.rows), low], -1)

    def _product_transposed(self, u: Tensor) -> Tensor:
        y, mu = u.split([self.n, u.shape[-1] - self.n], -1)
        held = torch.where(self.active, mu, 0)
        return torch.cat([matvec(self.hessian, y) + _vecmat(held, self.rows), matvec(self.rows, y) - (mu - held)], -1)


@dataclass(frozen=True)
class SmallKKTInverse(AbstractMatrixInverse):
    """LU of the whole J, for systems so small that its solves cost less than the steps of the other way."""

    lu: Tensor
    pivots: Tensor
    matrix: Tensor
    n: int = 0  # number of unknowns y, of which `held` has to know

    trusted = constant = True
    redundant = None

    @property
    def held(self) -> Tensor:
        """(samples, rows) the active ones, by the -1 on the diagonal of the others."""
        return self.matrix.diagonal(dim1=-2, dim2=-1)[:, self.n :] == 0

    @property
    def rows(self) -> Tensor:
        """C (samples, rows, n)."""
        return self.matrix[:, : self.n, self.n :].mT

    def _apply(self, b: Tensor) -> Tensor:
        return torch.linalg.lu_solve(self.lu, self.pivots, b.unsqueeze(-1)).squeeze(-1)

    def _apply_transposed(self, c: Tensor) -> Tensor:
        return torch.linalg.lu_solve(self.lu, self.pivots, c.unsqueeze(-1), adjoint=True).squeeze(-1)


SMALL = 40  # unknowns and rows
_NUMBERS = 2**17  # of the factors of all samples


def freeze_kkt(
    hessian: Tensor, rows: Tensor, active: Tensor, lower: Tensor | None = None, white: Tensor | None = None
) -> "KKTInverse | SmallKKTInverse":
    """The inverse for Q (samples, n, n), C (samples, rows, n) and the active set (samples, rows).

    Stride-zero batch axes (shared Q or C) are made use of. `lower`: the Cholesky factor of Q,
    and `white`: L^-1 C', where they are known already.
    """
    samples, size = active.shape[0], hessian.shape[-1] + active.shape[-1]
    if size <= SMALL and samples * size * size <= _NUMBERS:
        small = freeze_small(_assembled(hessian, rows, active), hessian.shape[-1])
        if small is not None:
            return small
    none = torch.zeros(samples, dtype=torch.bool, device=active.device)
    factor, penalty, singular = (lower, None, none) if lower is not None else _hessian_factor(hessian, rows, active)
    whitened = _whitened(factor, rows, active) if white is None else white * active.unsqueeze(-2)
    gram = whitened.mT @ whitened
    gram.diagonal(dim1=-2, dim2=-1).add_((~active).to(gram.dtype))
    schur, info = torch.linalg.cholesky_ex(gram)
    redundant = _badly_conditioned(schur, info)
    inverse = KKTInverse(factor, whitened, schur, hessian, rows, active, singular, penalty)
    return _with_pseudo_inverse(inverse, redundant) if bool(redundant.any()) else inverse


def freeze_small(matrix: Tensor, n: int) -> SmallKKTInverse | None:
    """The inverse of J (samples, n + rows, n + rows) as it is, or None where one of them is singular within rounding."""
    lu, pivots, _ = torch.linalg.lu_factor_ex(matrix)
    if matrix.numel():
        low, high = torch.aminmax(lu.diagonal(dim1=-2, dim2=-1).abs(), dim=-1)
        if not bool((low > 64 * matrix.shape[-1] * torch.finfo(matrix.dtype).eps * high).all()):
            return None
    return SmallKKTInverse(lu, pivots, matrix, n)


def _assembled(hessian: Tensor, rows: Tensor, active: Tensor) -> Tensor:
    held = active.to(hessian.dtype)
    low = torch.cat([rows * held.unsqueeze(-1), torch.diag_embed(held - 1)], -1)
    return torch.cat([torch.cat([hessian, rows.mT], -1), low], -2)


def _whitened(lower: Tensor, rows: Tensor, active: Tensor) -> Tensor:
    if lower.stride(0) == 0 and rows.stride(0) == 0 and len(active) > 1:
        shared = torch.linalg.solve_triangular(lower[0], rows[0].mT, upper=False)
        return shared * active.unsqueeze(-2)
    held = torch.where(active.unsqueeze(-1), rows, 0)
    return torch.linalg.solve_triangular(lower, held.mT, upper=False)


def _badly_conditioned(lower: Tensor, info: Tensor) -> Tensor:
    """Whether a Cholesky factor tells of a matrix that is singular within rounding."""
    if not lower.shape[-1]:
        return info > 0
    diagonal = lower.diagonal(dim1=-2, dim2=-1)
    small, large = diagonal.amin(-1), diagonal.amax(-1)
    limit = (4 * lower.shape[-1] * torch.finfo(lower.dtype).eps) ** 0.5
    return (info > 0) | ~(small > limit * large)


def _hessian_factor(hessian: Tensor, rows: Tensor, active: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """L of Q, or of Q + rho C' D C where Q has none; rho; and the samples where neither exists: y is not unique."""
    samples, n = active.shape[0], hessian.shape[-1]
    factor, info = torch.linalg.cholesky_ex(hessian[:1] if hessian.stride(0) == 0 else hessian)
    bad = _badly_conditioned(factor, info).expand(samples)
    factor = factor.expand(samples, n, n)
    return _penalised(hessian, rows, active, factor, bad) if bool(bad.any()) else (factor, None, bad)


def _penalised(
    hessian: Tensor, rows: Tensor, active: Tensor, lower: Tensor, bad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    index = bad.nonzero().squeeze(-1)
    q, held = hessian[index], torch.where(active[index].unsqueeze(-1), rows[index], 0)
    outer = held.mT @ held
    size, weight = q.abs().amax((-2, -1)), outer.abs().amax((-2, -1))
    penalty = _PENALTY * torch.where(size > 0, size, 1) / torch.where(weight > 0, weight, 1)
    factor, info = torch.linalg.cholesky_ex(q + penalty[:, None, None] * outer)
    flat = _badly_conditioned(factor, info)
    identity = torch.eye(q.shape[-1], dtype=q.dtype, device=q.device)
    factor = torch.where(flat[:, None, None], identity, factor)
    lower = lower.clone(memory_format=torch.contiguous_format).index_copy(0, index, factor)
    weight = hessian.new_zeros(len(active)).index_copy(0, index, penalty)
    return lower, weight, torch.zeros_like(bad).index_copy(0, index, flat)


def _with_pseudo_inverse(inverse: KKTInverse, redundant: Tensor) -> KKTInverse:
    index = redundant.nonzero().squeeze(-1)
    full = _assembled(inverse.hessian[index], inverse.rows[index], inverse.active[index])
    pseudo = torch.linalg.pinv(full, rtol=torch.finfo(full.dtype).eps ** 0.6)
    size = full.shape[-1]
    general = full.new_zeros(len(redundant), size, size).index_copy(0, index, pseudo)
    identity = torch.eye(inverse.schur.shape[-1], dtype=full.dtype, device=full.device)
    schur = torch.where(redundant[:, None, None], identity, inverse.schur)
    return replace(inverse, schur=schur, general=general, redundant=redundant)


def _vecmat(x: Tensor, matrix: Tensor) -> Tensor:
    """x' A: (..., m) times (..., m, n); one product for all samples where A is shared."""
    if matrix.stride(0) == 0 and x.ndim == 2:
        return x @ matrix[0]
    return (x.unsqueeze(-2) @ matrix).squeeze(-2)


def _triangular(lower: Tensor, b: Tensor, transposed: bool = False) -> Tensor:
    """L^-1 b or L^-T b; one solve with many columns where L is shared."""
    if lower.stride(0) == 0 and b.ndim == 2:
        factor = lower[0].mT if transposed else lower[0]
        return torch.linalg.solve_triangular(factor, b.mT, upper=transposed).mT
    factor = lower.mT if transposed else lower
    return torch.linalg.solve_triangular(factor, b.unsqueeze(-1), upper=transposed).squeeze(-1)


def _cholesky_solve(lower: Tensor, b: Tensor) -> Tensor:
    """By two triangular solves: the batched forward derivative of `cholesky_solve` is wrong in torch 2.13."""
    return _triangular(lower, _triangular(lower, b), transposed=True)
