"""Units in which a cone program is solved, so that the size of its data, rows and columns does not matter."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..modes import transforms
from ..solution import Solution
from .cone_program import ConeData, ConeProgram, Point

_UNEVEN = 300.0  # ratio of the sizes of columns, or of rows, from which they are made even
_ROUNDS = 4


class Units(NamedTuple):
    """Sizes of b and q (samples, 1), of columns D (samples, n) and rows E (samples, m); None where all are alike.

        x = b D x^,   s = b s^ / E,   y = q E y^      E is one number for all rows of a cone that is not a half-line

    Constants: where they come from is no part of the derivative.
    """

    b: Tensor
    q: Tensor
    columns: Tensor | None = None
    rows: Tensor | None = None

    @staticmethod
    def of(data: ConeData, program: ConeProgram) -> "Units":
        """Those in which b and q have size one, and rows and columns too where they are very uneven."""
        P, q, A, b = (part.detach() for part in data)
        even = _even(P, A, program)
        if even is not None:
            q, b = q * even[0], b * even[1]
        return Units(_size(b), _size(q), *(even or ()))

    def scaled(self, data: ConeData, program: ConeProgram) -> ConeData:
        """The program in these units."""
        P, q, A, b = data
        if self.columns is not None and self.rows is not None:
            d, e = self.columns, self.rows
            P, A = (
                P * d[:, program.P.rows] * d[:, program.P.columns],
                A * e[:, program.A.rows] * d[:, program.A.columns],
            )
            q, b = q * d, b * e
        return ConeData(P * (self.b / self.q), q / self.q, A, b / self.b)

    def pulled(self, cotangents: Any, program: ConeProgram) -> tuple[Any, Any, Any, Any]:
        """Cotangents of the data from those of the scaled data, arrays of NumPy."""
        P, q, A, b = cotangents
        unit_b, unit_q = self.b.numpy(), self.q.numpy()
        P, q, b = P * (unit_b / unit_q), q / unit_q, b / unit_b
        if self.columns is not None and self.rows is not None:
            d, e = self.columns.numpy(), self.rows.numpy()
            P = P * d[:, program.P.rows.numpy()] * d[:, program.P.columns.numpy()]
            A = A * e[:, program.A.rows.numpy()] * d[:, program.A.columns.numpy()]
            q, b = q * d, b * e
        return P, q, A, b

    def primal(self, x: Tensor) -> Tensor:
        """x in the units of the problem."""
        return x * self.b if self.columns is None else x * (self.b * self.columns)

    def restored(self, solution: Solution, program: ConeProgram) -> Solution:
        """A solution in the units of the problem."""
        x, v, rho = solution.value
        s = program.cones.project(v, rho)
        y, s = (s - v) * self.q, s * self.b
        if self.rows is not None:
            y, s = y * self.rows, s / self.rows
        return solution.replace(value=Point(self.primal(x), s - y, rho))


def _size(part: Tensor) -> Tensor:
    largest = part.abs().amax(-1, keepdim=True) if part.shape[-1] else part.new_ones(len(part), 1)
    return torch.where((largest > 0) & torch.isfinite(largest), largest, 1.0)


def _even(P: Tensor, A: Tensor, program: ConeProgram) -> tuple[Tensor, Tensor] | None:
    """D and E that bring the largest entries of columns and rows near one; None where they are alike already."""
    n, cone = program.n, program.cones.owners
    if not transforms() and not _is_uneven(A.numpy(), program):
        return None
    samples = max(len(P), len(A))
    P, A = P.abs().expand(samples, -1), A.abs().expand(samples, -1)
    columns, rows = A.new_ones(samples, n), A.new_ones(samples, program.cones.size)
    for _ in range(_ROUNDS):
        inner = A * rows[:, program.A.rows] * columns[:, program.A.columns]
        outer = P * columns[:, program.P.rows] * columns[:, program.P.columns]
        width = _largest(inner, program.A.columns, n)
        height = _largest(inner, cone[program.A.rows], int(cone[-1]) + 1 if len(cone) else 0)
        columns = columns / torch.maximum(width, _largest(outer, program.P.columns, n)).sqrt()
        rows = rows / height[:, cone].sqrt()
    good = (torch.isfinite(columns).all(-1) & torch.isfinite(rows).all(-1)).unsqueeze(-1)
    return torch.where(good, columns, 1.0), torch.where(good, rows, 1.0)


def _largest(values: Tensor, groups: Tensor, count: int) -> Tensor:
    """(samples, count) largest value of each group, one where there is none but zeros."""
    index = groups.expand_as(values)
    found = values.new_zeros(len(values), count).scatter_reduce(-1, index, values, "amax", include_self=True)
    return torch.where(found > 0, found, 1.0)


def _is_uneven(A: Any, program: ConeProgram) -> bool:
    """Whether the largest entries of columns, or of rows, differ very much in some sample."""
    for groups, count in ((program.A.columns, program.n), (program.cones.owners[program.A.rows], program.cones.size)):
        found = np.zeros((len(A), count))
        place: Any = (slice(None), groups.numpy())
        np.maximum.at(found, place, np.abs(A))
        least = np.where(found > 0, found, np.inf).min(-1, initial=np.inf)
        if not (found.max(-1, initial=0.0) <= _UNEVEN * least).all():
            return True
    return False
