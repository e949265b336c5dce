"""Cones, their projections as differentiable torch operations, and which points have no derivative there.

A cone K is a product of {0}, half-lines, second-order, positive semidefinite and exponential cones, in this order. Every v has
one decomposition v = s - y with s in K, y in the dual cone and s'y = 0 (Moreau); s is the projection of v. Of semidefinite
matrices the upper triangle counts, column by column, off-diagonal entries times sqrt(2).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .cone_blocks import AbstractBlock, SecondOrder, Semidefinite
from .exponential_cone import Exponential


@dataclass(frozen=True)
class Cones:
    """The sizes of a product of cones.

    - `zero`, `nonneg`: numbers of rows.
    - `soc`: the dimension of each second-order cone {(t, u): |u| <= t}.
    - `psd`: the side of each cone of positive semidefinite matrices.
    - `exp`: the number of exponential cones, the closure of {(x, y, z): y > 0, y exp(x / y) <= z}.
    """

    zero: int = 0
    nonneg: int = 0
    soc: tuple[int, ...] = ()
    psd: tuple[int, ...] = ()
    exp: int = 0

    def prepared(self) -> "Cones":
        """The same with all that it keeps made now: torch.func wraps the tensors that are made inside of it."""
        _ = self._order, self.owners, self.places
        for block in self.blocks:
            _ = isinstance(block, Semidefinite) and block.spread
        return self

    @cached_property
    def size(self) -> int:
        """Number of rows."""
        return self.zero + self.nonneg + sum(self.soc) + sum(_triangle(n) for n in self.psd) + 3 * self.exp

    @property
    def polyhedral(self) -> bool:
        """Whether there are only equalities and inequalities."""
        return not (self.soc or self.psd or self.exp)

    @cached_property
    def blocks(self) -> tuple[AbstractBlock, ...]:
        """The cones that are not half-lines, those of one kind and size together."""
        start, found = self.zero + self.nonneg, {}
        for n in self.soc:
            found.setdefault(("soc", n), []).append(range(start, start + n))
            start += n
        for n in self.psd:
            found.setdefault(("psd", n), []).append(range(start, start + _triangle(n)))
            start += _triangle(n)
        blocks: list[AbstractBlock] = []
        for (kind, n), rows in found.items():
            index = torch.from_numpy(np.array([list(row) for row in rows], dtype=np.int64))
            blocks.append(SecondOrder(index) if kind == "soc" else Semidefinite(index, n))
        if self.exp:
            blocks.append(Exponential(torch.from_numpy(start + np.arange(3 * self.exp).reshape(-1, 3))))
        return tuple(blocks)

    @cached_property
    def owners(self) -> Tensor:
        """(size,) a number for each row: the same one for all rows of a cone that is not a half-line, ascending."""
        sizes = [1] * (self.zero + self.nonneg) + list(self.soc) + [_triangle(n) for n in self.psd] + [3] * self.exp
        return torch.from_numpy(np.repeat(np.arange(len(sizes)), np.array(sizes, dtype=np.int64)))

    @cached_property
    def _order(self) -> Tensor:
        """Where each row is found in the concatenation of all blocks."""
        rows = [np.arange(self.zero + self.nonneg), *[block.index.numpy().reshape(-1) for block in self.blocks]]
        return torch.from_numpy(np.argsort(np.concatenate(rows)))

    def project(self, v: Float[Tensor, "*batch m"], rho: Float[Tensor, "*batch k"], order: int = 2) -> Tensor:
        """s, the projection of v on K, differentiable `order` times. `rho`: of each exponential cone, of height zero."""
        return self.project_with_height(v, rho, order)[0]

    def project_with_height(self, v: Tensor, rho: Tensor, order: int = 2) -> tuple[Tensor, Tensor]:
        """s, and (*batch, exp) heights: zero where rho belongs to the projection of v on an exponential cone."""
        half = v[..., self.zero : self.zero + self.nonneg]
        parts, height = [torch.zeros_like(v[..., : self.zero]), torch.where(half > 0, half, 0.0)], rho
        for block in self.blocks:
            if isinstance(block, Exponential):
                part, height = block.project_with_height(v[..., block.index], rho)
            else:
                part = block.project(v[..., block.index], rho, order)
            parts.append(part.reshape(*part.shape[:-2], block.index.numel()))
        joined = torch.cat(parts, -1)
        return (joined if len(parts) == 2 else joined[..., self._order]), height

    @cached_property
    def places(self) -> tuple[Any, Any]:
        """Rows and columns of the entries of `tangent`: of (s, heights) by (v, rho)."""
        half = np.arange(self.zero, self.zero + self.nonneg)
        rows, columns = [half], [half]
        for block in self.blocks:
            place = block.index.numpy()
            if isinstance(block, Exponential):
                place = np.concatenate([place, self.size + np.arange(len(place))[:, None]], -1)
            count, d = place.shape
            rows.append(np.broadcast_to(place[:, :, None], (count, d, d)).reshape(-1))
            columns.append(np.broadcast_to(place[:, None, :], (count, d, d)).reshape(-1))
        return np.concatenate(rows), np.concatenate(columns)

    def tangent(self, v: Any, rho: Any) -> tuple[Any, Any, Any, Any]:
        """Of v (samples, m) and rho (samples, k), in NumPy.

        **Returns** s (samples, m), heights (samples, k), the entries of their derivative at `places`, and the distance of v
        (samples,), relative to its size, to where there is none.
        """
        samples, part = len(v), slice(self.zero, self.zero + self.nonneg)
        half, s, height = v[:, part], np.zeros_like(v), rho
        s[:, part] = np.maximum(half, 0.0)
        entries, margins = [(half > 0).astype(v.dtype)], [np.abs(half)]
        for block in self.blocks:
            index = block.index.numpy()
            tangent = block.tangent(v[:, index], rho)
            s[:, index] = tangent.s
            height = height if tangent.height is None else tangent.height
            entries.append(tangent.jacobian.reshape(samples, -1))
            margins.append(tangent.margin.reshape(samples, -1))
        margin = np.concatenate(margins, -1)
        nearest = margin.min(-1) / (1 + np.abs(v).max(-1)) if margin.shape[1] else np.full(samples, np.inf)
        return s, height, np.concatenate(entries, -1), nearest

    def parameter(self, v: Any, s: Any = None) -> Any:
        """The rho (samples, k) that belongs to v for every exponential cone; fast with a good guess s of the projection."""
        for block in self.blocks:
            if isinstance(block, Exponential):
                index = block.index.numpy()
                return block.parameter(v[:, index], None if s is None else s[:, index])
        return np.zeros((len(v), 0))


def _triangle(n: int) -> int:
    return n * (n + 1) // 2
