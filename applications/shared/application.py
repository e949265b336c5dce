"""What one kind of run consists of, and the one way to start it, to go on with it, and to open what it left."""

import abc
import dataclasses
from typing import Any, ClassVar, Generic, TypeVar, get_type_hints

import torch
from torch import nn

from .checkpoint import load_tensors, load_weights, save_tensors, under_prefix
from .devices import choose_device, set_threads
from .errors import InputError, Interrupted, RunFolderError
from .options import (
    AbstractNewRun,
    AbstractRunCommand,
    Eval,
    Resume,
    RunOptions,
    changes_of,
    fits,
    flag,
    given,
    require_finite,
    require_least,
)
from .progress import Reporter
from .quantise import restored
from .ranks import ranks
from .run_folder import CONFIG, RunFolder, create_run, free_name, open_run, refuse_changes, versions
from .training import AbstractTask, Record, restore, train

_LARGEST_SEED = 2**40  # further ones are made of it, and torch takes 64 bits

Config = TypeVar("Config")  # a frozen dataclass: what decides the numbers
Source = TypeVar("Source")  # a frozen dataclass: what `config.json` keeps of the data, so that they are found again
Content = TypeVar("Content")  # the data themselves
Task = TypeVar("Task", bound=AbstractTask)


@dataclasses.dataclass(frozen=True)
class Material(Generic[Source, Content]):
    """The data of a run."""

    source: Source
    content: Content
    notes: tuple[str, ...] = ()  # what the user should know of them


@dataclasses.dataclass(frozen=True)
class StoredRun(Generic[Source, Config]):
    """What `config.json` keeps of a run."""

    source: Source
    threads: int
    device: str
    config: Config


@dataclasses.dataclass(frozen=True)
class Conclusion:
    """What a finished run, or an evaluation of one, has to say."""

    metrics: dict[str, Any]  # of this application; those that every run has are added
    sentence: str
    next: str = ""  # the command to type next, where there is one


class AbstractApplication(abc.ABC, Generic[Config, Source, Content, Task]):
    """One kind of run. Only what is particular to it is written by the application; the functions below do the rest."""

    task: ClassVar[str]  # its name in `config.json`
    command: ClassVar[str]  # the words that start a run, as `fit image`
    length: ClassVar[str]  # the field of the configuration that may grow when a run is gone on with
    config: type[Config]
    source: type[Source]

    @abc.abstractmethod
    def check(self, config: Config) -> None:
        """Refuse values that cannot mean anything, by name, before anything is loaded."""

    @abc.abstractmethod
    def load(self, command: Any) -> Material[Source, Content]:
        """The data that the command for a new run names."""

    @abc.abstractmethod
    def load_again(self, stored: StoredRun[Source, Config], command: Resume) -> Material[Source, Content]:
        """The data of a run that is gone on with; `stored.config` has the changes in it.

        Other data than those of the run are refused, unless `command.allow_config_change`.
        """

    @abc.abstractmethod
    def stem(self, config: Config, material: Material[Source, Content]) -> str:
        """The name of the run's folder, where none is given."""

    @abc.abstractmethod
    def make_task(self, config: Config, material: Material[Source, Content], device: torch.device) -> Task:
        """What the training loop runs."""

    def prepare(self, folder: RunFolder, material: Material[Source, Content]) -> None:
        """Write what can be looked at before the training of a new run; as a rule there is nothing."""
        del folder, material

    @abc.abstractmethod
    def conclude(self, task: Task, folder: RunFolder, record: Record) -> Conclusion:
        """Draw the pictures of a finished run, and say how it went."""

    @abc.abstractmethod
    def evaluate(
        self, folder: RunFolder, stored: StoredRun[Source, Config], command: Eval, device: torch.device
    ) -> Conclusion:
        """The figures of a run, computed anew from its saved weights."""

    def read(self, folder: RunFolder) -> StoredRun[Source, Config]:
        """What the run was started with."""
        task, fields = folder.read_config()
        if task != self.task:
            raise RunFolderError(f"`{folder.path}` holds a run of `{task}`; expected one of `{self.command}`.")
        try:
            config, threads, device = (
                _typed(self.config, fields.pop("config")),
                fields.pop("threads"),
                fields.pop("device"),
            )
            return StoredRun(_typed(self.source, fields), threads, device, config)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise RunFolderError(
                f"`config.json` in `{folder.path}` is not that of `{self.command}` ({error})."
            ) from error

    def write(self, folder: RunFolder, stored: StoredRun[Source, Config]) -> None:
        """Keep what the run was started with."""
        fields: Any = dataclasses.asdict(stored)
        folder.write_config(self.task, {**fields.pop("source"), **fields})


def start(application: AbstractApplication, command: AbstractNewRun) -> RunFolder:
    """A new run, to its end. Input and output folder are checked before anything is computed."""
    config, options = command.config, command.options
    command.require_defaults()
    _check(application, config, options)
    material = application.load(command)
    device = choose_device(options.device)
    threads = set_threads(options.threads)
    task = application.make_task(config, material, device)  # before the folder: memory may not suffice
    out, team = command.out or free_name(application.stem(config, material)), ranks()
    if team.first:
        folder = create_run(out, overwrite=command.overwrite)
        application.write(folder, StoredRun(material.source, threads, str(device), config))
        application.prepare(folder, material)
    folder = RunFolder(team.of_first(out))
    reporter = Reporter(task.total_steps, quiet=options.quiet or not team.first)
    for note in material.notes if team.first else ():
        reporter.note(note)
    return _carry_out(application, task, folder, Record(), options, reporter)


