"""What may be wrong with a mesh, counted."""

import warnings
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..errors import DegenerateWarning
from .surface_distance import winding

HUGE = 1e12  # coordinates beyond it leave no digits for what is of the size of an object
_PROBED = 200  # faces at most whose two sides are looked at


@dataclass(frozen=True)
class Defects:
    """Counts of defects; all zero for a closed surface that looks outwards.

    - `not_finite`, `huge`: coordinates that are NaN or infinite, or beyond 1e12.
    - `outside_range`: faces with a vertex number that does not exist.
    - `degenerate`: faces without area. `repeated`: vertices at the place of another. `unused`: vertices of no face.
    - `open_edges`: edges (in 2-D ends) with a face on one side alone. `crowded_edges`: with more than two faces.
    - `flipped`: edges whose two faces look to different sides.
    - `inward`: 1 for a closed surface whose faces look inwards.
    - `crossing`: faces, of at most 200 probed, whose two sides are not the inside and the outside: the surface cuts itself,
      holds a second sheet, or is turned over there.
    """

    not_finite: int = 0
    huge: int = 0
    outside_range: int = 0
    degenerate: int = 0
    repeated: int = 0
    unused: int = 0
    open_edges: int = 0
    crowded_edges: int = 0
    flipped: int = 0
    inward: int = 0
    crossing: int = 0

    def __bool__(self) -> bool:
        """Whether there is any."""
        return any(getattr(self, part.name) for part in fields(self))

    def __str__(self) -> str:
        """What there is: `12 open_edges, 1 flipped`, or `none`."""
        found = [(part.name, getattr(self, part.name)) for part in fields(self)]
        return ", ".join(f"{count} {name}" for name, count in found if count) or "none"


def borders(faces: Tensor) -> tuple[Tensor, Tensor]:
    """(edges,) how many faces use each edge, and how many of them forwards less how many backwards; in 2-D of each point."""
    if faces.shape[-1] == 2:
        key, sign = faces.t().reshape(-1), faces.new_ones(2, len(faces))
        sign[1] = -1
    else:
        a, b = faces.t().reshape(-1), faces[:, [1, 2, 0]].t().reshape(-1)
        size = int(faces.max()) + 1 if faces.numel() else 1
        key, sign = torch.minimum(a, b) * size + torch.maximum(a, b), torch.where(a < b, 1, -1)
    _, group, count = key.unique(return_inverse=True, return_counts=True)
    return count, torch.zeros_like(count).index_add(0, group, sign.reshape(-1))


def require_closed(vertices: Tensor, faces: Tensor, what: str) -> None:
    """Warn where what is asked for has no meaning."""
    if not len(faces):
        return
    open_edges = int((borders(faces)[1] != 0).sum())
    if open_edges:
        warnings.warn(
            f"`{what}` of a surface with {open_edges} open edges depends on the choice of a middle point. It touches the "
            f"border of the grid, or has holes: pad phi with values outside, or read `defects()`.",
            DegenerateWarning,
            stacklevel=3,
        )


def examined(vertices: Tensor, faces: Tensor) -> Defects:
    """The defects of a surface."""
    d = vertices.shape[-1]
    wrong = ((faces < 0) | (faces >= len(vertices))).any(-1)
    not_finite = ~vertices.isfinite()
    huge = (vertices.abs() > HUGE) & ~not_finite
    counted = {
        "not_finite": not_finite, "huge": huge, "outside_range": wrong,
    }  # fmt: skip
    basic = {name: int(mask.sum()) for name, mask in counted.items()}
    usable = faces[~wrong]
    places = vertices.unique(dim=0, return_inverse=True)[1] if len(vertices) else faces[:0, 0]
    used = torch.zeros(len(vertices), dtype=torch.bool, device=faces.device)
    used[usable.reshape(-1)] = True
    count, balance = borders(usable)
    loose = (balance != 0) & (count % 2 == 1)
    turned = (balance != 0) & (count % 2 == 0)
    found = Defects(
        **basic,
        repeated=len(vertices) - len(places.unique()),
        unused=int((~used).sum()),
        open_edges=int(loose.sum()),
        crowded_edges=int((count > 2).sum()),
        flipped=int(turned.sum()),
    )
    if any(basic.values()) or not len(usable):
        return found
    return _shape(vertices.double(), usable, found, closed=not bool((balance != 0).any()), d=d)


def _shape(vertices: Tensor, faces: Tensor, found: Defects, closed: bool, d: int) -> Defects:
    p = vertices[faces]
    if d == 2:
        along = p[:, 1] - p[:, 0]
        normal = torch.stack([along[:, 1], -along[:, 0]], -1)
    else:
        normal = torch.linalg.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]) / 2
    length = torch.linalg.vector_norm(normal, dim=-1)
    size = torch.linalg.vector_norm(p - p.roll(1, 1), dim=-1).amax(-1)
    flat = length <= 1e-14 * size ** (d - 1)
    inward = closed and bool(((p[:, 0] - vertices.mean(0)) * normal).sum() < 0)
    good = (~flat).nonzero().view(-1)
    good = good[:: max(1, len(good) // _PROBED + 1)]
    middle, n = p[good].mean(1), normal[good] / length[good].unsqueeze(-1)
    step = 1e-4 * size[good].unsqueeze(-1)
    outer, inner = winding(middle + step * n, p), winding(middle - step * n, p)
    if inward:
        outer, inner = -inner, -outer
    crossing = ((outer.round() != 0) | (inner.round() != 1)).sum() if closed else flat.new_zeros(()).sum()
    values = {part.name: getattr(found, part.name) for part in fields(found)}
    return Defects(**{**values, "degenerate": int(flat.sum()), "inward": int(inward), "crossing": int(crossing)})
