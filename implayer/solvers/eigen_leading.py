"""The largest eigenvalues of a matrix that is known by its products and by a bound of its spectrum."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..linear.spectral_span import PreconditionedComplement, Rows
from .eigen import Which
from .eigen_lanczos import lanczos
from .eigen_sparse import AbstractSparseEigenSolver, Pairs, SparsePencil, by_lapack

_SMALL = 80  # rows up to which a matrix is made dense
_HASH = 43758.5453  # of the usual hash by a sine: rows without pattern, the same on every machine


@dataclass(frozen=True)
class Lanczos(AbstractSparseEigenSolver):
    """Block Lanczos for the largest eigenvalues of A (B is the identity): products alone, no factor.

    **Arguments**

    - `bound`: no eigenvalue is below minus this; the largest ones of A + bound I are then those of largest modulus.
    - `rtol`: residual of a pair relative to A + bound I (default 1e-13).
    - `max_steps`: products (default 5000); a pair that has not converged then fails its sample.

    **Reference** Parlett, "The Symmetric Eigenvalue Problem", 1998, chapter 13.
    """

    bound: float
    rtol: float = 1e-13
    max_steps: int = 5000

    def find(self, pencil: SparsePencil, wanted: tuple[int, Which, float | None]) -> Pairs:
        """The k largest pairs of one matrix, and the next one."""
        k, which, _ = wanted
        if which != "largest" or pencil.B is not None:
            raise ValueError("`Lanczos` finds the largest pairs of one matrix; for others pass `LOBPCG()`.")
        if pencil.n <= _SMALL or pencil.n < 8 * (k + 1):
            return by_lapack(pencil, which, None)

        def apply(z: Rows) -> Rows:
            return pencil.outside(pencil.product(z) + self.bound * z)

        start = _start(pencil, k + 1)
        theta, vectors, steps, good = lanczos(apply, lambda z: z, start, k, self.rtol, self.max_steps)
        return Pairs(
            theta - self.bound, vectors, steps, k, lambda span: PreconditionedComplement(span, None, -1.0), good
        )


def _start(pencil: SparsePencil, count: int) -> Any:
    """`count` rows without pattern, the given ones first."""
    rows = np.modf(np.sin(np.arange(1, pencil.n * count + 1) * 12.9898) * _HASH)[0].reshape(count, pencil.n)
    if pencil.start is not None:
        given = min(len(pencil.start), count)
        rows[:given] = pencil.start[:given]
    return pencil.outside(rows)
