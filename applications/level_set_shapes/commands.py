"""The commands for shapes: each dataclass is a command line, its help, and what the program receives."""

import dataclasses
from pathlib import Path

import tyro

from ..shared.command import Command, lazily
from ..shared.options import AbstractNewRun, AbstractReproduce, of_preset
from ..shared.run_commands import begins, run_commands
from .config import PRESETS, ShapesConfig
from .fit_config import FIT_PRESETS, FitConfig

TASK, FIT = "level-set-shapes", "shape"
_TRAINING, _FIT = "level_set_shapes.train:SHAPES", "level_set_shapes.fit:FITS"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainShapes(AbstractNewRun):
    """Train a network that makes a shape of a single picture: as voxels, as a field, or as the surface of a level set.

    For example:

        implayer train level-set-shapes --preset smoke

        implayer train level-set-shapes --head voxels --out runs/voxels
    """

    config: tyro.conf.OmitArgPrefixes[ShapesConfig] = dataclasses.field(default_factory=of_preset(PRESETS))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table1(AbstractReproduce):
    """Table 1 and figure 11 of "Implicitly Defined Layers in Neural Networks": voxels against level sets.

    Three networks of one body, the same shapes and steps: voxels, field, level set; means over several seeds.

    Example: implayer reproduce idl-table1 --out runs/idl-table1
    """

    epochs: int = ShapesConfig.epochs
    """Of each training."""
    seeds: int = 3
    """How many, from --seed on."""
    category: str = ShapesConfig.category
    """One of the data set (paper: cars), or all."""
    shapes: int = 0
    """Train on so many shapes, evenly spaced; 0 is all of them. As many are tested at most."""
    data: Path | None = None
    """Data root; None is the environment variable IMPLAYER_DATA, or a cache folder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitShape(AbstractNewRun):
    """Fit a field on a grid to a mesh or a point cloud, through the surface of its level set.

    For example:

        implayer fit shape bunny.ply

        implayer fit shape scan.ply --grid 96 --steps 200 --out runs/scan
    """

    shape: tyro.conf.Positional[str]
    """A mesh (PLY, OBJ, GLB), a point cloud (PLY; XYZ or NPY with or without normals), or one of the data root by its name."""
    config: tyro.conf.OmitArgPrefixes[FitConfig] = dataclasses.field(default_factory=of_preset(FIT_PRESETS))


COMMANDS = (
    Command(("train", TASK), TrainShapes, begins(_TRAINING)),
    *run_commands(
        TASK, ShapesConfig, _TRAINING,
        words=f"train {TASK}", run="runs/sofas", more="--epochs 20", figures="IoU and Chamfer distance of the test shapes",
    ),
    Command(("reproduce", "idl-table1"), Table1, lazily("level_set_shapes.reproduce:table_1")),
    Command(("fit", FIT), FitShape, begins(_FIT)),
    *run_commands(
        FIT, FitConfig, _FIT,
        words=f"fit {FIT}", run="runs/bunny", more="--steps 200", figures="distances, IoU and volume error of the surface",
    ),
)  # fmt: skip
