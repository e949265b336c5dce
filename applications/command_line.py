"""All commands of the program: those of the applications, and those that are about no application."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import tyro
from tyro.extras import SubcommandApp

from implayer.verify.command import main as verify

from .bench import NAMES, run_bench
from .graph_matching.commands import COMMANDS as GRAPHS
from .inr.audio.commands import COMMANDS as SOUNDS
from .inr.commands import COMMANDS as PICTURES
from .inr.compare.commands import COMMANDS as COMPARISONS
from .inr.reproduce.commands import COMMANDS as EXPERIMENTS
from .inr.solid.commands import COMMANDS as SOLIDS
from .inr.video.commands import COMMANDS as VIDEOS
from .level_set_shapes.commands import COMMANDS as SHAPES
from .mnist_qp.commands import COMMANDS as DIGITS
from .ncut.commands import COMMANDS as CUTS
from .shared.command import Command, choose, lazily
from .shared.options import PresetName, config_file, preset

_DESCRIPTION = "Implicit layers at work: fit pictures, train networks, verify layers, measure."
_GROUPS = {
    "fit": "Fit a network to a signal.",
    "compare": "Fit several networks to one signal and compare them.",
    "train": "Train a network with an implicit layer.",
    "reproduce": "Make a figure of a paper anew: a picture and the numbers in it. Peers join where they are installed.",
}


@dataclasses.dataclass(frozen=True)
class Verify:
    """Check a layer of your own: gradients in all modes, batches, dtypes, state, memory, on generated inputs.

    For example:

        implayer verify mypackage.layers:equilibrium --x mypackage.layers:example

        implayer verify layer.py:layer
    """

    layer: tyro.conf.Positional[str]
    """MODULE:NAME or FILE.py:NAME of a layer, or of a function without arguments that returns one."""
    x: str | None = None
    """An example input, or a Hypothesis strategy: a NAME beside the layer, or MODULE:NAME; None looks for `x` there."""
    orders: int = 2
    """Derivatives are checked up to this order."""
    profile: str = "quick"
    """How many inputs are tried: quick or thorough."""
    seed: int = 0
    """Of the generated inputs."""


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Report versions, devices, threads, optional packages and data."""

    data: Path | None = None
    """Data root; None is the environment variable IMPLAYER_DATA, or a cache folder."""


@dataclasses.dataclass(frozen=True)
class Bench:
    """Measure ours beside others; `implayer bench NAME --help` lists the options of one.

    Example: implayer bench inr-image
    """

    name: tyro.conf.Positional[Literal[NAMES]]  # type: ignore[valid-type]
    """What to measure."""


def _verify(command: Verify) -> int:
    return verify(command.layer, x=command.x, orders=command.orders, profile=command.profile, seed=command.seed)


def _doctor(command: Doctor) -> int:
    return lazily("doctor:doctor")(command.data)


def _bench(command: Bench) -> int:
    return run_bench(command.name, [])


COMMANDS: tuple[Command, ...] = (
    *PICTURES,
    *SOUNDS,
    *VIDEOS,
    *COMPARISONS,
    *EXPERIMENTS,
    *SOLIDS,
    *DIGITS,
    *GRAPHS,
    *CUTS,
    *SHAPES,
    Command(("verify",), Verify, _verify),
    Command(("doctor",), Doctor, _doctor),
    Command(("bench",), Bench, _bench),
)


def parse(arguments: list[str]) -> Callable[[], int | None]:
    """The command that the arguments name, ready to be called. Wrong ones end the program with exit code 2."""
    preset.set(_chosen_preset(arguments))
    path = _value_of("--config", arguments)
    config_file.set(None if path is None else Path(path))
    app, groups = SubcommandApp(), {name: SubcommandApp() for name in _GROUPS}
    for name, group in groups.items():
        app.command(group, name=name, help=_GROUPS[name])
    chosen = choose(COMMANDS, arguments)
    named = [chosen[words] for words in (tuple(arguments[:1]), tuple(arguments[:2])) if words in chosen]
    commands = named or list(chosen.values())  # to describe all of them takes a second
    for command in commands:
        place = groups[command.words[0]] if len(command.words) == 2 else app
        place.command(command.options, name=command.words[-1])
    return partial(_run, commands, app.cli(prog="implayer", description=_DESCRIPTION, args=arguments))


def _run(commands: Sequence[Command], options: object) -> int | None:
    command = next(command for command in commands if type(options) is command.options)
    code = command.program(options)
    return code if isinstance(code, int) else None


def _chosen_preset(arguments: list[str]) -> PresetName:
    """The value of --preset, before the other options are read: it changes their defaults."""
    value = _value_of("--preset", arguments)
    return next((known for known in get_args(PresetName) if known == value), "default")


def _value_of(option: str, arguments: list[str]) -> str | None:
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == option:
            return value if equals else "".join(arguments[index + 1 : index + 2])
    return None
