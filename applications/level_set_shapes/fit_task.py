"""What the training loop does with one shape: a field whose surface comes nearer and nearer to the target."""

import math

import torch
from torch import Tensor, nn

from implayer import LevelSetLayer, Surface
from implayer.layers.surface_distance import matched

from ..shared.training import AbstractTask
from .fit_config import FitConfig
from .start import GAPS, start_around
from .target import Target

_LEVELS = 3  # grids, each half as fine as the one before: changes of the coarse ones are smooth
_START_POINTS = 400_000  # on a mesh, for the start
_LAST = 0.01  # the learning rate at the end, as a share of that at the start
_FLOOR = 1e-2  # of a gradient, in mean slopes
_BAND = 2.0  # cells around the surface where the field is to be a distance


class GridField(nn.Module):
    """A field (n, n, n) in cells, negative inside: a start, and the sum of a fine and of coarser grids."""

    start: Tensor

    def __init__(self, start: Tensor):
        super().__init__()
        self.register_buffer("start", start)
        n = len(start)
        sizes = [max(-(-n // 2**level), 2) for level in range(_LEVELS)]
        self.grids = nn.ParameterList(
            nn.Parameter(torch.zeros(1, 1, size, size, size, dtype=torch.float32)) for size in sizes
        )

    def forward(self) -> Tensor:
        """The values at the points of the grid."""
        n, (fine, *coarse) = len(self.start), self.grids
        for grid in coarse:
            fine = fine + nn.functional.interpolate(grid, (n, n, n), mode="trilinear", align_corners=True)
        return self.start + fine[0, 0]


class FitTask(AbstractTask):
    """Chamfer distance and normals of points on both surfaces, and a field that is a distance near its surface."""

    model: GridField
    remedy = "the surface was torn: a lower `--learning-rate`, or more `--eikonal-weight`"

    def __init__(self, config: FitConfig, target: Target, device: torch.device):
        self.config, self.device, self.target = config, device, target
        self.seed, self.total_steps = config.seed, config.steps
        n = config.grid
        generator = torch.Generator().manual_seed(config.seed)
        dense = target.points if target.surface is None else target.sample(_START_POINTS, generator)[0]
        gap = config.gap or (GAPS[0] if target.closed else 0)
        start, self.gap = start_around(dense, n, gap)
        self.model = GridField(start).to(device)
        self.layer = LevelSetLayer(gauge=config.gauge, spacing=1 / (n - 1), floor=_FLOOR, on_failure="raise")
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate)
        self.done = 0

    def surface(self) -> Surface:
        """The present surface, in the unit cube."""
        return self._of(self.model())

    def _of(self, phi: Tensor) -> Surface:
        found = self.layer(phi / (self.config.grid - 1))  # slopes of 1 in the unit cube
        assert isinstance(found, Surface)
        return found

    def step(self) -> dict[str, float]:
        """Points on both surfaces, drawn anew."""
        for group in self.optimizer.param_groups:
            turn = (1 + math.cos(math.pi * self.done / self.total_steps)) / 2
            group["lr"] = self.config.learning_rate * (_LAST + (1 - _LAST) * turn)
        generator = torch.Generator().manual_seed(2**20 * self.seed + self.done)
        phi = self.model()
        surface = self._of(phi)
        distance, turn = self._apart(surface, generator)
        loss = distance + self.config.normal_weight * turn + self.config.eikonal_weight * _eikonal(phi)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.done += 1
        return {"loss": float(loss.detach()), "cells_apart": float(distance.detach())}

    def _apart(self, surface: Surface, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Mean distance of points in cells, over both directions; and 1 - |cosine| of normals, where the target has them.

        Halved with the distance from the tangent plane at the nearest point, which does not see how points are spread.
        """
        p, n = (part.float() for part in surface.sample(self.config.samples, generator=generator))
        q, m = (part if part is None else part.to(p) for part in self.target.sample(self.config.samples, generator))
        assert q is not None
        forth, back = matched(p, q), matched(q, p)
        ahead, behind = p - q[forth], q - p[back]
        distance = _length(ahead).mean() + _length(behind).mean()
        planes = (behind * n[back].detach()).sum(-1).abs().mean()
        turn = p.new_zeros(())
        if m is not None:
            planes = planes + (ahead * m[forth]).sum(-1).abs().mean()
            turn = 2 - (n * m[forth]).sum(-1).abs().mean() - (m * n[back]).sum(-1).abs().mean()
        return (distance + planes) / 4 * (self.config.grid - 1), turn / 2

    def further_state(self) -> dict[str, Tensor]:
        """The number of steps."""
        return {"done": torch.tensor(self.done)}

    def restore_further(self, tensors: dict[str, Tensor]) -> None:
        """The same from a checkpoint."""
        self.done = int(tensors["done"])


def _eikonal(phi: Tensor) -> Tensor:
    """Mean of (|grad phi| - 1)^2 over the cells near the surface."""
    n = len(phi) - 1
    near = (phi.detach()[:-1, :-1, :-1].abs() < _BAND).to(phi.dtype)
    dx, dy, dz = phi.diff(dim=0)[:, :n, :n], phi.diff(dim=1)[:n, :, :n], phi.diff(dim=2)[:n, :n]
    size = (dx**2 + dy**2 + dz**2 + 1e-6).sqrt()
    return (near * (size - 1).square()).sum() / near.sum().clamp(min=1)


def _length(v: Tensor) -> Tensor:
    return (v.square().sum(-1) + 1e-12).sqrt()
