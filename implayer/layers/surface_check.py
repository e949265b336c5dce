"""What may be wrong with a mesh, counted."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..causes import warn
from ..errors import DegenerateWarning, DtypeError, ShapeError
from .surface_edges import edges
from .surface_winding import windings

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


def require_faces(vertices: object, faces: object) -> None:
    """Refuse what cannot be points and the faces between them."""
    if isinstance(vertices, Tensor) and isinstance(faces, Tensor):
        d = vertices.shape[-1] if vertices.ndim == 2 else 0
        if not vertices.is_floating_point() or faces.dtype not in (torch.int64, torch.int32):
            raise DtypeError(
                f"`vertices` are {vertices.dtype} and `faces` {faces.dtype}; expected floating-point coordinates and vertex "
                f"numbers of int64."
            )
        if d in (2, 3) and faces.ndim == 2 and faces.shape[-1] == d:
            return
        found = f"`vertices` {tuple(vertices.shape)} and `faces` {tuple(faces.shape)}"
        raise ShapeError(f"a surface has {found}; expected (V, 3) and triangles (F, 3), or (V, 2) and segments (F, 2).")
    raise TypeError(
        f"`vertices` are {type(vertices).__name__} and `faces` {type(faces).__name__}; expected two tensors."
    )


def require_points(points: object, d: int, what: str) -> None:
    """Refuse what are no points (P, d)."""
    if not isinstance(points, Tensor):
        raise TypeError(f"`{what}` is asked for at {type(points).__name__}; expected a tensor (P, {d}) of points.")
    if not points.is_floating_point():
        raise DtypeError(f"`{what}` is asked for at points of {points.dtype}; expected floating point.")
    if points.ndim != 2 or points.shape[-1] != d:
        raise ShapeError(f"`{what}` is asked for at points of shape {tuple(points.shape)}; expected (P, {d}).")


def require_closed(vertices: Tensor, faces: Tensor, what: str) -> None:
    """Warn where what is asked for has no meaning."""
    require_faces(vertices, faces)
    if not len(faces):
        return
    open_edges = int((edges(faces).balance != 0).sum())
    if open_edges:
        warn(
            f"`{what}` of a surface with {open_edges} open edges depends on the choice of a middle point. It touches the "
            f"border of the grid, or has holes: pad phi with values outside, or read `defects()`.",
            DegenerateWarning,
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
    used = torch.zeros(len(vertices), dtype=torch.bool, device=faces.device)
    used[usable.reshape(-1)] = True
    _, _, count, balance = edges(usable)
    loose = (balance != 0) & (count % 2 == 1)
    turned = (balance != 0) & (count % 2 == 0)
    found = Defects(
        **basic,
        repeated=_repeated(vertices),
        unused=int((~used).sum()),
        open_edges=int(loose.sum()),
        crowded_edges=int((count > 2).sum()),
        flipped=int(turned.sum()),
    )
    if any(basic.values()) or not len(usable):
        return found
    return _shape(vertices.double(), usable, found, closed=not bool((balance != 0).any()), d=d)


def _repeated(vertices: Tensor) -> int:
    """How many points are where another one is; coordinate by coordinate, `unique` over rows is ten times slower."""
    order = torch.arange(len(vertices), device=vertices.device)
    for column in vertices.unbind(-1):
        order = order[column[order].argsort(stable=True)]
    return int((vertices[order].diff(dim=0) == 0).all(-1).sum())


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
    crossing = 0
    if closed:
        good = (~flat).nonzero().view(-1)
        good = good[:: max(1, len(good) // _PROBED + 1)]
        middle, n = p[good].mean(1), normal[good] / length[good].unsqueeze(-1)
        step = 1e-4 * size[good].unsqueeze(-1)
        w = windings(torch.cat([middle + step * n, middle - step * n]), vertices, faces, p).round()
        outer, inner = w.chunk(2) if not inward else (-w).chunk(2)[::-1]
        crossing = int(((outer != 0) | (inner != 1)).sum())
    values = {part.name: getattr(found, part.name) for part in fields(found)}
    return Defects(**{**values, "degenerate": int(flat.sum()), "inward": int(inward), "crossing": int(crossing)})
