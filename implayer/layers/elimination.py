"""Quadratic programs without the unknowns that CVXPY adds for sums of squares.

`sum_squares(F x - g)` becomes w'w with new unknowns w and equations F x - w = g. Each w is in one equation alone, so it can be
put into the objective, which leaves a small dense problem in the unknowns of the user:

    w = E x + e,   Q = P_xx + E'D E,   q = q_x + E'(D e + q_w)     with E = -C^-1 A_wx, e = C^-1 b_w
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._tree import map_tensors
from ..errors import SolveError
from ..linear.dense import matvec
from ..solution import Solution
from .cone_program import ConeData, ConeProgram, Pattern, Point
from .qp import QPLayer


class Way(NamedTuple):
    """w = E x + e of the unknowns that are gone, whose D and q_w are in the objective; each (batch, ...) or (1, ...)."""

    E: Tensor
    e: Tensor
    D: Tensor
    q_w: Tensor


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

    def reduced(self, data: ConeData) -> tuple[dict[str, Any], "Way"]:
        """The arguments of `QPLayer`, where what is shared has no batch axis, and the way back from its solution."""
        batch = max(len(part) for part in data)
        P, q, A, b = data
        C = self.factor
        index, pattern = self.inner
        E = pattern.dense(A.index_select(-1, index) * (-1 / C)[pattern.rows])
        e = b[:, self.rows] / C
        D = torch.cat([P, P.new_zeros(len(P), 1)], -1)[:, self.diagonal]
        q_w = q[:, self.gone]
        Q = (E.mT * D.unsqueeze(-2)) @ E
        if len(self.quadratic[0]):
            Q = Q + self._matrix(self.quadratic, P)
        linear = q[:, self.kept] + ((D * e + q_w).unsqueeze(-2) @ E).squeeze(-2)
        G, h, m = self._matrix(self.rest, A), b[:, self.other_rows], self.equations
        given = {"Q": Q, "q": linear, "A": G[:, :m], "b": h[:, :m], "G": G[:, m:], "h": h[:, m:]}  # (batch or 1, ...)
        shared = {name: part if len(part) == batch else part.squeeze(0) for name, part in given.items()}
        return {**shared, "l": None}, Way(E, e, D, q_w)

    def whole(self, way: "Way", x: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        """All unknowns z and all multipliers y (batch, size) from those of the small program."""
        w = matvec(way.E, x) + way.e
        y = -(way.D * w + way.q_w) / self.factor
        return self.in_place(x, w), self.rows_in_place(y.expand(len(x), -1), mu)

    def in_place(self, kept: Tensor, gone: Tensor) -> Tensor:
        """A vector of all unknowns from its two parts."""
        return torch.cat([kept, gone], -1)[:, torch.argsort(torch.cat([self.kept, self.gone]))]

    def rows_in_place(self, used: Tensor, others: Tensor) -> Tensor:
        """A vector of all rows from its two parts."""
        return torch.cat([used, others], -1)[:, torch.argsort(torch.cat([self.rows, self.other_rows]))]

    def solve(self, layer: QPLayer, program: ConeProgram, data: ConeData, multipliers: bool) -> Solution:
        """The solution of the whole program through the small one: all unknowns, and v only if `multipliers` are wanted."""
        batch = max(len(part) for part in data)
        given, way = self.reduced(data)

        def whole(solution: Solution, x: Tensor, mu: Tensor, multipliers: bool = True) -> Solution:
            z, y = self.whole(way, x.reshape(batch, -1), mu.reshape(batch, -1))
            told = (solution.status, solution.residual_norm, solution.steps, solution.aux)
            v = data.b - program.A.times(data.A, z) - y if multipliers else z[:, :0]
            return Solution(Point(z, v, z[:, :0]), *map_tensors(lambda t: t if t.ndim else t.reshape(1), told))

        try:
            solution = layer.solve(**given)
        except SolveError as error:
            n = len(self.kept)
            error.solution = whole(error.solution, error.solution.value[..., :n], error.solution.value[..., n:])
            raise
        aux = dict(solution.aux or {})
        mu = torch.cat([aux.pop("equality_multipliers"), aux.pop("inequality_multipliers")], -1)
        return whole(solution.replace(aux=aux), solution.value, mu, multipliers)

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
