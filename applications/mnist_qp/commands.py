"""The commands for digits: each dataclass is a command line, its help, and what the program receives."""

import dataclasses
from pathlib import Path

import tyro

from ..shared.command import Command, lazily
from ..shared.options import AbstractNewRun, AbstractReproduce, of_preset
from ..shared.run_commands import begins, run_commands
from .config import PRESETS, MnistConfig

TASK = "mnist-qp"
_APPLICATION = "mnist_qp.train:DIGITS"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainMnistQP(AbstractNewRun):
    """Train a network with a QP layer to read handwritten digits.

    For example:

        implayer train mnist-qp --preset smoke

        implayer train mnist-qp --preset paper --out runs/mnist
    """

    config: tyro.conf.OmitArgPrefixes[MnistConfig] = dataclasses.field(default_factory=of_preset(PRESETS))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure3(AbstractReproduce):
    """Figure 3 of "Implicitly Defined Layers in Neural Networks": learning curves of the digits network.

    With our layer, and with qpth where it is installed.

    Example: implayer reproduce idl-fig3 --out runs/idl-fig3
    """

    epochs: int = 15
    """Of each training (paper: 15)."""
    samples: int = 0
    """Train on the first so many digits; 0 is all of them."""
    data: Path | None = None
    """Data root; None is the environment variable IMPLAYER_DATA, or a cache folder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure4(AbstractReproduce):
    """Figure 4 of "Implicitly Defined Layers in Neural Networks": time of the QP layer over the number of parameters.

    Of our layer, and of qpth where it is installed.

    Example: implayer reproduce idl-fig4 --trials 20
    """

    trials: int = 100
    """For each size (paper: 500)."""


COMMANDS = (
    Command(("train", TASK), TrainMnistQP, begins(_APPLICATION)),
    *run_commands(
        TASK, MnistConfig, _APPLICATION,
        words=f"train {TASK}", run="runs/mnist", more="--epochs 20", figures="the test accuracy",
    ),
    Command(("reproduce", "idl-fig3"), Figure3, lazily("mnist_qp.reproduce:learning_curves")),
    Command(("reproduce", "idl-fig4"), Figure4, lazily("mnist_qp.reproduce:runtimes")),
)  # fmt: skip
