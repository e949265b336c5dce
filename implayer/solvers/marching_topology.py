"""Where a surface cuts a cell: loops on the faces of the cell, then disks and tubes, derived case by case from topology.

A cell has 2^d corners; corner c has the coordinate `c >> (d - 1 - axis) & 1` along an axis. Edges are numbered axis by
axis, and by their low corners. The loops run with the inside on their left as seen from outside the cell; a disk or a
tube is triangulated without further vertices, and with no diagonal inside a face, where a neighbour could use it again.
"""

import itertools
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

Loop = tuple[int, ...]
Triangle = tuple[int, int, int]
IN_FACE = 1e3  # cost of a diagonal inside a face, far above any length
NO_TUNNEL, INSIDE_TUNNEL, OUTSIDE_TUNNEL = 0, 1, 2


class Cases(NamedTuple):
    """The simplices of every case, one after the other.

    - `row`: (keys,) the case of a key: corners inside, then a bit per face (inside joined), then two bits of the tunnel.
    - `count`, `start`: (cases,) number of simplices, and where they begin in `simplices`.
    - `simplices`: (all, d) edges of the cell.
    - `ambiguous`: (2^corners,) whether a choice of corners needs more than their signs.
    """

    row: Tensor
    count: Tensor
    start: Tensor
    simplices: Tensor
    ambiguous: Tensor


@cache
def edges(ndim: int) -> tuple[tuple[int, int], ...]:
    """(low corner, axis) of every edge of a cell."""
    return tuple(
        (c, axis) for axis in range(ndim) for c in range(2**ndim) if not c >> (ndim - 1 - axis) & 1
    )  # fmt: skip


@cache
def rings(ndim: int) -> tuple[tuple[int, int, int, int], ...]:
    """The corners of every face, counterclockwise as seen from outside: axis by axis, the low side first."""
    if ndim == 2:
        return ((0, 2, 3, 1),)
    found = []
    for axis in range(3):
        a, b, c = (4 >> (axis + k) % 3 for k in range(3))
        found += [(0, c, b + c, b), (a, a + b, a + b + c, a + c)]
    return tuple(found)


def ambiguous_faces(config: int, ndim: int) -> list[int]:
    """Faces whose corners alternate."""
    sides = [[config >> c & 1 for c in ring] for ring in rings(ndim)]
    return [face for face, (a, b, c, d) in enumerate(sides) if a == c != b == d]


@cache
def _sides(ring: tuple[int, ...], ndim: int) -> list[int]:
    numbers = {(c, c | 1 << (ndim - 1 - axis)): e for e, (c, axis) in enumerate(edges(ndim))}
    return [numbers[min(a, b), max(a, b)] for a, b in zip(ring, ring[1:] + ring[:1], strict=True)]


def segments(ring: tuple[int, ...], config: int, joined: bool, ndim: int) -> list[tuple[int, int]]:
    """Pairs of edges that the curve on a face connects, with the inside on the left."""
    inside, sides = [config >> c & 1 for c in ring], _sides(ring, ndim)
    leaving = [k for k in range(4) if inside[k] and not inside[(k + 1) % 4]]
    entering = [k for k in range(4) if not inside[k] and inside[(k + 1) % 4]]
    order = range(1, 4) if joined else range(3, 0, -1)
    ends = [next((k + j) % 4 for j in order if (k + j) % 4 in entering) for k in leaving]
    return [(sides[k], sides[end]) for k, end in zip(leaving, ends, strict=True)]


@cache
def loops(config: int, joined: int) -> tuple[Loop, ...]:
    """The closed curves on the surface of a three-dimensional cell."""
    follower: dict[int, int] = {}
    for face, ring in enumerate(rings(3)):
        follower.update(segments(ring, config, bool(joined >> face & 1), 3))
    found = []
    while follower:
        loop = [min(follower)]
        while (after := follower.pop(loop[-1])) != loop[0]:
            loop.append(after)
        found.append(tuple(loop))
    return tuple(found)


@cache
def _cost(a: int, b: int) -> float:
    """Of a diagonal between two edges of a cell: its length between their middles, and `IN_FACE` where it is in a face."""
    ends = [(c, c | 4 >> axis) for c, axis in (edges(3)[a], edges(3)[b])]
    faces = [face for face, ring in enumerate(rings(3)) if set(ends[0] + ends[1]) <= set(ring)]
    shared = sum(1.0 if face % 2 == 0 else IN_FACE for face in faces)
    middles = [[sum(c >> k & 1 for c in pair) / 2 for k in range(3)] for pair in ends]
    return IN_FACE * shared + sum((p - q) ** 2 for p, q in zip(*middles, strict=True)) ** 0.5


