"""The commands for videos: each dataclass is a command line, its help, and what the program receives."""

import dataclasses
from pathlib import Path

import tyro

from ...shared.command import Command, lazily
from ...shared.options import AbstractNewRun, of_preset
from ...shared.run_commands import begins, run_commands
from ..export_command import export_command
from ..render_options import AbstractRender
from .config import PRESETS, VideoConfig

TASK = "video"
_APPLICATION = "inr.video.fit:VIDEOS"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitVideo(AbstractNewRun):
    """Fit a network to a video.

    For example:

        implayer fit video bikes.mp4

        implayer fit video frames/ --size 320 --frames 0 --steps 2000 --out runs/clip
    """

    video: tyro.conf.Positional[str]
    """A video file, a folder of frames as pictures, an array of frames in a NumPy file (clip.npy, data.npz/clip), or a file of
    the data root by its name (bikes.mp4)."""
    config: tyro.conf.OmitArgPrefixes[VideoConfig] = dataclasses.field(default_factory=of_preset(PRESETS))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderVideo(AbstractRender):
    """Draw the model of a run into a video at any resolution and rate, or one frame of it.

    For example:

        implayer render runs/clip --size 640 --rate 50

        implayer render runs/clip --at 0.75 --out between.png
    """

    size: int | None = None
    """Longer side in pixels; None is that of the fit."""
    rate: float | None = None
    """Frames a second, between which frames are drawn, too; None is the rate of the video."""
    at: float | None = None
    """Draw the one frame at this second, into a PNG."""
    out: Path | None = None
    """An MP4 file, or a PNG file with --at; None is a name in the folder of the run."""


COMMANDS = (
    Command(("fit", TASK), FitVideo, begins(_APPLICATION)),
    *run_commands(
        TASK, VideoConfig, _APPLICATION, words=f"fit {TASK}", run="runs/clip", more="--steps 4000", figures="the PSNR"
    ),
    export_command(TASK, _APPLICATION, "runs/clip"),
    Command(("render",), RenderVideo, lazily("inr.video.render:render"), TASK),
)
