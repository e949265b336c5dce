"""What the training loop does with shapes: batches in an order of their own for every epoch, Adam, figures of merit."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..shared.training import AbstractTask
from .config import ShapesConfig
from .data import Examples
from .grid import surfaces_of
from .losses import eikonal_loss, field_loss, surface_loss, voxel_loss
from .model import ShapeNetwork, build_model

SAMPLES = 2048  # points on either surface, for the Chamfer distance
_LAST = 0.01  # the learning rate at the end, as a share of that at the start
_TEST_BATCH = 32
_NO_SURFACE = 1.0  # stands for the Chamfer distance to nothing: the side of the cube


@dataclass(frozen=True)
class Tested:
    """Figures of the test shapes: means, and those of each."""

    iou: float  # of the voxels inside, 32^3
    chamfer: float  # mean of both directions, not squared, in sides of the cube
    empty: int  # shapes without a surface; their IoU counts as 0 and their Chamfer distance as 1
    iou_of_each: tuple[float, ...]
    chamfer_of_each: tuple[float, ...]


class ShapeTask(AbstractTask):
    """The loss of the head; a level set learns at first what is inside."""

    model: ShapeNetwork
    remedy = "the field of a shape lost its surface: more `--inside-weight`, or a longer `--warm-up`"

    def __init__(self, config: ShapesConfig, train: Examples, test: Examples, device: torch.device):
        self.config, self.device, self.seed = config, device, config.seed
        self.train, self.tested = train, test
        self.model = build_model(config).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate)
        self.epoch_steps = max(len(train) // config.batch, 1)  # what is left over has its turn in another epoch
        self.total_steps = config.epochs * self.epoch_steps
        self.done = self.empty = 0
        self._order = torch.empty(0, dtype=torch.int64)

    @property
    def on_surface(self) -> bool:
        """Whether the surface is trained, and not the field alone."""
        return self.config.head == "level-set" and self.done >= self.config.warm_up * self.total_steps

    def step(self) -> dict[str, float]:
        """One batch; after the last one of an epoch the test IoU too."""
        for group in self.optimizer.param_groups:
            turn = (1 + math.cos(math.pi * self.done / self.total_steps)) / 2
            group["lr"] = self.config.learning_rate * (_LAST + (1 - _LAST) * turn)
        generator = torch.Generator().manual_seed(2**20 * self.seed + self.done)
        rows = self._batch()
        view = torch.randint(self.train.pictures.shape[1], (len(rows),), generator=generator)
        pictures = self.train.pictures[rows, view].to(self.device).float() / 255
        figures = self._loss(self.model(pictures), rows, generator)
        self.optimizer.zero_grad()
        figures["loss"].backward()
        self.optimizer.step()
        self.done += 1
        found = {name: float(value.detach()) for name, value in figures.items()}
        if self.done % self.epoch_steps == 0:
            fields = predicted(self.model, self.tested.pictures[:, 0], self.device)
            found["test_iou"] = float(iou_of(fields, self.tested.occupied).mean())
        return found

    def _loss(self, output: Tensor, rows: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        config, data = self.config, self.train
        if config.head == "voxels":
            return {"loss": voxel_loss(output, data.occupied[rows].to(self.device))}
        distances = data.fields[rows].to(self.device).float()
        if config.head == "field":
            return {"loss": field_loss(output, distances, config.truncation)}
        inside = voxel_loss(-config.sharpness * output, data.occupied[rows].to(self.device))
        if not self.on_surface:
            return {"loss": inside}
        points, normals = (part[rows].to(self.device) for part in (data.points, data.normals))
        distance, turn, empty = surface_loss(output, points, normals, generator)
        self.empty += empty
        rest = config.inside_weight * inside + config.eikonal_weight * eikonal_loss(output, distances)
        return {"loss": distance + config.normal_weight * turn + rest, "chamfer_voxels": distance}

    def _batch(self) -> Tensor:
        epoch, index = divmod(self.done, self.epoch_steps)
        if index == 0 or not len(self._order):  # of the epoch alone, so that a resumed run finds the same order
            generator = torch.Generator().manual_seed(2**20 * self.seed + epoch)
            self._order = torch.randperm(len(self.train), generator=generator)
        return self._order[index * self.config.batch : (index + 1) * self.config.batch]

    def further_state(self) -> dict[str, Tensor]:
        """The counts."""
        return {"counts": torch.tensor([self.done, self.empty])}

    def restore_further(self, tensors: dict[str, Tensor]) -> None:
        """The same from a checkpoint."""
        self.done, self.empty = tensors["counts"].tolist()


@torch.no_grad()
def predicted(model: ShapeNetwork, pictures: Tensor, device: torch.device) -> Tensor:
    """(shapes, 32, 32, 32) fields, negative inside, of pictures (shapes, 64, 64) in bytes."""
    training = model.training
    model.eval()
    parts = [model.field(model(part.to(device).float() / 255)).cpu() for part in pictures.split(_TEST_BATCH)]
    model.train(training)
    return torch.cat(parts)


def iou_of(fields: Tensor, occupied: Tensor) -> Tensor:
    """(shapes,) intersection over union of the voxels inside."""
    inside = fields < 0
    both, either = ((part.sum((1, 2, 3)).double()) for part in (inside & occupied, inside | occupied))
    return both / either.clamp(min=1)


def test(model: ShapeNetwork, examples: Examples, device: torch.device) -> Tested:
    """IoU and Chamfer distance of the surfaces that a network makes of the test pictures."""
    fields = predicted(model, examples.pictures[:, 0], device)
    iou, surfaces = iou_of(fields, examples.occupied), surfaces_of(fields)
    generator = torch.Generator().manual_seed(0)
    chamfer = [
        float(true.chamfer(found, SAMPLES, generator=generator)) if len(found) else _NO_SURFACE
        for found, true in zip(surfaces, examples.surfaces, strict=True)
    ]
    empty = sum(not len(found) for found in surfaces)
    return Tested(float(iou.mean()), math.fsum(chamfer) / len(chamfer), empty, tuple(iou.tolist()), tuple(chamfer))
