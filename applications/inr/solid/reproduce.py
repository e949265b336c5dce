"""Figure 9 of "(Implicit)^2": the occupancy of the dragon by implicit and explicit networks."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from implayer import Surface

from ...shared.application import carry_on
from ...shared.figures import save_figure, subplots
from ...shared.files import write_json
from ...shared.options import RunOptions, require_least
from ...shared.run_folder import RunFolder, versions
from ...shared.view import around, normal_map
from ..config import ModelName
from .commands import Figure9, FitOccupancy
from .config import PAPER_OCCUPANCY, OccupancyConfig
from .data import load_shape
from .fit import MESH, OCCUPANCIES, in_space

NETWORKS: dict[str, tuple[ModelName, int, int]] = {
    "explicit 1L-512D": ("fourier-mfn", 1, 512),
    "explicit 4L-256D": ("fourier-mfn", 4, 256),
    "implicit 1L-512D": ("fourier-imfn", 1, 512),
}
_NEW = "implicit 1L-512D"
_SETS = {"easy": "uniform", "near": "near (.01)", "hard": "near (.001)"}
_KEPT = (
    *(f"{figure}_{kind}" for figure in ("iou", "accuracy") for kind in _SETS),
    "step_time_ms", "parameters", "seconds", "steps", "seed",
)  # fmt: skip


def figure(command: Figure9) -> None:
    """Train the three networks on the same points, and compare. Interrupted, it goes on when called again."""
    require_least(command, {"steps": 1, "batch": 2, "mesh": 4, "test_points": 1, "picture": 1})
    material = load_shape(command.shape, command.data)
    out = command.folder("impsq-fig9")
    options = RunOptions(quiet=command.quiet, threads=command.threads, device="cpu")
    found: dict[str, dict[str, Any]] = {}
    for name in NETWORKS:
        path = out / name.replace(" ", "-")
        new = FitOccupancy(
            shape=command.shape, config=_config(command, name), options=options, out=path, data=command.data
        )
        found[name] = carry_on(OCCUPANCIES, new).read_metrics()
    target = in_space(material.content.surface, material.source)
    _drawn(out, found, target, material.content.name, command.picture)
    networks = {name: {key: metrics[key] for key in _KEPT} for name, metrics in found.items()}
    write_json(out / "impsq-fig9.json", {"networks": networks, "versions": versions()})
    print(_table(found))
    print(f"{out / 'impsq-fig9.png'}")


def _config(command: Figure9, name: str) -> OccupancyConfig:
    """The recipe of the authors, reduced as the command says."""
    model, depth, width = NETWORKS[name]
    return dataclasses.replace(
        PAPER_OCCUPANCY, model=model, depth=depth, width=width, steps=command.steps, batch=command.batch,
        scale=command.scale, norm=command.norm, learning_rate=command.learning_rate, decay=command.decay, power_iterations=1,
        mesh=command.mesh, test_points=command.test_points, picture=command.picture, seed=command.seed,
    )  # fmt: skip


def _table(found: dict[str, dict[str, Any]]) -> str:
    heads = "".join(f"{'IoU ' + kind:>16}" for kind in _SETS.values())
    lines = [f"{'Fourier-MFN':18} {'parameters':>10}{heads} {'ms/step':>8}"]
    for name, m in found.items():
        values = "".join(f"{m[f'iou_{kind}']:16.4f}" for kind in _SETS)
        lines.append(f"{name:18} {m['parameters']:10}{values} {m['step_time_ms']:8.0f}")
    apart = {kind: found[_NEW][f"iou_{kind}"] - max(_others(found, kind)) for kind in _SETS}
    said = ", ".join(f"{kind} {apart[key]:+.4f}" for key, kind in _SETS.items())
    lines.append(f"paper: {_NEW} above both others; here, less the better of the others: {said}")
    return "\n".join(lines)


def _others(found: dict[str, dict[str, Any]], kind: str) -> list[float]:
    return [metrics[f"iou_{kind}"] for name, metrics in found.items() if name != _NEW]


def _drawn(out: Path, found: dict[str, dict[str, Any]], target: Surface, shape: str, size: int) -> None:
    """Normal maps side by side, from one place."""
    camera = around(target, size=size)
    pictures: list[tuple[str, Tensor]] = [(f"{shape}\n", normal_map(target, camera))]
    for name, metrics in found.items():
        mesh = RunFolder(out / name.replace(" ", "-")).path / MESH
        picture = normal_map(Surface.read(mesh), camera) if mesh.exists() else torch.ones(camera.size, camera.size, 3)
        figures = f"IoU {metrics['iou_easy']:.3f}, near the surface {metrics['iou_near']:.3f}"
        pictures.append((f"{name}\n{figures}", picture))
    drawing, axes = subplots(1, len(pictures), (4 * len(pictures), 5))
    for each, (title, picture) in zip(axes, pictures, strict=True):
        each.imshow(picture.numpy())
        each.set_title(title)
        each.axis("off")
    save_figure(drawing, out / "impsq-fig9.png")
