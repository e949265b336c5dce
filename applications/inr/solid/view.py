"""Pictures of surfaces through a pinhole: depth by rasterising triangles, normals as colours."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from implayer import Surface

_FOCAL = 0.9  # focal length over the side of the picture (authors)
_DISTANCE = 2.1  # of the eye, in radii of the ball around what is seen, which then just fits
_PIXELS = 2**21  # pairs of triangles and pixels that are looked at in one go


@dataclass(frozen=True)
class Camera:
    """A pinhole that looks at the centre of a ball.

    **Arguments**

    - `centre`, `radius`: the ball.
    - `azimuth`, `elevation`: of the eye, in degrees; the azimuth from +x, the elevation above the horizon.
    - `up`: the axis of space that is up.
    - `size`: pixels of a side.
    """

    centre: Tensor
    radius: float
    azimuth: float = 145.0
    elevation: float = 30.0
    up: str = "y"
    size: int = 512

    def axes(self) -> tuple[Tensor, Tensor]:
        """(3,) the eye, and (3, 3) right, up and backward as rows."""
        a, e = math.radians(self.azimuth), math.radians(self.elevation)
        u = ("x", "y", "z").index(self.up)
        first, second = (u + 1) % 3, (u + 2) % 3  # a right-handed frame with `up` last
        back, side = self.centre.new_zeros(2, 3).unbind(0)
        back[first], back[second], back[u] = math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)
        side[first], side[second] = -math.sin(a), math.cos(a)
        high = torch.linalg.cross(back, side)
        return self.centre + _DISTANCE * self.radius * back, torch.stack([side, high, back])

    def directions(self, pixels: Tensor) -> Tensor:
        """(P, 3) unit vectors from the eye through pixels by number, row by row."""
        x = ((pixels % self.size).to(self.centre.dtype) + 0.5) / self.size - 0.5
        y = 0.5 - (pixels.div(self.size, rounding_mode="floor").to(self.centre.dtype) + 0.5) / self.size
        ray = torch.stack([x, y, torch.full_like(x, -_FOCAL)], -1) @ self.axes()[1]
        return ray / torch.linalg.vector_norm(ray, dim=-1, keepdim=True)


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


def rasterised(surface: Surface, camera: Camera) -> Seen:
    """The nearest face at every pixel, by a depth buffer."""
    eye, axes = camera.axes()
    local = (surface.vertices - eye) @ axes.T
    near = 1 / (-local[:, 2]).clamp_min(1e-6)  # the inverse of the depth is linear in the picture
    flat = torch.stack([local[:, 0] * near * _FOCAL + 0.5, 0.5 - local[:, 1] * near * _FOCAL], -1) * camera.size - 0.5
    corners, inverse = flat[surface.faces], near[surface.faces]
    low = corners.amin(1).ceil().long().clamp(min=0)
    sides = (corners.amax(1).floor().long().clamp(max=camera.size - 1) - low + 1).amax(-1)
    best = near.new_zeros(camera.size**2)
    found = []
    smaller = 0
    while len(sides) and smaller < int(sides.max()):  # triangles of about one size together, in squares of pixels
        side = smaller + max(smaller // 4, 1)
        chosen = ((sides > smaller) & (sides <= side)).nonzero().view(-1)
        smaller = side
        for part in chosen.split(max(_PIXELS // side**2, 1)) if len(chosen) else ():
            found.append(_covered(corners[part], inverse[part], low[part], side, camera.size, part))
            pixel, _, _, depth = found[-1]
            best.scatter_reduce_(0, pixel, depth, "amax")
    if not found:
        return Seen(low[:0, 0], low[:0, 0], near.new_zeros(0, 3))
    pixel, face, weight, depth = (torch.cat(part) for part in zip(*found, strict=True))
    front = (depth == best[pixel]).nonzero().view(-1)
    owner = torch.full((camera.size**2,), len(face)).scatter_reduce(0, pixel[front], front, "amin")
    owner = owner[owner < len(face)]
    return Seen(pixel[owner], face[owner], weight[owner])


def _covered(p: Tensor, inverse: Tensor, low: Tensor, side: int, size: int, faces: Tensor) -> tuple[Tensor, ...]:
    """Pixels of triangles (F, 3, 2) within squares of `side` pixels: number, face, weights in space, inverse depth."""
    steps = torch.arange(side)
    at = low.unsqueeze(1) + torch.cartesian_prod(steps, steps).view(-1, 2)
    real = (at < size).all(-1)
    q = p.unsqueeze(1) - at.unsqueeze(2)  # (F, pixels, 3, 2) from the pixel to the corners
    one, two = q[..., [1, 2, 0], :], q[..., [2, 0, 1], :]
    area = one[..., 0] * two[..., 1] - one[..., 1] * two[..., 0]
    total = area.sum(-1)
    real &= ((area >= 0).all(-1) | (area <= 0).all(-1)) & (total != 0)
    row, column = real.nonzero(as_tuple=True)
    weight = area[row, column] / total[row, column].unsqueeze(-1)
    scaled = weight * inverse[row]
    depth = scaled.sum(-1)
    x, y = at[row, column].unbind(-1)
    return y * size + x, faces[row], scaled / depth.unsqueeze(-1), depth


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
