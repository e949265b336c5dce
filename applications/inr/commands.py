"""The commands for pictures: each dataclass is a command line, its help, and what the program receives."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import tyro

from ..shared.options import RunOptions, changes_of, preset
from .config import PRESETS, ImageConfig

MAX_PIXELS = 100_000_000  # of a file before it is decoded: a colour picture of so many takes 300 MB


@dataclasses.dataclass(frozen=True)
class FitImage:
    """Fit a network to a picture.

    Examples:

        implayer fit image camera --size 128 --steps 200

        implayer fit image photo.jpg --model isiren --size 512 --out runs/photo
    """

    picture: tyro.conf.Positional[str]
    """A picture file, one of the data root by its name (kodim05.png), or camera."""
    config: tyro.conf.OmitArgPrefixes[ImageConfig] = dataclasses.field(default_factory=lambda: PRESETS[preset.get()])
    options: tyro.conf.OmitArgPrefixes[RunOptions] = dataclasses.field(default_factory=RunOptions)
    preset: Literal["default", "smoke", "paper"] = "default"
    """The values that hold where no other option is given."""
    out: Path | None = None
    """Folder of the run; None is a free name under runs/."""
    overwrite: bool = False
    """Replace a run that is in --out already."""
    data: Path | None = None
    """Data root; None is the environment variable IMPLAYER_DATA, or a cache folder."""
    max_pixels: int = MAX_PIXELS
    """Larger files are refused before they are decoded."""


Changes: Any = changes_of(ImageConfig, "fit image")


@dataclasses.dataclass(frozen=True)
class Resume:
    """Go on with a run that was interrupted or killed; it ends as it would have without that.

    These are the options for a picture; `implayer resume RUN --help` lists those for the run that it names.

    Examples:

        implayer resume runs/photo

        implayer resume runs/photo --steps 4000
    """

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    changes: tyro.conf.OmitArgPrefixes[Changes] = dataclasses.field(default_factory=Changes)  # type: ignore[valid-type]
    options: tyro.conf.OmitArgPrefixes[RunOptions] = dataclasses.field(default_factory=RunOptions)
    allow_config_change: bool = False
    """Go on although options differ from those of the run (more --steps are always allowed)."""


@dataclasses.dataclass(frozen=True)
class Render:
    """Draw the model of a run at any resolution.

    Example: implayer render runs/photo --size 2048
    """

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    size: int = 1024
    """Longer side in pixels."""
    out: Path | None = None
    """A PNG file; None is a name in the folder of the run."""
    options: tyro.conf.OmitArgPrefixes[RunOptions] = dataclasses.field(default_factory=RunOptions)


@dataclasses.dataclass(frozen=True)
class Eval:
    """Compute the figures of a run anew from its saved weights.

    Example: implayer eval runs/photo
    """

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    options: tyro.conf.OmitArgPrefixes[RunOptions] = dataclasses.field(default_factory=RunOptions)
