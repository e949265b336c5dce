"""The choice of a linear solver by size and structure."""

from dataclasses import dataclass

from ..operators import AbstractOperator, MatrixOperator
from .base import AbstractInverse, AbstractLinearSolver
from .bicgstab import BiCGSTAB
from .diagonal import Diagonal, probe_diagonal
from .gmres import GMRES
from .lsmr import LSMR
from .lu import LU, SMALL, far_from_singular
from .pseudo_inverse import PseudoInverse

_PROBE_FROM = 32  # unknowns from which one product is cheap beside the n that a dense J costs


@dataclass(frozen=True)
class Auto(AbstractLinearSolver):
    """Chooses by size and structure, never by chance: the default linear solver.

    Dense, where max(m, n) <= `dense_limit` and 3 * samples * m * n numbers (J, its factor, one copy) fit into
    `memory_limit` bytes; flops 2/3 n^3 a sample, and as many vector products as rows.

    | shape and size | choice |
    |---|---|
    | square, J diagonal (found by one to three products where n >= 32 or J is not made dense) | `Diagonal` |
    | square, dense | `LU`, which uses triangular and diagonal J as they are |
    | square, larger | `GMRES` while its basis fits into `memory_limit`, else `BiCGSTAB` |
    | fewer or more rows than unknowns, dense | `PseudoInverse` |
    | the same, larger | `LSMR` |

    Why not always matrix-free: a dense inverse can be differentiated again, knows its condition (so that a singular J
    is found in the forward call), works at any condition up to 1/eps, and serves many right-hand sides. Where J is
    known to be well conditioned (a contraction), `BiCGSTAB()` or `GMRES()` with `order=1` win from about 64 unknowns
    on. One adjoint of y + tanh(W y) / 2, |W| = 0.9, one thread: 64 x 64: 5 and 8 ms against 4 (8 where J takes vector
    products); 1024 x 64: 18 and 34 against 111; 64 x 256: 11 and 14 against 123; but 1 x 8: 3 and 4 against 0.5. That J
    is well conditioned cannot be known before it is tried, so this is left to you. Why not Cholesky: a symmetric J saves
    a fifth of the factorisation, a few per cent of the whole.

    **Arguments**

    - `dense_limit`: largest number of rows or unknowns of a sample for a dense J. Lower it where products are cheap
      and J well conditioned; raise it (memory permitting) where GMRES does not converge.
    - `memory_limit`: bytes, by default 2 GiB.
    - `atol`, `rtol`, `max_steps`: of the matrix-free solvers; None means their defaults.

    **Returns** from `freeze`: the inverse of the chosen solver; `choose(operator)` names the solver itself.

    >>> import torch
    >>> from implayer.operators import MatrixOperator
    >>> Auto().choose(MatrixOperator(torch.ones(1, 2, 3)))
    PseudoInverse(cutoff=None)
    """

    dense_limit: int = 512
    memory_limit: int = 2**31
    atol: float | None = None
    rtol: float | None = None
    max_steps: int | None = None

    def freeze(self, operator: AbstractOperator) -> AbstractInverse:
        """Choose and freeze."""
        return self.choose(operator).freeze(operator)

    def freeze_untold(self, operator: AbstractOperator) -> AbstractInverse:
        """The same, where the condition of a small J need not be known, as long as it is far from singular."""
        solver = self.choose(operator)
        if not isinstance(solver, LU) or operator.columns > SMALL:
            return solver.freeze(operator)
        matrix = operator.materialise()
        return far_from_singular(matrix) or solver.freeze(MatrixOperator(matrix))

    def choose(self, operator: AbstractOperator) -> AbstractLinearSolver:
        """The solver for this operator; costs one to three products where a diagonal J is looked for."""
        m, n = operator.rows, operator.columns
        dense = self.is_dense(operator)
        if m != n:
            return PseudoInverse() if dense else LSMR(self.atol, self.rtol, self.max_steps)
        if (n >= _PROBE_FROM or not dense) and probe_diagonal(operator) is not None:
            return Diagonal()
        if dense:
            return LU()
        options = {"atol": self.atol, "rtol": self.rtol, "max_steps": self.max_steps}
        fits = (GMRES().restart + 1) * operator.samples * n * operator.dtype.itemsize <= self.memory_limit
        return GMRES(**options) if fits else BiCGSTAB(**options)

    def is_dense(self, operator: AbstractOperator) -> bool:
        """Whether J, its factor and one copy fit into the limits."""
        m, n = operator.rows, operator.columns
        numbers = 3 * operator.samples * m * n
        return max(m, n) <= self.dense_limit and numbers * operator.dtype.itemsize <= self.memory_limit