def go_on(application: AbstractApplication, command: Resume) -> RunFolder:
    """A run from its last checkpoint; it ends as it would have without the interruption."""
    folder, options = open_run(command.run), command.options
    stored = application.read(folder)
    changes = given(command.changes)
    lasting = {name: value for name, value in changes.items() if name != application.length}
    refuse_changes(dataclasses.asdict(stored.config), lasting, allow=command.allow_config_change)
    config = dataclasses.replace(stored.config, **changes)
    _check(application, config, options)
    set_threads(options.threads or stored.threads)
    stored = dataclasses.replace(stored, config=config)
    material = application.load_again(stored, command)
    device = choose_device(stored.device if options.device == "auto" else options.device)
    task = application.make_task(config, material, device)
    record = restore(task, folder)
    if record.step > task.total_steps:
        asked = getattr(config, application.length)
        steps = "" if asked == task.total_steps else f", which are {task.total_steps} steps"
        raise InputError(
            f"`{flag(application.length)}` is {asked}{steps}, but the run has done {record.step} steps already."
        )
    if ranks().first:
        application.write(folder, dataclasses.replace(stored, source=material.source))
        folder.weights.unlink(missing_ok=True)  # of an earlier stop; until this one the checkpoint speaks for the run
    ranks().of_first(None)  # all have read what was there before the first one writes
    reporter = Reporter(task.total_steps, done=record.step, quiet=options.quiet or not ranks().first)
    return _carry_out(application, task, folder, record, options, reporter)


def carry_on(application: AbstractApplication, command: AbstractNewRun) -> RunFolder:
    """A run in `command.out`: a new one, or what is there already, gone on with to the length that the command asks for.

    **Raises** `InputError` where what is there differs in anything else.
    """
    path, config = command.out, command.config
    if path is None or not (path / CONFIG).exists():
        return start(application, command)
    stored = vars(application.read(open_run(path)).config)
    for name, value in vars(config).items():
        if name != application.length and stored[name] != value:
            raise InputError(f"`{path}` holds a run with `{flag(name)}` {stored[name]}; choose another `--out`.")
    asked = getattr(config, application.length)
    folder = open_run(path)
    if folder.weights.exists() and folder.read_metrics().get(application.length) == stored[application.length] == asked:
        return folder  # it has come to its end
    longer = changes_of(type(config), application.command)(**{application.length: asked})
    return go_on(application, Resume(run=path, changes=longer, options=command.options, data=command.data))


def evaluate(application: AbstractApplication, command: Eval) -> dict[str, Any]:
    """The figures of a run, computed anew and printed."""
    folder, stored, device = opened(application, command)
    end = application.evaluate(folder, stored, command, device)
    _say(end, folder, command.options)
    return end.metrics


def opened(
    application: AbstractApplication[Config, Source, Any, Any], command: AbstractRunCommand
) -> tuple[RunFolder, StoredRun[Source, Config], torch.device]:
    """The run of a command, what it was started with, and the device to use now."""
    folder = open_run(command.run)
    stored = application.read(folder)
    set_threads(command.options.threads)
    return folder, stored, choose_device(command.options.device)


def load_trained(folder: RunFolder, model: nn.Module, device: torch.device) -> None:
    """Give a model the weights of a run: those of its last checkpoint where it did not come to its end."""
    finished = folder.weights.exists()
    path = folder.weights if finished else folder.checkpoint
    tensors, _ = load_tensors(path)
    weights = tensors if finished else under_prefix("task.weights", tensors)
    load_weights(model, restored(weights, model.state_dict()), path)
    model.to(device).eval()


def _check(application: AbstractApplication, config: Any, options: RunOptions) -> None:
    require_finite(config)
    require_least(options, {"checkpoint_seconds": 0})
    if config.seed > _LARGEST_SEED:
        raise InputError(f"`--seed` is {config.seed}; expected at most {_LARGEST_SEED}.")
    application.check(config)


def _typed(kind: type[Any], fields: dict[str, Any]) -> Any:
    """A dataclass from what a file holds. Raises TypeError where a field is missing, unknown or of another type."""
    for name, hint in get_type_hints(kind).items():
        if name in fields and not fits(fields[name], hint):
            raise TypeError(f"`{name}` is {fields[name]!r}")
    return kind(**fields)


def _carry_out(
    application: AbstractApplication,
    task: AbstractTask,
    folder: RunFolder,
    record: Record,
    options: RunOptions,
    reporter: Reporter,
) -> RunFolder:
    try:
        train(task, folder, record, checkpoint_seconds=options.checkpoint_seconds, reporter=reporter)
    except Interrupted:
        if not ranks().first:
            raise
        save_tensors(folder.weights, task.model.state_dict(), {})
        reporter.note(f"interrupted after step {record.step}, saved. Go on with:  implayer resume {folder.path}")
        raise
    if not ranks().first:
        return folder
    save_tensors(folder.weights, task.model.state_dict(), {})
    end = application.conclude(task, folder, record)
    length = {application.length: getattr(application.read(folder).config, application.length)}
    folder.write_metrics(end.metrics | length | _common(task, record))
    _say(end, folder, options)
    return folder


def _say(end: Conclusion, folder: RunFolder, options: RunOptions) -> None:
    if not options.quiet:
        print(f"{folder.path}: {end.sentence}" + (f"\nnext:  {end.next}" if end.next else ""))


def _common(task: AbstractTask, record: Record) -> dict[str, Any]:
    """The figures that every run has."""
    return {
        "step_time_ms": record.step_time_ms,
        "peak_memory_mb": record.peak_memory_mb,
        "parameters": sum(parameter.numel() for parameter in task.model.parameters()),
        "steps": record.step,
        "seconds": record.seconds,
        "device": str(task.device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "seed": task.seed,
        "history": record.history,
    }
