"""The commands for pictures: each dataclass is a command line, its help, and what the program receives."""

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from ..shared.command import Command, lazily
from ..shared.options import AbstractNewRun, of_preset
from ..shared.run_commands import begins, run_commands
from .config import PRESETS, ImageConfig
from .export_command import export_command
from .render_options import AbstractRender

TASK = "image"
_APPLICATION = "inr.fit:PICTURES"
MAX_PIXELS = 100_000_000  # of a file before it is decoded: a colour picture of so many takes 300 MB


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitImage(AbstractNewRun):
    """Fit a network to a picture.

    For example:

        implayer fit image camera --size 128 --steps 200

        implayer fit image photo.jpg --model isiren --size 512 --out runs/photo
    """

    picture: tyro.conf.Positional[str]
    """A picture file, one of the data root by its name (kodim05.png), camera, or a picture in a NumPy file (data.npy,
    data.npy/3, data.npz/test_data/3)."""
    config: tyro.conf.OmitArgPrefixes[ImageConfig] = dataclasses.field(default_factory=of_preset(PRESETS))
    mask: Path | None = None
    """A picture that is black where the pixels are not known; with --samples mask."""
    max_pixels: int = MAX_PIXELS
    """Larger files are refused before they are decoded."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Render(AbstractRender):
    """Draw the model of a run at any resolution, a part of it, or its derivatives.

    For example:

        implayer render runs/photo --size 2048

        implayer render runs/photo --crop 0.25,0.25,0.5,0.5 --what gradient
    """

    size: int = 1024
    """Longer side of the whole picture in pixels."""
    crop: str | None = None
    """Draw the part LEFT,TOP,RIGHT,BOTTOM alone, each from 0 to 1; None is all of it."""
    what: Literal["values", "gradient", "laplacian"] = "values"
    """gradient: the length of the exact gradient. laplacian: the exact Laplacian around grey. Both are means over the
    colours, scaled by what 99 of 100 pixels do not exceed."""
    out: Path | None = None
    """A PNG file; None is a name in the folder of the run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
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


COMMANDS = (
    Command(("fit", TASK), FitImage, begins(_APPLICATION)),
    *run_commands(
        TASK, ImageConfig, _APPLICATION, words=f"fit {TASK}", run="runs/photo", more="--steps 4000", figures="the PSNR"
    ),
    export_command(TASK, _APPLICATION, "runs/photo"),
    Command(("render",), Render, lazily("inr.render:render"), TASK),
    Command(("demo",), Demo, lazily("inr.demo:demo")),
)
