"""Fit a network to a shape: what is inside of it, or how far away its surface is."""

import dataclasses
from typing import Any, TypeVar

import torch

from implayer import Surface
from implayer.errors import NoSurfaceError

from ...shared.application import AbstractApplication, Conclusion, Material, StoredRun, load_trained
from ...shared.errors import InputError
from ...shared.figures import Line, Panel, draw_lines
from ...shared.files import refuse_irregular
from ...shared.options import AbstractNewRun, Eval, Resume, require_least
from ...shared.pictures import write_picture
from ...shared.run_folder import RunFolder
from ...shared.training import Record
from ...shared.view import around, normal_map
from ..check import check_field, of_step_maps
from ..models.networks import AbstractNetwork
from .commands import OCCUPANCY_TASK, SDF_TASK
from .config import OccupancyConfig, SdfConfig, SolidConfig
from .data import Shape, SolidSource, load_shape
from .extract import extract
from .field import SpaceField, natural_scale, sharpened, space_network
from .measure import classified, compared, differentiated
from .points import MARGIN
from .tasks import OccupancyTask, SdfTask, SolidTask

Config = TypeVar("Config", bound=SolidConfig)
Shapes = Material[SolidSource, Shape]
Stored = StoredRun[SolidSource, Any]
MESH, NORMALS = "mesh.ply", "normals.png"


class AbstractSolidFit(AbstractApplication[Config, SolidSource, Shape, SolidTask]):
    """A network for one shape."""

    length, source = "steps", SolidSource

    def check(self, config: Config) -> None:
        """Refuse values that cannot mean anything."""
        check_field(config)
        require_least(config, {"batch": 2, "test_points": 1, "mesh": 4, "picture": 1})
        if not config.test_tolerance > 0:
            raise InputError(f"`--test-tolerance` is {config.test_tolerance}; expected a positive number.")
        if config.reuse and not config.voxels:
            raise InputError("`--reuse` needs fixed points from the step before: add `--voxels`, or leave it out.")

    def load(self, command: AbstractNewRun) -> Shapes:
        """The shape that the command names."""
        return self.find(command.shape, command)  # type: ignore[attr-defined]

    def find(self, source: str, command: Any, config: Any = None) -> Shapes:
        """The shape of that name."""
        del config
        return load_shape(source, command.data)

    def load_again(self, stored: Stored, command: Resume) -> Shapes:
        """The shape of the run."""
        found = self.find(stored.source.source, command, stored.config)
        if found.source.sha256 != stored.source.sha256 and not command.allow_config_change:
            raise InputError(
                f"`{found.source.source}` has changed since the run began; `--allow-config-change` accepts that."
            )
        return found

    def stem(self, config: Config, material: Shapes) -> str:
        """Shape, signal and model."""
        return f"{material.content.name}-{self.task}-{config.model}"

    def prepare(self, folder: RunFolder, material: Shapes) -> None:
        """What the network is to become."""
        surface, size = material.content.surface, self.read(folder).config.picture
        if len(surface):
            write_picture(folder.path / "target.png", normal_map(surface, around(surface, size=size)))

    def conclude(self, task: SolidTask, folder: RunFolder, record: Record) -> Conclusion:
        """Tests, mesh and pictures."""
        stored = self.read(folder)
        field = SpaceField(sharpened(task.model, stored.config), stored.config)
        metrics, said = self.judged(field, stored, task.shape, folder)
        draw_learning(folder, record.history)
        metrics["network"] = [3, 1, natural_scale(unit=task.unit)]
        parameters = sum(parameter.numel() for parameter in task.parameters)
        sentence = (
            f"{said}, {record.step_time_ms:.0f} ms a step, {record.peak_memory_mb:.0f} MiB, {parameters} parameters, "
            f"{record.seconds:.0f} s"
        )
        return Conclusion(metrics, sentence, f"implayer render {folder.path} --resolution {2 * stored.config.mesh}")

    def evaluate(self, folder: RunFolder, stored: Stored, command: Eval, device: torch.device) -> Conclusion:
        """The same figures from the saved weights."""
        shape = self.find(stored.source.source, command, stored.config).content
        metrics, said = self.judged(self.field(folder, stored, device), stored, shape, None)
        return Conclusion(metrics, said, f"implayer render {folder.path} --resolution {2 * stored.config.mesh}")

    def field(self, folder: RunFolder, stored: Stored, device: torch.device) -> SpaceField:
        """The fitted network of a run, to the tolerance of tests."""
        model: AbstractNetwork = space_network(stored.config)
        load_trained(folder, model, device)
        return SpaceField(sharpened(model, stored.config), stored.config)

    def mesh(self, field: SpaceField, stored: Stored, resolution: int) -> Surface:
        """The surface of a field in coordinates. Raises `NoSurfaceError`."""
        lower, upper = (torch.tensor(end, dtype=torch.float32) for end in (stored.source.lower, stored.source.upper))
        margin = self.margin(float((upper - lower).max()), resolution)
        return extract(field, lower - margin, upper + margin, resolution, positive=self.positive)

    positive: bool  # whether the field is positive inside

    def margin(self, longest: float, resolution: int) -> float:
        """Of the box that the surface is looked for in."""
        del longest, resolution
        return MARGIN

    def judged(
        self, field: SpaceField, stored: Stored, shape: Shape, folder: RunFolder | None
    ) -> tuple[dict[str, Any], str]:
        """All figures, and the chief ones in words; mesh and its picture into the folder."""
        metrics: dict[str, Any] = classified(field, shape, stored.config)
        said = [
            f"IoU {metrics[f'iou_{name}']:.4f} ({kind})" for name, kind in _KINDS.items() if f"iou_{name}" in metrics
        ]
        metrics |= self.further(field, shape, stored.config)
        try:
            surface = self.mesh(field, stored, stored.config.mesh)
        except NoSurfaceError as error:
            metrics["surface_found"] = str(error)
            surface = None
        if surface is not None:
            metrics |= compared(surface, shape, stored.source.size)
            said.append(f"Chamfer {metrics['chamfer']:.3g} ({metrics['chamfer_relative']:.2%} of the length)")
        else:
            said.append(metrics["surface_found"])
        metrics["solve_steps"] = field.steps
        if folder is not None:
            _written(folder, surface, stored)
        return metrics, ", ".join(said)

    def further(self, field: SpaceField, shape: Shape, config: SolidConfig) -> dict[str, Any]:
        """Figures that only one of the signals has."""
        del field, shape, config
        return {}


