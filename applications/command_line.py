"""All commands of the program, each a dataclass with its help, and what runs it."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tyro
from tyro.extras import SubcommandApp

from implayer.verify.command import main as verify

from .bench import NAMES
from .inr.commands import Eval, FitImage, Render, Resume, preset

_DESCRIPTION = "Implicit layers at work: fit pictures, draw them at any size, verify layers, measure."


@dataclasses.dataclass(frozen=True)
class Demo:
    """Fit the camera picture with an implicit and an explicit network under the same settings, and compare them.

    Also checks the gradients of the layer. Takes about two minutes on two cores.
    """

    out: Path = Path("runs/demo")
    """Folder for the runs and the picture; a former demo there is replaced."""
    size: int = 128
    """Longer side of the picture in pixels."""
    steps: int = 200
    """Optimiser steps of each fit."""
    threads: int | None = None
    """Of the CPU; None leaves torch's choice."""
    quiet: bool = False
    """No progress; the table is printed all the same."""


@dataclasses.dataclass(frozen=True)
class Verify:
    """Check a layer of your own: gradients in all modes, batches, dtypes, state, memory, on generated inputs.

    Examples:

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


def parse(arguments: list[str]) -> Callable[[], int | None]:
    """The command that the arguments name, ready to be called. Wrong ones end the program with exit code 2."""
    preset.set(_chosen_preset(arguments))
    fit = SubcommandApp()
    commands: tuple[Any, ...] = (Render, Resume, Eval, Demo, Verify, Doctor, Bench)
    image: Any = FitImage
    fit.command(image, name="image")
    app = SubcommandApp()
    app.command(fit, name="fit", help="Fit a network to a signal.")
    for command in commands:
        app.command(command, name=command.__name__.lower())
    return partial(_run, app.cli(prog="implayer", description=_DESCRIPTION, args=arguments))


def _run(command: Any) -> int | None:
    # The programs import torch, which takes seconds: not for a --help.
    if isinstance(command, FitImage | Resume):
        from .inr import fit

        fit.fit(command) if isinstance(command, FitImage) else fit.resume(command)
    elif isinstance(command, Render | Eval):
        from .inr import render

        render.render(command) if isinstance(command, Render) else render.evaluate(command)
    elif isinstance(command, Demo):
        from .inr.demo import demo

        return demo(command.out, command.size, command.steps, command.threads, command.quiet)
    elif isinstance(command, Verify):
        return verify(command.layer, x=command.x, orders=command.orders, profile=command.profile, seed=command.seed)
    elif isinstance(command, Doctor):
        from .doctor import doctor

        return doctor(command.data)
    else:
        from .bench import run_bench

        return run_bench(command.name, [])
    return None


def _chosen_preset(arguments: list[str]) -> str:
    """The value of --preset, before the other options are read: it changes their defaults."""
    for index, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--preset":
            value = value or (arguments[index + 1] if index + 1 < len(arguments) else "")
            return value if value in ("smoke", "paper") else "default"
    return "default"
