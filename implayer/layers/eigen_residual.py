"""The equations of eigenpairs: F for dense, sparse and matrix-free pencils."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..linear.spectral import cluster_labels
from ..modes import transforms
from ..types import Tree

Operator = Callable[[Tensor], Tensor]
"""Columns (n, k) to columns: the product with a symmetric matrix."""


def product(matrix: Any, v: Tensor) -> Tensor:
    """A v for rows v (*batch, k, n): A dense, a dict of values on a pattern, a dict of a diagonal, or a callable."""
    if isinstance(matrix, Tensor):
        return v @ matrix
    if not isinstance(matrix, dict):
        return matrix(v.mT).mT
    if "diagonal" in matrix:
        return v * matrix["diagonal"].unsqueeze(-2)
    values, rows, columns = matrix["values"], matrix["rows"], matrix["columns"]
    shape = (*v.shape[:-1], len(rows))
    terms = values.unsqueeze(-2) * v.gather(-1, columns.expand(shape))
    return torch.zeros_like(v).scatter_add(-1, rows.expand(shape), terms)


@dataclass(frozen=True)
class EigenResidual:
    """F for y = (v_j, l_j), (*batch, k, n + 1): [s (A v_j - l_j B v_j); (1 - v_j' B v_j) / 2], s near |B|^(1/2) / |A|.

    Inside a cluster S the equation along the other vectors, 0 = 0 there, is replaced by B-orthonormality and by a gauge that
    keeps the basis from turning, v_i*' B* v_j = v_j*' B* v_i with the stars frozen: what is left of it is an invariant
    subspace, which has derivatives of every order although its single vectors have none.
    """

    tolerance: float
    A: Operator | None = None  # products that take the place of the matrices in x
    B: Operator | None = None

    def __call__(self, x: Tree, y: Tensor) -> Tensor:
        """The residual, of the shape of y."""
        A, B = x["A"] if self.A is None else self.A, x["B"] if self.B is None else self.B
        v, value = y[..., :-1], y[..., -1:]
        image = v if B is None else product(B, v)
        r = product(A, v) - value * image
        if y.shape[-2] > 1 and self.tolerance >= 0:
            r = self._with_clusters(r, v, image, value.detach().squeeze(-1), x["unit"])
        return torch.cat([r * x["scale"][..., None, None], (1 - (v * image).sum(-1, keepdim=True)) / 2], -1)

    def _with_clusters(self, r: Tensor, v: Tensor, image: Tensor, values: Tensor, unit: Tensor) -> Tensor:
        values = values / unit.unsqueeze(-1)
        if not transforms() and not bool((values.sort(-1).values.diff(dim=-1) <= self.tolerance).any()):
            return r
        labels = cluster_labels(values, self.tolerance)
        turned = v @ image.detach().mT
        gauge = (v @ image.mT + turned - turned.mT) / 2
        missing = unit[..., None, None] * gauge - r @ v.mT
        return r + torch.where(others(labels, labels), missing, 0) @ image


def others(mine: Tensor, all_labels: Tensor) -> Tensor:
    """(*batch, k, p) True where pair i of all is another one of the cluster of pair j; the k pairs are the first of all."""
    same = mine.unsqueeze(-1) == all_labels.unsqueeze(-2)
    return same & ~torch.eye(*same.shape[-2:], dtype=torch.bool, device=same.device)
