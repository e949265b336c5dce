"""Train, go on with, and evaluate a network that reads digits through a quadratic program."""

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
from .commands import TASK, TrainMnistQP
from .config import MnistConfig
from .data import Digits, load_digits
from .model import CLASSES, build_model
from .solvers import build_solver
from .task import DigitTask, Tested, test


@dataclass(frozen=True)
class DigitSource:
    """Where the digits of a run are from."""

    data_set: str
    data: str | None
    sha256: str


Stored = StoredRun[DigitSource, MnistConfig]


class DigitTraining(AbstractApplication[MnistConfig, DigitSource, Digits, DigitTask]):
    """A network with a quadratic program for digits."""

    task, command, length = TASK, f"train {TASK}", "epochs"
    config, source = MnistConfig, DigitSource

    def check(self, config: MnistConfig) -> None:
        """Refuse values that cannot mean anything, and a layer that is not installed."""
        counts = ("epochs", "batch", "hidden", "inequalities", "equations")
        require_least(config, dict.fromkeys(counts, 1) | {"samples": 0, "seed": 0, "spread": 0})
        require_positive(config, "learning_rate", "decay", "epsilon")
        if config.batch_norm and 1 in (config.batch, config.samples):
            raise InputError("`--batch` and `--samples` must be more than 1 with `--batch-norm`.")
        if config.learn_all and config.equations >= CLASSES:
            raise InputError(f"`--equations` is {config.equations}; expected less than the {CLASSES} unknowns.")
        build_solver(config.layer, 1, 0, 1)

    def load(self, command: TrainMnistQP) -> Material[DigitSource, Digits]:
        """The digits that the command names."""
        return _material(load_digits(command.config.data_set, data_root(command.data, new=True)))

    def load_again(self, stored: Stored, command: Resume) -> Material[DigitSource, Digits]:
        """The digits of the run."""
        digits = stored_digits(stored.source, command.data)
        if digits.sha256 != stored.source.sha256 and not command.allow_config_change:
            raise InputError("the digits are not those that the run began with; `--allow-config-change` accepts that.")
        return _material(digits)

    def stem(self, config: MnistConfig, material: Material[DigitSource, Digits]) -> str:
        """Task and layer."""
        del material
        return f"{TASK}-{config.layer}"

    def make_task(
        self, config: MnistConfig, material: Material[DigitSource, Digits], device: torch.device
    ) -> DigitTask:
        """Batches of the digits."""
        return DigitTask(config, material.content, device)

    def conclude(self, task: DigitTask, folder: RunFolder, record: Record) -> Conclusion:
        """The accuracy on the test set, the curves."""
        tested = task.test()
        draw_learning(folder.path / "curves.png", {task.config.layer: record.history}, task.epoch_steps)
        metrics = {
            "accuracy": tested.accuracy,
            "test_loss": tested.loss,
            "test_unsolved": tested.unsolved,
            "degenerate": task.degenerate,  # programs of the training whose derivative was one-sided
            "unsolved": task.unsolved,  # programs of the training that had no solution, and were left out
            "data_set": task.digits.name,
            "parameters_of_the_layer": sum(parameter.numel() for parameter in task.model.scores.parameters()),
            "steps_of_an_epoch": task.epoch_steps,
        }
        left_out = f", {task.unsolved} left out of the training" if task.unsolved else ""
        sentence = f"{_said(tested)}{left_out}, {record.step_time_ms:.1f} ms a step, {record.seconds:.0f} s"
        return Conclusion(metrics, sentence, f"implayer eval {folder.path}")

    def evaluate(self, folder: RunFolder, stored: Stored, command: Eval, device: torch.device) -> Conclusion:
        """The accuracy on the test set."""
        digits = stored_digits(stored.source, command.data)
        model = build_model(stored.config, digits.train.shape[1])
        load_trained(folder, model, device)
        tested = test(model, digits, device)
        figures = {"accuracy": tested.accuracy, "test_loss": tested.loss, "test_unsolved": tested.unsolved}
        return Conclusion(figures, f"{_said(tested)}, {len(digits.test)} test digits of {digits.name}")


DIGITS = DigitTraining()


def stored_digits(source: DigitSource, data: Path | None) -> Digits:
    """The digits of a run: from where it found them, or from another data root."""
    if data is None and source.data is not None and Path(source.data).is_dir():
        return load_digits("mnist", Path(source.data))
    return load_digits("digits" if source.data_set == "digits" else "mnist", data_root(data, new=True))


def _material(digits: Digits) -> Material[DigitSource, Digits]:
    where = None if digits.folder is None else str(digits.folder.resolve())
    return Material(DigitSource(digits.name, where, digits.sha256), digits, digits.notes)


def _said(tested: Tested) -> str:
    unsolved = f", {tested.unsolved} without a solution" if tested.unsolved else ""
    return f"test accuracy {tested.accuracy:.2f} %, loss {tested.loss:.4f}{unsolved}"


def draw_learning(path: Path, histories: dict[str, dict[str, list[float]]], epoch_steps: int) -> None:
    """Loss and accuracy over the epochs, one colour a layer: means of the training batches of an epoch, and the test."""
    loss: list[Line] = []
    accuracy: list[Line] = []
    for number, (name, history) in enumerate(histories.items()):
        pale = number == 0 and len(histories) > 1  # the curves of two layers coincide
        for lines, key in ((loss, "loss"), (accuracy, "accuracy")):
            means = _epoch_means(history[key], epoch_steps)
            epochs = [float(epoch) for epoch in range(1, len(means) + 1)]
            lines.append(Line(f"{name}, training", epochs, means, group=name, dashed=True, pale=pale))
            lines.append(Line(f"{name}, test", epochs, history.get(f"test_{key}", []), group=name, pale=pale))
    panels = [Panel("loss", "epoch", "negative log-likelihood", loss, log_y=True, integer_x=True)]
    panels.append(Panel("accuracy", "epoch", "per cent", accuracy, integer_x=True))
    draw_lines(path, panels)


def _epoch_means(values: list[float], epoch_steps: int) -> list[float]:
    parts = [values[first : first + epoch_steps] for first in range(0, len(values), epoch_steps)]
    return [sum(part) / len(part) for part in parts if len(part) == epoch_steps]
