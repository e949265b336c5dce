"""The configuration of a training run: every field with unit and origin, presets below."""

from dataclasses import dataclass
from typing import Literal

LayerName = Literal["implicit", "qpth", "cvxpylayers"]
DataSet = Literal["auto", "mnist", "digits"]


@dataclass(frozen=True)
class MnistConfig:
    """What decides the numbers of a run. "OptNet" is the program of its authors, whose problem the paper takes over."""

    layer: LayerName = "implicit"
    """What solves and differentiates the quadratic program: implayer's QPLayer, or a peer that is installed."""
    learn_all: bool = False
    """Q, A and b come from the previous layer too, not q alone; without it there are no equations (OptNet)."""
    epochs: int = 5
    """Passes over the training set (paper: 15)."""
    batch: int = 64
    """Digits of a step (OptNet: 64)."""
    hidden: int = 500
    """Entries between the two linear maps (OptNet: 500)."""
    batch_norm: bool = False
    """Normalise what leaves the two linear maps (an option of OptNet)."""
    last_relu: bool = False
    """A ReLU after the second linear map too, as OptNet has it; q then has no negative entry, which costs accuracy."""
    spread: float = 0.1
    """L starts at the identity plus entries uniform in [0, this]. OptNet has no identity and 1; Q is then nearly singular."""
    inequalities: int = 10
    """Rows of G (OptNet: 10)."""
    equations: int = 1
    """Rows of A; only with --learn-all."""
    epsilon: float = 1e-4
    """Added to the diagonal of Q = LL' (OptNet: 1e-4)."""
    learning_rate: float = 1e-3
    """Of Adam in the first epoch (OptNet: 1e-3)."""
    decay: float = 0.8
    """Factor of the learning rate from one epoch to the next; 1 keeps it."""
    samples: int = 0
    """Train on the first so many digits; 0 is all of them."""
    data_set: DataSet = "auto"
    """auto: MNIST where it is or can be downloaded, else scikit-learn's digits of 8 x 8 pixels."""
    seed: int = 0
    """Of the initial weights and of the order of the digits."""


SMOKE = MnistConfig(epochs=1)
PAPER = MnistConfig(epochs=15, data_set="mnist")
PRESETS = {"default": MnistConfig(), "smoke": SMOKE, "paper": PAPER}
