"""Direct factorisation of sparse Jacobians, and of dense ones that may lack rank."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..solution import Status
from ..types import Vectors
from .base import AbstractInverse, LinearReport
from .dense import AbstractMatrixInverse, matvec

_GROWTH = 1e13  # |J^-1 w| |J| / |w| of a random w from which J counts as singular
_DAMPING = 1e-7  # of the least-squares system that stands in for a singular J, in units of |J|
_REFINEMENTS = 4


@lru_cache(maxsize=64)
def _uneven_vector(n: int) -> Tensor:
    """A vector that is orthogonal to nothing in particular."""
    return torch.from_numpy(0.5 + np.modf(np.arange(1, n + 1) * 0.6180339887)[0])


class SparseFactor:
    """One sparse matrix J and its LU factors; of minimal norm, by a damped system with refinement, where J is singular.

    J = P L U,   or   [-d I  J'; J  d I]   whose solution tends to that of least squares as it is refined
    """

    def __init__(self, matrix: Any):
        from scipy.sparse.linalg import splu

        self.matrix = matrix.tocsc()
        self.size = float(abs(self.matrix).sum(axis=0).max()) if self.matrix.nnz else 1.0
        try:
            self.lu = splu(self.matrix)
            self.singular = self._grows()
        except RuntimeError:  # exactly singular
            self.singular = True
        if self.singular:
            self.lu = splu(self._damped())

    def _grows(self) -> bool:
        w = _uneven_vector(self.matrix.shape[0]).numpy()
        x = self.lu.solve(w)
        return not np.isfinite(x).all() or float(np.abs(x).max()) * self.size > _GROWTH * float(np.abs(w).max())

    def _damped(self) -> Any:
        import scipy.sparse as sparse

        d = _DAMPING * self.size * sparse.eye_array(self.matrix.shape[0])
        return sparse.block_array([[-d, self.matrix.T], [self.matrix, d]], format="csc")

    def solve(self, b: Any, transposed: bool = False) -> Any:
        """J^-1 b or J^-T b, or that of least squares and minimal norm."""
        if not self.singular:
            return self.lu.solve(b, trans="T" if transposed else "N")
        matrix, n = (self.matrix.T if transposed else self.matrix), len(b)
        x = np.zeros_like(b)
        for _ in range(_REFINEMENTS):  # (J'J + d^2)^-1 J' applied to what is left
            r = b - matrix @ x
            x = x + (self.lu.solve(np.concatenate([r, 0 * r]))[n:] if transposed else
                     self.lu.solve(np.concatenate([0 * r, r]))[:n])  # fmt: skip
        return x


@dataclass(frozen=True, eq=False)
class SparseInverse(AbstractInverse):
    """A factor for each sample; `singular` marks samples whose factor is a stand-in and whose derivative is not wanted."""

    factors: Sequence[SparseFactor]
    singular: Tensor | None = None
    trusted: ClassVar[bool] = True  # made of the very data of the equation, so no probe has to find that out
    patience: ClassVar[float] = (
        1e-10  # relative distance to the solution at which it may be taken, and derivatives stay exact
    )

    @property
    def deficient(self) -> Tensor:
        """(samples,) where J lacks rank, so that the answer is the one of minimal norm."""
        return torch.tensor([factor.singular for factor in self.factors])

    def product(self, w: Tensor, transposed: bool = False) -> Tensor:
        """J w or J' w."""
        pairs = zip(self.factors, w.numpy(), strict=True)
        return torch.from_numpy(np.stack([(f.matrix.T if transposed else f.matrix) @ one for f, one in pairs]))

    def solve(self, b: Vectors) -> tuple[Tensor, LinearReport]:
        """J^-1 b."""
        return self._apply(b, False)

    def rsolve(self, c: Vectors) -> tuple[Tensor, LinearReport]:
        """J^-T c."""
        return self._apply(c, True)

    def _apply(self, b: Tensor, transposed: bool) -> tuple[Tensor, LinearReport]:
        given = b.double().cpu().numpy()
        x, norms = np.empty_like(given), np.empty(len(given))
        for i, factor in enumerate(self.factors):
            x[i] = factor.solve(given[i], transposed)
            norms[i] = np.linalg.norm(given[i] - (factor.matrix.T if transposed else factor.matrix) @ x[i])
        value = torch.from_numpy(x).to(b)
        status = torch.where(torch.isfinite(value).all(-1), int(Status.CONVERGED), int(Status.NONFINITE))
        return value, LinearReport(status, torch.from_numpy(norms).to(b), torch.ones_like(status))


@dataclass(frozen=True)
class DenseInverse(AbstractMatrixInverse):
    """LU factors of a batch of dense J, and where one of them lacks rank the pseudo-inverse of all.

    A product with one vector tells the condition well enough to see that.
    """

    matrix: Tensor
    deficient: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))  # (samples,)
    condition: Tensor | None = None
    lu: Tensor | None = None
    pivots: Tensor | None = None
    inverse: Tensor | None = None
    singular: Tensor | None = None  # (samples,) whose derivative of minimal norm is not wanted
    trusted: ClassVar[bool] = True  # made of the very data of the equation
    patience: ClassVar[float] = 1e-10  # relative distance to the solution at which it may be taken

    @staticmethod
    def of(matrix: Tensor, cutoff: float = 1e-11) -> "DenseInverse":
        """Factorise (samples, n, n)."""
        n = matrix.shape[-1]
        lu, pivots, info = torch.linalg.lu_factor_ex(matrix)
        w = _uneven_vector(n).to(matrix)
        x = torch.linalg.lu_solve(lu, pivots, w.expand(len(matrix), n).unsqueeze(-1)).squeeze(-1)
        condition = x.abs().amax(-1) * matrix.abs().sum(-1).amax(-1) if n else matrix.new_ones(len(matrix))
        deficient = (info > 0) | ~(condition <= _GROWTH)
        if bool(deficient.any()):
            return DenseInverse(matrix, deficient, None, inverse=torch.linalg.pinv(matrix, rtol=cutoff))
        return DenseInverse(matrix, deficient, condition, lu, pivots)

    def product(self, w: Tensor, transposed: bool = False) -> Tensor:
        """J w or J' w."""
        return self._product_transposed(w) if transposed else self._product(w)

    def _apply(self, b: Tensor) -> Tensor:
        if self.lu is None or self.pivots is None:
            assert self.inverse is not None
            return matvec(self.inverse, b)
        return torch.linalg.lu_solve(self.lu, self.pivots, b.unsqueeze(-1)).squeeze(-1)

    def _apply_transposed(self, c: Tensor) -> Tensor:
        if self.lu is None or self.pivots is None:
            assert self.inverse is not None
            return matvec(self.inverse.mT, c)
        return torch.linalg.lu_solve(self.lu, self.pivots, c.unsqueeze(-1), adjoint=True).squeeze(-1)
