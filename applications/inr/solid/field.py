"""A network as a field on space: its values, and its exact gradient."""

from dataclasses import replace

import torch
from torch import Tensor

from ..models.build import build_model
from ..models.networks import TILE, AbstractNetwork
from .config import NATURAL_SCALE, OccupancyConfig, SolidConfig


def space_network(config: SolidConfig) -> AbstractNetwork:
    """Three coordinates to one value."""
    unit = isinstance(config, OccupancyConfig) and config.unit_box
    return build_model(config, 3, 1, natural_scale(unit=unit))


def natural_scale(*, unit: bool) -> float:
    """Of the input frequencies: 256 on [0, 1] (authors), which is 128 on [-1, 1]."""
    return 2 * NATURAL_SCALE if unit else NATURAL_SCALE


def sharpened(model: AbstractNetwork, config: SolidConfig) -> AbstractNetwork:
    """The same weights with solves to the tolerance of tests."""
    device = next(model.parameters()).device
    found = space_network(replace(config, tolerance=min(config.tolerance, config.test_tolerance))).to(device).eval()
    found.load_state_dict(model.state_dict())
    return found


class SpaceField:
    """Values (points,) at coordinates (points, 3) of the shape, in tiles; `steps` is the most that a solve took."""

    def __init__(self, model: AbstractNetwork, config: SolidConfig):
        self.model, self.steps = model, 0
        self.unit = isinstance(config, OccupancyConfig) and config.unit_box
        self.device = next(model.parameters()).device

    def __call__(self, points: Tensor) -> Tensor:
        """Without derivative."""
        parts = []
        with torch.no_grad():
            for tile in points.to(self.device).split(TILE):
                solution = self.model.state(self.placed(tile))
                parts.append(self.model.readout(solution.value).squeeze(-1))
                self.steps = max(self.steps, 0 if solution.steps is None else int(solution.steps.max()))
        return torch.cat(parts) if parts else points.new_zeros(0)

    def gradient(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """(points,) values and (points, 3) gradients, by the implicit function theorem."""
        values, gradients = [], []
        for tile in points.to(self.device).split(TILE):
            x = tile.detach().clone().requires_grad_()
            value = self.model.readout(self.model.state(self.placed(x), order=1).value).squeeze(-1)
            (gradient,) = torch.autograd.grad(value.sum(), x)
            values.append(value.detach())
            gradients.append(gradient)
        return torch.cat(values), torch.cat(gradients)

    def placed(self, points: Tensor) -> Tensor:
        """What the network is given for points of the shape."""
        return (points + 1) / 2 if self.unit else points
