"""Train, go on with, and evaluate a network that makes shapes of pictures."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..shared.application import AbstractApplication, Conclusion, Material, StoredRun, load_trained
from ..shared.data import data_root
from ..shared.errors import InputError
from ..shared.figures import Line, Panel, draw_lines
from ..shared.options import Eval, Resume, require_least, require_positive
from ..shared.pictures import write_picture
from ..shared.run_folder import RunFolder
from ..shared.training import Record
from ..shared.view import on_white, portrait, sheet
from .commands import TASK, TrainShapes
from .config import ShapesConfig
from .data import Examples, prepared
from .grid import surfaces_of
from .model import build_model
from .task import ShapeTask, Tested, predicted, test
from .voxels import Shapes, load_shapes

SHOWN = 6  # test shapes of a sheet
_PIXELS = 192  # of a picture in it
_AZIMUTH = 220.0  # degrees, from where shapes are drawn


@dataclass(frozen=True)
class ShapeSource:
    """Where the shapes of a run are from."""

    found: str
    data: str | None
    sha256: str


Stored = StoredRun[ShapeSource, ShapesConfig]


class ShapeTraining(AbstractApplication[ShapesConfig, ShapeSource, Shapes, ShapeTask]):
    """A network from pictures to shapes."""

    task, command, length = TASK, f"train {TASK}", "epochs"
    config, source = ShapesConfig, ShapeSource

    def check(self, config: ShapesConfig) -> None:
        """Refuse values that cannot mean anything."""
        counts = dict.fromkeys(("epochs", "views", "latent", "points"), 1)
        weights = dict.fromkeys(("normal_weight", "inside_weight", "eikonal_weight", "warm_up", "shapes", "seed"), 0)
        require_least(config, counts | weights | {"batch": 2})
        require_positive(config, "learning_rate", "truncation", "sharpness")
        if config.shapes == 1 or config.warm_up > 1:
            raise InputError("`--shapes` must be 0 or at least 2, and `--warm-up` at most 1.")

    def load(self, command: TrainShapes) -> Material[ShapeSource, Shapes]:
        """The shapes that the command names."""
        return _material(load_shapes(command.config.data_set, command.config.category, data_root(command.data)))

    def load_again(self, stored: Stored, command: Resume) -> Material[ShapeSource, Shapes]:
        """The shapes of the run."""
        shapes = _again(stored, command.data)
        if shapes.sha256 != stored.source.sha256 and not command.allow_config_change:
            raise InputError("the shapes are not those that the run began with; `--allow-config-change` accepts that.")
        return _material(shapes)

    def stem(self, config: ShapesConfig, material: Material[ShapeSource, Shapes]) -> str:
        """Category and head."""
        del material
        return f"{config.category}-{config.head}"

    def make_task(
        self, config: ShapesConfig, material: Material[ShapeSource, Shapes], device: torch.device
    ) -> ShapeTask:
        """Pictures of the shapes."""
        return ShapeTask(config, *prepared(material.content, config), device)

    def conclude(self, task: ShapeTask, folder: RunFolder, record: Record) -> Conclusion:
        """IoU and Chamfer distance, the curves, and some of the test shapes."""
        tested = test(task.model, task.tested, task.device)
        draw_learning(folder.path / "curves.png", {task.config.head: record.history}, task.epoch_steps)
        fields = predicted(task.model, task.tested.pictures[:, 0], task.device)
        write_picture(folder.path / "shapes.png", shape_sheet(task.tested, [fields]))
        metrics = _figures(tested) | {
            "data_set": folder.read_config()[1]["found"],
            "train_shapes": len(task.train),
            "test_shapes": len(task.tested),
            "empty_in_training": task.empty,  # fields that had no surface, and counted for their field alone
            "steps_of_an_epoch": task.epoch_steps,
        }
        sentence = f"{_said(tested)}, {record.step_time_ms:.0f} ms a step, {record.seconds:.0f} s"
        return Conclusion(metrics, sentence, f"implayer eval {folder.path}")

    def evaluate(self, folder: RunFolder, stored: Stored, command: Eval, device: torch.device) -> Conclusion:
        """The figures of the test shapes."""
        examples = prepared(_again(stored, command.data), stored.config)[1]
        model = build_model(stored.config)
        load_trained(folder, model, device)
        tested = test(model, examples, device)
        return Conclusion(_figures(tested), f"{_said(tested)}, {len(examples)} test shapes")


SHAPES = ShapeTraining()


def _again(stored: Stored, data: Path | None) -> Shapes:
    source, config = stored.source, stored.config
    if data is None and source.data is not None and Path(source.data).is_dir():
        return load_shapes(source.found, config.category, Path(source.data))  # type: ignore[arg-type]  # it was one
    return load_shapes(
        "generated" if source.found == "generated" else config.data_set, config.category, data_root(data)
    )


def _material(shapes: Shapes) -> Material[ShapeSource, Shapes]:
    where = None if shapes.root is None else str(shapes.root.resolve())
    return Material(ShapeSource(shapes.name, where, shapes.sha256), shapes, shapes.notes)


def _figures(tested: Tested) -> dict[str, object]:
    return {**vars(tested), "iou_of_each": list(tested.iou_of_each), "chamfer_of_each": list(tested.chamfer_of_each)}


def _said(tested: Tested) -> str:
    empty = f", {tested.empty} without a surface" if tested.empty else ""
    return f"IoU {tested.iou:.4f}, Chamfer distance {tested.chamfer:.4f}{empty}"


def shape_sheet(examples: Examples, fields: list[Tensor]) -> Tensor:
    """(height, width, 1): some test shapes as the columns: the true one, its picture, and the surface of each field."""
    count = min(SHOWN, len(examples))
    chosen = [k * len(examples) // count for k in range(count)]
    pictures = [on_white(examples.pictures[k, 0].float() / 255) for k in chosen]
    rows = [[portrait(examples.surfaces[k], _AZIMUTH, _PIXELS) for k in chosen], [_enlarged(each) for each in pictures]]
    for each in fields:
        rows.append([portrait(surface, _AZIMUTH, _PIXELS) for surface in surfaces_of(each[chosen])])
    return sheet(rows)


def _enlarged(picture: Tensor) -> Tensor:
    wide = torch.nn.functional.interpolate(picture.permute(2, 0, 1).unsqueeze(0), (_PIXELS, _PIXELS))
    return wide[0].permute(1, 2, 0)


def draw_learning(path: Path, histories: dict[str, dict[str, list[float]]], epoch_steps: int) -> None:
    """Loss and test IoU over the epochs, one colour a head; the losses of different heads are different things."""
    loss: list[Line] = []
    iou: list[Line] = []
    for name, history in histories.items():
        values = history["loss"]
        means = [sum(values[k : k + epoch_steps]) / epoch_steps for k in range(0, len(values), epoch_steps)]
        epochs = [float(epoch) for epoch in range(1, len(means) + 1)]
        loss.append(Line(name, epochs, means, group=name))
        iou.append(Line(name, epochs, history["test_iou"], group=name))
    panels = [Panel("training", "epoch", "loss of the head", loss, log_y=True, integer_x=True)]
    draw_lines(path, [*panels, Panel("test shapes", "epoch", "IoU", iou, integer_x=True)])
