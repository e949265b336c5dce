"""Quadratic programs without the unknowns that CVXPY adds for sums of squares.

`sum_squares(F x - g)` becomes w'w with new unknowns w and equations F x - w = g. Each w is in one equation alone, so it can be
put into the objective, which leaves a small dense problem in the unknowns of the user:

    w = E x + e,   Q = P_xx + E'D E,   q = q_x + E'(D e + q_w)     with E = -C^-1 A_wx, e = C^-1 b_w
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .._tree import map_tensors
from ..errors import SolveError
from ..solution import Solution
from .cone_program import ConeData, ConeProgram, Pattern, Point
from .qp import QPLayer


@dataclass(frozen=True, eq=False)
class Elimination:
    """Which unknowns (`gone`) are put away by which `rows`, and where the entries of what is left come from.

    `inner`, `quadratic` and `rest` are places among the stored entries: of A_wx in A, of P_xx in P, and of the remaining rows
    in A; `diagonal` are those of D in P, one past the end where D is zero. `factor` is C, which no parameter enters.
    """

    kept: Tensor
    gone: Tensor
    rows: Tensor
    other_rows: Tensor
    equations: int  # among the other rows
    factor: Tensor
    diagonal: Tensor
    inner: tuple[Tensor, Pattern]
    quadratic: tuple[Tensor, Pattern]
    rest: tuple[Tensor, Pattern]

    def solve(self, layer: QPLayer, program: ConeProgram, data: ConeData, multipliers: bool) -> Solution:
        """The solution of the whole program through the small one: all unknowns, and v only if `multipliers` are wanted."""
        batch = max(len(part) for part in data)
        P, q, A, b = data
        C = self.factor
        index, pattern = self.inner
        E = pattern.dense(A.index_select(-1, index) * (-1 / C)[pattern.rows])
        e = b[:, self.rows] / C
        D = torch.cat([P, P.new_zeros(len(P), 1)], -1)[:, self.diagonal]
        q_w = q[:, self.gone]
        Q = self._matrix(self.quadratic, P) + (E.mT * D.unsqueeze(-2)) @ E
        linear = q[:, self.kept] + ((D * e + q_w).unsqueeze(-2) @ E).squeeze(-2)
        G, h, m = self._matrix(self.rest, A), b[:, self.other_rows], self.equations
        parts = (Q, linear, G[:, :m], h[:, :m], G[:, m:], h[:, m:])

        def whole(solution: Solution, x: Tensor, nu: Tensor, lam: Tensor, multipliers: bool = True) -> Solution:
            x, nu, lam = (part.reshape(batch, -1) if part.ndim < 2 else part for part in (x, nu, lam))
            w = (x.unsqueeze(-2) @ E.mT).squeeze(-2) + e
            z = torch.cat([x, w], -1)[:, torch.argsort(torch.cat([self.kept, self.gone]))]
            told = (solution.status, solution.residual_norm, solution.steps, solution.aux)
            v = z[:, :0]
            if multipliers:
                y = torch.cat([-(D * w + q_w) / C, nu, lam], -1)[
                    :, torch.argsort(torch.cat([self.rows, self.other_rows]))
                ]
                v = b - program.A.times(A, z) - y
            return Solution(Point(z, v, z[:, :0]), *map_tensors(lambda t: t if t.ndim else t.reshape(1), told))

        try:
            solution = layer.solve(*(part if len(part) == batch else part.squeeze(0) for part in parts))
        except SolveError as error:
            x, nu, lam = error.solution.value.split([len(self.kept), m, h.shape[-1] - m], -1)
            error.solution = whole(error.solution, x, nu, lam)
            raise
        aux = dict(solution.aux or {})
        nu, lam = aux.pop("equality_multipliers"), aux.pop("inequality_multipliers")
        return whole(solution.replace(aux=aux), solution.value, nu, lam, multipliers)

    @staticmethod
    def _matrix(places: tuple[Tensor, Pattern], values: Tensor) -> Tensor:
        index, pattern = places
        return pattern.dense(values.index_select(-1, index))


def eliminate(program: ConeProgram, constants: Tensor, user: Tensor) -> Elimination | None:
    """The elimination that leaves the unknowns `user` alone, or None where there is none; `constants` of the entries of A."""
    A, P, n, m = program.A, program.P, program.n, program.cones.size
    rows, columns = A.rows.numpy(), A.columns.numpy()
    count, first = np.bincount(columns, minlength=n), np.searchsorted(columns, np.arange(n))
    crossing = P.rows.numpy() != P.columns.numpy()
    crossed = np.zeros(n, dtype=bool)
    crossed[P.rows.numpy()[crossing]] = crossed[P.columns.numpy()[crossing]] = True
    asked = np.zeros(n, dtype=bool)
    asked[user.numpy()] = True
    taken: dict[int, int] = {}
    for j in np.flatnonzero(~asked):
        place = min(int(first[j]), len(rows) - 1)
        fixed = count[j] == 1 and not bool(program.live.A[place]) and float(constants[place]) != 0
        if not fixed or crossed[j] or rows[place] >= program.cones.zero or rows[place] in taken:
            return None
        taken[int(rows[place])] = int(j)
    gone, used = np.array(list(taken.values()), dtype=np.int64), np.array(list(taken), dtype=np.int64)
    kept, others = np.flatnonzero(asked), np.setdiff1d(np.arange(m), used)
    row_is_used = np.isin(rows, used)
    inner = _Places(row_is_used & asked[columns], used, kept)
    rest = _Places(~row_is_used, others, kept)
    quadratic = _Places(asked[P.rows.numpy()] & asked[P.columns.numpy()], kept, kept)
    on_diagonal = {
        int(j): k for k, (i, j) in enumerate(zip(P.rows.tolist(), P.columns.tolist(), strict=True)) if i == j
    }
    diagonal = torch.tensor([on_diagonal.get(int(j), len(P.rows)) for j in gone], dtype=torch.int64)
    equations = int((others < program.cones.zero).sum())
    stays, goes, by, remain = (torch.from_numpy(part) for part in (kept, gone, used, others))
    return Elimination(
        stays, goes, by, remain, equations, constants[torch.as_tensor(first[gone])], diagonal, inner.of(A), quadratic.of(P),
        rest.of(A),
    )  # fmt: skip


@dataclass(frozen=True)
class _Places:
    """Chosen entries of a pattern, renumbered for the submatrix of some rows and columns."""

    chosen: np.ndarray
    rows: np.ndarray
    columns: np.ndarray

    def of(self, pattern: Pattern) -> tuple[Tensor, Pattern]:
        index = np.flatnonzero(self.chosen)
        row, column = (_renumbered(part.numpy()[index], names) for part, names in
                       ((pattern.rows, self.rows), (pattern.columns, self.columns)))  # fmt: skip
        return torch.from_numpy(index), Pattern(row, column, (len(self.rows), len(self.columns)))


def _renumbered(values: np.ndarray, names: np.ndarray) -> Tensor:
    order = np.argsort(names)
    return torch.from_numpy(order[np.searchsorted(names[order], values)].astype(np.int64))
