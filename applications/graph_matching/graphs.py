"""Graphs on landmarks: Delaunay's triangulation, and all pairs."""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial import Delaunay, QhullError
from torch import Tensor

from ..shared.errors import InputError

_FLAT = 1e-9  # of the smaller singular value of centred points, relative to the larger one


class GraphError(InputError):
    """Points that make no graph."""


def check_points(points: np.ndarray, name: str) -> None:
    """Refuse what is no set of different points of the plane, by name."""
    if points.ndim != 2 or points.shape[1] != 2:
        raise GraphError(f"{name} have shape {points.shape}; expected (points, 2).")
    wrong = np.flatnonzero(~np.isfinite(points).all(1))
    if len(wrong):
        raise GraphError(f"{name}: point {wrong[0]} is {points[wrong[0]].tolist()}; expected finite coordinates.")
    if len(points) < 3:
        raise GraphError(f"{name} are {len(points)}; a triangulation needs at least 3.")


def delaunay(points: np.ndarray, name: str = "points") -> Tensor:
    """(edges, 2) the edges of the Delaunay triangulation, each once.

    **Raises** `GraphError` for NaN, fewer than three points, points on one line, and points that coincide.
    """
    check_points(points, name)
    size = np.linalg.svd(points - points.mean(0), compute_uv=False)
    if size[1] <= _FLAT * size[0]:
        raise GraphError(f"{name} lie on one line, which has no triangulation; add a point beside it.")
    try:
        found = Delaunay(points)
    except QhullError as error:
        raise GraphError(f"{name} have no triangulation ({str(error).splitlines()[0]}).") from error
    if len(found.coplanar):
        one, _, other = found.coplanar[0]
        raise GraphError(f"{name}: points {one} and {other} coincide; expected different ones.")
    corners = found.simplices
    sides = np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [0, 2]]])
    return torch.from_numpy(np.unique(np.sort(sides, 1), axis=0).astype(np.int64))


def complete(count: int) -> Tensor:
    """(edges, 2) all pairs of `count` nodes."""
    if count < 2:
        raise GraphError(f"a graph of {count} points has no edge; expected at least 2.")
    return torch.combinations(torch.arange(count))


def membership(edges: Tensor, of: Tensor) -> Tensor:
    """(len(of),) 1 where an edge of `of` is among `edges`, else 0."""
    keys = {(int(a), int(b)) for a, b in edges}
    return torch.tensor([float((int(a), int(b)) in keys) for a, b in of], dtype=torch.float64)


def assignment(X: Tensor) -> Tensor:
    """(n1,) the node of the second graph for each of the first: the best one-to-one assignment (Hungarian method)."""
    rows, columns = linear_sum_assignment(-X.detach().double().cpu().numpy())
    chosen = torch.full((X.shape[0],), -1)
    chosen[torch.from_numpy(rows)] = torch.from_numpy(columns)
    return chosen
