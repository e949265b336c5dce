"""The values of a network at all points of a signal, in tiles, so that memory stays flat."""

from collections.abc import Callable

import torch
from torch import Tensor

from .models.networks import TILE, AbstractNetwork


@torch.no_grad()
def values_of(model: AbstractNetwork, count: int, points: Callable[[Tensor], Tensor]) -> tuple[Tensor, int]:
    """The values (count, outputs) at points that are numbered from 0, and the most steps that a solve took.

    **Arguments**: `points` gives the coordinates (tile, inputs) of the points of these numbers (tile,).
    """
    device, training, most, parts = next(model.parameters()).device, model.training, 0, []
    model.eval()
    for numbers in torch.arange(count).split(TILE):
        solution = model.state(points(numbers).to(device))
        parts.append(model.readout(solution.value).cpu())
        most = max(most, 0 if solution.steps is None else int(solution.steps.max()))
    model.train(training)
    return torch.cat(parts), most


def derivatives_of(
    model: AbstractNetwork, count: int, points: Callable[[Tensor], Tensor], *, laplacian: bool
) -> Tensor:
    """First derivatives (count, outputs, inputs) of the values by the coordinates, or the Laplacian (count, outputs, 1).

    They are exact: those of a fixed point by the implicit function theorem, whatever the gradient of the training was.
    """
    device, parts = next(model.parameters()).device, []
    for numbers in torch.arange(count).split(TILE):
        x = points(numbers).to(device).requires_grad_()
        values = model.readout(model.state(x, order=2 if laplacian else 1).value)
        rows = [_row(value, x, laplacian=laplacian) for value in values.unbind(-1)]
        parts.append(torch.stack(rows, dim=1).detach().cpu())
    return torch.cat(parts)


def _row(value: Tensor, x: Tensor, *, laplacian: bool) -> Tensor:
    """Points are independent, so that the gradient of the sum holds those of all of them."""
    (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=laplacian, retain_graph=True)
    if not laplacian:
        return gradient
    second = [
        torch.autograd.grad(part.sum(), x, retain_graph=True)[0][:, i] for i, part in enumerate(gradient.unbind(-1))
    ]
    return torch.stack(second).sum(0).unsqueeze(-1)
