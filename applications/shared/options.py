"""Options that the commands of several applications share. Nothing here imports torch: a --help is quick."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

from .errors import InputError
from .run_folder import create_run

PresetName = Literal["default", "smoke", "paper", "tuned"]
preset: ContextVar[PresetName] = ContextVar("preset", default="default")  # whose values are the defaults of a new run
config_file: ContextVar[Path | None] = ContextVar("config_file", default=None)  # whose values go before these


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run is carried out. None of it changes its numbers, except threads and device in the last digits."""

    quiet: bool = False
    """No progress and no summary; errors and warnings remain."""
    threads: int | None = None
    """Of the CPU; None leaves torch's choice. A resumed run uses as many as it started with."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto: a CUDA device where there is one."""
    checkpoint_seconds: float = 10.0
    """Between checkpoints."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbstractNewRun:
    """What every command that starts a run understands; a command adds its `config` and what it works on."""

    config: Any
    options: tyro.conf.OmitArgPrefixes[RunOptions] = dataclasses.field(default_factory=RunOptions)
    preset: PresetName = "default"
    """The values that hold where no other option is given."""
    out: Path | None = None
    """Folder of the run; None is a free name under runs/."""
    overwrite: bool = False
    """Replace a run that is in --out already."""
    data: Path | None = None
    """Data root; None is the environment variable IMPLAYER_DATA, or a cache folder."""
    config_file: Annotated[Path | None, tyro.conf.arg(name="config")] = None
    """A config.json of another run, perhaps edited: its values hold where no other option is given, before --preset."""

    def require_defaults(self) -> None:
        """Refuse a preset or a file of values that this command does not have; others of the program have it, perhaps."""
        field = next(field for field in dataclasses.fields(self) if field.name == "config")
        if not isinstance(field.default_factory, _OfPreset):
            return
        known = field.default_factory.presets
        if self.preset not in known:
            raise InputError(f"`--preset` is {self.preset}; this command has {', '.join(known)}.")
        if self.config_file is not None:
            faults = _faults(type(self.config), stored_values(self.config_file))
            if faults:
                raise InputError(f"`--config {self.config_file}` does not fit this command: {'; '.join(faults)}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbstractRunCommand:
    """What every command about a run that is there understands."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    options: tyro.conf.OmitArgPrefixes[RunOptions] = dataclasses.field(default_factory=RunOptions)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resume(AbstractRunCommand):
    """What every command that goes on with a run understands; `run_commands` gives `changes` the options of its kind."""

    changes: Any
    """What decides the numbers of the run, where it shall differ from now on."""
    allow_config_change: bool = False
    """Go on although options differ from those of the run (more --steps or --epochs are always allowed)."""
    data: Path | None = None
    """Data root; None is where the run found its data."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Eval(AbstractRunCommand):
    """What every command that computes the figures of a run anew understands."""

    data: Path | None = None
    """Data root; None is where the run found its data."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbstractReproduce:
    """What every command that makes a figure or table of a paper anew understands."""

    out: Path | None = None
    """Folder for runs, picture and numbers; None is runs/NAME. What is there already is gone on with."""
    seed: int = 0
    """Of weights and data."""
    threads: int | None = None
    """Of the CPU; None leaves torch's choice."""
    quiet: bool = False
    """No progress; the result is printed all the same."""

    def folder(self, name: str) -> Path:
        """`--out`, or else `runs/NAME`: made, and found to be writable, before anything is computed."""
        return create_run(self.out or Path("runs", name), overwrite=True).path


@dataclasses.dataclass(frozen=True)
class _OfPreset:
    presets: Mapping[str, Any]

    def __call__(self) -> Any:
        # The command line is read for all commands; only the one that is called refuses what it does not have.
        values = self.presets.get(preset.get(), self.presets["default"])
        path = config_file.get()
        if path is None or not path.is_file():
            return values
        fields = stored_values(path)
        return values if _faults(type(values), fields) else dataclasses.replace(values, **fields)


def of_preset(presets: Mapping[str, Any]) -> Callable[[], Any]:
    """What makes the configuration of the preset that the command line names: the default of a new run."""
    return _OfPreset(presets)


def stored_values(path: Path) -> dict[str, Any]:
    """The values of a configuration in a `config.json`, or in a file of the same form that holds these values alone."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"`--config {path}` cannot be read: {error}.") from error
    for _ in range(2):  # the file of a run holds them as config.config
        if isinstance(found, dict) and isinstance(found.get("config"), dict):
            found = found["config"]
    if not isinstance(found, dict):
        raise InputError(f"`--config {path}` holds a {type(found).__name__}; expected an object of values.")
    return found


def _faults(config: type, fields: dict[str, Any]) -> list[str]:
    hints = get_type_hints(config)
    faults = [f"it has no `{flag(name)}`" for name in fields if name not in hints]
    return faults + [
        f"`{flag(name)}` is {value!r}"
        for name, value in fields.items()
        if name in hints and not fits(value, hints[name])
    ]


def fits(value: Any, hint: Any) -> bool:
    """Whether a value out of a JSON file is of the type that a field has."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_args(hint):
        return any(fits(value, each) for each in get_args(hint))
    return type(value) in ((int, float) if hint is float else (hint,))


def changes_of(config: type, command: str) -> Any:
    """A dataclass with every field of `config`, each an option that is not given by default."""
    note = tyro.conf.arg(help=f"As for `{command}`.")
    fields = [(field.name, Annotated[field.type | None, note], None) for field in dataclasses.fields(config)]  # type: ignore[operator]
    return dataclasses.make_dataclass("Changes", fields, frozen=True)


def given(changes: Any) -> dict[str, Any]:
    """The options of `changes_of` that were given."""
    return {name: value for name, value in dataclasses.asdict(changes).items() if value is not None}


def require_least(config: Any, least: Mapping[str, float]) -> None:
    """Refuse a field below its least value, by the name of its option."""
    for name, smallest in least.items():
        if not getattr(config, name) >= smallest:
            raise InputError(f"`{flag(name)}` is {getattr(config, name)}; expected at least {smallest}.")


def require_positive(config: Any, *names: str) -> None:
    """Refuse a field that is not above zero, by the name of its option."""
    for name in names:
        if not getattr(config, name) > 0:
            raise InputError(f"`{flag(name)}` is {getattr(config, name)}; expected a positive number.")


def require_finite(config: Any) -> None:
    """Refuse numbers that are infinite or NaN, by the name of their option."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"`{flag(field.name)}` is {value}; expected a finite number.")


def flag(name: str) -> str:
    """The option of a field."""
    return f"--{name.replace('_', '-')}"
