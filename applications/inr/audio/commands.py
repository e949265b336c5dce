"""The commands for sounds: each dataclass is a command line, its help, and what the program receives."""

import dataclasses
from pathlib import Path

import tyro

from ...shared.command import Command, lazily
from ...shared.options import AbstractNewRun, of_preset
from ...shared.run_commands import begins, run_commands
from ..export_command import export_command
from ..render_options import AbstractRender
from .config import PRESETS, AudioConfig

TASK = "audio"
MAX_SAMPLES = 50_000_000  # before they are decoded, all channels together: 200 MB
_APPLICATION = "inr.audio.fit:SOUNDS"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitAudio(AbstractNewRun):
    """Fit a network to a sound.

    For example:

        implayer fit audio gt_bach.wav

        implayer fit audio song.flac --seconds 5 --mono --model isiren --out runs/song
    """

    sound: tyro.conf.Positional[str]
    """A WAV, FLAC, OGG or MP3 file, or one of the data root by its name (gt_bach.wav)."""
    config: tyro.conf.OmitArgPrefixes[AudioConfig] = dataclasses.field(default_factory=of_preset(PRESETS))
    max_samples: int = MAX_SAMPLES
    """Of the part that is used, all channels together; more are refused before they are decoded."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderAudio(AbstractRender):
    """Play the model of a run into a sound file, at any rate.

    Example: implayer render runs/song --rate 96000 --start 1 --end 2.5
    """

    rate: int | None = None
    """Samples a second; None is the rate of the sound."""
    start: float = 0.0
    """Seconds from the beginning of the sound."""
    end: float | None = None
    """Seconds from the beginning of the sound; None is its end."""
    out: Path | None = None
    """A WAV or FLAC file; None is a name in the folder of the run."""


COMMANDS = (
    Command(("fit", TASK), FitAudio, begins(_APPLICATION)),
    *run_commands(
        TASK, AudioConfig, _APPLICATION, words=f"fit {TASK}", run="runs/song", more="--steps 1000", figures="the PSNR"
    ),
    export_command(TASK, _APPLICATION, "runs/song"),
    Command(("render",), RenderAudio, lazily("inr.audio.render:render"), TASK),
)