@cache
def disk(loop: Loop) -> list[Triangle]:
    """The cheapest triangulation of a polygon, by dynamic programming over its sub-polygons."""
    n = len(loop)
    best: dict[tuple[int, int], tuple[float, list[Triangle]]] = {(i, i + 1): (0.0, []) for i in range(n - 1)}
    for width in range(2, n):
        for i in range(n - width):
            j = i + width
            own = 0.0 if width == n - 1 else _cost(loop[i], loop[j])
            options = [
                (best[i, k][0] + best[k, j][0] + own, best[i, k][1] + best[k, j][1] + [(loop[i], loop[k], loop[j])])
                for k in range(i + 1, j)
            ]
            best[i, j] = min(options, key=lambda option: option[0])
    return best[0, n - 1][1]


@cache
def tube(first: Loop, second: Loop) -> list[Triangle]:
    """The cheapest triangulation of the band between two loops that run opposite ways around it."""
    a, turned, best = (*first, first[0]), second[::-1], (torch.inf, [])
    for j in range(len(turned)):
        b = (*turned[j:], *turned[: j + 1])
        for path in _paths(len(first), len(second)):
            cost = sum(_cost(a[i], b[k]) for i, k in path[1:])
            if cost < best[0]:
                steps = itertools.pairwise(path)
                best = cost, [(a[i], a[m], b[k]) if m > i else (b[n], b[k], a[i]) for (i, k), (m, n) in steps]
    return best[1]


@cache
def _paths(p: int, q: int) -> list[list[tuple[int, int]]]:
    """The diagonals (place on one loop, place on the other) of bands that begin with a step along the first loop.

    All steps along one loop at once make no band: a vertex would meet the whole other loop, and a diagonal occur twice.
    """
    found = []
    for others in itertools.combinations(range(1, p + q), q):
        if others[-1] - others[0] > q - 1:
            onto = list(itertools.accumulate((k in others for k in range(p + q)), initial=0))
            found.append([(k - j, j) for k, j in enumerate(onto)])
    return found


def patches(config: int, joined: int, tunnel: int) -> list[Triangle]:
    """The triangles of one case in three dimensions, seen from outside the surface counterclockwise."""
    found = list(loops(config, joined))
    triangles: list[Triangle] = []
    pair = _tunnel_ends(found, config, tunnel)
    if pair is not None:
        triangles += tube(*pair)
        found = [loop for loop in found if loop not in pair]
    for loop in found:
        triangles += disk(loop)
    return [(a, c, b) for a, b, c in triangles]  # loops have the inside on their left, faces look outwards


def _tunnel_ends(found: list[Loop], config: int, tunnel: int) -> tuple[Loop, Loop] | None:
    """The two loops that a tunnel joins. Of three, the triangle around a corner of the tunnel's own side, and the long one."""
    if tunnel == NO_TUNNEL or len(found) < 2 or len(found[0]) + len(found[-1]) > 9:
        return None
    if len(found) == 2:
        return found[0], found[1]
    *_, long = sorted(found, key=len)
    for loop in found:
        corner = set.intersection(*({edges(3)[e][0], edges(3)[e][0] | 4 >> edges(3)[e][1]} for e in loop))
        if corner and bool(config >> corner.pop() & 1) == (tunnel == INSIDE_TUNNEL):
            return loop, long
    return None


@cache
def cases(ndim: int) -> Cases:
    """The table of all cases of a cell."""
    corners, faces = 2**ndim, len(rings(ndim))
    rows = torch.zeros(1 << corners + faces + 2, dtype=torch.int64)
    table: list[list[tuple[int, ...]]] = []
    for config in range(1 << corners):
        undecided = ambiguous_faces(config, ndim)
        for choice in itertools.product((0, 1), repeat=len(undecided)):
            joined = sum(bit << face for bit, face in zip(choice, undecided, strict=True))
            plain: list[tuple[int, ...]] = []
            for tunnel in (NO_TUNNEL, INSIDE_TUNNEL, OUTSIDE_TUNNEL):
                key = config | joined << corners | tunnel << corners + faces
                if ndim == 2:
                    plain = [(a, b) for a, b in segments(rings(2)[0], config, bool(joined), 2)]
                elif tunnel == NO_TUNNEL or len(loops(config, joined)) > 1:
                    plain = list(patches(config, joined, tunnel))
                rows[key] = len(table)
                table.append(plain)
    count = torch.tensor([len(entry) for entry in table])
    simplices = torch.tensor([simplex for entry in table for simplex in entry])
    ambiguous = torch.tensor([bool(ambiguous_faces(config, ndim)) for config in range(1 << corners)])
    if ndim == 3:  # opposite corners may be joined by a tunnel although no face is ambiguous
        for pair in (0b10000001, 0b01000010, 0b00100100, 0b00011000):
            ambiguous[[pair, 255 - pair]] = True
    return Cases(rows, count, count.cumsum(0) - count, simplices, ambiguous)
