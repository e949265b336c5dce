"""Train, go on with, and evaluate a network that segments by a normalised cut."""

from dataclasses import dataclass
from pathlib import Path

import torch

from ..shared.application import AbstractApplication, Conclusion, Material, StoredRun, load_trained
from ..shared.data import data_root
from ..shared.errors import InputError
from ..shared.figures import Line, Panel, draw_lines
from ..shared.options import Eval, Resume, require_least, require_positive
from ..shared.pictures import write_picture
from ..shared.run_folder import RunFolder
from ..shared.training import Record
from .commands import TASK, TrainNCut
from .config import NCutConfig
from .data import LEAST_SIDE, Example, Scenes, load_scenes, spread
from .draw import SHOWN, contact_sheet
from .model import CHANNEL_UNIT, AbstractSegmenter, build_model, reaches
from .task import SegmentationTask, Tested, predicted, test


@dataclass(frozen=True)
class SceneSource:
    """Where the pictures of a run are from."""

    data_set: str
    data: str | None
    sha256: str


Stored = StoredRun[SceneSource, NCutConfig]
Curves = dict[str, dict[str, list[float]]]


class CutTraining(AbstractApplication[NCutConfig, SceneSource, Scenes, SegmentationTask]):
    """A network with a normalised cut, or the plain one beside it."""

    task, command, length = TASK, f"train {TASK}", "epochs"
    config, source = NCutConfig, SceneSource

    def check(self, config: NCutConfig) -> None:
        """Refuse values that cannot mean anything."""
        least = dict.fromkeys(("height", "width", "test_size"), LEAST_SIDE) | dict.fromkeys(
            ("epochs", "batch", "features"), 1
        )
        require_least(config, least | {"channels": CHANNEL_UNIT, "anchors": 0, "pictures": 0, "seed": 0})
        require_positive(config, "learning_rate", "floor")
        if config.channels % CHANNEL_UNIT:
            raise InputError(f"`--channels` is {config.channels}; expected a multiple of {CHANNEL_UNIT}.")
        try:
            found = reaches(config)
        except ValueError:
            found = ()
        if not found or min(found) < 1 or len(set(found)) < len(found) or 1 not in found:
            raise InputError(
                f"`--reaches` is `{config.reaches}`; expected different whole numbers from 1, 1 among them, as 1,2,4."
            )

    def load(self, command: TrainNCut) -> Material[SceneSource, Scenes]:
        """The pictures that the command names."""
        return _material(load_scenes(command.config.data_set, data_root(command.data), given=command.data is not None))

    def load_again(self, stored: Stored, command: Resume) -> Material[SceneSource, Scenes]:
        """The pictures of the run."""
        scenes = stored_scenes(stored.source, command.data)
        if scenes.sha256 != stored.source.sha256 and not command.allow_config_change:
            raise InputError(
                "the pictures are not those that the run began with; `--allow-config-change` accepts that."
            )
        return _material(scenes)

    def stem(self, config: NCutConfig, material: Material[SceneSource, Scenes]) -> str:
        """Network and pictures."""
        return f"{config.model}-{material.source.data_set}"

    def make_task(
        self, config: NCutConfig, material: Material[SceneSource, Scenes], device: torch.device
    ) -> SegmentationTask:
        """Batches of the pictures."""
        return SegmentationTask(config, material.content, device)

    def conclude(self, task: SegmentationTask, folder: RunFolder, record: Record) -> Conclusion:
        """The IoU on the test pictures, the curves, some overlays."""
        config = task.config
        tested = test(task.model, task.tested, task.device, config.test_size)
        draw_learning(folder.path / "curves.png", {config.model: record.history}, task.epoch_steps)
        draw_masks(folder.path / "masks.png", task.model, task.tested, config.test_size, task.device)
        metrics = {
            "iou": tested.iou,
            "pixel_accuracy": tested.accuracy,
            "iou_of_each": list(tested.each),
            "test_pictures": len(tested.each),
            "test_unsolved": tested.unsolved,
            "unsolved": task.unsolved,  # cuts of the training that failed, and were left out
            "degenerate": task.degenerate,  # whose eigenvalue was repeated, so that the derivative is not unique
            "data_set": task.scenes.name,
            "steps_of_an_epoch": task.epoch_steps,
        }
        left_out = f", {task.unsolved} cuts left out of the training" if task.unsolved else ""
        sentence = f"{_said(tested)}{left_out}, {record.step_time_ms:.0f} ms a step, {record.seconds:.0f} s"
        return Conclusion(metrics, sentence, _next(folder))

    def evaluate(self, folder: RunFolder, stored: Stored, command: Eval, device: torch.device) -> Conclusion:
        """The IoU on the test pictures."""
        scenes = stored_scenes(stored.source, command.data)
        model = build_model(stored.config)
        load_trained(folder, model, device)
        tested = test(model, spread(scenes.test, stored.config.pictures), device, stored.config.test_size)
        figures = {"iou": tested.iou, "pixel_accuracy": tested.accuracy, "test_unsolved": tested.unsolved}
        return Conclusion(figures, f"{_said(tested)} of {scenes.name}", _next(folder))


