"""The configuration of a sound fit."""

from dataclasses import dataclass, replace
from typing import Any

from ..config import AUTHORS, FieldConfig

_PAPER_SCALE, _PAPER_SAMPLES = 25_000, 308_207  # of the authors' `bach`


@dataclass(frozen=True)
class AudioConfig(FieldConfig):
    """What decides the numbers of a sound fit."""

    steps: int = 500
    """Optimiser steps (paper: 3000 over all samples)."""
    batch: int = 16384
    """Samples of a step, drawn without repetition until all had their turn; 0 is all of them (paper)."""
    seconds: float = 0.0
    """Use so many seconds; 0 is all of it."""
    start: float = 0.0
    """Leave out what comes before this second."""
    mono: bool = False
    """Mix all channels down to one (authors); otherwise they are fitted together."""


def natural_scale(samples: int) -> float:
    """Of the input frequencies: the density of the paper, whose 308,207 samples had 25,000."""
    return _PAPER_SCALE * samples / _PAPER_SAMPLES


_SOUND: dict[str, Any] = AUTHORS | {"norm": "none"}  # the authors bound pictures and shapes, not sounds
PAPER = replace(AudioConfig(**_SOUND), steps=3000, batch=0, mono=True)
PRESETS = {
    "default": AudioConfig(),
    "smoke": AudioConfig(width=32, steps=20, seconds=0.1, batch=0),
    "paper": PAPER,
    "tuned": AudioConfig(norm="guard", decay=0.05, schedule="cosine"),
}
