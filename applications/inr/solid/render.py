"""`implayer render` for fits to shapes: meshes and pictures of normals."""

from pathlib import Path

import torch
from torch import Tensor

from implayer import Surface
from implayer.layers.ray import RayLayer

from ...shared.application import opened
from ...shared.errors import InputError
from ...shared.files import require_target
from ...shared.options import require_finite, require_least
from ...shared.pictures import write_picture
from ...shared.run_folder import open_run
from ...shared.view import Camera, Seen, around, coloured, normals_of, places_of, rasterised
from .commands import RenderSolid
from .field import SpaceField
from .fit import FITS, in_space

_MESHES = (".ply", ".obj", ".glb")
_SAMPLES = 9  # of the field along a ray, within two cells of the mesh


def render(command: RenderSolid) -> Path:
    """Write a mesh, a picture, or both."""
    require_least(command, {"resolution": 4, "size": 1})
    require_finite(command)
    application = FITS[open_run(command.run).read_config()[0]]
    folder, stored, device = opened(application, command)
    target = command.out
    if target is None and command.normals is None:
        target = folder.path / f"mesh-{command.resolution}.ply"
    if target is not None:
        require_target(target, _MESHES)
    if command.normals is not None:
        require_target(command.normals, [".png"])
    field = application.field(folder, stored, device)
    surface = application.mesh(field, stored, command.resolution)
    said = []
    if target is not None:
        in_space(surface, stored.source).export(target)
        said.append(f"{target}: {len(surface.vertices)} vertices, {len(surface)} faces")
    if command.normals is not None:
        write_picture(command.normals, _picture(command, surface, field, application.positive))
        said.append(f"{command.normals}: {command.size} x {command.size} pixels")
    if not command.options.quiet:
        print("\n".join(said))
    found = target or command.normals
    if found is None:
        raise InputError("neither a mesh nor a picture was asked for.")
    return found


def _picture(command: RenderSolid, surface: Surface, field: SpaceField, positive: bool) -> Tensor:
    view = {name: getattr(command, name) for name in ("azimuth", "elevation", "up", "size")}
    camera = around(surface, **view)
    seen = rasterised(surface, camera)
    if not command.exact:
        return coloured(normals_of(surface, seen), seen, camera)
    cell = float((surface.vertices.amax(0) - surface.vertices.amin(0)).max()) / (command.resolution - 1)
    return coloured(exact_normals(surface, seen, camera, field, cell, positive), seen, camera)


def exact_normals(
    surface: Surface, seen: Seen, camera: Camera, field: SpaceField, cell: float, positive: bool
) -> Tensor:
    """(P, 3) normals of the field where the rays of the pixels first meet it, near the mesh; of the mesh where they miss."""
    places, normals = places_of(surface, seen), normals_of(surface, seen)
    along = camera.directions(seen.pixels)
    rays = RayLayer(field, near=-2 * cell, far=2 * cell, samples=_SAMPLES, on_failure="ignore")
    with torch.no_grad():
        hits = rays(places, along)
    met = hits.hit.nonzero().view(-1)
    _, gradient = field.gradient(hits.points[met])
    outward = gradient.cpu() * (-1.0 if positive else 1.0)
    length = torch.linalg.vector_norm(outward, dim=-1, keepdim=True)
    normals[met] = torch.where(length > 0, outward / length, normals[met])
    return normals
