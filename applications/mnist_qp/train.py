"""Train, go on with, and evaluate a network that reads digits through a quadratic program."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from ..shared.checkpoint import load_tensors, load_weights, save_tensors, under_prefix
from ..shared.data import data_root
from ..shared.devices import choose_device, set_threads
from ..shared.errors import InputError, Interrupted, RunFolderError
from ..shared.figures import Line, Panel, draw_lines
from ..shared.options import RunOptions, given
from ..shared.progress import Reporter
from ..shared.run_folder import RunFolder, create_run, free_name, open_run, refuse_changes, versions
from ..shared.training import Record, restore, train
from .commands import EvalMnistQP, ResumeMnistQP, TrainMnistQP
from .config import MnistConfig
from .data import Digits, load_digits
from .model import build_model
from .solvers import build_solver
from .task import DigitTask, Tested, steps_of_epoch, test

TASK = "mnist-qp"


@dataclasses.dataclass(frozen=True)
class StoredRun:
    """What `config.json` keeps of a training run."""

    data_set: str
    data: str | None
    sha256: str
    threads: int
    device: str
    config: MnistConfig


def read_run(folder: RunFolder) -> StoredRun:
    """The configuration of a training run."""
    task, fields = folder.read_config()
    if task != TASK:
        raise RunFolderError(f"`{folder.path}` holds a run of `{task}`; expected one of `train {TASK}`.")
    try:
        return StoredRun(**{**fields, "config": MnistConfig(**fields["config"])})
    except (TypeError, KeyError) as error:
        raise RunFolderError(f"`config.json` in `{folder.path}` is not that of `train {TASK}` ({error}).") from error


def check(config: MnistConfig) -> None:
    """Refuse values that cannot mean anything, by name, and a layer that is not installed."""
    least = {"epochs": 1, "batch": 1, "hidden": 1, "inequalities": 1, "equations": 1, "samples": 0, "seed": 0}
    for name, smallest in least.items():
        if getattr(config, name) < smallest:
            raise InputError(f"`--{name.replace('_', '-')}` is {getattr(config, name)}; expected at least {smallest}.")
    if not config.spread >= 0:
        raise InputError(f"`--spread` is {config.spread}; expected at least 0.")
    for name in ("learning_rate", "decay", "epsilon"):
        if not getattr(config, name) > 0:
            raise InputError(f"`--{name.replace('_', '-')}` is {getattr(config, name)}; expected a positive number.")
    if config.batch_norm and 1 in (config.batch, config.samples):
        raise InputError("`--batch` and `--samples` must be more than 1 with `--batch-norm`.")
    if config.learn_all and config.equations >= 10:
        raise InputError(f"`--equations` is {config.equations}; expected less than the 10 unknowns.")
    build_solver(config.layer, 1, 0, 1)


def train_digits(command: TrainMnistQP) -> RunFolder:
    """Train a new run. Input and output folder are checked before anything is computed."""
    config, options = command.config, command.options
    check(config)
    digits = load_digits(config.data_set, data_root(command.data))
    device = choose_device(options.device)
    threads = set_threads(options.threads)
    folder = create_run(command.out or free_name(f"{TASK}-{config.layer}"), overwrite=command.overwrite)
    where = None if digits.folder is None else str(digits.folder.resolve())
    folder.write_config(TASK, StoredRun(digits.name, where, digits.sha256, threads, str(device), config))
    reporter = Reporter(config.epochs * steps_of_epoch(config, digits), quiet=options.quiet)
    for note in digits.notes:
        reporter.note(note)
    return _run(DigitTask(config, digits, device), folder, Record(), options, reporter)


def resume_digits(command: ResumeMnistQP) -> RunFolder:
    """Go on with a run from its last checkpoint; it ends as it would have without the interruption."""
    folder, options = open_run(command.run), command.options
    stored = read_run(folder)
    changes = given(command.changes)
    lasting = {name: value for name, value in changes.items() if name != "epochs"}  # more epochs are no other run
    refuse_changes(dataclasses.asdict(stored.config), lasting, allow=command.allow_config_change)
    config = dataclasses.replace(stored.config, **changes)
    check(config)
    set_threads(options.threads or stored.threads)
    digits = stored_digits(stored, command.data)
    if digits.sha256 != stored.sha256 and not command.allow_config_change:
        raise InputError("the digits are not those that the run began with; `--allow-config-change` accepts that.")
    task = DigitTask(config, digits, choose_device(stored.device if options.device == "auto" else options.device))
    record = restore(task, folder)
    steps = config.epochs * task.epoch_steps
    if record.step > steps:
        raise InputError(
            f"`--epochs` {config.epochs} are {steps} steps, but the run has done {record.step} steps already."
        )
    folder.write_config(TASK, dataclasses.replace(stored, sha256=digits.sha256, config=config))
    folder.weights.unlink(missing_ok=True)  # of an earlier stop; until this one the checkpoint speaks for the run
    return _run(task, folder, record, options, Reporter(steps, done=record.step, quiet=options.quiet))


def evaluate_digits(command: EvalMnistQP) -> Tested:
    """The test accuracy of a run, computed anew from its weights: of its last checkpoint where it came to no end."""
    folder, options = open_run(command.run), command.options
    stored = read_run(folder)
    set_threads(options.threads)
    device = choose_device(options.device)
    digits = stored_digits(stored, command.data)
    model = build_model(stored.config, digits.train.shape[1])
    finished = folder.weights.exists()
    path = folder.weights if finished else folder.checkpoint
    tensors, _ = load_tensors(path)
    load_weights(model, tensors if finished else under_prefix("task.weights", tensors), path)
    tested = test(model.to(device), digits, device)
    if not options.quiet:
        print(f"{folder.path}: {_said(tested)}, {len(digits.test)} test digits of {digits.name}")
    return tested


def stored_digits(stored: StoredRun, data: Path | None) -> Digits:
    """The digits of a run: from where it found them, or from another data root."""
    if data is None and stored.data is not None and Path(stored.data).is_dir():
        return load_digits("mnist", Path(stored.data))
    return load_digits("digits" if stored.data_set == "digits" else "mnist", data_root(data))


def _run(task: DigitTask, folder: RunFolder, record: Record, options: RunOptions, reporter: Reporter) -> RunFolder:
    seconds = options.checkpoint_seconds
    try:
        train(task, folder, record, reporter.total, checkpoint_seconds=seconds, reporter=reporter)
    except Interrupted:
        save_tensors(folder.weights, task.model.state_dict(), {})
        reporter.note(f"interrupted after step {record.step}, saved. Go on with:  implayer resume {folder.path}")
        raise
    save_tensors(folder.weights, task.model.state_dict(), {})
    tested = task.test()
    folder.write_metrics(_metrics(task, record, tested))
    draw_learning(folder.path / "curves.png", {task.config.layer: record.history}, task.epoch_steps)
    if not options.quiet:
        left_out = f", {task.unsolved} left out of the training" if task.unsolved else ""
        print(
            f"{folder.path}: {_said(tested)}{left_out}, {record.step_time_ms:.1f} ms a step, {record.seconds:.0f} s\n"
            f"next:  implayer eval {folder.path}"
        )
    return folder


def _said(tested: Tested) -> str:
    unsolved = f", {tested.unsolved} without a solution" if tested.unsolved else ""
    return f"test accuracy {tested.accuracy:.2f} %, loss {tested.loss:.4f}{unsolved}"


def _metrics(task: DigitTask, record: Record, tested: Tested) -> dict[str, Any]:
    return {
        "accuracy": tested.accuracy,
        "test_loss": tested.loss,
        "test_unsolved": tested.unsolved,
        "degenerate": task.degenerate,  # programs of the training whose derivative was one-sided
        "unsolved": task.unsolved,  # programs of the training that had no solution, and were left out
        "data_set": task.digits.name,
        "step_time_ms": record.step_time_ms,
        "peak_memory_mb": record.peak_memory_mb,
        "parameters": sum(parameter.numel() for parameter in task.model.parameters()),
        "parameters_of_the_layer": sum(parameter.numel() for parameter in task.model.scores.parameters()),
        "steps": record.step,
        "steps_of_an_epoch": task.epoch_steps,
        "seconds": record.seconds,
        "device": str(task.device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "seed": task.config.seed,
        "history": record.history,
    }


def draw_learning(path: Path, histories: dict[str, dict[str, list[float]]], epoch_steps: int) -> None:
    """Loss and accuracy over the epochs, one colour a layer: means of the training batches of an epoch, and the test."""
    loss: list[Line] = []
    accuracy: list[Line] = []
    for name, history in histories.items():
        for lines, key in ((loss, "loss"), (accuracy, "accuracy")):
            means = _epoch_means(history[key], epoch_steps)
            epochs = [float(epoch) for epoch in range(1, len(means) + 1)]
            lines.append(Line(f"{name}, training", epochs, means, dashed=True, group=name))
            lines.append(Line(f"{name}, test", epochs, history.get(f"test_{key}", []), group=name))
    panels = [Panel("loss", "epoch", "negative log-likelihood", loss, log_y=True)]
    panels.append(Panel("accuracy", "epoch", "per cent", accuracy))
    draw_lines(path, panels)


def _epoch_means(values: list[float], epoch_steps: int) -> list[float]:
    parts = [values[first : first + epoch_steps] for first in range(0, len(values), epoch_steps)]
    return [sum(part) / len(part) for part in parts if len(part) == epoch_steps]