CUTS = CutTraining()


def stored_scenes(source: SceneSource, data: Path | None) -> Scenes:
    """The pictures of a run: from where it found them, or from another data root."""
    there = Path(source.data) if data is None and source.data is not None else data_root(data)
    kinds = {"folder": "folder", "camvid": "camvid", "generated": "generated"}
    return load_scenes(kinds.get(source.data_set, "auto"), there)  # type: ignore[arg-type]


def _material(scenes: Scenes) -> Material[SceneSource, Scenes]:
    where = None if scenes.root is None else str(scenes.root.resolve())
    return Material(SceneSource(scenes.name, where, scenes.sha256), scenes, scenes.notes)


def _said(tested: Tested) -> str:
    unsolved = f", {tested.unsolved} not solved" if tested.unsolved else ""
    return f"IoU {tested.iou:.2f} %, {tested.accuracy:.2f} % of the pixels, {len(tested.each)} test pictures{unsolved}"


def _next(folder: RunFolder) -> str:
    return f"implayer segment PICTURE --model {folder.path}"


def draw_learning(path: Path, curves: Curves, epoch_steps: int, levels: dict[str, float] | None = None) -> None:
    """Loss and test IoU over the epochs, one colour a network; `levels` are drawn as horizontal lines."""
    loss: list[Line] = []
    score: list[Line] = []
    for name, history in curves.items():
        values = history["loss"]
        parts = [values[first : first + epoch_steps] for first in range(0, len(values), epoch_steps)]
        means = [sum(part) / len(part) for part in parts if len(part) == epoch_steps]
        epochs = [float(epoch) for epoch in range(1, len(means) + 1)]
        loss.append(Line(name, epochs, means, group=name))
        score.append(Line(name, epochs, history.get("test_iou", []), group=name))
    ends = [1.0, max([2.0, *(len(line.x) for line in loss)])]
    for name, level in (levels or {}).items():
        score.append(Line(name, ends, [level, level], group=name, dashed=True))
    panels = [
        Panel("training loss", "epoch", "its own loss", loss, integer_x=True),
        Panel("IoU of the test pictures", "epoch", "per cent", score, integer_x=True),
    ]
    draw_lines(path, panels)


def draw_masks(
    path: Path, model: AbstractSegmenter, examples: tuple[Example, ...], longer: int, device: torch.device
) -> None:
    """Some test pictures: truth, and what the network says."""
    chosen = spread(examples, SHOWN)
    masks = [predicted(model, example.pixels, device, longer) for example in chosen]
    write_picture(path, contact_sheet(chosen, [[mask] for mask in masks]))
