"""The commands for graph matching: each dataclass is a command line, its help, and what the program receives."""

import dataclasses
from pathlib import Path

import tyro

from ..shared.command import Command, lazily
from ..shared.options import AbstractNewRun, AbstractReproduce, of_preset
from ..shared.run_commands import begins, run_commands
from .config import PRESETS, MatchingConfig

TASK = "graph-matching"
_APPLICATION = "graph_matching.train:MATCHING"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainGraphMatching(AbstractNewRun):
    """Learn an affinity through a spectral matching layer.

    For example:

        implayer train graph-matching --preset smoke

        implayer train graph-matching --data-set cub --layer smac --batch 16 --steps 300 --out runs/birds
    """

    config: tyro.conf.OmitArgPrefixes[MatchingConfig] = dataclasses.field(default_factory=of_preset(PRESETS))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CmuHouse(AbstractReproduce):
    """The CMU house and hotel benchmark: accuracy over the gap between frames, of SM and SMAC, beside the published figures.

    For example:

        implayer reproduce cmu-house

        implayer reproduce cmu-house --every 5 --learned runs/house
    """

    every: int = 1
    """Take every so many pairs of a gap; at gap 90 always all 21."""
    learned: Path | None = None
    """A run of `train graph-matching` on the house, whose affinity is measured too."""
    data: Path | None = None
    """Data root; None is the environment variable IMPLAYER_DATA, or a cache folder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure6(AbstractReproduce):
    """Figure 6 of "Implicitly Defined Layers in Neural Networks": PCK on birds over the iterations of training.

    With SM, SMAC, and power iteration with 1, 5 and 20 steps. The landmarks are there without pictures, so features are
    those of coordinates, and PCK is measured by the diagonal of the bird's box.

    Example: implayer reproduce idl-fig6 --steps 100
    """

    steps: int = 300
    """Of each training (paper: 2,500 iterations)."""
    batch: int = 8
    """Pairs of a step."""
    pairs: int = 500
    """Test pairs (paper: 500, a tenth of all)."""
    data: Path | None = None
    """Data root; None is the environment variable IMPLAYER_DATA, or a cache folder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure7(AbstractReproduce):
    """Figure 7 of "Implicitly Defined Layers in Neural Networks": time of the matching layers over the graph's size.

    Forward and backward of SM, SMAC and five power iterations, on Delaunay graphs of random points.

    Example: implayer reproduce idl-fig7 --trials 3
    """

    trials: int = 20
    """For each size."""
    largest: int = 80
    """Points of the largest graphs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure8(AbstractReproduce):
    """Figure 8 of "Implicitly Defined Layers in Neural Networks": landmarks matched between two pictures of ducks.

    Example: implayer reproduce idl-fig8
    """

    data: Path | None = None
    """Data root; None is the environment variable IMPLAYER_DATA, or a cache folder."""


COMMANDS = (
    Command(("train", TASK), TrainGraphMatching, begins(_APPLICATION)),
    *run_commands(
        TASK, MatchingConfig, _APPLICATION,
        words=f"train {TASK}", run="runs/house", more="--steps 300", figures="accuracy and PCK",
    ),
    Command(("reproduce", "cmu-house"), CmuHouse, lazily("graph_matching.cmu_house:cmu_house")),
    Command(("reproduce", "idl-fig6"), Figure6, lazily("graph_matching.reproduce:training_curves")),
    Command(("reproduce", "idl-fig7"), Figure7, lazily("graph_matching.reproduce:runtimes")),
    Command(("reproduce", "idl-fig8"), Figure8, lazily("graph_matching.ducks:ducks")),
)  # fmt: skip
