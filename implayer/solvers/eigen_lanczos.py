"""Block Lanczos with full orthogonalisation and thick restarts, for a self-adjoint map in the inner product of B."""

from collections.abc import Callable
from typing import Any

import numpy as np

Rows = Any  # numpy (rows, n), contiguous
_ROOM = 48  # vectors that are kept, beside the wanted ones
_GUARD = 0.01  # error of the first pair that is not wanted, in units of its distance to the last wanted one


def lanczos(
    apply: Callable[[Rows], Rows],
    weighted: Callable[[Rows], Rows],
    start: Rows,
    k: int,
    rtol: float,
    max_steps: int,
) -> tuple[Any, Rows, int, bool]:
    """The k eigenvalues of largest modulus to full precision, and the next one so well that its distance is known.

    Returns theta (k + 1,), vectors (k + 1, n) with V B V' = I, the number of products, and whether all converged.
    """
    width, n = start.shape
    room = min(_ROOM + 2 * k, n - width)
    basis = np.empty((room + width, n))
    projected = np.zeros((room + width, room + width))
    basis[:width] = _following(start, basis[:0], weighted, 0.0)[0]
    size, steps, recent = width, 0, 0
    while True:
        block = slice(size - width, size)
        image = apply(basis[block])
        steps += width
        column = np.zeros((size, width))
        for first in (recent, 0):  # the recurrence involves the last two blocks; rounding all of them
            part = (weighted(image) @ basis[first:size].T).T
            image -= part.T @ basis[first:size]
            column[first:] += part
        recent = max(0, size - width)
        projected[:size, block] = column
        projected[block, :size] = column.T
        theta, turn = np.linalg.eigh(projected[:size, :size])
        follow, corner = _following(image, basis[:size], weighted, float(abs(theta).max()))
        order = np.argsort(-abs(theta), kind="stable")
        theta, turn = theta[order], turn[:, order]
        left = np.linalg.norm(corner @ turn[block, : k + 1], axis=0)
        good = bool((left[:k] <= rtol * abs(theta[:k])).all()) and size > k + 1
        guarded = good and bool(left[k] <= max(_GUARD * abs(theta[k - 1] - theta[k]), rtol * abs(theta[k])))
        if guarded or steps >= max_steps or size + width > n - width:
            return theta[: k + 1], turn[:, : k + 1].T @ basis[:size], steps, guarded or good
        if size + width > room:
            kept = k + width + 2
            basis[:kept] = turn[:, :kept].T @ basis[:size]
            projected[:] = 0
            projected[np.arange(kept), np.arange(kept)] = theta[:kept]
            size, recent = kept, 0
        basis[size : size + width] = follow
        size += width


def _following(rows: Rows, basis: Rows, weighted: Callable[[Rows], Rows], size: float) -> tuple[Rows, Any]:
    """B-orthonormal rows Q and R with rows = R' Q.

    A direction that is nothing but rounding, as it is when a block of the basis spans eigenvectors, is replaced by a fresh
    one: the iteration goes on with it, and finds further copies of a repeated eigenvalue.
    """
    values, turn = _gram(rows, weighted)
    root = np.sqrt(np.maximum(values, 0))
    alive = root > _DEAD * max(size, root.max())
    total = (turn * np.where(alive, root, 0)).T
    rows = (turn / np.where(alive, root, 1)).T @ rows
    if root.min() > 1e-6 * max(size, root.max()):
        return _normalised(rows, total, weighted)
    if not bool(alive.all()):
        fresh = np.modf(np.sin(np.arange(1, rows.size + 1) * 78.233 + len(basis)) * 43758.5453)[0]
        rows = np.where(alive[:, None], rows, fresh.reshape(rows.shape))
    for _ in range(2):
        rows = rows - (weighted(rows) @ basis.T) @ basis
        rows, total = _normalised(rows, total, weighted)
    return rows, total


_DEAD = 1e-14


def _normalised(rows: Rows, total: Any, weighted: Callable[[Rows], Rows]) -> tuple[Rows, Any]:
    values, turn = _gram(rows, weighted)
    root = np.sqrt(np.maximum(values, 1e-30 * values.max()))
    return (turn / root).T @ rows, (turn * root).T @ total


def _gram(rows: Rows, weighted: Callable[[Rows], Rows]) -> tuple[Any, Any]:
    gram = rows @ weighted(rows).T
    return np.linalg.eigh((gram + gram.T) / 2)
