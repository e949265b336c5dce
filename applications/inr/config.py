"""The configuration of a picture fit: every field with unit and origin, presets below."""

from dataclasses import dataclass
from typing import Literal

ModelName = Literal["fourier-imfn", "fourier-mfn", "isiren", "siren-inj"]
IMPLICIT: tuple[ModelName, ...] = ("fourier-imfn", "isiren")


@dataclass(frozen=True)
class ImageConfig:
    """What decides the numbers of a fit. "Paper" is "(Implicit)^2"; "authors" is their programs where it is silent."""

    model: ModelName = "fourier-imfn"
    """fourier-imfn and isiren are implicit (equations 8 and 7), fourier-mfn and siren-inj their explicit likes."""
    width: int = 256
    """D, entries of the hidden state (paper: 256 or 512)."""
    depth: int = 1
    """L, hidden maps (paper: 1 for implicit models, 4 for explicit ones)."""
    size: int = 256
    """Longer side in pixels; larger pictures are shrunk (paper: 512)."""
    steps: int = 200
    """Optimiser steps over all pixels (paper: 5000)."""
    learning_rate: float = 1e-3
    """Of Adam, constant (authors)."""
    scale: float | None = None
    """Of the input frequencies; None is 256 n / 512, n the longer side, the density of the paper's camera picture."""
    norm: Literal["none", "spectral"] = "none"
    """Bound on the hidden maps: spectral as the paper; none was 1.1 dB better on camera at 128 x 128."""
    norm_target: float = 0.97
    """The bound (authors; the text says 1)."""
    power_iterations: int = 1
    """For the bound, per step (authors: 5)."""
    terms: int = 1
    """T of the truncated gradient, equation (14); 0 is Jacobian-free (paper: 1)."""
    reuse: bool = True
    """Start each step from the last fixed point and do one step of the map (paper); otherwise solve at every step."""
    half_states: bool = True
    """Keep fixed points between steps in half precision: half the memory; the next step contracts the rounding."""
    tolerance: float = 1e-3
    """Of full solves, relative to the residual at their start (authors: 1e-3)."""
    max_solve_steps: int = 100
    """Of full solves (authors: 100)."""
    chunk: int = 65536
    """Pixels that are worked on at a time; the gradient is that of all pixels. Less saves memory; 0 is all at once."""
    seed: int = 0
    """Of the initial weights."""


SMOKE = ImageConfig(width=32, size=32, steps=20)
PAPER = ImageConfig(size=512, steps=5000, norm="spectral", power_iterations=5, half_states=False, chunk=0)
PRESETS = {"default": ImageConfig(), "smoke": SMOKE, "paper": PAPER}
