"""Inverses of Jacobians of which some unknowns are not unique, such as the multipliers of redundant constraints."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..operators import AbstractOperator, MatrixOperator
from .base import AbstractInverse, AbstractLinearSolver
from .dense import materialised
from .lu import LU
from .pseudo_inverse import PseudoInverse, SVDInverse

_CUTOFF = 0.6  # eps**0.6: relative singular values below it are zero
_APART = 1e3  # ratio of the largest entries of H and A from which on both are scaled
_PRIMAL = 1e-4  # a null vector with a smaller primal part moves multipliers alone


@dataclass(frozen=True)
class MinimalNorm(AbstractLinearSolver):
    r"""Another linear solver, and the pseudo-inverse where J is singular only because some unknowns are not unique.

    $$z = J^+ b,\qquad J^+ = V \Sigma^+ U^\top \quad\text{of}\quad J = U \Sigma V^\top$$

    The derivative of what is unique is exact all the same. In a KKT system with z = (y, u) and dependent rows in A, the null
    vectors of

    $$J = \begin{pmatrix} H & A^\top \\ A & 0 \end{pmatrix}$$

    are (0, w) with A'w = 0 as long as H is definite where A dy = 0: dy is unique, and du the one of minimal norm.

    **Arguments**

    - `linear_solver`: what inverts J otherwise; it must tell which samples are singular.
    - `multipliers`: how many of the last unknowns may be not unique; a J with null vectors that move others is left singular.
      None (default): all of them, where whoever asks for a derivative has found out already that it does not matter.

    **Returns** from `freeze`: the inverse of `linear_solver` where no sample is singular, else one by singular values, of
    which those below eps^0.6 of the largest count as zero.

    Reference: Golub and Van Loan, Matrix Computations (4th ed.), 5.5.

    >>> import torch
    >>> J = torch.tensor([[[1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]])  # twice the constraint y = b
    >>> inverse = MinimalNorm(LU(), multipliers=2).freeze(MatrixOperator(J))
    >>> inverse.solve(torch.tensor([[0.0, 1.0, 1.0]]))[0].round(decimals=4).tolist()
    [[1.0, -0.5, -0.5]]
    """

    linear_solver: AbstractLinearSolver = field(default_factory=LU)
    multipliers: int | None = None

    def freeze(self, operator: AbstractOperator) -> AbstractInverse:
        """Factorise; singular samples are looked at once more."""
        inverse = self.linear_solver.freeze(operator)
        singular = inverse.singular
        if self.multipliers == 0 or singular is None or not bool(singular.any()):
            return inverse
        matrix = materialised(operator)
        row, column = (None, None) if self.multipliers is None else self._scales(matrix, self.multipliers)
        scaled = matrix if row is None or column is None else row.unsqueeze(-1) * matrix * column.unsqueeze(-2)
        whole = PseudoInverse(cutoff=torch.finfo(matrix.dtype).eps ** _CUTOFF).freeze(MatrixOperator(scaled))
        assert isinstance(whole, SVDInverse)
        if row is None or column is None or self.multipliers is None:
            return whole
        singular = singular & ~_harmless(whole, self.multipliers)
        u, v = row.unsqueeze(-1) * whole.u, column.unsqueeze(-1) * whole.v
        return replace(whole, u=u, v=v, matrix=matrix, singular=singular)

    @staticmethod
    def _scales(matrix: Tensor, multipliers: int) -> tuple[Tensor, Tensor]:
        """Scales of rows and columns, ones but for samples whose blocks differ so much that the cutoff would mistake them.

        All multipliers have one scale, so that the smallest ones stay the smallest; each of their rows has its own.
        """
        n = matrix.shape[-1] - multipliers
        ones = torch.ones_like(matrix[:, 0])
        H, A = (block.abs().amax((-1, -2)).unsqueeze(-1) for block in (matrix[:, :n, :n], matrix[:, n:, :n]))
        apart = (H > 0) & (A > 0) & H.isfinite() & A.isfinite() & ((H > _APART * A) | (A > _APART * H))
        H, A = torch.where(apart, H, 1), torch.where(apart, A, 1)
        primal = torch.arange(matrix.shape[-1], device=matrix.device) < n
        column = torch.where(primal, ones, H / A)
        row = torch.where(primal, 1 / H, ones)
        size = (row.unsqueeze(-1) * matrix * column.unsqueeze(-2)).abs().amax(-1)
        return torch.where(apart & ~primal & (size > 0), 1 / size, row), column


def _harmless(inverse: SVDInverse, multipliers: int) -> Tensor:
    """(samples,) whether no null vector moves y."""
    primal = inverse.v[:, : inverse.v.shape[1] - multipliers]
    null = (inverse.inverse_values == 0).unsqueeze(-2)
    moved = torch.linalg.vector_norm(torch.where(null, primal, 0), dim=(-2, -1))
    return (moved < _PRIMAL) & ~inverse.singular
