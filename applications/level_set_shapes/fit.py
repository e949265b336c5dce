"""`implayer fit shape`: a field on a grid for one mesh or point cloud, and how near its surface comes."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from implayer import Surface
from implayer.layers.surface_distance import matched
from implayer.layers.surface_edges import edges

from ..shared.application import AbstractApplication, Conclusion, Material, StoredRun, load_trained
from ..shared.data import data_root, find_file
from ..shared.errors import InputError
from ..shared.figures import Line, Panel, draw_lines
from ..shared.inside import InsideTest
from ..shared.options import Eval, Resume, require_least, require_positive
from ..shared.pictures import write_picture
from ..shared.run_folder import RunFolder
from ..shared.training import Record
from ..shared.view import on_cube, on_white, portrait, shaded, sheet
from .commands import FIT, FitShape
from .fit_config import FitConfig
from .fit_task import FitTask
from .start import GAPS
from .target import Target, read_target

FOLDERS = ("meshes", ".")  # of the data root
_SAMPLES = 50_000  # points on either surface, for the figures
_MARGIN = 4  # cells between the target and the walls
_LEAST_GRID, _LARGEST_GRID = 24, 512
_PIXELS = 320
_AZIMUTHS = (40.0, 160.0)


@dataclass(frozen=True)
class TargetSource:
    """Where the target of a run is from."""

    path: str
    sha256: str


Stored = StoredRun[TargetSource, FitConfig]


class ShapeFit(AbstractApplication[FitConfig, TargetSource, Target, FitTask]):
    """A field for one shape."""

    task, command, length = FIT, f"fit {FIT}", "steps"
    config, source = FitConfig, TargetSource

    def check(self, config: FitConfig) -> None:
        """Refuse values that cannot mean anything."""
        least = {"steps": 1, "samples": 16, "normal_weight": 0, "eikonal_weight": 0, "gap": 0, "seed": 0}
        require_least(config, least | {"grid": _LEAST_GRID})
        require_positive(config, "learning_rate")
        if config.grid > _LARGEST_GRID or config.gap > GAPS[-1]:
            raise InputError(
                f"`--grid` is {config.grid} and `--gap` {config.gap}; expected at most {_LARGEST_GRID} and {GAPS[-1]}."
            )

    def load(self, command: FitShape) -> Material[TargetSource, Target]:
        """The shape that the command names."""
        what = "mesh or a point cloud"
        return _material(
            find_file(command.shape, data_root(command.data), *FOLDERS, what=what).resolve(), command.config
        )

    def load_again(self, stored: Stored, command: Resume) -> Material[TargetSource, Target]:
        """The shape of the run."""
        found = _material(Path(stored.source.path), stored.config)
        if found.source.sha256 != stored.source.sha256 and not command.allow_config_change:
            raise InputError(
                f"`{stored.source.path}` has changed since the run began; `--allow-config-change` accepts that."
            )
        return found

    def stem(self, config: FitConfig, material: Material[TargetSource, Target]) -> str:
        """The shape and the grid."""
        return f"{material.content.name}-{config.grid}"

    def make_task(self, config: FitConfig, material: Material[TargetSource, Target], device: torch.device) -> FitTask:
        """The field around the shape."""
        return FitTask(config, material.content, device)

    def conclude(self, task: FitTask, folder: RunFolder, record: Record) -> Conclusion:
        """The surface in a file, pictures of it and of the target, and the distances between them."""
        with torch.no_grad():
            field = task.model().cpu()
            surface = task.surface()
        surface = Surface(surface.vertices.cpu(), surface.faces.cpu())
        file = task.target.original(surface).export(folder.path / f"surface.{task.config.format}")
        write_picture(folder.path / "comparison.png", _comparison(task.target, surface, task.config.up))
        _draw_curves(folder.path / "curves.png", record.history)
        metrics = figures(task.target, surface, field) | {
            "vertices": len(surface.vertices),
            "faces": len(surface),
            "open_edges": surface.defects().open_edges,
            "gap": task.gap,
            "notes": list(task.target.notes),
        }
        sentence = f"{_said(metrics)}, {record.step_time_ms:.0f} ms a step, {record.seconds:.0f} s; {file.name}"
        return Conclusion(metrics, sentence, f"implayer eval {folder.path}")

    def evaluate(self, folder: RunFolder, stored: Stored, command: Eval, device: torch.device) -> Conclusion:
        """The distances between the saved surface and the target."""
        task = FitTask(stored.config, _material(Path(stored.source.path), stored.config).content, device)
        load_trained(folder, task.model, device)
        with torch.no_grad():
            surface = task.surface()
            found = figures(task.target, Surface(surface.vertices.cpu(), surface.faces.cpu()), task.model().cpu())
        return Conclusion(found, _said(found))


FITS = ShapeFit()


def _material(path: Path, config: FitConfig) -> Material[TargetSource, Target]:
    target = read_target(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Material(TargetSource(str(path), digest), target.fitted(_MARGIN / (config.grid - 1)), target.notes)


@torch.no_grad()
def figures(target: Target, surface: Surface, field: Tensor) -> dict[str, Any]:
    """How near a surface is to the target, in units of the longest side of the target.

    IoU and volume error are None where the target has no inside, or none without doubt.
    """
    generator = torch.Generator().manual_seed(0)
    longest = float((target.points.amax(0) - target.points.amin(0)).max())
    found: dict[str, Any] = dict.fromkeys(("iou", "volume_error", "normal_consistency", "in_doubt"))
    if target.boundary is None:
        p, q = surface.sample(_SAMPLES, generator=generator)[0], target.points.float()
        apart = (p - q[matched(p, q)]).norm(dim=-1).mean() + (q - p[matched(q, p)]).norm(dim=-1).mean()
        return found | {"chamfer": float(apart) / 2 / longest, "chamfer_of_samples": None}
    true = Surface(target.boundary.vertices.float(), target.boundary.faces)
    found["chamfer"] = float(surface.chamfer(true, _SAMPLES, generator=generator)) / longest
    found["chamfer_of_samples"] = float(true.chamfer(true, _SAMPLES, generator=generator)) / longest
    found["normal_consistency"] = float(surface.normal_consistency(true, _SAMPLES, generator=generator))
    inside, found["in_doubt"] = InsideTest(target.boundary).on_grid(len(field))
    ours = field < 0
    if bool(inside.any()):  # else it is a sheet, which encloses nothing
        found["iou"] = int((inside & ours).sum()) / int((inside | ours).sum())
    if target.boundary.closed and not bool(edges(surface.faces).balance.any()):
        volume = abs(float(true.volume()))
        found["volume_error"] = abs(float(surface.volume()) - volume) / volume
    return found


def _said(found: dict[str, Any]) -> str:
    parts = [f"Chamfer distance {found['chamfer']:.5f}"]
    if found["chamfer_of_samples"] is not None:
        parts[0] += f" of the longest side (samples of the target alone: {found['chamfer_of_samples']:.5f})"
    names = {"iou": "IoU", "volume_error": "volume error", "normal_consistency": "normals"}
    parts += [f"{name} {found[key]:.4f}" for key, name in names.items() if found[key] is not None]
    return ", ".join(parts)


def _comparison(target: Target, surface: Surface, up: str) -> Tensor:
    """(height, width, 1): the target above, the surface below, from two sides."""
    rows = [[portrait(surface, azimuth, _PIXELS, up) for azimuth in _AZIMUTHS]]
    if target.surface is not None:
        rows.insert(0, [portrait(target.surface, azimuth, _PIXELS, up) for azimuth in _AZIMUTHS])
    else:
        points = target.points.float()
        normals = torch.zeros_like(points) if target.normals is None else target.normals.float()
        rows.insert(0, [on_white(shaded(points, normals, on_cube(azimuth, _PIXELS, up))) for azimuth in _AZIMUTHS])
    return sheet(rows)


def _draw_curves(path: Path, history: dict[str, list[float]]) -> None:
    steps = [float(step) for step in range(1, len(history["loss"]) + 1)]
    lines = [Line("loss", steps, history["loss"], group="loss", dashed=True)]
    lines.append(Line("distance of the surfaces", steps, history["cells_apart"], group="distance", dashed=True))
    draw_lines(path, [Panel("fit", "step", "cells", lines, log_y=True)])
