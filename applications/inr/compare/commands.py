"""The commands that compare networks: each dataclass is a command line, its help, and what the program receives."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

from ...shared.command import Command, imported
from ..audio.commands import FitAudio
from ..commands import FitImage
from ..solid.commands import FitOccupancy, FitSdf
from ..video.commands import FitVideo

Equal = Literal["steps", "time", "parameters", "memory"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """What all comparisons understand."""

    models: str = "fourier-imfn:1,fourier-mfn:1,fourier-mfn:4"
    """MODEL or MODEL:DEPTH or MODEL:DEPTH:WIDTH, separated by commas; the first one is what the others are made equal to."""
    equal: Equal = "steps"
    """steps: all take --steps. time: the others take as many steps as fit in the time of the first. parameters, memory: the
    others get the width at which they have as many parameters, or need as much memory, as the first."""
    seeds: int = 3
    """Runs of each, with the seeds --seed, --seed + 1, ...; medians are compared."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareImage(FitImage, Comparison):
    """Fit several networks to one picture under equal steps, time, parameters or memory: a table, curves, the pictures.

    For example:

        implayer compare image camera --size 128 --models fourier-imfn:1:256,fourier-mfn:4:256

        implayer compare image photo.jpg --equal time --models fourier-imfn,siren,finer,wire,grid --out runs/models
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareAudio(FitAudio, Comparison):
    """Fit several networks to one sound under equal steps, time, parameters or memory: a table and curves.

    Example: implayer compare audio gt_bach.wav --start 2 --seconds 1 --models fourier-imfn:1,fourier-mfn:1,fourier-mfn:4
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareVideo(FitVideo, Comparison):
    """Fit several networks to one video under equal steps, time, parameters or memory: a table and curves.

    Example: implayer compare video bikes.mp4 --models fourier-imfn:1,fourier-mfn:1
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareOccupancy(FitOccupancy, Comparison):
    """Fit several networks to the inside of a shape under equal steps, time, parameters or memory: a table, curves, pictures.

    Example: implayer compare occupancy bunny.ply --models fourier-imfn:1,fourier-mfn:1,grid
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareSdf(FitSdf, Comparison):
    """Fit several networks to a signed distance under equal steps, time, parameters or memory: a table, curves, pictures.

    Example: implayer compare sdf bunny.ply --models isiren:1,siren
    """


def _compares(signal: str, place: str, *further: str) -> Callable[[Any], Any]:
    """`place` is the field with the signal's name, `further` those with options that are no values of the configuration."""

    def program(command: Any) -> Any:
        more = [part for name in further for part in (f"--{name.replace('_', '-')}", str(getattr(command, name)))]
        return imported("inr.compare.compare:compare")(command, signal, getattr(command, place), more)

    return program


COMMANDS = (
    Command(("compare", "image"), CompareImage, _compares("image", "picture", "max_pixels")),
    Command(("compare", "audio"), CompareAudio, _compares("audio", "sound", "max_samples")),
    Command(("compare", "video"), CompareVideo, _compares("video", "video")),
    Command(("compare", "occupancy"), CompareOccupancy, _compares("occupancy", "shape")),
    Command(("compare", "sdf"), CompareSdf, _compares("sdf", "shape")),
)
