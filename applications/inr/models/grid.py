"""A multi-resolution grid of trained features, dense or hashed, with a small network behind it, in plain torch."""

import itertools

import torch
from torch import Tensor, nn

from .networks import PlainNetwork

_PRIMES = (1, 2_654_435_761, 805_459_861)  # of the spatial hash of Teschner et al., as in the reference below
_COARSEST = 16  # cells on a side


class FeatureGrid(nn.Module):
    """x -> the features of `levels` grids of resolutions from 16 to `finest`, multilinearly interpolated.

    A level with more nodes than the table shares them by a hash. Continuous, but with kinks at the cells' borders.
    """

    def __init__(self, inputs: int, levels: int, features: int, table: int, finest: int, dtype: torch.dtype):
        super().__init__()
        self.table = table
        growth = (max(finest, _COARSEST) / _COARSEST) ** (1 / max(levels - 1, 1))
        self.cells = tuple(max(round(_COARSEST * growth**level), 1) for level in range(levels))
        sizes = [min((cells + 1) ** inputs, table) for cells in self.cells]
        self.nodes = nn.ParameterList(
            nn.Parameter(torch.empty(size, features, dtype=dtype).uniform_(-1e-4, 1e-4)) for size in sizes
        )

    def forward(self, x: Tensor) -> Tensor:
        """(points, inputs) in [-1, 1] -> (points, levels * features)."""
        place = (x + 1) / 2
        return torch.cat([self._level(place, n, nodes) for n, nodes in zip(self.cells, self.nodes, strict=True)], -1)

    def _level(self, place: Tensor, cells: int, nodes: Tensor) -> Tensor:
        scaled = place * cells
        corner = scaled.detach().floor().clamp(0, cells - 1)
        part, corner = scaled - corner, corner.long()
        total = None
        for offsets in itertools.product((0, 1), repeat=place.shape[-1]):
            weight = torch.stack([part[:, i] if o else 1 - part[:, i] for i, o in enumerate(offsets)]).prod(0)
            found = weight.unsqueeze(-1) * nodes[self._index(corner + corner.new_tensor(offsets), cells)]
            total = found if total is None else total + found
        assert total is not None
        return total

    def _index(self, corner: Tensor, cells: int) -> Tensor:
        inputs = corner.shape[-1]
        if (cells + 1) ** inputs <= self.table:
            strides = corner.new_tensor([(cells + 1) ** i for i in range(inputs)])
            return (corner * strides).sum(-1)
        mixed = corner[:, 0] * _PRIMES[0]
        for i in range(1, inputs):
            mixed = mixed ^ (corner[:, i] * _PRIMES[i])
        return mixed % self.table


class GridNetwork(PlainNetwork):
    """A feature grid, then `depth` linear maps with ReLU.

    Reference: Mueller et al., "Instant Neural Graphics Primitives with a Multiresolution Hash Encoding", SIGGRAPH 2022.
    """

    def __init__(self, inputs: int, width: int, depth: int, outputs: int, grid: FeatureGrid, dtype: torch.dtype):
        super().__init__(width, nn.Linear(width, outputs, dtype=dtype))
        self.grid = grid
        sizes = [len(grid.cells) * grid.nodes[0].shape[-1]] + [width] * (depth - 1)
        self.layers = nn.ModuleList(nn.Linear(size, width, dtype=dtype) for size in sizes)

    def features(self, x: Tensor) -> Tensor:
        """(points, inputs) -> (points, width)."""
        h = self.grid(x)
        for layer in self.layers:
            h = layer(h).relu()
        return h
