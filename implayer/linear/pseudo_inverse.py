"""Pseudo-inverse of dense Jacobians of any shape."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..operators import AbstractOperator
from .base import AbstractLinearSolver
from .condition import inverse_norm, is_singular
from .dense import AbstractMatrixInverse, harmless, materialised, matvec


@dataclass(frozen=True)
class QRInverse(AbstractMatrixInverse):
    """Q R of J' (wide) or of J (tall), full rank."""

    q: Tensor
    r: Tensor
    matrix: Tensor
    singular: Tensor
    condition: Tensor
    wide: bool = True

    def _apply(self, b: Tensor) -> Tensor:
        return self._min_norm(b) if self.wide else self._least_squares(b)

    def _apply_transposed(self, c: Tensor) -> Tensor:
        return self._least_squares(c) if self.wide else self._min_norm(c)

    def _min_norm(self, b: Tensor) -> Tensor:  # Q R^-T b
        return matvec(self.q, torch.linalg.solve_triangular(self.r.mT, b.unsqueeze(-1), upper=False).squeeze(-1))

    def _least_squares(self, c: Tensor) -> Tensor:  # R^-1 Q' c
        return torch.linalg.solve_triangular(self.r, matvec(self.q.mT, c).unsqueeze(-1), upper=True).squeeze(-1)


@dataclass(frozen=True)
class SVDInverse(AbstractMatrixInverse):
    """U, 1/s (zero below the cutoff) and V of J."""

    u: Tensor
    inverse_values: Tensor
    v: Tensor
    matrix: Tensor
    singular: Tensor
    condition: Tensor

    def _apply(self, b: Tensor) -> Tensor:
        return matvec(self.v, self.inverse_values * matvec(self.u.mT, b))

    def _apply_transposed(self, c: Tensor) -> Tensor:
        return matvec(self.u, self.inverse_values * matvec(self.v.mT, c))


@dataclass(frozen=True)
class PseudoInverse(AbstractLinearSolver):
    """The pseudo-inverse J^+ of a dense Jacobian: least squares, and among those the smallest answer.

        J' = Q R:  J^+ b = Q R^-T b   (fewer rows than unknowns)
        J  = Q R:  J^+ b = R^-1 Q' b  (otherwise)
        J  = U S V':  J^+ b = V S^+ U' b   (with `cutoff`)

    **Arguments**

    - `cutoff`: singular values below `cutoff` times the largest count as zero, so that J may lack rank. The default
      None expects full rank, uses QR (several times faster) and flags samples without it as singular. Give a cutoff
      (1e-10, say) when a minimal-norm derivative of a singular J is what you want; it is not continuous in J there.

    **Returns** from `freeze`: an inverse with `condition` (samples,): of R with its rows and columns scaled, or the
    ratio of the singular values kept; and `singular` (samples,). The reports give |b - J x|, or, where there are more
    equations than unknowns, the norm of J'(b - J x).

    Reference: Golub and Van Loan, Matrix Computations (4th ed.), chapter 5.

    >>> import torch
    >>> from implayer.operators import MatrixOperator
    >>> inverse = PseudoInverse().freeze(MatrixOperator(torch.tensor([[[3.0, 4.0]]])))
    >>> x, report = inverse.solve(torch.tensor([[25.0]]))
    >>> x.round(decimals=4).tolist()
    [[3.0, 4.0]]
    """

    cutoff: float | None = None

    def freeze(self, operator: AbstractOperator) -> AbstractMatrixInverse:
        """Factorise the Jacobian of every sample."""
        matrix = materialised(operator)
        finite = torch.isfinite(matrix.sum((-2, -1)))
        if not bool(finite.all()):
            matrix = harmless(matrix, ~finite)
        return _qr(matrix, finite) if self.cutoff is None else _svd(matrix, finite, self.cutoff)


def _qr(matrix: Tensor, finite: Tensor) -> QRInverse:
    rows, columns = matrix.shape[-2:]
    wide = rows < columns
    q, r = torch.linalg.qr(matrix.mT if wide else matrix)
    square = r.mT if wide else r
    condition = _condition(square, wide)
    zero = (square.diagonal(dim1=-2, dim2=-1) == 0).any(-1)
    condition = torch.where(finite & ~zero, condition, torch.inf)
    singular = is_singular(condition, max(rows, columns))
    if bool(singular.any()):
        q, r = harmless(q, singular), harmless(r, singular)
    return QRInverse(q, r, matrix, singular, condition, wide)


def _condition(triangle: Tensor, wide: bool) -> Tensor:
    """Of R' with its rows scaled (the equations of a wide J), or of R with its columns scaled (tall: the unknowns).

    Scaling the other axis as well would hide dependent rows: it is an axis of Q, not of J.
    """
    size = triangle.abs().sum(-1 if wide else -2)
    one = torch.ones_like(size)
    row, column = (size, one) if wide else (one, size)
    norm = (triangle / torch.where(size > 0, size, 1).unsqueeze(-1 if wide else -2)).abs().sum(-2)
    return (norm.amax(-1) if norm.shape[-1] else 1) * inverse_norm(
        lambda x, r: torch.linalg.solve_triangular(r, x, upper=not wide),
        lambda x, r: torch.linalg.solve_triangular(r.mT, x, upper=wide),
        (triangle,),
        row,
        column,
    )


def _svd(matrix: Tensor, finite: Tensor, cutoff: float) -> SVDInverse:
    u, values, vh = torch.linalg.svd(matrix, full_matrices=False)
    largest = values.amax(-1, keepdim=True) if values.shape[-1] else values.new_ones(len(values), 1)
    kept = (values > cutoff * largest) & (values > 0)
    smallest = torch.where(kept, values, largest).amin(-1) if values.shape[-1] else largest.squeeze(-1)
    condition = torch.where(finite, largest.squeeze(-1) / smallest, torch.inf)
    condition = torch.where(kept.any(-1) | ~finite, condition, 1.0)  # J = 0: its pseudo-inverse is zero
    inverse_values = torch.where(kept, 1 / torch.where(kept, values, 1), 0)
    return SVDInverse(u, inverse_values, vh.mT, matrix, ~finite, condition)
