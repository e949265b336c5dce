"""The bounded problem of spectral matching: on which entries the maximiser of a Rayleigh quotient is not zero.

On a face {y_i = 0 outside a set, C y = b} of the polytope of doubly stochastic matrices the only local maximum of
y'My / y'y is the leading eigenvector of the projected M. So it suffices to find the right face.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..solvers.eigen_lanczos import lanczos

Product = Callable[[Any], Any]  # rows (j, n) to rows
_SMALL = 300  # unknowns up to which the projected matrix is formed
_STATIONARY = 1e-9  # slope towards the best vertex, relative to the bound of M
_ZERO = 1e-12  # of entries, relative to the largest


@dataclass(frozen=True)
class Face:
    """Entries that may differ from zero, and the orthonormal rows that keep row and column sums in proportion."""

    free: Any  # (n,) bool
    rows: Any  # (r, n)

    @property
    def dimension(self) -> int:
        """Of the cone over the face: 1 at a vertex, where y cannot move."""
        return int(self.free.sum()) - len(self.rows)

    def project(self, z: Any) -> Any:
        """Rows (j, n) projected on the span of the face."""
        z = z * self.free
        return z - (z @ self.rows.T) @ self.rows


@dataclass(frozen=True)
class Maximum:
    """A local maximum: y (n,), its face, how many faces were visited, and whether it is stationary, strictly or not."""

    y: Any
    face: Face
    steps: int
    converged: bool
    strict: bool


def face_of(free: Any, shape: tuple[int, int]) -> Face:
    """The face of a set of entries."""
    homogeneous = proportions(shape) * free
    _, size, basis = np.linalg.svd(homogeneous, full_matrices=False)
    return Face(free, basis[size > 1e-10 * max(1.0, size[0])])


def proportions(shape: tuple[int, int]) -> Any:
    """H (n1 + n2, n1 n2): H y = 0 where all row sums are equal, and all column sums."""
    n1, n2 = shape
    across = np.kron(np.eye(n1) - 1 / n1, np.ones(n2))
    down = np.kron(np.ones(n1), np.eye(n2) - 1 / n2)
    return np.concatenate([across, down])


def maximise(product: Product, shape: tuple[int, int], bound: float, max_steps: int = 500) -> Maximum:
    """A local maximum of y'My / y'y over y >= 0 with row sums 1 and column sums n1 / n2.

    From the barycentre: towards the maximum of the present face until an entry becomes zero, which gives a smaller face; at
    the maximum of a face towards the best vertex of the polytope, which is Frank and Wolfe's step and, where that vertex is
    no better, the proof that the point is stationary. The quotient grows in every step, so no face comes twice.
    """
    n1, n2 = shape
    y = np.full(n1 * n2, 1 / n2)
    face, steps = face_of(y > 0, shape), 0
    for steps in range(1, max_steps + 1):
        aim = _leading(product, face, bound, y)
        total = aim.sum()
        inside = abs(total) > 1e-9 * np.abs(aim).sum()
        aim = aim * (n1 / total) if inside else aim
        if inside and aim.min() >= -_ZERO * aim.max():
            y = np.maximum(aim, 0)
            slope, vertex = _slope(product, y, shape)
            if slope @ (vertex - y) <= _STATIONARY * bound * (y @ y):
                face = face_of(y > _ZERO * y.max(), shape)
                return Maximum(y, face, steps, True, _strict(slope, face, shape))
            y = _ascend(product, y, vertex - y)
        else:
            y = _until_blocked(y, (aim - y if inside else aim) * (1 if aim @ y > 0 else -1))
        face = face_of(y > _ZERO * y.max(), shape)
    return Maximum(y, face, steps, False, True)


def _leading(product: Product, face: Face, bound: float, start: Any) -> Any:
    """The leading eigenvector of the projected matrix."""

    def apply(z: Any) -> Any:
        z = face.project(z)
        return face.project(product(z) + bound * z)

    n = len(start)
    if n <= _SMALL:
        matrix = apply(np.eye(n))
        return np.linalg.eigh((matrix + matrix.T) / 2)[1][:, -1] * face.free
    second = np.cos(12.9898 * np.arange(n) ** 2)
    rows = face.project(np.stack([start, second]))
    return lanczos(apply, lambda z: z, rows, 1, 1e-12, 5000)[1][0] * face.free


def _slope(product: Product, y: Any, shape: tuple[int, int]) -> tuple[Any, Any]:
    """My - q y, to which the gradient of the quotient is proportional, and the vertex to which it points most."""
    from scipy.optimize import linear_sum_assignment, linprog

    slope = product(y[None])[0]
    slope = slope - (slope @ y) / (y @ y) * y
    n1, n2 = shape
    if n1 == n2:
        rows, columns = linear_sum_assignment(-slope.reshape(shape))
        vertex = np.zeros(shape)
        vertex[rows, columns] = 1
        return slope, vertex.ravel()
    sums = np.concatenate([np.kron(np.eye(n1), np.ones(n2)), np.kron(np.ones(n1), np.eye(n2))])
    found = linprog(-slope, A_eq=sums[:-1], b_eq=np.repeat([1, n1 / n2], [n1, n2])[:-1])
    return slope, found.x


def _ascend(product: Product, y: Any, direction: Any) -> Any:
    """The best point of the segment from y to y + direction for the Rayleigh quotient."""
    image_y, image_d = product(np.stack([y, direction]))
    a, b, c = y @ image_y, 2 * y @ image_d, direction @ image_d
    p, q, r = y @ y, 2 * y @ direction, direction @ direction
    # (a + bt + ct^2) / (p + qt + rt^2) is stationary where a quadratic vanishes.
    roots = np.roots([c * q - b * r, 2 * (c * p - a * r), b * p - a * q])
    steps = [float(t.real) for t in roots if abs(t.imag) < 1e-12 and 0 < t.real < 1] + [1.0]
    quotient = [(a + b * t + c * t * t) / (p + q * t + r * t * t) for t in steps]
    return np.maximum(y + steps[int(np.argmax(quotient))] * direction, 0)


def _until_blocked(y: Any, direction: Any) -> Any:
    """As far from y as no entry becomes negative."""
    falling = direction < 0
    limit = np.where(falling, y / np.where(falling, -direction, 1), np.inf)
    first = int(np.argmin(limit))
    y = np.maximum(y + limit[first] * direction, 0)
    y[first] = 0
    return y


def _strict(slope: Any, face: Face, shape: tuple[int, int]) -> bool:
    """Whether every entry at zero has a multiplier that is not zero, as far as multipliers are unique."""
    if face.free.all() or face.dimension <= 1:
        return True
    homogeneous = proportions(shape)
    if len(face.rows) < shape[0] + shape[1] - 2:  # not unique
        return True
    mu = np.linalg.lstsq((homogeneous * face.free).T, slope * face.free, rcond=1e-10)[0]
    multiplier = (slope - mu @ homogeneous)[~face.free]
    return bool((np.abs(multiplier) > 1e-8 * np.abs(slope).max()).all()) or not slope.any()
