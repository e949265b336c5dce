"""`implayer render` for a sound fit."""

import time
from pathlib import Path

import torch
from torch import Tensor

from ...shared.errors import InputError
from ...shared.files import require_target
from ...shared.sounds import FORMATS, write_sound
from ..signal import opened_to_draw
from ..values import values_of
from .commands import RenderAudio
from .data import SoundSource
from .fit import SOUNDS


def render(command: RenderAudio) -> Path:
    """Play the model of a run into a sound file."""
    begin = time.perf_counter()
    folder, stored, device = opened_to_draw(SOUNDS, command)
    source = stored.source
    rate = source.rate if command.rate is None else command.rate
    place = _places(source, rate, command.start, command.end)
    target = command.out or folder.path / f"render-{rate}.wav"
    require_target(target, FORMATS)
    found, _ = values_of(SOUNDS.load_model(folder, stored, device), len(place), lambda index: place[index])
    write_sound(target, found * source.gain, rate)
    if not command.options.quiet:
        took = time.perf_counter() - begin
        print(f"{target}: {len(place)} samples at {rate} a second, {len(place) / rate:.2f} s of sound in {took:.1f} s")
    return target


def _places(source: SoundSource, rate: int, start: float, end: float | None) -> Tensor:
    """(samples, 1) times in [-1, 1]: the first sample of the sound is at -1, the last one at 1."""
    last = (source.samples - 1) / source.rate
    until = last if end is None else end
    if rate < 1:
        raise InputError(f"`--rate` is {rate}; expected at least 1 sample a second.")
    if not 0 <= start < until <= source.samples / source.rate:
        raise InputError(
            f"`--start` and `--end` are {start:g} and {until:g}; expected 0 <= start < end <= {last:.4g} seconds."
        )
    count = int((until - start) * rate + 1e-6) + 1
    seconds = start + torch.arange(count, dtype=torch.float64) / rate
    return (seconds * (2 / last) - 1).clamp(-1, 1).to(torch.float32).unsqueeze(-1)
