"""The one training loop: steps, checkpoints by the clock, an orderly stop on Ctrl-C, figures."""

import abc
import dataclasses
import math
import signal
import statistics
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoint import (
    load_tensors,
    load_weights,
    optimizer_tensors,
    restore_optimizer,
    save_tensors,
    under_prefix,
    with_prefix,
)
from .errors import CheckpointError, CheckpointWriteError, Interrupted, NonfiniteError
from .memory import PeakMemory
from .progress import Reporter
from .ranks import Ranks, ranks
from .run_folder import RunFolder

_CHECKPOINT_SHARE = 20  # writing checkpoints may take at most one part in so many of the time
_WARM_UP = (
    2  # steps that count for no step time: the first ones allocate, and the first of an implicit model solves fully
)


class AbstractTask(abc.ABC):
    """What the loop trains."""

    device: torch.device
    model: nn.Module
    optimizer: torch.optim.Optimizer
    seed: int
    total_steps: int  # after which the run is finished
    remedy: str  # what a loss that became NaN may come from besides the learning rate, and what helps

    @abc.abstractmethod
    def step(self) -> dict[str, float]:
        """One optimiser step; its figures, `loss` among them, of the weights before it. Some may come now and then."""

    @abc.abstractmethod
    def further_state(self) -> dict[str, Tensor]:
        """All tensors that the next step depends on besides weights and optimiser."""

    @abc.abstractmethod
    def restore_further(self, tensors: dict[str, Tensor]) -> None:
        """The opposite of `further_state`, from a dict that holds more than its tensors."""

    def state(self) -> dict[str, Tensor]:
        """All tensors that the next step depends on."""
        weights = with_prefix("weights", self.model.state_dict())
        return weights | with_prefix("optimizer", optimizer_tensors(self.optimizer)) | self.further_state()

    def restore(self, tensors: dict[str, Tensor], path: Path) -> None:
        """The opposite of `state`; `path` is where the tensors are from."""
        load_weights(self.model, under_prefix("weights", tensors), path)
        restore_optimizer(self.optimizer, under_prefix("optimizer", tensors))
        self.restore_further(tensors)


@dataclasses.dataclass
class Record:
    """How far a run is, and what was measured on the way."""

    step: int = 0
    seconds: float = 0.0  # of training, over all sessions of the run
    peak_memory_mb: float = 0.0
    history: dict[str, list[float]] = dataclasses.field(default_factory=dict)  # one entry a step that gave one
    step_ms: list[float] = dataclasses.field(default_factory=list)

    def add(self, figures: dict[str, float], seconds: float) -> None:
        """Another step is done."""
        self.step += 1
        self.seconds += seconds
        self.step_ms.append(round(seconds * 1e3, 3))
        for name, value in figures.items():
            self.history.setdefault(name, []).append(value)

    @property
    def step_time_ms(self) -> float:
        """The median step, without the first ones."""
        steps = self.step_ms[_WARM_UP:] or self.step_ms
        return statistics.median(steps) if steps else 0.0


class _Stop:
    """Ctrl-C once: finish the step and save. Twice: stop now, the last checkpoint is valid."""

    def __init__(self) -> None:
        self.asked = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "_Stop":
        if threading.current_thread() is threading.main_thread():
            self._old = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def train(
    task: AbstractTask, folder: RunFolder, record: Record, *, checkpoint_seconds: float, reporter: Reporter
) -> None:
    """Go on until all steps of the task are done. A kill at any moment loses nothing that was saved.

    **Arguments**

    - `record`: where the run is; it is updated in place.
    - `checkpoint_seconds`: time between checkpoints; longer where one takes so long that it would slow down training.

    **Raises** `Interrupted` after Ctrl-C (all saved), `NonfiniteError` (the last checkpoint is intact),
    `CheckpointWriteError` when the last checkpoint could not be written; with an earlier one that is a warning.
    """
    if record.step == 0:
        save(task, folder, record)  # from now on the run can be resumed
    memory, team = PeakMemory(task.device, record.peak_memory_mb), ranks()
    saved, interval = time.monotonic(), checkpoint_seconds
    with _Stop() as stop, reporter:
        while record.step < task.total_steps:
            begin = time.perf_counter()
            figures = task.step()
            _synchronise(task.device)
            _require_finite(figures, record.step + 1, folder, task.remedy)
            record.add(figures, time.perf_counter() - begin)
            reporter.update(record.step, _text(record))
            asked, due = _decided(team, stop.asked, time.monotonic() - saved >= interval)
            last = record.step == task.total_steps or asked
            if last or due:
                record.peak_memory_mb = memory.pause()
                begin = time.monotonic()
                _save_or_warn(task, folder, record, reporter, last=last)
                saved = time.monotonic()
                interval = max(checkpoint_seconds, _CHECKPOINT_SHARE * (saved - begin))
                memory.resume()
            if asked and record.step < task.total_steps:
                raise Interrupted


def save(task: AbstractTask, folder: RunFolder, record: Record) -> None:
    """Write the checkpoint: the state of the task, of the random generator, and the record."""
    tensors = with_prefix("task", task.state()) | {"rng": torch.get_rng_state()}
    if ranks().first:
        save_tensors(folder.checkpoint, tensors, dataclasses.asdict(record))


def restore(task: AbstractTask, folder: RunFolder) -> Record:
    """Bring a task and the random generator to where the checkpoint was written."""
    tensors, notes = load_tensors(folder.checkpoint)
    try:
        record = Record(**notes)
        torch.set_rng_state(tensors.pop("rng"))
    except (TypeError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"`{folder.checkpoint}` lacks what a checkpoint holds ({error}).") from error
    task.restore(under_prefix("task", tensors), folder.checkpoint)
    return record


def _decided(team: Ranks, asked: bool, due: bool) -> tuple[bool, bool]:
    """Whether to stop, which any process may be asked for, and whether to save, which the first one's clock says."""
    if team.count == 1:
        return asked, due
    said = team.all_of((asked, due))
    return any(each[0] for each in said), said[0][1]


def _save_or_warn(task: AbstractTask, folder: RunFolder, record: Record, reporter: Reporter, *, last: bool) -> None:
    try:
        save(task, folder, record)
    except CheckpointWriteError as error:
        if last:
            raise
        reporter.note(f"warning: {error} Training goes on.")


def _require_finite(figures: dict[str, float], step: int, folder: RunFolder, remedy: str) -> None:
    for name, value in figures.items():
        if not math.isfinite(value):
            raise NonfiniteError(
                f"`{name}` became {value} at step {step}. Likely causes: (a) the learning rate is too large, "
                f"(b) {remedy}. The last checkpoint in `{folder.path}` is intact."
            )


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _text(record: Record) -> str:
    latest = {name: values[-1] for name, values in record.history.items()}
    shown = "  ".join(
        f"{name} {value:.5g}" if name == "loss" else f"{name} {value:.2f}" for name, value in latest.items()
    )
    return f"{shown}  {record.step_ms[-1]:.0f} ms/step"
