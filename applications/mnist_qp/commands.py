"""The commands for digits: each dataclass is a command line, its help, and what the program receives."""

import dataclasses
from pathlib import Path
from typing import Any

import tyro

from ..shared.command import Command, lazily
from ..shared.options import (
    AbstractNewRun,
    AbstractReproduce,
    AbstractResume,
    AbstractRunCommand,
    changes_of,
    of_preset,
)
from .config import PRESETS, MnistConfig

TASK = "mnist-qp"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainMnistQP(AbstractNewRun):
    """Train a network with a QP layer to read handwritten digits.

    Examples:

        implayer train mnist-qp --preset smoke

        implayer train mnist-qp --preset paper --out runs/mnist
    """

    config: tyro.conf.OmitArgPrefixes[MnistConfig] = dataclasses.field(default_factory=of_preset(PRESETS))


Changes: Any = changes_of(MnistConfig, "train mnist-qp")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResumeMnistQP(AbstractResume):
    """Go on with a training run that was interrupted or killed; it ends as it would have without that.

    Examples:

        implayer resume runs/mnist

        implayer resume runs/mnist --epochs 20
    """

    changes: tyro.conf.OmitArgPrefixes[Changes] = dataclasses.field(default_factory=Changes)  # type: ignore[valid-type]
    """What decides the numbers of the run, where it shall differ from now on."""
    data: Path | None = None
    """Data root; None is where the run found its data."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalMnistQP(AbstractRunCommand):
    """Compute the test accuracy of a training run anew from its saved weights.

    Example: implayer eval runs/mnist
    """

    data: Path | None = None
    """Data root; None is where the run found its data."""


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
    Command(("train", TASK), TrainMnistQP, lazily("mnist_qp.train:train_digits")),
    Command(("resume",), ResumeMnistQP, lazily("mnist_qp.train:resume_digits"), TASK),
    Command(("eval",), EvalMnistQP, lazily("mnist_qp.train:evaluate_digits"), TASK),
    Command(("reproduce", "idl-fig3"), Figure3, lazily("mnist_qp.reproduce:learning_curves")),
    Command(("reproduce", "idl-fig4"), Figure4, lazily("mnist_qp.reproduce:runtimes")),
)
