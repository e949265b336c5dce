"""Pictures of surfaces: triangles by a depth buffer, clouds point by point; normals as colours, or shaded in grey."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from implayer import Surface

_FOCAL = 0.9  # focal length over the side of the picture (authors of "(Implicit)^2")
_DISTANCE = 2.1  # of the eye, in radii of the ball around what is seen, which then just fits
_PIXELS = 2**21  # pairs of triangles and pixels that are looked at in one go
_CUBE = 0.8  # radius of a picture of the unit cube, whose diagonal is 0.87 long from the middle
_LIGHT = (0.35, 0.5, 0.8)  # from where it shines: to the right, up, and towards the eye
_AMBIENT = 0.25
_LAYER = 1.2  # pixels: points within it behind the nearest one are seen too, as the same piece of surface
_FINER = 2  # pixels of a portrait are means of so many on a side


@dataclass(frozen=True)
class Camera:
    """A pinhole that looks at the centre of a ball, or a parallel projection.

    **Arguments**

    - `centre`, `radius`: the ball; a parallel projection shows a square of two radii.
    - `azimuth`, `elevation`: of the eye, in degrees: the azimuth from the axis that comes after `up` (from x where z is up),
      the elevation above the horizon.
    - `up`: the axis of space that is up.
    - `size`: pixels of a side.
    """

    centre: Tensor
    radius: float
    azimuth: float = 145.0
    elevation: float = 30.0
    up: str = "y"
    size: int = 512
    parallel: bool = False

    def axes(self) -> tuple[Tensor, Tensor]:
        """(3,) the eye, and (3, 3) right, up and backward as rows."""
        a, e = math.radians(self.azimuth), math.radians(self.elevation)
        u = ("x", "y", "z").index(self.up)
        order = [(u + 1) % 3, (u + 2) % 3, u]  # a right-handed frame with `up` last
        side = (-math.sin(a), math.cos(a), 0.0)
        high = (-math.sin(e) * math.cos(a), -math.sin(e) * math.sin(a), math.cos(e))
        back = (math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e))
        rows = self.centre.new_zeros(3, 3)
        rows[:, order] = self.centre.new_tensor([side, high, back])
        return self.centre + _DISTANCE * self.radius * rows[2], rows

    def directions(self, pixels: Tensor) -> Tensor:
        """(P, 3) unit vectors from the eye of a pinhole through pixels by number, row by row."""
        x = ((pixels % self.size).to(self.centre.dtype) + 0.5) / self.size - 0.5
        y = 0.5 - (pixels.div(self.size, rounding_mode="floor").to(self.centre.dtype) + 0.5) / self.size
        ray = torch.stack([x, y, torch.full_like(x, -_FOCAL)], -1) @ self.axes()[1]
        return ray / torch.linalg.vector_norm(ray, dim=-1, keepdim=True)

    def projected(self, points: Tensor) -> "Projected":
        """Where points (P, 3) are in the picture."""
        eye, axes = self.axes()
        x, y, z = ((points - (self.centre if self.parallel else eye)) @ axis for axis in axes)
        if self.parallel:
            inverse, nearness = torch.ones_like(z), z
            x, y = x / self.radius, y / self.radius
        else:
            nearness = inverse = 1 / (-z).clamp_min(1e-6)
            x, y = 2 * x * inverse * _FOCAL, 2 * y * inverse * _FOCAL
        at = torch.stack([(x + 1) / 2 * self.size, (1 - y) / 2 * self.size], -1)
        return Projected(at, inverse, nearness)


class Projected(NamedTuple):
    """Points in a picture.

    - `at`: (P, 2) column and row; those of the first pixel go from 0 to 1.
    - `inverse`: (P,) of the distance along the view, with which what is linear in space is linear in the picture.
    - `nearness`: (P,) linear in the picture, larger for what is in front.
    """

    at: Tensor
    inverse: Tensor
    nearness: Tensor


class Seen(NamedTuple):
    """What is seen of a surface: the pixels where it is (P,), the faces there, and the weights of their corners (P, 3)."""

    pixels: Tensor
    faces: Tensor
    weights: Tensor


def around(surface: Surface, **options: object) -> Camera:
    """The camera that sees all of a surface."""
    middle = (surface.vertices.amax(0) + surface.vertices.amin(0)) / 2
    radius = float(torch.linalg.vector_norm(surface.vertices - middle, dim=-1).max())
    return Camera(middle, radius, **options)  # type: ignore[arg-type]


def on_cube(azimuth: float, size: int, up: str = "z") -> Camera:
    """A parallel projection of the unit cube."""
    centre = torch.full((3,), 0.5, dtype=torch.float32)
    return Camera(centre, _CUBE, azimuth, up=up, size=size, parallel=True)


# ------------------------------------------------------------------------------------------------------------ triangles
def rasterised(surface: Surface, camera: Camera) -> Seen:
    """The nearest face at every pixel, by a depth buffer."""
    at, inverse, nearness = (part[surface.faces] for part in camera.projected(surface.vertices))
    corners = at - 0.5  # from here on, whole numbers are middles of pixels
    low = corners.amin(1).ceil().long().clamp(min=0)
    sides = (corners.amax(1).floor().long().clamp(max=camera.size - 1) - low + 1).amax(-1)
    best = inverse.new_full((camera.size**2,), -torch.inf)
    found = []
    smaller = 0
    while len(sides) and smaller < int(sides.max()):  # triangles of about one size together, in squares of pixels
        side = smaller + max(smaller // 4, 1)
        chosen = ((sides > smaller) & (sides <= side)).nonzero().view(-1)
        smaller = side
        for part in chosen.split(max(_PIXELS // side**2, 1)) if len(chosen) else ():
            pixel, row, weight = _covered(corners[part], low[part], side, camera.size)
            found.append((pixel, part[row], weight, (weight * nearness[part[row]]).sum(-1)))
            best.scatter_reduce_(0, pixel, found[-1][-1], "amax")
    if not found:
        return Seen(low[:0, 0], low[:0, 0], inverse.new_zeros(0, 3))
    pixel, face, weight, depth = (torch.cat(part) for part in zip(*found, strict=True))
    front = (depth == best[pixel]).nonzero().view(-1)
    owner = torch.full((camera.size**2,), len(face)).scatter_reduce(0, pixel[front], front, "amin")
    owner = owner[owner < len(face)]
    scaled = weight[owner] * inverse[face[owner]]
    return Seen(pixel[owner], face[owner], scaled / scaled.sum(-1, keepdim=True))


def _covered(p: Tensor, low: Tensor, side: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels of triangles (F, 3, 2) within squares of `side` pixels: number, triangle, weights of corners in the picture."""
    steps = torch.arange(side)
    at = low.unsqueeze(1) + torch.cartesian_prod(steps, steps).view(-1, 2)
    real = (at < size).all(-1)
    q = p.unsqueeze(1) - at.unsqueeze(2)  # (F, pixels, 3, 2) from the pixel to the corners
    one, two = q[..., [1, 2, 0], :], q[..., [2, 0, 1], :]
    area = one[..., 0] * two[..., 1] - one[..., 1] * two[..., 0]
    total = area.sum(-1)
    real &= ((area >= 0).all(-1) | (area <= 0).all(-1)) & (total != 0)
    row, column = real.nonzero(as_tuple=True)
    x, y = at[row, column].unbind(-1)
    return y * size + x, row, area[row, column] / total[row, column].unsqueeze(-1)


