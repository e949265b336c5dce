"""Train, go on with, and evaluate a matcher of graphs."""

from dataclasses import dataclass
from pathlib import Path

import torch

from ..shared.application import AbstractApplication, Conclusion, Material, StoredRun, load_trained
from ..shared.data import data_root
from ..shared.errors import InputError
from ..shared.figures import Line, Panel, draw_lines
from ..shared.options import Eval, Resume, require_least, require_positive
from ..shared.run_folder import RunFolder
from ..shared.training import Record
from .commands import TASK, TrainGraphMatching
from .config import MatchingConfig
from .data import Landmarks, load_landmarks
from .model import build_model
from .task import Graphs, MatchingTask, Tested, test


@dataclass(frozen=True)
class LandmarkSource:
    """Where the landmarks of a run are from."""

    data: str
    sha256: str


Stored = StoredRun[LandmarkSource, MatchingConfig]


class MatchingTraining(AbstractApplication[MatchingConfig, LandmarkSource, Landmarks, MatchingTask]):
    """An affinity, learned through a matching layer."""

    task, command, length = TASK, f"train {TASK}", "steps"
    config, source = MatchingConfig, LandmarkSource

    def check(self, config: MatchingConfig) -> None:
        """Refuse values that cannot mean anything."""
        counts = ("steps", "batch", "hidden", "dims", "pi_steps", "evaluate_every", "train_pairs", "test_pairs")
        require_least(config, dict.fromkeys(counts, 1) | {"seed": 0})
        require_positive(config, "learning_rate", "voting", "alpha")
        if (config.features == "vgg") != bool(config.vgg):
            raise InputError("`--features vgg` and `--vgg FILE` belong together; the weights are not shipped.")

    def load(self, command: TrainGraphMatching) -> Material[LandmarkSource, Landmarks]:
        """The landmarks that the command names."""
        return _material(load_landmarks(command.config, data_root(command.data)))

    def load_again(self, stored: Stored, command: Resume) -> Material[LandmarkSource, Landmarks]:
        """The landmarks of the run."""
        landmarks = stored_landmarks(stored, command.data)
        if landmarks.sha256 != stored.source.sha256 and not command.allow_config_change:
            raise InputError(
                "the landmarks are not those that the run began with; `--allow-config-change` accepts that."
            )
        return _material(landmarks)

    def stem(self, config: MatchingConfig, material: Material[LandmarkSource, Landmarks]) -> str:
        """Task, data and layer."""
        del material
        return f"{TASK}-{config.data_set}-{config.layer}"

    def make_task(
        self, config: MatchingConfig, material: Material[LandmarkSource, Landmarks], device: torch.device
    ) -> MatchingTask:
        """Batches of pairs. On the processor: eigenvalues of small graphs are not found faster elsewhere."""
        del device
        return MatchingTask(config, material.content, torch.device("cpu"))

    def conclude(self, task: MatchingTask, folder: RunFolder, record: Record) -> Conclusion:
        """Accuracy and PCK on the test pairs, the curves."""
        tested = task.test()
        draw_learning(folder.path / "curves.png", record.history, task.config)
        metrics = {
            "accuracy": tested.accuracy,
            "pck": tested.pck,
            "alpha": task.config.alpha,
            "data_set": task.landmarks.name,
            "test_pairs": len(task.landmarks.test),
        }
        sentence = f"{_said(tested, task.config)}, {record.step_time_ms:.0f} ms a step, {record.seconds:.0f} s"
        return Conclusion(metrics, sentence, f"implayer eval {folder.path}")

    def evaluate(self, folder: RunFolder, stored: Stored, command: Eval, device: torch.device) -> Conclusion:
        """Accuracy and PCK on the test pairs, on the processor as in the training."""
        del device
        landmarks = stored_landmarks(stored, command.data)
        model = build_model(stored.config)
        load_trained(folder, model, torch.device("cpu"))
        tested = test(model, Graphs(landmarks), stored.config)
        said = f"{_said(tested, stored.config)}, {len(landmarks.test)} test pairs of {landmarks.name}"
        return Conclusion({"accuracy": tested.accuracy, "pck": tested.pck}, said)


MATCHING = MatchingTraining()


def stored_landmarks(stored: Stored, data: Path | None) -> Landmarks:
    """The landmarks of a run: from where it found them, or from another data root."""
    found = Path(stored.source.data)
    return load_landmarks(stored.config, found if data is None and found.is_dir() else data_root(data))


def _material(landmarks: Landmarks) -> Material[LandmarkSource, Landmarks]:
    return Material(LandmarkSource(str(landmarks.folder.resolve()), landmarks.sha256), landmarks)


def _said(tested: Tested, config: MatchingConfig) -> str:
    return f"accuracy {tested.accuracy:.1f} %, PCK({config.alpha:g}) {tested.pck:.1f} %"


def draw_learning(path: Path, history: dict[str, list[float]], config: MatchingConfig) -> None:
    """Loss of the batches, and accuracy and PCK of the test pairs."""
    steps = [float(step) for step in range(1, len(history["loss"]) + 1)]
    every = config.evaluate_every
    tested = [step for step in steps if step % every == 0]
    tested += [steps[-1]] if len(tested) < len(history.get("accuracy", [])) else []
    loss = [Line("loss of a batch", steps, history["loss"], group="loss", dashed=True)]
    figures = [
        Line(
            f"{label}, test",
            tested[: len(history.get(name, []))],
            history.get(name, []),
            group=label,
            pale=name != "pck",
        )
        for name, label in (("accuracy", "accuracy"), ("pck", f"PCK({config.alpha:g})"))
    ]
    panels = [Panel("loss", "step", "distance of the votes, in units of length", loss, log_y=True)]
    draw_lines(path, [*panels, Panel("test pairs", "step", "per cent", figures)])
