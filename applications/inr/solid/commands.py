"""The commands for shapes: each dataclass is a command line, its help, and what the program receives."""

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from ...shared.command import Command, lazily
from ...shared.options import AbstractNewRun, AbstractReproduce, AbstractRunCommand, of_preset
from ...shared.run_commands import begins, run_commands
from .config import OCCUPANCY, SDF, OccupancyConfig, SdfConfig

OCCUPANCY_TASK, SDF_TASK = "occupancy", "sdf"
_OCCUPANCIES, _DISTANCES = "inr.solid.fit:OCCUPANCIES", "inr.solid.fit:DISTANCES"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitOccupancy(AbstractNewRun):
    """Fit a network to the inside of a shape: its output is positive there.

    For example:

        implayer fit occupancy torus --preset smoke

        implayer fit occupancy bunny.ply --width 256 --out runs/bunny
    """

    shape: tyro.conf.Positional[str]
    """A mesh (PLY, OBJ, STL, GLB), one of the data root by its name (bunny.ply), or torus."""
    config: tyro.conf.OmitArgPrefixes[OccupancyConfig] = dataclasses.field(default_factory=of_preset(OCCUPANCY))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitSdf(AbstractNewRun):
    """Fit a network to the signed distance from a surface, given by points and normals alone: negative inside.

    The loss has the gradient of the network in it, which is the exact implicit one.

    For example:

        implayer fit sdf torus --preset smoke

        implayer fit sdf scan.xyz --out runs/scan
    """

    shape: tyro.conf.Positional[str]
    """A mesh (PLY, OBJ, STL, GLB), points with normals (xyz or npy, six columns), one of the data root, or torus."""
    config: tyro.conf.OmitArgPrefixes[SdfConfig] = dataclasses.field(default_factory=of_preset(SDF))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderSolid(AbstractRunCommand):
    """Make a mesh of the model of a run at any resolution, or a picture of its normals.

    For example:

        implayer render runs/bunny --resolution 256 --out bunny.obj

        implayer render runs/bunny --normals bunny.png --size 512 --azimuth 90
    """

    resolution: int = 256
    """Grid points along the longest side. Memory follows the surface, not the grid."""
    out: Path | None = None
    """A PLY, OBJ or GLB file; None is a name in the folder of the run, or no mesh where there is --normals."""
    normals: Path | None = None
    """A PNG file for the normals in the frame of the camera, as colours."""
    size: int = 512
    """Pixels of a side of the picture."""
    azimuth: float = 145.0
    """Of the eye around the upward axis, in degrees."""
    elevation: float = 30.0
    """Of the eye above the horizon, in degrees."""
    up: Literal["x", "y", "z"] = "y"
    """The axis that is up."""
    exact: bool = False
    """Find every pixel's point on the field itself and take its exact gradient there, instead of the normals of the mesh."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure9(AbstractReproduce):
    """Figure 9 of "(Implicit)^2": the dragon by implicit and explicit networks, IoU and normal maps.

    Reduced so that it takes some minutes on one core; --steps 10000 --batch 50000 --scale 256 --mesh 256 is the paper's size.

    Example: implayer reproduce impsq-fig9 --out runs/impsq-fig9
    """

    shape: str = "dragon.ply"
    """A mesh, or one of the data root by its name."""
    steps: int = 120
    """Of each training (paper: 10,000)."""
    batch: int = 2048
    """Uniform points of a step (authors: 50,000)."""
    scale: float = 128.0
    """Of the input frequencies on [0, 1] (authors: 256, which takes more steps)."""
    norm: Literal["none", "spectral", "weight", "guard"] = "none"
    """Bound on the hidden map of the implicit network (authors: spectral). The explicit ones have none (authors)."""
    learning_rate: float = 1e-3
    """Of Adam (authors: 5e-4)."""
    decay: float = 0.1
    """The learning rate at the last step, as a part of that at the first (authors: 1)."""
    mesh: int = 96
    """Grid points along the longest side for the pictures."""
    test_points: int = 16_384
    """Of each test set (authors: 1,048,576)."""
    picture: int = 512
    """Pixels of a side of a normal map."""
    data: Path | None = None
    """Data root; None is the environment variable IMPLAYER_DATA, or a cache folder."""


COMMANDS = (
    Command(("fit", OCCUPANCY_TASK), FitOccupancy, begins(_OCCUPANCIES)),
    *run_commands(
        OCCUPANCY_TASK, OccupancyConfig, _OCCUPANCIES,
        words=f"fit {OCCUPANCY_TASK}", run="runs/bunny", more="--steps 2000", figures="IoU and mesh distances",
    ),
    Command(("render",), RenderSolid, lazily("inr.solid.render:render"), OCCUPANCY_TASK),
    Command(("fit", SDF_TASK), FitSdf, begins(_DISTANCES)),
    *run_commands(
        SDF_TASK, SdfConfig, _DISTANCES,
        words=f"fit {SDF_TASK}", run="runs/bunny", more="--steps 2000", figures="gradients, IoU and mesh distances",
    ),
    Command(("render",), RenderSolid, lazily("inr.solid.render:render"), SDF_TASK),
    Command(("reproduce", "impsq-fig9"), Figure9, lazily("inr.solid.reproduce:figure")),
)  # fmt: skip
