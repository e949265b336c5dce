"""All commands of the program, each a dataclass with its help, and what runs it."""

import contextlib
import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tyro
from tyro.extras import SubcommandApp

from implayer.verify.command import main as verify

from .bench import NAMES
from .inr.commands import Eval, FitImage, Render, Resume
from .mnist_qp.commands import EvalMnistQP, ResumeMnistQP, TrainMnistQP
from .shared.errors import InputError
from .shared.options import RunOptions, preset
from .shared.run_folder import CONFIG, RunFolder

_DESCRIPTION = "Implicit layers at work: fit pictures, train networks, verify layers, measure."
# What goes on with a run and evaluates it depends on what the run is; pictures are the default.
_RESUME: dict[str, Any] = {"image": Resume, "mnist-qp": ResumeMnistQP}
_EVAL: dict[str, Any] = {"image": Eval, "mnist-qp": EvalMnistQP}


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


@dataclasses.dataclass(frozen=True)
class Reproduce:
    """Make a figure of a paper anew: a picture and the numbers in it. Peers join where they are installed.

    idl-fig3 and idl-fig4 are of "Implicitly Defined Layers in Neural Networks": the learning curves of the digits
    network, and the time of its QP layer over the number of its parameters.

    Examples:

        implayer reproduce idl-fig3 --out runs/idl-fig3

        implayer reproduce idl-fig4 --trials 20
    """

    name: tyro.conf.Positional[Literal["idl-fig3", "idl-fig4"]]
    """What to reproduce."""
    out: Path | None = None
    """Folder for runs, picture and numbers; None is runs/NAME. What is there already is gone on with."""
    epochs: int = 15
    """Of idl-fig3 (paper: 15)."""
    trials: int = 100
    """Of idl-fig4, for each size (paper: 500)."""
    samples: int = 0
    """idl-fig3 trains on the first so many digits; 0 is all of them."""
    seed: int = 0
    """Of weights and data."""
    threads: int | None = None
    """Of the CPU; None leaves torch's choice."""
    data: Path | None = None
    """Data root; None is the environment variable IMPLAYER_DATA, or a cache folder."""
    quiet: bool = False
    """No progress; the result is printed all the same."""


def parse(arguments: list[str]) -> Callable[[], int | None]:
    """The command that the arguments name, ready to be called. Wrong ones end the program with exit code 2."""
    preset.set(_chosen_preset(arguments))
    fit = SubcommandApp()
    image: Any = FitImage
    fit.command(image, name="image")
    train = SubcommandApp()
    digits: Any = TrainMnistQP
    train.command(digits, name="mnist-qp")
    app = SubcommandApp()
    app.command(fit, name="fit", help="Fit a network to a signal.")
    app.command(train, name="train", help="Train a network with an implicit layer.")
    kind = _task_of_run(arguments)
    commands: dict[str, Any] = {"render": Render, "resume": _RESUME.get(kind, Resume), "eval": _EVAL.get(kind, Eval)}
    commands |= {command.__name__.lower(): command for command in (Demo, Reproduce, Verify, Doctor, Bench)}
    for name, command in commands.items():
        app.command(command, name=name)
    return partial(_run, app.cli(prog="implayer", description=_DESCRIPTION, args=arguments))


def _run(command: Any) -> int | None:
    # The programs import torch, which takes seconds: not for a --help.
    if isinstance(command, FitImage | Resume):
        from .inr import fit

        fit.fit(command) if isinstance(command, FitImage) else fit.resume(command)
    elif isinstance(command, Render | Eval):
        from .inr import render

        render.render(command) if isinstance(command, Render) else render.evaluate(command)
    elif isinstance(command, TrainMnistQP | ResumeMnistQP | EvalMnistQP):
        _run_digits(command)
    elif isinstance(command, Reproduce):
        from .mnist_qp.reproduce import learning_curves, runtimes

        options = RunOptions(quiet=command.quiet, threads=command.threads, device="cpu")
        out = command.out or Path("runs") / command.name
        if command.name == "idl-fig3":
            learning_curves(out, options, command.data, command.epochs, command.samples, command.seed)
        else:
            runtimes(out, options, command.trials, command.seed)
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


def _run_digits(command: TrainMnistQP | ResumeMnistQP | EvalMnistQP) -> None:
    from .mnist_qp import train

    if isinstance(command, TrainMnistQP):
        train.train_digits(command)
    elif isinstance(command, ResumeMnistQP):
        train.resume_digits(command)
    else:
        train.evaluate_digits(command)


def _task_of_run(arguments: list[str]) -> str:
    """The task of the run that `resume` or `eval` is given: it decides which options there are."""
    if arguments[:1] in (["resume"], ["eval"]):
        for path in (Path(argument) for argument in arguments[1:]):
            if (path / CONFIG).is_file():
                with contextlib.suppress(InputError):  # which the command itself reports
                    return RunFolder(path).read_config()[0]
    return "image"


def _chosen_preset(arguments: list[str]) -> str:
    """The value of --preset, before the other options are read: it changes their defaults."""
    for index, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--preset":
            value = value or (arguments[index + 1] if index + 1 < len(arguments) else "")
            return value if value in ("smoke", "paper") else "default"
    return "default"
