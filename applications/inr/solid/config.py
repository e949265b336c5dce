"""The configurations of fits to shapes."""

from dataclasses import dataclass
from typing import Any, Literal

from ..config import AUTHORS, FieldConfig

Draw = Literal["area", "faces"]


@dataclass(frozen=True)
class SolidConfig(FieldConfig):
    """What the fits to shapes share."""

    steps: int = 300
    """Optimiser steps (paper: 10,000)."""
    batch: int = 4096
    """Points of a step, fresh ones each time (authors: 50,000)."""
    norm: Literal["none", "spectral", "weight", "guard"] = "guard"
    """Bound on the hidden maps, which have to contract, for every step solves (authors: spectral for occupancy)."""
    norm_explicit: bool = False
    """The same bound for the explicit models of the paper's families (authors, for shapes: no)."""
    reuse: bool = False
    """One step of the map from fixed points at voxels (see `voxels`) instead of a solve at every step."""
    voxels: bool = False
    """Keep fixed points at the nodes of a voxel grid and start from what they interpolate (authors: start from zero)."""
    cache_mb: int = 256
    """Memory for fixed points at voxels."""
    test_points: int = 16_384
    """Points of each test set (authors: 1,048,576)."""
    test_tolerance: float = 1e-4
    """Of the solves of tests, meshes and pictures (authors, for shapes)."""
    mesh: int = 80
    """Nodes along the longest side of the grid that mesh.ply is made on."""
    picture: int = 512
    """Pixels of a side of normals.png (authors: 512)."""


@dataclass(frozen=True)
class OccupancyConfig(SolidConfig):
    """What decides the numbers of an occupancy fit."""

    scale: float | None = 32.0
    """Of the input frequencies on [-1, 1]; 128 (authors) shows finer parts and takes thousands of steps."""
    near: float = 0.5
    """Part of the points of a step that is drawn near the surface; the others are uniform (authors: 0)."""
    spread: float = 0.02
    """Standard deviation of their distance from it, where the shape is as long as 2."""
    draw: Draw = "area"
    """Points near the surface are uniform by area, or every face gets as many (authors)."""
    unit_box: bool = False
    """Coordinates in [0, 1], as the authors have them, instead of [-1, 1]; a scale is then worth half of what it says."""


@dataclass(frozen=True)
class SdfConfig(SolidConfig):
    """What decides the numbers of a fit to a signed distance. "SIREN" is the program whose loss the authors take over."""

    width: int = 128
    """D, entries of the hidden state (authors: 256); an exact step takes several times that of an occupancy."""
    scale: float | None = 16.0
    """Of the input frequencies (authors: 256, which is far above what a distance needs; see the page on shapes)."""
    batch: int = 1024
    """Points of a step, half of them on the surface (authors: 100,000)."""
    extent: float = 0.9
    """Largest modulus of a coordinate of the shape in the box [-1, 1] (SIREN: 1, where the surface touches the box)."""
    surface_weight: float = 3000.0
    """Of |phi| on the surface (SIREN)."""
    normal_weight: float = 100.0
    """Of 1 - cos(grad phi, normal) on the surface (SIREN)."""
    eikonal_weight: float = 50.0
    """Of ||grad phi| - 1| everywhere (SIREN)."""
    off_weight: float = 100.0
    """Of exp(-100 |phi|) off the surface (SIREN)."""


_AUTHORS: dict[str, Any] = AUTHORS | {"chunk": None, "reuse": False}
PAPER_OCCUPANCY = OccupancyConfig(
    **_AUTHORS, learning_rate=5e-4, steps=10_000, batch=50_000, scale=256.0, near=0.0, draw="faces", unit_box=True,
    test_points=2**20, mesh=256,
)  # fmt: skip
_FREE: dict[str, Any] = _AUTHORS | {"norm": "none"}
PAPER_SDF = SdfConfig(
    **_FREE, learning_rate=1e-4, width=256, steps=10_000, batch=100_000, scale=256.0, gabor_alpha=6.0,
    extent=1.0, test_points=2**20, mesh=256,
)  # fmt: skip
_SMOKE: dict[str, Any] = {"width": 32, "steps": 20, "batch": 512, "test_points": 1024, "mesh": 24, "picture": 256}
OCCUPANCY = {
    "default": OccupancyConfig(),
    "smoke": OccupancyConfig(**_SMOKE),
    "paper": PAPER_OCCUPANCY,
    "tuned": OccupancyConfig(decay=0.05, schedule="cosine"),
}
SDF = {
    "default": SdfConfig(),
    "smoke": SdfConfig(**_SMOKE),
    "paper": PAPER_SDF,
    "tuned": SdfConfig(decay=0.05, schedule="cosine"),
}
NATURAL_SCALE = 128.0  # of coordinates in [-1, 1]: the authors have 256 on [0, 1]
