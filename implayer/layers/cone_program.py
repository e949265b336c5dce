"""A cone program on tensors: its optimality conditions, their Jacobian, and which samples have no derivative."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..modes import transform_counts
from .cones import Cones
from .frozen_program import FrozenProgram

_SPARSE_FROM = 120  # unknowns from which a Jacobian that is mostly zero is factorised as a sparse matrix
_SPARSE_SHARE = 0.15  # of entries that are not zero, at most


class ConeData(NamedTuple):
    """The stored entries of P and A, and q and b; each (*batch, size), with batch axes that broadcast."""

    P: Tensor
    q: Tensor
    A: Tensor
    b: Tensor

    def samples(self) -> tuple[tuple[int, ...], "ConeData"]:
        """The batch axes, and all data with one axis of samples."""
        batch = torch.broadcast_shapes(*[part.shape[:-1] for part in self])
        count = math.prod(batch)
        return tuple(batch), ConeData(*(part.expand(*batch, -1).reshape(count, part.shape[-1]) for part in self))


class Point(NamedTuple):
    """x, v = s - y (slack less multiplier), and rho of each exponential cone."""

    x: Tensor
    v: Tensor
    rho: Tensor


@dataclass(frozen=True, eq=False)
class Pattern:
    """Places of the stored entries of a sparse matrix, sorted by columns."""

    rows: Tensor
    columns: Tensor
    shape: tuple[int, int]

    def times(self, values: Tensor, x: Tensor) -> Tensor:
        """(*batch, m): the matrix times x."""
        products = values * x[..., self.columns]
        return products.new_zeros(*products.shape[:-1], self.shape[0]).index_add(-1, self.rows, products)

    def transposed_times(self, values: Tensor, y: Tensor) -> Tensor:
        """(*batch, n): the transposed matrix times y."""
        products = values * y[..., self.rows]
        return products.new_zeros(*products.shape[:-1], self.shape[1]).index_add(-1, self.columns, products)

    def sparse(self, values: Any) -> Any:
        """A SciPy matrix of the values (entries,) of one sample, an array of NumPy."""
        import scipy.sparse as sparse

        return sparse.csc_array((values, *self._compressed), shape=self.shape)

    def upper(self, values: Any) -> Any:
        """The upper triangle alone."""
        import scipy.sparse as sparse

        index, place = self._upper
        return sparse.csc_array((values[index], *place), shape=self.shape)

    @cached_property
    def _compressed(self) -> tuple[Any, Any]:
        return _compressed(self.rows.numpy(), self.columns.numpy(), self.shape[1])

    @cached_property
    def _upper(self) -> tuple[Any, tuple[Any, Any]]:
        rows, columns = self.rows.numpy(), self.columns.numpy()
        index = np.flatnonzero(rows <= columns)
        return index, _compressed(rows[index], columns[index], self.shape[1])

    @cached_property
    def _full(self) -> bool:
        """Whether every entry is stored, column by column."""
        m, n = self.shape
        if len(self.rows) != m * n:
            return False
        return torch.equal(self.columns * m + self.rows, torch.arange(m * n))

    def dense(self, values: Tensor) -> Tensor:
        """(*batch, m, n)."""
        if self._full:
            return values.reshape(*values.shape[:-1], self.shape[1], self.shape[0]).mT
        place = self.rows * self.shape[1] + self.columns
        flat = values.new_zeros(*values.shape[:-1], self.shape[0] * self.shape[1]).index_add(-1, place, values)
        return flat.reshape(*values.shape[:-1], *self.shape)


@dataclass(frozen=True, eq=False)
class ConeProgram:
    """min 1/2 x'Px + q'x over A x + s = b, s in K, as one square equation F(data, z) = 0.

        P x + q + A'y = 0,   A x + s = b,   height(v, rho) = 0      with s = proj_K(v), y = s - v

    A root has s in K, y in the dual cone and s'y = 0, whatever v is, so it is a solution.

    **Attributes**: the `P` and `A` patterns, the `cones`, `live`: which entries of the data (P, q, A, b) parameters enter,
    `watched` and `watched_duals`: the entries of x and of the multipliers that the user asked for, `order`: how often
    projections can be differentiated.

    Reference: Robinson's normal map; Agrawal et al., "Differentiating through a cone program", 2019, has the same unknowns.
    """

    P: Pattern
    A: Pattern
    cones: Cones
    live: ConeData
    watched: Tensor
    watched_duals: Tensor
    order: int = 2

    @property
    def n(self) -> int:
        """Number of unknowns x."""
        return self.A.shape[1]

    @cached_property
    def size(self) -> int:
        """Number of all unknowns (x, v, rho)."""
        return self.n + self.cones.size + self.cones.exp

    @cached_property
    def entries(self) -> int:
        """About how many entries of the Jacobian are not zero."""
        blocks = sum(block.index.numel() * block.index.shape[1] for block in self.cones.blocks)
        return 2 * self.A.rows.numel() + self.P.rows.numel() + 2 * blocks + 2 * self.cones.nonneg

    @property
    def is_sparse(self) -> bool:
        """Whether the Jacobian is large, and zero in most places."""
        return self.size >= _SPARSE_FROM and self.entries <= _SPARSE_SHARE * self.size**2

    def __call__(self, data: ConeData, z: Point) -> Point:
        """The residual F(data, z), a nest like z."""
        P, q, A, b = data
        x, v, rho = z
        s, height = self.cones.project_with_height(v, rho, max(self.order, 1 + sum(transform_counts())))
        stationary = self.P.times(P, x) + q + self.A.transposed_times(A, s - v)
        return Point(stationary, self.A.times(A, x) + s - b, height)

    def frozen(self, data: ConeData) -> FrozenProgram:
        """The program of given numbers; `data` has one axis of samples."""
        P, q, A, b = (part.numpy() for part in data)
        return FrozenProgram(self, (P, q, A, b))

    def split(self, z: Tensor) -> Point:
        """A vector (samples, size) as its parts."""
        return Point(*z.split([self.n, self.cones.size, self.cones.exp], -1))


def _compressed(rows: Any, columns: Any, n: int) -> tuple[Any, Any]:
    """Indices and starts of the columns of entries that are sorted by columns."""
    return rows.astype(np.int32), np.searchsorted(columns, np.arange(n + 1)).astype(np.int32)
