"""What is inside a mesh, at the points of a grid; and a closed start around a mesh or a cloud."""

import math

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

_OFF = (1.37e-4, 0.61e-4)  # cells that the lines of sight are beside the grid, so that they meet no edge
_OFF_GRID = 0.1  # cells, so that the start has no value of zero at a point of the grid
GAPS = (1.5, 2.25, 3.375, 5.0625, 7.59375)  # cells, tried one after the other
_ENCLOSED = 0.4  # of the largest volume that any of them encloses: so much makes a gap wide enough


def inside_of(corners: Tensor, n: int, *, signed: bool) -> tuple[Tensor, float]:
    """Which points of a grid of n^3 over the unit cube are inside of faces (F, 3, 3), and how far the lines of sight agree.

    From each point one looks along the axes to both sides, and counts the faces: all six ways agree for a closed mesh,
    otherwise the majority decides. `signed`: faces look outwards, and count by their side, which is right for parts that
    overlap; otherwise an odd number of faces is inside.
    """
    at = corners.double() * (n - 1)
    votes = torch.zeros(n, n, n, dtype=torch.int8)
    for axis in range(3):
        order = [axis, (axis + 1) % 3, (axis + 2) % 3]
        below, total = _counts(at[:, :, order], n, signed=signed)
        above = total - below
        both = [below > 0, above < 0] if signed else [below % 2 == 1, above % 2 == 1]
        back = [order.index(k) for k in range(3)]
        votes += (both[0].to(torch.int8) + both[1].to(torch.int8)).permute(back)
    agreeing = ((votes == 0) | (votes == 6)).double().mean()
    return votes > 3, float(agreeing)


def _counts(at: Tensor, n: int, *, signed: bool) -> tuple[Tensor, Tensor]:
    """(n, n, n) faces below every point along the first axis, and (1, n, n) all of them."""
    flat = at[:, :, 1:] - torch.tensor(_OFF, dtype=at.dtype)
    low, high = flat.amin(1).ceil().clamp(min=0), flat.amax(1).floor().clamp(max=n - 1)
    size = (high - low + 1).clamp(min=0).long()
    count = size.prod(-1)
    face = torch.repeat_interleave(count)
    number = torch.arange(len(face)) - (count.cumsum(0) - count)[face]
    u = low[face, 0].long() + number // size[face, 1].clamp(min=1)
    v = low[face, 1].long() + number % size[face, 1].clamp(min=1)
    a, b, c = flat[face].unbind(1)
    p = torch.stack([u, v], -1).to(at.dtype)
    whole = _cross(b - a, c - a)
    weights = torch.stack([_cross(b - p, c - p), _cross(c - p, a - p), _cross(a - p, b - p)], -1)
    hit = ((weights > 0).all(-1) | (weights < 0).all(-1)) & (whole != 0)
    face, u, v, whole, weights = (part[hit] for part in (face, u, v, whole, weights))
    height = (weights / whole.unsqueeze(-1) * at[face, :, 0]).sum(-1)
    side = -whole.sign() if signed else torch.ones_like(whole)  # a face that looks down is where one comes in
    first = height.ceil().clamp(0, n).long()
    found = torch.zeros((n + 1) * n * n, dtype=at.dtype).index_add(0, (first * n + u) * n + v, side)
    below = found.view(n + 1, n, n).cumsum(0)
    return below[:n].round().int(), below[n:].round().int()


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


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
