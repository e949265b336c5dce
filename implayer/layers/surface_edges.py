"""The edges of triangles (in 2-D the ends of segments): how many faces use each, which way round, and where a surface ends."""

from typing import NamedTuple

import torch
from torch import Tensor


class Edges(NamedTuple):
    """The edges of faces (F, d).

    - `number`: (d F,) the edge of each side: the first side of all faces, then the second, and so on.
    - `sign`: (d F,) 1 for a side that goes along its edge, -1 for one that goes the other way.
    - `count`: (edges,) how many faces use each.
    - `balance`: (edges,) how many of them along it less how many the other way: zero where a surface is closed.
    """

    number: Tensor
    sign: Tensor
    count: Tensor
    balance: Tensor


def edges(faces: Tensor) -> Edges:
    """The edges of triangles (F, 3), from the lower vertex to the higher one; in 2-D the ends of segments (F, 2)."""
    faces = faces.long()
    if faces.shape[-1] == 2:
        key, sign = faces.t().reshape(-1), faces.new_ones(2, len(faces))
        sign[1] = -1
        sign = sign.view(-1)
    else:
        a, b = faces.t().reshape(-1), faces[:, [1, 2, 0]].t().reshape(-1)
        size = int(faces.max()) + 1 if faces.numel() else 1
        key, sign = torch.minimum(a, b) * size + torch.maximum(a, b), torch.where(a < b, 1, -1)
    _, number, count = key.unique(return_inverse=True, return_counts=True)
    return Edges(number, sign, count, torch.zeros_like(count).index_add(0, number, sign))


def rim(faces: Tensor, found: Edges) -> Tensor:
    """(E, 2) the directed edges that bound triangles, each as often as it counts: none where the surface is closed."""
    left = found.balance.nonzero().view(-1)
    a, b = faces.t().reshape(-1), faces[:, [1, 2, 0]].t().reshape(-1)
    sides = torch.arange(len(found.number), device=faces.device)
    side = torch.full_like(found.count, len(sides)).scatter_reduce(0, found.number, sides, "amin")[left]
    ends = torch.stack([torch.minimum(a, b), torch.maximum(a, b)], -1)[side]
    balance = found.balance[left]
    ends = torch.where((balance > 0).unsqueeze(-1), ends, ends.flip(-1))
    return ends.repeat_interleave(balance.abs(), 0)
