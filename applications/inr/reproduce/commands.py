"""The commands for figures and tables of "(Implicit)^2": each dataclass is a command line and its help."""

import dataclasses
from pathlib import Path

from ...shared.command import Command, lazily
from ...shared.options import AbstractReproduce


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment(AbstractReproduce):
    """What all experiments understand. Without --full they are reduced to what takes minutes on two cores."""

    full: bool = False
    """The sizes of the paper; for a GPU."""
    size: int | None = None
    """Longer side of pictures and frames in pixels; None is that of the experiment."""
    steps: int | None = None
    """Optimiser steps of each run; None is that of the experiment."""
    width: int | None = None
    """D of the narrow networks (wide ones have twice as much); None is that of the experiment."""
    families: str = "fourier,gabor,siren"
    """Of networks, separated by commas."""
    count: int | None = None
    """Pictures, or frames; None is that of the experiment."""
    seeds: int = 1
    """Runs of each, whose mean counts."""
    data: Path | None = None
    """Data root; None is the environment variable IMPLAYER_DATA, or a cache folder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure3(Experiment):
    """Figure 3 of "(Implicit)^2": how many evaluations a solve takes when it starts from the last fixed point.

    Example: implayer reproduce impsq-fig3
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure4(Experiment):
    """Figure 4 of "(Implicit)^2": training with the truncated gradient, T = 0, 1 and 2, and with the exact one.

    Example: implayer reproduce impsq-fig4 --size 64
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure5(Experiment):
    """Figure 5 of "(Implicit)^2": quality, time and memory of 18 networks on the camera picture.

    Example: implayer reproduce impsq-fig5 --families fourier
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table1(Experiment):
    """Table 1 of "(Implicit)^2": pictures learned from a quarter of their pixels, tested on another quarter.

    With the text pictures of the data root, and Kodak pictures in the place of its natural ones.

    Example: implayer reproduce impsq-table1 --families fourier --count 4
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Audio(Experiment):
    """The sound experiment of "(Implicit)^2", section 4.2: implicit and explicit networks of the `bach` clip.

    Example: implayer reproduce impsq-audio --families fourier
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table2(Experiment):
    """Table 2 of "(Implicit)^2": implicit and explicit networks of a video.

    Example: implayer reproduce impsq-table2 --families siren --count 4
    """


COMMANDS = (
    Command(("reproduce", "impsq-fig3"), Figure3, lazily("inr.reproduce.solves:solves")),
    Command(("reproduce", "impsq-fig4"), Figure4, lazily("inr.reproduce.experiments:truncation")),
    Command(("reproduce", "impsq-fig5"), Figure5, lazily("inr.reproduce.experiments:camera")),
    Command(("reproduce", "impsq-table1"), Table1, lazily("inr.reproduce.experiments:generalisation")),
    Command(("reproduce", "impsq-audio"), Audio, lazily("inr.reproduce.experiments:sound")),
    Command(("reproduce", "impsq-table2"), Table2, lazily("inr.reproduce.experiments:video")),
)