class OccupancyFit(AbstractSolidFit[OccupancyConfig]):
    """What is inside of a mesh."""

    task, command = OCCUPANCY_TASK, f"fit {OCCUPANCY_TASK}"
    config, positive = OccupancyConfig, True

    def check(self, config: OccupancyConfig) -> None:
        """Refuse values that cannot mean anything."""
        super().check(config)
        require_least(config, {"near": 0, "spread": 0})
        if config.near > 1:
            raise InputError(f"`--near` is {config.near}; expected a part of the points, at most 1.")

    def make_task(self, config: OccupancyConfig, material: Shapes, device: torch.device) -> OccupancyTask:
        """Points and whether they are inside."""
        return OccupancyTask(config, material.content, device)


class SdfFit(AbstractSolidFit[SdfConfig]):
    """A signed distance from the points and normals of a surface."""

    task, command = SDF_TASK, f"fit {SDF_TASK}"
    config, positive = SdfConfig, False

    def check(self, config: SdfConfig) -> None:
        """Refuse values that cannot mean anything."""
        super().check(config)
        require_least(config, {name: 0 for name in ("surface_weight", "normal_weight", "eikonal_weight", "off_weight")})
        if not 0 < config.extent <= 1:
            raise InputError(f"`--extent` is {config.extent}; expected more than 0 and at most 1.")
        if config.reuse:
            raise InputError("`--reuse`: a distance takes exact gradients, and so a solve at every step; leave it out.")
        asked = of_step_maps(config)
        if asked:
            raise InputError(f"`{asked[0]}`: a distance takes exact gradients; leave it out.")

    def load(self, command: AbstractNewRun) -> Shapes:
        """The shape that the command names, or points with normals."""
        return self.find(command.shape, command, command.config)  # type: ignore[attr-defined]

    def find(self, source: str, command: Any, config: Any = None) -> Shapes:
        """The shape of that name, as large as it was."""
        return load_shape(source, command.data, extent=config.extent, cloud=True)

    def make_task(self, config: SdfConfig, material: Shapes, device: torch.device) -> SdfTask:
        """Points with normals, and points off the surface."""
        return SdfTask(config, material.content, device)

    def margin(self, longest: float, resolution: int) -> float:
        """Two cells: a distance is no obstacle beyond the box of the shape."""
        return 2 * longest / resolution

    def further(self, field: SpaceField, shape: Shape, config: SolidConfig) -> dict[str, Any]:
        """How much of a distance it is."""
        return differentiated(field, shape, config)


_KINDS = {"easy": "uniform points", "near": "near the surface", "hard": "on the brink of it"}
OCCUPANCIES, DISTANCES = OccupancyFit(), SdfFit()
FITS: dict[str, AbstractSolidFit] = {fit.task: fit for fit in (OCCUPANCIES, DISTANCES)}


def in_space(surface: Surface, source: SolidSource) -> Surface:
    """A surface in coordinates, in the units of its file."""
    return dataclasses.replace(
        surface, vertices=surface.vertices * source.size + surface.vertices.new_tensor(source.centre)
    )


def _written(folder: RunFolder, surface: Surface | None, stored: Stored) -> None:
    mesh, normals = folder.path / MESH, folder.path / NORMALS
    for path in (mesh, normals):
        refuse_irregular(path)
        path.unlink(missing_ok=True)  # none is better than that of an earlier end of the run
    if surface is not None:
        in_space(surface, stored.source).export(mesh)
        write_picture(normals, normal_map(surface, around(surface, size=stored.config.picture)))


def draw_learning(folder: RunFolder, history: dict[str, list[float]]) -> None:
    """Loss and figures over the steps."""
    panels = []
    for name, values in history.items():
        steps = [float(step) for step in range(1, len(values) + 1)]
        if len(values) == len(history["loss"]):
            lines = [Line(name, steps, values, group=name, dashed=True)]
            panels.append(Panel(name, "step", "", lines, log_y=name not in ("iou", "accuracy"), integer_x=True))
    draw_lines(folder.path / "curves.png", panels)
