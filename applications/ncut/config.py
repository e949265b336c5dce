"""The configuration of a training run: every field with unit and origin, presets below."""

from dataclasses import dataclass
from typing import Literal

ModelName = Literal["ncut", "cnn"]
DataSet = Literal["auto", "folder", "camvid", "generated"]


@dataclass(frozen=True)
class NCutConfig:
    """What decides the numbers of a run."""

    model: ModelName = "ncut"
    """ncut: features, affinities, normalised cut. cnn: the same network with a linear map in their place, as a control."""
    epochs: int = 5
    """Passes over the training pictures."""
    batch: int = 2
    """Pictures of a step; their eigenproblems are solved one by one."""
    height: int = 96
    """Of a training picture, which is resized to it."""
    width: int = 128
    """Of a training picture."""
    test_size: int = 240
    """Longer side of a test picture; larger ones are shrunk to it."""
    channels: int = 16
    """Of the first convolution; the inner ones have up to four times as many."""
    features: int = 8
    """Numbers for each node, whose distances make the affinities."""
    reaches: str = "1"
    """Steps to the neighbours in each of eight directions, in nodes, separated by commas: 1,2 takes twice the time."""
    anchors: int = 2
    """Nodes that are joined to all of the picture, with learned features; 0 cuts neighbourhoods alone, as in the paper."""
    floor: float = 1e-4
    """Least affinity, so that no part of a picture is cut off entirely."""
    learning_rate: float = 2e-3
    """Of Adam at the start; it falls to a hundredth of it along a cosine."""
    pictures: int = 0
    """Train on so many pictures, evenly spaced; 0 is all of them. As many are tested at most."""
    data_set: DataSet = "auto"
    """auto: pictures/ and masks/ in the data root, else CamVid's sky there, else generated scenes."""
    seed: int = 0
    """Of the initial weights and of the order of the pictures."""


SMOKE = NCutConfig(epochs=6, height=48, width=64, test_size=128, pictures=32)
PAPER = NCutConfig(epochs=10)
PRESETS = {"default": NCutConfig(), "smoke": SMOKE, "paper": PAPER}
