"""Diagonal Jacobians: F acts on each unknown by itself."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..operators import AbstractOperator
from .base import AbstractLinearSolver
from .dense import AbstractMatrixInverse, require_square


@dataclass(frozen=True)
class DiagonalInverse(AbstractMatrixInverse):
    """The diagonal of J, with ones in singular samples."""

    diagonal: Tensor
    singular: Tensor
    condition: Tensor | None = None

    def _apply(self, b: Tensor) -> Tensor:
        return b / self.diagonal

    def _apply_transposed(self, c: Tensor) -> Tensor:
        return c / self.diagonal

    def _product(self, x: Tensor) -> Tensor:
        return self.diagonal * x

    def _product_transposed(self, u: Tensor) -> Tensor:
        return self.diagonal * u


@dataclass(frozen=True)
class Diagonal(AbstractLinearSolver):
    """Division by the diagonal of J, of any size: three vector products and n numbers per sample.

        J = diag(d),   J^-1 b = b / d

    `Auto` finds diagonal Jacobians by itself. After scaling, the condition of a diagonal matrix is one, so that a
    sample is singular only where an entry is zero or not finite.

    **Returns** from `freeze`: an inverse with `condition` and `singular` (samples,).

    **Raises** ValueError where probes find that J is not diagonal, ShapeError where it is not square.

    >>> import torch
    >>> from implayer.operators import MatrixOperator
    >>> inverse = Diagonal().freeze(MatrixOperator(torch.tensor([[[2.0, 0.0], [0.0, 4.0]]])))
    >>> inverse.solve(torch.tensor([[2.0, 4.0]]))[0]
    tensor([[1., 1.]])
    """

    def freeze(self, operator: AbstractOperator) -> DiagonalInverse:
        """Read the diagonal off by vector products."""
        require_square(operator, "Diagonal", "`PseudoInverse()` or `LSMR()`")
        diagonal = probe_diagonal(operator)
        if diagonal is None:
            raise ValueError(
                "`Diagonal` needs a residual F that acts on each unknown by itself, but dF/dy has entries off its "
                "diagonal. Use `Auto()`, which chooses by structure, or `LU()`."
            )
        if diagonal.dtype in (torch.float16, torch.bfloat16):
            diagonal = diagonal.float()
        singular = ~(torch.isfinite(diagonal) & (diagonal != 0)).all(-1)
        diagonal = torch.where(singular.unsqueeze(-1), 1, diagonal)
        condition = torch.where(singular, torch.inf, 1.0).to(diagonal.dtype)
        return DiagonalInverse(diagonal, singular, condition)


def probe_diagonal(operator: AbstractOperator) -> Tensor | None:
    """The diagonal of J if J is diagonal (up to chance), None otherwise. A dense J is seen after one product.

    The first probe is nonzero in every other unknown and must not reach the ones between; samples that are not finite
    say nothing.
    """
    n = operator.columns
    index = torch.arange(n, dtype=torch.float64, device=operator.device)
    weights = (1.25 + torch.cos(1.7 * index + 0.3 * index.sqrt())).to(operator.dtype).expand(operator.samples, n)
    even = (torch.arange(n, device=operator.device) % 2 == 0).to(operator.dtype)
    first = operator.rmv(weights * even)
    if _any(first * (1 - even)):
        return None
    second = operator.rmv(weights * (1 - even))
    if _any(second * even):
        return None
    ones = operator.rmv(torch.ones_like(weights))
    eps = torch.finfo(operator.dtype).eps
    if _any(((first + second - weights * ones).abs() > 8 * eps * weights * ones.abs()).to(operator.dtype)):
        return None
    return ones


def _any(values: Tensor) -> bool:
    return bool((torch.nan_to_num(values, 0.0, 1.0, 1.0) != 0).any())
