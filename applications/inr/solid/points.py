"""Points to learn from and to test with."""

import torch
from torch import Tensor

from .config import Draw
from .data import Shape

SPREADS = {
    "near": 0.02,
    "hard": 0.002,
}  # of test points near the surface; hard: 0.001 for a shape as long as 1 (authors)
MARGIN = 0.002  # of the box around the shape, likewise
_TEST_SEED = 20_210_630  # the same points for every run of a shape


class SurfacePoints:
    """Points on a shape: uniform by area, or as many on every face; of a cloud, its own points."""

    def __init__(self, shape: Shape, draw: Draw):
        self.draw, self.normals_of_points = draw, shape.normals
        self.points = shape.surface.vertices
        if shape.normals is None:
            self.corners, self.normals = shape.surface.corners(), shape.surface.normals()
            self.shares = shape.surface.areas().double().cumsum(0)

    def __call__(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(count, 3) points and (count, 3) normals."""
        if self.normals_of_points is not None:
            chosen = torch.randint(len(self.points), (count,), generator=generator)
            return self.points[chosen], self.normals_of_points[chosen]
        if self.draw == "faces":
            chosen = torch.randint(len(self.corners), (count,), generator=generator)
        else:
            at = torch.rand(count, dtype=torch.float64, generator=generator) * self.shares[-1]
            chosen = torch.searchsorted(self.shares, at, right=True).clamp(max=len(self.corners) - 1)
        u = torch.rand(count, 2, dtype=self.corners.dtype, generator=generator)
        root = u[:, :1].sqrt()  # uniform on the triangle
        weight = torch.cat([1 - root, root * (1 - u[:, 1:]), root * u[:, 1:]], -1)
        return (weight.unsqueeze(-1) * self.corners[chosen]).sum(1), self.normals[chosen]


def uniform(count: int, lower: Tensor, upper: Tensor, generator: torch.Generator) -> Tensor:
    """(count, 3) points in a box."""
    return lower + (upper - lower) * torch.rand(count, 3, dtype=lower.dtype, generator=generator)


def about(points: Tensor, spread: float, generator: torch.Generator) -> Tensor:
    """Points moved by a normal distribution of this standard deviation along each axis."""
    return points + spread * torch.randn(points.shape, dtype=points.dtype, generator=generator)


def box(shape: Shape, margin: float = MARGIN) -> tuple[Tensor, Tensor]:
    """The corners of the bounding box of a shape, with a margin."""
    points = shape.surface.vertices
    return points.amin(0) - margin, points.amax(0) + margin


def test_sets(shape: Shape, count: int, draw: Draw) -> dict[str, Tensor]:
    """`easy`: uniform in the box; `near` and `hard`: near the surface. (count, 3) each, the same for every run."""
    generator = torch.Generator().manual_seed(_TEST_SEED)
    easy = uniform(count, *box(shape), generator)
    on, _ = SurfacePoints(shape, draw)(count, generator)
    return {"easy": easy} | {name: about(on, spread, generator) for name, spread in SPREADS.items()}


def overlap(found: Tensor, true: Tensor) -> dict[str, float]:
    """Accuracy, precision, recall and IoU = TP / (TP + FP + FN) of (points,) bools; what is 0 / 0 counts as 1."""
    both, either = int((found & true).sum()), int((found | true).sum())
    said, there = int(found.sum()), int(true.sum())
    return {
        "accuracy": float((found == true).double().mean()),
        "precision": both / said if said else 1.0,
        "recall": both / there if there else 1.0,
        "iou": both / either if either else 1.0,
    }