def normals_of(surface: Surface, seen: Seen) -> Tensor:
    """(P, 3) unit normals at the pixels, interpolated between the vertices."""
    mixed = (seen.weights.unsqueeze(-1) * surface.vertex_normals()[surface.faces[seen.faces]]).sum(1)
    return mixed / torch.linalg.vector_norm(mixed, dim=-1, keepdim=True).clamp_min(1e-12)


def places_of(surface: Surface, seen: Seen) -> Tensor:
    """(P, 3) the points of the surface at the pixels."""
    return (seen.weights.unsqueeze(-1) * surface.vertices[surface.faces[seen.faces]]).sum(1)


def coloured(normals: Tensor, seen: Seen, camera: Camera) -> Tensor:
    """(size, size, 3): normals in the frame of the camera as colours, (n + 1) / 2, on white."""
    picture = normals.new_ones(camera.size**2, 3)
    picture[seen.pixels] = (normals @ camera.axes()[1].T + 1) / 2
    return picture.view(camera.size, camera.size, 3)


def normal_map(surface: Surface, camera: Camera) -> Tensor:
    """(size, size, 3) of a mesh."""
    seen = rasterised(surface, camera)
    return coloured(normals_of(surface, seen), seen, camera)


def portrait(surface: Surface, azimuth: float, size: int, up: str = "z") -> Tensor:
    """(size, size, 1): a surface in the unit cube, shaded dark on white; white where it is empty."""
    surface, camera = Surface(surface.vertices.float(), surface.faces), on_cube(azimuth, _FINER * size, up)
    picture = torch.ones(camera.size**2, dtype=torch.float32)
    seen = rasterised(surface, camera)
    picture[seen.pixels] = _grey(normals_of(surface, seen), camera)
    return avg_pool2d(picture.view(1, camera.size, camera.size), _FINER).permute(1, 2, 0)


def _grey(normals: Tensor, camera: Camera) -> Tensor:
    """(P,) from 0.25 in the shade to 1."""
    light = normals.new_tensor(_LIGHT) / math.hypot(*_LIGHT)
    return _AMBIENT + (1 - _AMBIENT) * (normals @ camera.axes()[1].T @ light).clamp(min=0)


# --------------------------------------------------------------------------------------------------------------- clouds
def shaded(points: Tensor, normals: Tensor, camera: Camera) -> Tensor:
    """(size, size) grey values of points: means over what is in front at every pixel; 0 where there is none."""
    size = camera.size
    at, _, nearness = camera.projected(points)
    column, row = at.floor().long().clamp(0, size - 1).unbind(-1)
    pixel, depth = row * size + column, -nearness
    nearest = depth.new_full((size * size,), torch.inf).scatter_reduce(0, pixel, depth, "amin")
    seen = depth <= nearest[pixel] + _LAYER * 2 * camera.radius / size
    value = _grey(normals, camera)
    sums = value.new_zeros(size * size).index_add(0, pixel[seen], value[seen])
    counts = torch.bincount(pixel[seen], minlength=size * size)
    return (sums / counts.clamp(min=1)).view(size, size)


def on_white(picture: Tensor) -> Tensor:
    """(size, size, 1) with the empty background white."""
    return torch.where(picture > 0, picture, 1.0).unsqueeze(-1)


def sheet(rows: Sequence[Sequence[Tensor]], gap: int = 6) -> Tensor:
    """(height, width, 1): pictures of one size in rows, with white between."""
    lines = []
    for row in rows:
        cells = [pad(cell, (0, 0, 0, gap, 0, gap), value=1.0) for cell in row]
        lines.append(torch.cat(cells, 1))
    return torch.cat(lines)[:-gap, :-gap]
