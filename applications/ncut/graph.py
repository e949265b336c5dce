"""The graph of a picture: which nodes are joined depends on the size alone, how strongly is learned."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

Step = tuple[int, int]  # rows down, columns to the right (or left, where negative)


@dataclass(frozen=True)
class Graph:
    """Edges between the nodes of a grid, one of each pair (i, j) and (j, i), and the pattern of its Laplacian.

    After the nodes of the grid come `anchors` further ones, each joined to all of the grid.
    """

    height: int
    width: int
    steps: tuple[Step, ...]
    anchors: int
    edges: Tensor  # (2, m)
    kind: Tensor  # (m,) which of the steps each edge is; all edges to anchors are of one kind more
    pattern: Tensor  # (2, nnz) of the Laplacian, row by row
    origin: Tensor  # (nnz,) where each entry comes from: edge e < m, or degree e - m

    @property
    def n(self) -> int:
        """Number of nodes."""
        return self.cells + self.anchors

    @property
    def cells(self) -> int:
        """Number of nodes of the grid."""
        return self.height * self.width

    def degree(self, w: Tensor) -> Tensor:
        """(*batch, n) sums of the weights (*batch, m) at every node."""
        zero = w.new_zeros(*w.shape[:-1], self.n)
        return zero.index_add(-1, self.edges[0], w).index_add(-1, self.edges[1], w)

    def laplacian(self, w: Tensor, degree: Tensor) -> Tensor:
        """D - W of weights (m,) as a sparse (n, n); differentiable, on the stored pattern alone."""
        values = torch.cat([-w, degree])[self.origin]
        return torch.sparse_coo_tensor(
            self.pattern, values, (self.n, self.n), is_coalesced=True, check_invariants=False
        )

    def cuts(self, w: Tensor, degree: Tensor, sides: Tensor) -> Tensor:
        """(..., t) NCut values of the splits `sides` (..., t, n) for weights (..., m)."""
        i, j = self.edges
        cut = ((sides[..., i] != sides[..., j]) * w.unsqueeze(-2)).sum(-1)
        inside = (sides * degree.unsqueeze(-2)).sum(-1)
        outside = degree.sum(-1, keepdim=True) - inside
        return torch.where((inside > 0) & (outside > 0), cut / inside + cut / outside, torch.inf)


def dilated(reaches: Sequence[int]) -> tuple[Step, ...]:
    """Half of the eight directions at each reach: the other half are the same edges."""
    return tuple((r * down, r * right) for r in reaches for down, right in ((0, 1), (1, -1), (1, 0), (1, 1)))


def disc(radius: float) -> tuple[Step, ...]:
    """Half of the steps that are no longer than `radius`."""
    reach = math.floor(radius)
    steps = [(down, right) for down in range(reach + 1) for right in range(-reach, reach + 1)]
    return tuple(step for step in steps if step > (0, 0) and math.hypot(*step) <= radius)


@lru_cache(maxsize=16)
def build_graph(height: int, width: int, steps: tuple[Step, ...], anchors: int = 0) -> Graph:
    """The graph of a grid whose nodes are joined to those at the given steps, and to anchors."""
    index = torch.arange(height * width).reshape(height, width)
    ends, kinds = [], []
    for kind, (down, right) in enumerate(steps):
        if down >= height or abs(right) >= width:
            continue
        here = index[: height - down, max(-right, 0) : width - max(right, 0)].flatten()
        ends.append(torch.stack([here, here + down * width + right]))
        kinds.append(torch.full((len(here),), kind))
    for anchor in range(anchors):
        ends.append(torch.stack([index.flatten(), torch.full((height * width,), height * width + anchor)]))
        kinds.append(torch.full((height * width,), len(steps)))
    edges = torch.cat([torch.empty(2, 0, dtype=torch.int64), *ends], 1)
    kind = torch.cat([torch.empty(0, dtype=torch.int64), *kinds])
    return Graph(height, width, steps, anchors, edges, kind, *_pattern(edges, height * width + anchors))


def _pattern(edges: Tensor, n: int) -> tuple[Tensor, Tensor]:
    nodes, m = torch.arange(n), edges.shape[1]
    rows = torch.cat([edges[0], edges[1], nodes])
    columns = torch.cat([edges[1], edges[0], nodes])
    origin = torch.cat([torch.arange(m), torch.arange(m), m + nodes])
    order = torch.argsort(rows * n + columns)
    return torch.stack([rows, columns])[:, order], origin[order]
