"""The configuration of a video fit."""

from dataclasses import dataclass, replace
from typing import Any

from ..config import AUTHORS, FieldConfig


@dataclass(frozen=True)
class VideoConfig(FieldConfig):
    """What decides the numbers of a video fit."""

    steps: int = 500
    """Optimiser steps (paper: 10,000)."""
    batch: int = 16384
    """Pixels of a step, drawn without repetition until all had their turn (paper: 65,536)."""
    reuse: bool = True
    """Start each step from the last fixed points of its pixels, kept as far as `cache_mb` goes (authors: solve from zero)."""
    clip: float = 0.0
    """Largest modulus of an entry of the gradient; 0 does not clip (authors: 0.1)."""
    size: int = 160
    """Longer side of a frame in pixels; larger ones are shrunk (paper: 512)."""
    frames: int = 32
    """Use the first so many frames; 0 is all of them (paper: 300)."""
    every: int = 1
    """Take every so many frames."""


def natural_scale(longer_side: int) -> float:
    """Of the input frequencies: 256 for frames 512 pixels long, as the paper has for most of its models."""
    return 256 * longer_side / 512


_AUTHORS: dict[str, Any] = AUTHORS | {"norm": "none", "chunk": None, "reuse": False}  # they bound pictures, not videos
PAPER = replace(VideoConfig(**_AUTHORS), width=1024, steps=10_000, batch=65_536, size=512, frames=300, clip=0.1)
PRESETS = {
    "default": VideoConfig(),
    "smoke": VideoConfig(width=32, steps=20, size=24, frames=6, batch=1024),
    "paper": PAPER,
    "tuned": VideoConfig(norm="guard", decay=0.05, schedule="cosine"),
}
