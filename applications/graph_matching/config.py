"""The configuration of a training run: every field with unit and origin, presets below."""

from dataclasses import dataclass
from typing import Literal

DataSet = Literal["house", "hotel", "cub"]
LayerName = Literal["sm", "smac", "pi"]
Features = Literal["geometry", "picture", "vgg"]


@dataclass(frozen=True)
class MatchingConfig:
    """What decides the numbers of a run. "GMN" is Zanfir and Sminchisescu, whose pipeline this is."""

    data_set: DataSet = "house"
    """house, hotel: frames of the CMU sequences, 30 landmarks; cub: birds by 8 landmarks, coordinates alone."""
    layer: LayerName = "sm"
    """sm: leading eigenvector; smac: with one-to-one constraints; pi: power iterations, unrolled (the layer of GMN)."""
    pi_steps: int = 5
    """Power iterations, for --layer pi."""
    features: Features = "geometry"
    """What edges and nodes are compared by: their geometry; a small CNN on the pictures too; or VGG-16 with --vgg."""
    vgg: str = ""
    """A file vgg16.safetensors with the names of torchvision, for --features vgg."""
    nodes: bool = False
    """Compare nodes by their features too, not edges alone; always with pictures."""
    steps: int = 100
    """Optimiser steps (GMN: some 10,000, of pictures)."""
    batch: int = 4
    """Pairs of graphs of a step (GMN: 8)."""
    hidden: int = 32
    """Width of the network that makes features."""
    dims: int = 8
    """Length of a feature."""
    voting: float = 200.0
    """Sharpness of the softmax that turns an assignment into displacements (GMN: 200)."""
    learning_rate: float = 3e-3
    """Of Adam."""
    evaluate_every: int = 20
    """Steps between evaluations on the test pairs."""
    train_pairs: int = 4500
    """cub: pairs of training birds (the paper: 5000 pairs, 9 of 10 for training)."""
    test_pairs: int = 500
    """cub: pairs of test birds; for house and hotel all pairs of the test frames."""
    alpha: float = 0.1
    """A landmark counts as found within this part of the diagonal of the box (the paper: 0.1 of the picture's)."""
    seed: int = 0
    """Of weights, pairs and order."""


SMOKE = MatchingConfig(steps=30, evaluate_every=6)
PAPER = MatchingConfig(data_set="cub", steps=2000, batch=16, evaluate_every=100, nodes=True)
PRESETS = {"default": MatchingConfig(), "smoke": SMOKE, "paper": PAPER}
