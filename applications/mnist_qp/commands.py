"""The commands for digits: each dataclass is a command line, its help, and what the program receives."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import tyro

from ..shared.options import RunOptions, changes_of, preset
from .config import PRESETS, MnistConfig


@dataclasses.dataclass(frozen=True)
class TrainMnistQP:
    """Train a network with a QP layer to read handwritten digits.

    Examples:

        implayer train mnist-qp --preset smoke

        implayer train mnist-qp --preset paper --out runs/mnist
    """

    config: tyro.conf.OmitArgPrefixes[MnistConfig] = dataclasses.field(default_factory=lambda: PRESETS[preset.get()])
    options: tyro.conf.OmitArgPrefixes[RunOptions] = dataclasses.field(default_factory=RunOptions)
    preset: Literal["default", "smoke", "paper"] = "default"
    """The values that hold where no other option is given."""
    out: Path | None = None
    """Folder of the run; None is a free name under runs/."""
    overwrite: bool = False
    """Replace a run that is in --out already."""
    data: Path | None = None
    """Data root; None is the environment variable IMPLAYER_DATA, or a cache folder."""


Changes: Any = changes_of(MnistConfig, "train mnist-qp")


@dataclasses.dataclass(frozen=True)
class ResumeMnistQP:
    """Go on with a training run that was interrupted or killed; it ends as it would have without that.

    Examples:

        implayer resume runs/mnist

        implayer resume runs/mnist --epochs 20
    """

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    changes: tyro.conf.OmitArgPrefixes[Changes] = dataclasses.field(default_factory=Changes)  # type: ignore[valid-type]
    options: tyro.conf.OmitArgPrefixes[RunOptions] = dataclasses.field(default_factory=RunOptions)
    allow_config_change: bool = False
    """Go on although options differ from those of the run (more --epochs are always allowed)."""
    data: Path | None = None
    """Data root; None is where the run found its data."""


@dataclasses.dataclass(frozen=True)
class EvalMnistQP:
    """Compute the test accuracy of a training run anew from its saved weights.

    Example: implayer eval runs/mnist
    """

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    options: tyro.conf.OmitArgPrefixes[RunOptions] = dataclasses.field(default_factory=RunOptions)
    data: Path | None = None
    """Data root; None is where the run found its data."""
