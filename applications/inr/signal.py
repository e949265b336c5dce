"""What the fits of all signals have in common: the checks, the name of the folder, how a run ends and is evaluated."""

import abc
from dataclasses import replace
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch

from ..shared.application import AbstractApplication, Conclusion, Material, StoredRun, load_trained, opened
from ..shared.errors import InputError
from ..shared.figures import draw_curves
from ..shared.options import Eval, Resume, require_least
from ..shared.run_folder import RunFolder
from ..shared.training import Record
from .check import check_field
from .config import FieldConfig
from .models.build import build_model
from .models.networks import AbstractNetwork
from .render_options import AbstractRender
from .sampled_task import SampledTask
from .states import recall_states

Config = TypeVar("Config", bound=FieldConfig)
Source = TypeVar("Source")
Content = TypeVar("Content")


class Network(NamedTuple):
    """The sides of a network: coordinates, values, and the scale of the input frequencies that the signal asks for."""

    inputs: int
    outputs: int
    scale: float


class AbstractSignalTask(SampledTask, Generic[Content]):
    """The points of a signal that is there as a whole."""

    content: Content


Task = TypeVar("Task", bound=AbstractSignalTask)


class AbstractSignalFit(AbstractApplication[Config, Source, Content, Task]):
    """A network for one signal."""

    length: ClassVar[str] = "steps"

    def check(self, config: Config) -> None:
        """Refuse values that cannot mean anything."""
        check_field(config)

    @abc.abstractmethod
    def find(self, stored: StoredRun[Source, Config], command: Resume | Eval) -> Material[Source, Content]:
        """The signal of a run, from where it was, prepared as it was."""

    @abc.abstractmethod
    def samples(self, source: Source) -> tuple[int, str]:
        """How many samples the signal has, and what one is called."""

    @abc.abstractmethod
    def network(self, config: Config, source: Source) -> Network:
        """The sides of the network of a run."""

    @abc.abstractmethod
    def reconstruct(
        self, model: AbstractNetwork, stored: StoredRun[Source, Config], content: Content, folder: RunFolder | None
    ) -> tuple[dict[str, Any], str]:
        """What the network makes of the signal by full solves, written into `folder`: its figures, and them in words."""

    @abc.abstractmethod
    def next(self, folder: RunFolder, stored: StoredRun[Source, Config]) -> str:
        """The command to type when a run has ended."""

    def same(self, before: Source, now: Source) -> bool:
        """Whether the signal is that of the run."""
        return before == now

    def load_again(self, stored: StoredRun[Source, Config], command: Resume) -> Material[Source, Content]:
        """The signal of the run, of the size that it had."""
        found = self.find(stored, command)
        if not self.same(stored.source, found.source) and not command.allow_config_change:
            path = getattr(found.source, "source", "the signal")
            raise InputError(f"`{path}` has changed since the run began; `--allow-config-change` accepts that.")
        return found

    def conclude(self, task: Task, folder: RunFolder, record: Record) -> Conclusion:
        """The signal by a full solve, its error, the curves."""
        stored = self.read(folder)
        figures, said = self.reconstruct(task.model, stored, task.content, folder)
        draw_curves(folder.path / "curves.png", record.history)
        sentence = (
            f"{said}, {record.step_time_ms:.0f} ms a step, {record.peak_memory_mb:.0f} MiB, "
            f"{sum(parameter.numel() for parameter in task.parameters)} parameters, {record.seconds:.0f} s"
        )
        metrics = figures | {
            "psnr_training_output": record.history["psnr"][-1],
            "network": list(self.network(stored.config, stored.source)),
        }
        return Conclusion(metrics, sentence, self.next(folder, stored))

    def evaluate(
        self, folder: RunFolder, stored: StoredRun[Source, Config], command: Eval, device: torch.device
    ) -> Conclusion:
        """The figures by a full solve."""
        content = self.find(stored, command).content
        figures, said = self.reconstruct(self.load_model(folder, stored, device), stored, content, None)
        return Conclusion(figures, said, self.next(folder, stored))

    def load_model(self, folder: RunFolder, stored: StoredRun[Source, Config], device: torch.device) -> AbstractNetwork:
        """The fitted network of a run."""
        network = self.network(stored.config, stored.source)
        model = build_model(stored.config, *network)
        load_trained(folder, model, device)
        recall_states(folder, model, network.inputs)
        return model


def opened_to_draw(
    application: AbstractSignalFit[Config, Source, Any, Any], command: AbstractRender
) -> tuple[RunFolder, StoredRun[Source, Config], torch.device]:
    """The run of a command, with the solves that the command asks for."""
    folder, stored, device = opened(application, command)
    if command.solve_steps is not None:
        require_least(command, {"solve_steps": 1})
        stored = replace(stored, config=replace(stored.config, max_solve_steps=command.solve_steps))
    return folder, stored, device
