"""The sound that a command names, and what a run keeps of it."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ...shared.application import Material
from ...shared.data import data_root, find_file
from ...shared.errors import SoundReadError
from ...shared.sounds import Sound, mixed_down, read_sound
from .config import AudioConfig


@dataclass(frozen=True)
class SoundSource:
    """Where the sound of a run is from, and what became of it."""

    source: str
    samples: int
    channels: int
    rate: int
    gain: float  # the network gives the sound divided by this, its largest modulus
    max_samples: int


def load_sound(source: str, config: AudioConfig, data: Path | None, max_samples: int) -> Material[SoundSource, Sound]:
    """The sound that `source` names, scaled to a largest modulus of one."""
    path = find_file(source, data_root(data), "audio", ".", what="sound file").resolve()
    sound = read_sound(path, max_samples, start=config.start, seconds=config.seconds)
    if config.mono:
        sound = mixed_down(sound)
    gain = float(sound.samples.abs().max())
    if not gain:
        raise SoundReadError(
            f"`{path}` is silent: all {len(sound.samples)} samples are zero, and there is nothing to fit."
        )
    scaled = replace(sound, samples=sound.samples / gain)
    notes = tuple(f"{path}: {note}" for note in sound.notes)
    count, channels = sound.samples.shape
    return Material(SoundSource(str(path), count, channels, sound.rate, gain, max_samples), scaled, notes)


def times(numbers: Tensor, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """(samples, 1): the points of time in [-1, 1], end points included, of the samples of these numbers out of `count`."""
    return (numbers.to(torch.float64) * (2 / (count - 1)) - 1).to(dtype).unsqueeze(-1)
