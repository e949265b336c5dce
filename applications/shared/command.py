"""A command of the program: the words that call it, the dataclass that is its command line, and what carries it out."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import InputError
from .run_folder import CONFIG, RunFolder

_PACKAGE = __package__.rpartition(".")[0] if __package__ else ""


@dataclass(frozen=True)
class Command:
    """One of the commands that an application registers."""

    words: tuple[str, ...]  # ("train", "mnist-qp"), ("resume",)
    options: Any  # a dataclass: its fields are the options, its docstring the help
    program: Callable[[Any], Any]  # gets an instance of it; an int that it returns is the exit code
    task: str | None = None  # where several commands have the same words: the kind of run that this one is for


def lazily(name: str) -> Callable[[Any], Any]:
    """The function `module:function` of the applications, imported when it is called: torch takes seconds to import."""
    return lambda options: imported(name)(options)


def imported(name: str) -> Any:
    """What `module:name` of the applications is."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(f"{_PACKAGE}.{module}"), attribute)


def choose(commands: Sequence[Command], arguments: Sequence[str]) -> dict[tuple[str, ...], Command]:
    """One command for each words: that for the run that the arguments name, or else the first that was registered."""
    chosen: dict[tuple[str, ...], Command] = {}
    for command in commands:
        begins = tuple(arguments[: len(command.words)]) == command.words
        fits = begins and command.task is not None and command.task == _task_named(arguments)
        if fits or command.words not in chosen:
            chosen[command.words] = command
    return chosen


def _task_named(arguments: Sequence[str]) -> str | None:
    """The task of the run whose folder is among the arguments."""
    for path in (Path(argument) for argument in arguments[1:]):
        if (path / CONFIG).is_file():
            try:
                return RunFolder(path).read_config()[0]
            except InputError:  # the command itself reports it
                return None
    return None
