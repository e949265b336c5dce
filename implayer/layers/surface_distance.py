"""Nearest points: between clouds, and on the triangles or segments of a surface."""

from collections.abc import Iterator

import torch
from torch import Tensor

_PAIRS = 2**16  # pairs of points and faces that are looked at in one go


def matched(p: Tensor, q: Tensor) -> Tensor:
    """(P,) the number of the nearest q for every p: by a tree on a CPU, by all pairs elsewhere."""
    p, q = p.detach(), q.detach()
    if p.device.type == "cpu":
        from scipy.spatial import KDTree

        return torch.from_numpy(KDTree(q.numpy()).query(p.numpy())[1])
    return torch.cat([torch.cdist(part, q).argmin(-1) for part in p.split(max(1, 256 * _PAIRS // len(q)))])


def closest(points: Tensor, corners: Tensor) -> Tensor:
    """(P, d) the nearest point of the surface with faces (F, d, d), differentiable in both."""
    with torch.no_grad():
        chosen = []
        for part in _parts(points, len(corners)):
            gap = part.unsqueeze(1) - _on_faces(part.unsqueeze(1), corners.unsqueeze(0))
            chosen.append(gap.square().sum(-1).argmin(-1))
    return _on_faces(points, corners[torch.cat(chosen)])


def _parts(points: Tensor, faces: int) -> Iterator[Tensor]:
    yield from points.split(max(1, _PAIRS // max(faces, 1)))


def _on_faces(p: Tensor, corners: Tensor) -> Tensor:
    """The nearest point of each face (..., d, d) to p (..., d)."""
    if corners.shape[-1] == 2:
        return _on_segment(p, corners[..., 0, :], corners[..., 1, :])
    a, b, c = corners.unbind(-2)
    u, v, w = b - a, c - a, p - a
    uu, uv, vv, wu, wv = ((s * t).sum(-1) for s, t in ((u, u), (u, v), (v, v), (w, u), (w, v)))
    det = uu * vv - uv * uv
    safe = torch.where(det > 0, det, 1.0)
    s, t = (vv * wu - uv * wv) / safe, (uu * wv - uv * wu) / safe
    inside = (s >= 0) & (t >= 0) & (s + t <= 1) & (det > 0)
    best = a + torch.where(inside, s, 0.0).unsqueeze(-1) * u + torch.where(inside, t, 0.0).unsqueeze(-1) * v
    distance = torch.where(inside, (p - best).square().sum(-1), torch.inf)
    for first, second in ((a, b), (b, c), (c, a)):
        q = _on_segment(p, first, second)
        new = (p - q).square().sum(-1)
        nearer = new < distance
        best, distance = torch.where(nearer.unsqueeze(-1), q, best), torch.where(nearer, new, distance)
    return best


def _on_segment(p: Tensor, a: Tensor, b: Tensor) -> Tensor:
    along = b - a
    size = along.square().sum(-1)
    t = ((p - a) * along).sum(-1) / torch.where(size > 0, size, 1.0)
    return a + t.clamp(0, 1).unsqueeze(-1) * along
