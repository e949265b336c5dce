"""The configuration of a training run: every field with unit and origin, presets below."""

from dataclasses import dataclass
from typing import Literal

Head = Literal["voxels", "field", "level-set"]
DataSet = Literal["auto", "modelnet", "shapenet", "generated"]


@dataclass(frozen=True)
class ShapesConfig:
    """What decides the numbers of a run. "Paper" is "Implicitly Defined Layers", section 4.4, where it says something."""

    head: Head = "level-set"
    """voxels: occupancy, cross-entropy. field: distances to the surface. level-set: the surface, through the layer."""
    category: str = "sofa"
    """One of the data set (paper: one, cars), or all."""
    epochs: int = 12
    """Passes over the training shapes, one picture of each."""
    batch: int = 32
    """Shapes of a step."""
    views: int = 8
    """Pictures of a shape, evenly spaced around it with a random start."""
    latent: int = 128
    """Numbers between picture and shape: the shape is a combination of as many fields."""
    learning_rate: float = 3e-3
    """Of Adam at the start; it falls to a hundredth of it along a cosine."""
    warm_up: float = 0.3
    """Share of the epochs in which a level set learns what is inside alone: no surface gives birth to a part of itself."""
    truncation: float = 2.0
    """Of the head `field`: voxels, beyond which distances are not told apart."""
    sharpness: float = 2.0
    """Of the head `level-set`: logit of being inside, per voxel of distance to the surface."""
    points: int = 1024
    """Samples of a true surface for the Chamfer distance, and as many of a predicted one on average."""
    normal_weight: float = 0.2
    """Of 1 - cosine between normals of nearest points, beside the Chamfer distance in voxels."""
    inside_weight: float = 5.0
    """Of the cross-entropy of what is inside, which remains beside the loss of the surface."""
    eikonal_weight: float = 0.1
    """Of (|grad phi| - 1)^2 near the surface."""
    shapes: int = 0
    """Train on so many shapes, evenly spaced; 0 is all of them. As many are tested at most."""
    data_set: DataSet = "auto"
    """auto: ShapeNet's voxels and renderings in the data root, else ModelNet10's voxels there, else generated shapes."""
    seed: int = 0
    """Of the initial weights, and of the order of shapes and views; what there is to learn from does not depend on it."""


SMOKE = ShapesConfig(epochs=8, shapes=128, views=4)
PAPER = ShapesConfig(epochs=60)
PRESETS = {"default": ShapesConfig(), "smoke": SMOKE, "paper": PAPER}
