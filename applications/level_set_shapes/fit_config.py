"""The configuration of a fit to one shape: every field with unit and origin, presets below."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class FitConfig:
    """What decides the numbers of a fit."""

    grid: int = 64
    """Points along each axis of the field."""
    steps: int = 100
    """Optimiser steps."""
    gauge: Literal["normal", "edge"] = "normal"
    """How vertices move with the field: the smallest motion, or along the edges of the grid."""
    samples: int = 8192
    """Points on the surface and on the target, drawn anew at every step."""
    learning_rate: float = 0.05
    """Of Adam at the start, in cells of the grid; it falls to a hundredth of it along a cosine."""
    normal_weight: float = 0.1
    """Of 1 - |cosine| between normals of nearest points, beside the Chamfer distance in cells."""
    eikonal_weight: float = 0.1
    """Of (|grad phi| - 1)^2 near the surface."""
    gap: float = 0.0
    """Cells: what is nearer to a point is not passed from outside, so that holes twice as wide are closed; 0 finds it out."""
    up: Literal["x", "y", "z"] = "y"
    """The axis that points up in the pictures."""
    format: Literal["ply", "obj", "glb"] = "ply"
    """Of the file of the surface."""
    seed: int = 0
    """Of the points that are drawn."""


SMOKE = FitConfig(grid=32, steps=40, samples=2048)
PAPER = FitConfig(grid=128, steps=200, samples=32768)
FIT_PRESETS = {"default": FitConfig(), "smoke": SMOKE, "paper": PAPER}
