"""Inverses of KKT matrices whose constraints depend on each other: what moves y is unique, what moves multipliers is not."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..operators import AbstractOperator, MatrixOperator
from .base import AbstractInverse, AbstractLinearSolver
from .dense import materialised
from .pseudo_inverse import PseudoInverse, SVDInverse

_CUTOFF = 0.6  # eps**0.6: relative singular values below it are zero
_PRIMAL = 1e-4  # a null vector with a smaller primal part moves multipliers alone


@dataclass(frozen=True)
class MinimalNormMultipliers(AbstractLinearSolver):
    r"""Another linear solver, and the pseudo-inverse where J is singular only because multipliers are not unique.

    With z = (y, u) and dependent rows in A, the null vectors of

    $$J = \begin{pmatrix} H & A^\top \\ A & 0 \end{pmatrix}$$

    are (0, w) with A'w = 0 as long as H is definite where A dy = 0: dy is unique, and du the one of minimal norm. A J with
    null vectors that move y is left singular.

    **Arguments**

    - `linear_solver`: what inverts J otherwise; it must tell which samples are singular.
    - `multipliers`: how many of the last unknowns are multipliers.

    >>> import torch
    >>> from implayer.linear.lu import LU
    >>> J = torch.tensor([[[1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]])  # twice the constraint y = b
    >>> inverse = MinimalNormMultipliers(LU(), multipliers=2).freeze(MatrixOperator(J))
    >>> inverse.solve(torch.tensor([[0.0, 1.0, 1.0]]))[0].round(decimals=4).tolist()
    [[1.0, -0.5, -0.5]]
    """

    linear_solver: AbstractLinearSolver
    multipliers: int

    def freeze(self, operator: AbstractOperator) -> AbstractInverse:
        """Factorise; singular samples are looked at once more."""
        inverse = self.linear_solver.freeze(operator)
        singular = inverse.singular
        if not self.multipliers or singular is None or not bool(singular.any()):
            return inverse
        matrix = materialised(operator)
        whole = PseudoInverse(cutoff=torch.finfo(matrix.dtype).eps ** _CUTOFF).freeze(MatrixOperator(matrix))
        assert isinstance(whole, SVDInverse)
        return replace(whole, singular=singular & ~self._harmless(whole))

    def _harmless(self, inverse: SVDInverse) -> Tensor:
        """(samples,) whether no null vector moves y."""
        primal = inverse.v[:, : inverse.v.shape[1] - self.multipliers]
        moved = torch.linalg.vector_norm(
            torch.where((inverse.inverse_values == 0).unsqueeze(-2), primal, 0), dim=(-2, -1)
        )
        return (moved < _PRIMAL) & ~inverse.singular
