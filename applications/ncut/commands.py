"""The commands for segmentation: each dataclass is a command line, its help, and what the program receives."""

import dataclasses
from pathlib import Path

import tyro

from ..shared.command import Command, lazily
from ..shared.options import AbstractNewRun, AbstractReproduce, RunOptions, of_preset
from ..shared.run_commands import begins, run_commands
from .config import PAPER, PRESETS, NCutConfig

TASK = "ncut"
_APPLICATION = "ncut.train:CUTS"
MAX_PIXELS = 100_000_000  # of a file before it is decoded: a colour picture of so many takes 300 MB


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainNCut(AbstractNewRun):
    """Train a network whose normalised cut separates foreground and background.

    For example:

        implayer train ncut --preset smoke

        implayer train ncut --data FOLDER --out runs/mine     (FOLDER/pictures and FOLDER/masks)
    """

    config: tyro.conf.OmitArgPrefixes[NCutConfig] = dataclasses.field(default_factory=of_preset(PRESETS))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segment:
    """Cut any photograph with a trained network: writes the mask, and the picture with the mask laid over it.

    Example: implayer segment photo.jpg --model runs/sky
    """

    picture: tyro.conf.Positional[str]
    """A picture file, or one of the data root by its name (100007.jpg)."""
    model: Path
    """Folder of a run of `implayer train ncut`."""
    out: Path | None = None
    """The mask, a PNG file; None is PICTURE-mask.png in the current folder. The overlay is written beside it."""
    size: int = 240
    """Longer side at which it is cut, in pixels; larger pictures are shrunk to it, and the mask grows to their size."""
    max_pixels: int = MAX_PIXELS
    """Larger files are refused before they are decoded."""
    data: Path | None = None
    """Data root; None is the environment variable IMPLAYER_DATA, or a cache folder."""
    options: tyro.conf.OmitArgPrefixes[RunOptions] = dataclasses.field(default_factory=RunOptions)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure10(AbstractReproduce):
    """Figure 10 of "Implicitly Defined Layers in Neural Networks": learning curves of the normalised cut.

    Beside them a plain network of equal size, a normalised cut by hand, and scikit-learn's spectral clustering where it is
    installed; with a table of IoU and overlays.

    Example: implayer reproduce idl-fig10 --out runs/idl-fig10
    """

    epochs: int = PAPER.epochs
    """Of each training."""
    pictures: int = 0
    """Train on so many pictures, evenly spaced; 0 is all of them. As many are tested at most."""
    height: int = PAPER.height
    """Of a training picture."""
    width: int = PAPER.width
    """Of a training picture."""
    reaches: str = PAPER.reaches
    """Steps to the neighbours, as of `train ncut`."""
    data: Path | None = None
    """Data root; None is the environment variable IMPLAYER_DATA, or a cache folder."""


COMMANDS = (
    Command(("train", TASK), TrainNCut, begins(_APPLICATION)),
    *run_commands(
        TASK, NCutConfig, _APPLICATION,
        words=f"train {TASK}", run="runs/sky", more="--epochs 30", figures="the test IoU",
    ),
    Command(("segment",), Segment, lazily("ncut.segment:segment")),
    Command(("reproduce", "idl-fig10"), Figure10, lazily("ncut.reproduce:learning_curves")),
)  # fmt: skip
