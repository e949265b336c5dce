"""The surface of a field, by marching cubes slab after slab: memory follows the surface, not the grid."""

from collections.abc import Callable

import torch
from torch import Tensor

from implayer import LevelSetLayer, Surface
from implayer.errors import NoSurfaceError

from ...shared.errors import NonfiniteError

_SLAB = 2**20  # grid points of a slab, about

Field = Callable[[Tensor], Tensor]  # (points, 3) -> (points,)


def extract(field: Field, lower: Tensor, upper: Tensor, resolution: int, *, positive: bool) -> Surface:
    """The surface where the field is zero, in the box.

    **Arguments**

    - `field`: positive inside where `positive`, otherwise negative.
    - `resolution`: grid points along the longest side; cells are cubes.

    The grid ends in values outside all around, so that the surface is closed at the border of the box.

    **Raises** `NoSurfaceError` where there is none, with the range of the field, `NonfiniteError` where it is not finite.
    """
    step = float((upper - lower).max()) / (resolution - 1)
    sizes = [int((side / step).round()) + 1 for side in upper - lower]
    y, z = (low + step * torch.arange(size, dtype=lower.dtype) for low, size in zip(lower[1:], sizes[1:], strict=True))
    planes = max(_SLAB // (sizes[1] * sizes[2]), 1)
    joined, low, high = _Joined(lower), torch.inf, -torch.inf
    border = -1.0 if positive else 1.0
    last = lower.new_full((1, sizes[1] + 2, sizes[2] + 2), border)
    for first in range(0, sizes[0] + 1, planes):
        x = lower[0] + step * torch.arange(first, min(first + planes, sizes[0]), dtype=lower.dtype)
        grid = torch.stack(torch.meshgrid(x, y, z, indexing="ij"), -1)
        values = field(grid.view(-1, 3)).view(grid.shape[:-1]).to(lower)
        if not bool(values.isfinite().all()):
            raise NonfiniteError(
                f"the field is not finite at {int((~values.isfinite()).sum())} points; no mesh is made."
            )
        if values.numel():
            low, high = min(low, float(values.min())), max(high, float(values.max()))
        slab = torch.nn.functional.pad(values, (1, 1, 1, 1), value=border)
        if first + planes > sizes[0]:  # beyond the last plane
            slab = torch.cat([slab, torch.full_like(last, border)])
        slab = torch.cat([last, slab])
        layer = LevelSetLayer(inside="positive" if positive else "negative", on_failure="ignore")
        joined.add(layer(slab), first, first + len(slab) - 1)  # type: ignore[arg-type]
        last = slab[-1:]
    if (low > 0 or high <= 0) if positive else (high < 0 or low >= 0):
        raise NoSurfaceError(f"no surface, field range [{low:g}, {high:g}]: the level 0 is not crossed in the box.")
    surface = joined.surface()
    return Surface((surface.vertices - 1) * step + lower, surface.faces)


class _Joined:
    """Pieces of a surface, which share the vertices in the planes between them."""

    def __init__(self, like: Tensor) -> None:
        self.vertices: list[Tensor] = []
        self.faces: list[Tensor] = []
        self.count = 0
        self.seam = like.new_zeros(0, 3), torch.zeros(0, dtype=torch.long)  # vertices in the last plane, their numbers

    def add(self, piece: Surface, offset: int, end: int) -> None:
        """A piece whose first plane is at `offset` and whose last one at `end`."""
        vertices = piece.vertices + piece.vertices.new_tensor([float(offset), 0.0, 0.0])
        number = torch.full((len(vertices),), -1)
        at = (vertices[:, 0] == offset).nonzero().view(-1)
        known, own = self.seam
        _, group = torch.cat([known, vertices[at]]).unique(dim=0, return_inverse=True)
        place = torch.full((len(known) + len(at),), -1)
        place[group[: len(known)]] = own
        number[at] = place[group[len(known) :]]
        new = (number < 0).nonzero().view(-1)
        number[new] = self.count + torch.arange(len(new))
        self.count += len(new)
        self.vertices.append(vertices[new])
        self.faces.append(number[piece.faces])
        at = (vertices[:, 0] == end).nonzero().view(-1)
        self.seam = vertices[at], number[at]

    def surface(self) -> Surface:
        """The whole."""
        return Surface(torch.cat(self.vertices), torch.cat(self.faces))
