"""What the three heads are trained by."""

import torch
from torch import Tensor

from implayer import Surface
from implayer.layers.surface_distance import matched

from .grid import level_set_layer, padded

_APART = 4.0  # unit cubes between the surfaces of a batch, so that nearest points are of the same shape
_FLOOR = 1e-2  # of a gradient, in mean slopes: fields of a young network are rough


def voxel_loss(logits: Tensor, occupied: Tensor) -> Tensor:
    """Cross-entropy of the occupancy."""
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, occupied.to(logits.dtype))


def field_loss(phi: Tensor, distances: Tensor, truncation: float) -> Tensor:
    """Mean absolute difference of truncated distances, in voxels; the field is truncated smoothly, by t tanh(phi / t)."""
    return (truncation * torch.tanh(phi / truncation) - distances.clamp(-truncation, truncation)).abs().mean()


def eikonal_loss(phi: Tensor, distances: Tensor) -> Tensor:
    """Mean of (|grad phi| - 1)^2 over the cells at the surface, by differences within each cell."""
    near, n = (distances[:, :-1, :-1, :-1].abs() < 1).to(phi.dtype), phi.shape[-1] - 1
    slopes = [phi.diff(dim=axis).narrow(a, 0, n).narrow(b, 0, n) for axis, a, b in ((1, 2, 3), (2, 1, 3), (3, 1, 2))]
    squares = slopes[0] ** 2 + slopes[1] ** 2 + slopes[2] ** 2
    return (near * ((squares + 1e-6).sqrt() - 1).square()).sum() / near.sum().clamp(min=1)


def surface_loss(
    phi: Tensor, points: Tensor, normals: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, int]:
    """Chamfer distance in voxels, and 1 - cosine of normals, between surfaces of fields and points on the true ones.

    Both are means over both directions and over all points of the batch. Last comes how many fields have no surface: they
    count in neither.
    """
    surfaces = level_set_layer(phi.shape[-1], _FLOOR)(padded(phi))
    found = [k for k, surface in enumerate(surfaces) if len(surface)]
    if not found:
        return phi.sum() * 0, phi.sum() * 0, len(surfaces)
    whole = _joined([surfaces[k] for k in found])
    offset = _APART * torch.arange(len(found), dtype=points.dtype, device=points.device).view(-1, 1, 1)
    p, n = whole.sample(points.shape[1] * len(found), generator=generator)
    q, m = (points[found] + offset).reshape(-1, 3), normals[found].reshape(-1, 3)
    forth, back = matched(p, q), matched(q, p)
    distance = _length(p - q[forth]).mean() + _length(q - p[back]).mean()
    turn = (1 - (n * m[forth]).sum(-1)).mean() + (1 - (m * n[back]).sum(-1)).mean()
    return distance / 2 * phi.shape[-1], turn / 2, len(surfaces) - len(found)


def _joined(surfaces: list[Surface]) -> Surface:
    """One surface of several, side by side along all axes."""
    counts = [0, *(len(surface.vertices) for surface in surfaces[:-1])]
    first = torch.tensor(counts).cumsum(0).tolist()
    vertices = [surface.vertices + _APART * k for k, surface in enumerate(surfaces)]
    return Surface(torch.cat(vertices), torch.cat([s.faces + k for s, k in zip(surfaces, first, strict=True)]))


def _length(v: Tensor) -> Tensor:
    return (v.square().sum(-1) + 1e-12).sqrt()
