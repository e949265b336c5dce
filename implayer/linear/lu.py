"""LU factorisation of square Jacobians, one for each sample."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..operators import AbstractOperator
from .base import AbstractLinearSolver
from .condition import inverse_norm, is_singular, scales, singular_from
from .dense import AbstractMatrixInverse, harmless, materialised, require_square

_BADLY_SCALED = 2.0**16  # a ratio of row norms from which partial pivoting may choose a bad row
SMALL = 16  # unknowns up to which the condition costs more than the factor
_START = torch.stack([torch.cos(1.7 * torch.arange(SMALL)), torch.cos(1.0 + 2.3 * torch.arange(SMALL))], -1).double()
_TRIANGULAR_FROM = 16  # below, a factorisation is as cheap as a look at the corners


@dataclass(frozen=True)
class LUInverse(AbstractMatrixInverse):
    """P L U of J, or of J with rows and columns divided by `row` and `column` where J is badly scaled."""

    lu: Tensor
    pivots: Tensor
    matrix: Tensor
    singular: Tensor | None
    condition: Tensor | None = None
    row: Tensor | None = None
    column: Tensor | None = None

    def _apply(self, b: Tensor) -> Tensor:
        if self.row is None or self.column is None:
            return torch.linalg.lu_solve(self.lu, self.pivots, b.unsqueeze(-1)).squeeze(-1)
        scaled = torch.linalg.lu_solve(self.lu, self.pivots, (b / self.row).unsqueeze(-1)).squeeze(-1)
        return scaled / self.column

    def _apply_transposed(self, c: Tensor) -> Tensor:
        if self.row is None or self.column is None:
            return torch.linalg.lu_solve(self.lu, self.pivots, c.unsqueeze(-1), adjoint=True).squeeze(-1)
        scaled = torch.linalg.lu_solve(self.lu, self.pivots, (c / self.column).unsqueeze(-1), adjoint=True).squeeze(-1)
        return scaled / self.row


@dataclass(frozen=True)
class LU(AbstractLinearSolver):
    """LU with partial pivoting of the dense Jacobian: the solver for small, square, well-posed systems.

        J = P L U,   J^-1 b = U^-1 L^-1 P' b,   J^-T c = P L^-T U^-T c

    A sample whose rows or columns differ in size by more than 2^16 is scaled first. Exactly triangular Jacobians (an
    autoregressive F) are their own factors. Cost: as many vector products as rows, 2/3 n^3 flops and 2 n^2 numbers per
    sample.

    **Arguments**

    - `estimate`: whether to estimate the condition of the scaled J (two extra solves, a tenth to a third of the
      factorisation). `False` inside of a Newton loop, where only exactly singular samples are flagged then.

    **Returns** from `freeze`: an inverse with `condition` (samples,) and `singular` (samples,): rcond < 4 n eps after
    scaling rows and columns, or a J that is not finite. A singular sample has the identity as its factor, disturbs no
    other sample and raises nothing.

    **Raises** ShapeError where J is not square.

    Reference: Higham, Accuracy and Stability of Numerical Algorithms (2nd ed.), chapters 9 and 15.

    >>> import torch
    >>> from implayer.operators import MatrixOperator
    >>> inverse = LU().freeze(MatrixOperator(torch.tensor([[[2.0, 1.0], [0.0, 4.0]]])))
    >>> inverse.solve(torch.tensor([[3.0, 4.0]]))[0]
    tensor([[1., 1.]])
    """

    estimate: bool = True

    def freeze(self, operator: AbstractOperator) -> LUInverse:
        """Factorise the Jacobian of every sample."""
        require_square(operator, "LU", "`PseudoInverse()` or `LSMR()`")
        matrix = materialised(operator)
        if not self.estimate or not matrix.numel():
            return self._guarded(matrix, None)
        scale = scales(matrix)
        if _balanced(*scale):
            lu, pivots, _ = _factorise(matrix)
            condition = inverse_norm(_solve, _rsolve, (lu, pivots), *scale)
            worst = float(condition.amax())
            if worst * singular_from(condition.dtype, operator.columns) <= 1:  # False for NaN and infinity
                return _regular(lu, pivots, matrix, condition)
        return self._guarded(matrix, scale)

    def _guarded(self, matrix: Tensor, scale: tuple[Tensor, Tensor] | None) -> LUInverse:
        """The same where some samples may be badly scaled, singular or not finite."""
        finite = torch.isfinite(matrix.sum((-2, -1)) if scale is None else scale[0].sum(-1))
        if not bool(finite.all()):
            matrix = harmless(matrix, ~finite)
        used = None if scale is None else _used(*scale, finite)
        work = matrix if used is None else matrix / (used[0].unsqueeze(-1) * used[1].unsqueeze(-2))
        lu, pivots, info = _factorise(work)
        singular, condition = ~finite | (info > 0), None
        if scale is not None:
            row, column = scale if used is None else (scale[0] / used[0], scale[1] / used[1])
            condition = torch.where(singular, torch.inf, inverse_norm(_solve, _rsolve, (lu, pivots), row, column))
            singular = is_singular(condition, matrix.shape[-1])
        if bool(singular.any()):
            lu = harmless(lu, singular)
            pivots = torch.where(singular.unsqueeze(-1), _no_pivots(pivots), pivots)
        return LUInverse(lu, pivots, matrix, singular, condition, *(used or (None, None)))


def well_conditioned(lu: Tensor, pivots: Tensor, matrix: Tensor) -> LUInverse | None:
    """The inverse of matrices factorised already; None unless all have 1/condition > eps^(1/4), far from singular."""
    scale = scales(matrix)
    if not _balanced(*scale):
        return None
    condition = inverse_norm(_solve, _rsolve, (lu, pivots), *scale)
    worst = float(condition.amax())
    return _regular(lu, pivots, matrix, condition) if worst < torch.finfo(matrix.dtype).eps ** -0.25 else None


def far_from_singular(matrix: Tensor) -> LUInverse | None:
    """The inverse of small matrices without their condition, where a glance at two products with J^-1 finds it small.

    That is, n^2 max|J| max|J^-1 v| <= eps^(-1/4) over all samples for two v without pattern. None for all others.
    """
    samples, n, _ = matrix.shape
    if not matrix.numel() or matrix.dtype not in (torch.float32, torch.float64):
        return None
    lu, pivots, _ = torch.linalg.lu_factor_ex(matrix)
    start = _START[:n].to(matrix).expand(samples, n, 2)
    product = _extent(matrix) * _extent(torch.linalg.lu_solve(lu, pivots, start))
    if not n * n * product <= torch.finfo(matrix.dtype).eps ** -0.25:  # so for NaN, too
        return None
    return LUInverse(lu, pivots, matrix, None)


def _extent(tensor: Tensor) -> float:
    low, high = torch.aminmax(tensor)
    return max(-float(low), float(high))


def _regular(lu: Tensor, pivots: Tensor, matrix: Tensor, condition: Tensor) -> LUInverse:
    return LUInverse(lu, pivots, matrix, torch.zeros(len(matrix), dtype=torch.bool, device=matrix.device), condition)


def _balanced(row: Tensor, column: Tensor) -> bool:
    """Whether no sample can be badly scaled: one glance at the extremes of all scales together."""
    low, high = torch.aminmax(torch.cat([row, column], -1))
    return float(high) <= _BADLY_SCALED * float(low)


def _used(row: Tensor, column: Tensor, finite: Tensor) -> tuple[Tensor, Tensor] | None:
    """The scales by which badly scaled samples are divided before the factorisation, None where no sample is."""
    if not row.numel():
        return None
    bad = (row.amax(-1) > _BADLY_SCALED * row.amin(-1)) | (column.amax(-1) > _BADLY_SCALED * column.amin(-1))
    bad &= finite
    if not bool(bad.any()):
        return None
    bad = bad.unsqueeze(-1)
    return torch.where(bad & (row > 0), row, 1), torch.where(bad & (column > 0), column, 1)


def _factorise(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Packed factors, pivots and info > 0 where a pivot is zero; exactly triangular matrices are not factorised."""
    triangular = _triangular(matrix)
    if triangular is None:
        return torch.linalg.lu_factor_ex(matrix)
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    zero = (diagonal == 0).any(-1)
    packed = matrix
    if triangular == "lower":
        packed = torch.tril(matrix / torch.where(diagonal == 0, 1, diagonal).unsqueeze(-2), -1) + torch.diag_embed(
            diagonal
        )
    pivots = _no_pivots(torch.empty(matrix.shape[:-1], dtype=torch.int32, device=matrix.device))
    return packed, pivots, zero.int()


def _triangular(matrix: Tensor) -> str | None:
    """ "upper", "lower" or None. Looks at corners first: a dense matrix is recognised by two numbers of each sample."""
    n = matrix.shape[-1]
    if n < _TRIANGULAR_FROM or not len(matrix):
        return None
    corners = torch.stack([matrix[:, -1, 0], matrix[:, 0, -1]]).count_nonzero(-1).tolist()
    if corners[0] == 0 and not bool(torch.tril(matrix, -1).any()):
        return "upper"
    if corners[1] == 0 and not bool(torch.triu(matrix, 1).any()):
        return "lower"
    return None


def _no_pivots(pivots: Tensor) -> Tensor:
    return torch.arange(1, pivots.shape[-1] + 1, dtype=pivots.dtype, device=pivots.device).expand_as(pivots)


def _solve(x: Tensor, lu: Tensor, pivots: Tensor) -> Tensor:
    return torch.linalg.lu_solve(lu, pivots, x)


def _rsolve(x: Tensor, lu: Tensor, pivots: Tensor) -> Tensor:
    return torch.linalg.lu_solve(lu, pivots, x, adjoint=True)
