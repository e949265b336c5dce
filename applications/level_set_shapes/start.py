"""A closed start around a mesh or a cloud, on a grid."""

import math

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

_OFF_GRID = 0.1  # cells, so that the start has no value of zero at a point of the grid
GAPS = (1.5, 2.25, 3.375, 5.0625, 7.59375)  # cells, tried one after the other
_ENCLOSED = 0.4  # of the largest volume that any of them encloses: so much makes a gap wide enough


def start_around(points: Tensor, n: int, gap: float) -> tuple[Tensor, float]:
    """(n, n, n) distances, in cells and negative inside, from a closed surface just outside of points; and the gap.

    What cannot be reached from the walls of the cube without coming nearer to the points than `gap` is inside; with a gap
    of 0 the least of `GAPS` is taken that encloses something.
    """
    room = math.ceil(GAPS[-1]) + 1  # around the grid, for the way around the points
    cells = (points * (n - 1)).round().long().clamp(0, n - 1).unique(dim=0) + room
    shell = np.ones((n + 2 * room,) * 3, dtype=bool)
    shell[tuple(cells.T.numpy())] = False
    distance = np.asarray(ndimage.distance_transform_edt(shell))
    tried = [gap] if gap else list(GAPS)
    fields = [_closed(distance, each) for each in tried]
    volumes = [int(((field < 0) & (distance > GAPS[0])).sum()) for field in fields]
    chosen = next(k for k, volume in enumerate(volumes) if volume >= _ENCLOSED * max(volumes))
    return torch.from_numpy(fields[chosen][(slice(room, -room),) * 3]).float(), tried[chosen]


def _closed(distance: np.ndarray, gap: float) -> np.ndarray:
    """Signed distance from what cannot be reached, made smaller again by all but one cell of the gap."""
    free = distance > gap
    labels = np.asarray(ndimage.label(free)[0])  # type: ignore[index]
    solid = labels != labels[0, 0, 0]
    signed = np.asarray(ndimage.distance_transform_edt(~solid)) - np.asarray(ndimage.distance_transform_edt(solid))
    return signed - 0.5 * np.sign(signed) + max(gap - 1, 0) + _OFF_GRID  # the surface is halfway between the points
