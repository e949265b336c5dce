"""The commands that every kind of run has: to begin it, to go on with it, to compute its figures anew."""

import dataclasses
from collections.abc import Callable
from typing import Any

import tyro

from .command import Command, imported
from .options import Eval, Resume, changes_of

_SHARED = "shared.application"


def begins(application: str) -> Callable[[Any], Any]:
    """The program of a command for a new run of the application `module:NAME`, which is imported when it is called."""
    return lambda command: imported(f"{_SHARED}:start")(imported(application), command)


def run_commands(
    task: str, config: type, application: str, *, words: str, run: str, more: str, figures: str
) -> tuple[Command, Command]:
    """`resume` and `eval` for the runs of an application.

    **Arguments**

    - `task`, `config`, `application`: its name in `config.json`, its configuration, and itself as `module:NAME`.
    - `words`: the command that starts a run, as `train mnist-qp`.
    - `run`, `more`, `figures`: for the help: the name of a run, an option that makes it longer, and what `eval` computes.
    """
    changes = changes_of(config, words)
    resume: Any = dataclasses.make_dataclass(
        "Resume",
        [("changes", tyro.conf.OmitArgPrefixes[changes], dataclasses.field(default_factory=changes))],
        bases=(Resume,),
        frozen=True,
        kw_only=True,
    )
    resume.__doc__ = f"""Go on with a run of `{words}` that was interrupted or killed; it ends as it would have without that.

    `implayer resume RUN --help` lists the options for the run that it names.

    For example:

        implayer resume {run}

        implayer resume {run} {more}
    """
    again: Any = dataclasses.make_dataclass("Eval", [], bases=(Eval,), frozen=True, kw_only=True)
    again.__doc__ = f"""Compute {figures} of a run anew from its saved weights.

    Example: implayer eval {run}
    """
    return (
        Command(
            ("resume",), resume, lambda command: imported(f"{_SHARED}:go_on")(imported(application), command), task
        ),
        Command(
            ("eval",), again, lambda command: imported(f"{_SHARED}:evaluate")(imported(application), command), task
        ),
    )
