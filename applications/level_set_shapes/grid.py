"""Voxels, fields and surfaces on one grid: where the points lie, and how one becomes the other."""

import math

import torch
from torch import Tensor

from implayer import LevelSetLayer, Surface

SIDE = 32  # voxels along each axis
BORDER = 0.5  # value of a field beyond the grid: outside, half a voxel from a surface
_SMOOTH = 0.7  # voxels, deviation of the filter that takes the stairs off the distances
_REACH = 4  # voxels, beyond which distances are not measured
_LEAST = 0.25  # voxels, that the filter leaves on either side of a surface


def level_set_layer(side: int = SIDE, floor: float = 1e-6) -> LevelSetLayer:
    """The layer for padded fields: voxel i has its centre at (i + 1/2) / side, so that the grid fills the unit cube."""
    return LevelSetLayer(spacing=1 / side, origin=-0.5 / side, floor=floor, on_failure="ignore")


def padded(phi: Tensor) -> Tensor:
    """(batch, n + 2, n + 2, n + 2): fields with a border outside, which closes every surface."""
    return torch.nn.functional.pad(phi, (1,) * 6, value=BORDER)


def signed_distances(occupied: Tensor) -> Tensor:
    """(batch, n, n, n) fields of occupied voxels, in voxels, negative inside; exact within two voxels of the surface.

    They are smoothed, but have the signs of the voxels.
    """
    if len(occupied) > 1:  # one by one stays in the cache
        return torch.cat([signed_distances(each.unsqueeze(0)) for each in occupied])
    solid = torch.nn.functional.pad(occupied, (_REACH + 1,) * 6)
    distance = _distance(solid) - _distance(~solid)
    distance = distance - 0.5 * distance.sign()  # the surface is halfway between the centres
    smooth = _filtered(distance)
    sound = torch.where(solid, smooth.clamp(max=-_LEAST), smooth.clamp(min=_LEAST))
    inner = slice(_REACH + 1, -_REACH - 1)
    return sound[:, inner, inner, inner].contiguous()


def _distance(solid: Tensor) -> Tensor:
    """Distance of every voxel to the nearest solid one, at most `_REACH`: minima of squares, axis by axis."""
    squares = torch.full(solid.shape, float(_REACH**2), dtype=torch.float32).masked_fill(solid, 0.0)
    for axis in (1, 2, 3):
        best = squares.clone()
        for k in range(1, _REACH):
            n = squares.shape[axis] - k
            for first, second in ((0, k), (k, 0)):
                here = best.narrow(axis, first, n)
                torch.minimum(here, squares.narrow(axis, second, n) + k**2, out=here)
        squares = best
    return squares.sqrt()


def _filtered(field: Tensor) -> Tensor:
    """A field behind a Gaussian filter of two voxels to each side; at the border its last values go on."""
    near, far = (math.exp(-(k**2) / (2 * _SMOOTH**2)) for k in (1, 2))
    for axis in (1, 2, 3):
        n = field.shape[axis]
        first, last = field.narrow(axis, 0, 1), field.narrow(axis, n - 1, 1)
        wide = torch.cat([first, first, field, last, last], axis)
        sums = wide.narrow(axis, 1, n) + wide.narrow(axis, 3, n)
        field = (field + near * sums + far * (wide.narrow(axis, 0, n) + wide.narrow(axis, 4, n))) / (
            1 + 2 * (near + far)
        )
    return field


def surfaces_of(phi: Tensor) -> list[Surface]:
    """The surfaces of fields (batch, n, n, n), closed at the border; empty where there is none."""
    with torch.no_grad():
        return level_set_layer(phi.shape[-1])(padded(phi))


def blocks(occupied: Tensor) -> Surface:
    """The faces between occupied voxels (n, n, n) and others, as triangles in the unit cube."""
    solid = torch.nn.functional.pad(occupied.to(torch.int8), (1,) * 6)
    parts = []
    for axis in range(3):
        step = solid.diff(dim=axis)
        for sign in (1, -1):
            low = (step == -sign).nonzero().float()
            low[:, axis] += 1
            u, v = torch.eye(3, dtype=torch.float32).roll(-axis, 0)[1:]
            u, v = (u, v) if sign > 0 else (v, u)
            parts.append(torch.stack([low, low + u, low + u + v, low + v], 1) - 1)
    quads = torch.cat(parts) / occupied.shape[0]
    first = 4 * torch.arange(len(quads)).view(-1, 1)
    faces = torch.cat([first + torch.tensor([[0, 1, 2]]), first + torch.tensor([[0, 2, 3]])])
    return Surface(quads.reshape(-1, 3), faces)
