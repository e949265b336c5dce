"""What the training loop does with pictures: batches in an order of their own for every epoch, Adam, a test after each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..shared.training import AbstractTask
from .config import NCutConfig
from .data import Example, Scenes, fitted, spread, training_tensors, working_size
from .losses import segmentation_loss
from .model import PRIOR, AbstractSegmenter, CutSegmenter, averaged, build_model, resized

_LARGEST_NORM = 1.0  # of a gradient: that of an eigenvector grows as the gap closes
_LAST_RATE = 0.01  # of the first learning rate


@dataclass(frozen=True)
class Tested:
    """Figures of test pictures, in per cent. A picture whose cut failed has an empty mask."""

    iou: float  # mean over the pictures
    accuracy: float  # of pixels
    unsolved: int
    each: tuple[float, ...]  # IoU of each picture


class SegmentationTask(AbstractTask):
    """Loss of masks and eigenvectors; pictures are mirrored and their colours changed at random."""

    model: AbstractSegmenter
    remedy = "every cut of the batch failed: a larger `--floor`"

    def __init__(self, config: NCutConfig, scenes: Scenes, device: torch.device):
        self.config, self.device, self.scenes, self.seed = config, device, scenes, config.seed
        self.model = build_model(config)
        self.pixels, self.masks = training_tensors(scenes.train, config)
        if isinstance(self.model, CutSegmenter):
            mean = self.masks.float().mean(0, keepdim=True) / 255
            prior = averaged((mean + mean.flip(-1)) / 2, PRIOR)[0]
            self.model.prior.copy_(prior - prior.mean())
        self.model.to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate)
        self.tested = spread(scenes.test, config.pictures)
        self.epoch_steps = math.ceil(len(self.pixels) / config.batch)
        self.total_steps = config.epochs * self.epoch_steps
        self.done = self.degenerate = self.unsolved = 0

    def step(self) -> dict[str, float]:
        """One batch; after the last one of an epoch the test pictures too, at the size of the training."""
        pixels, masks = self._batch()
        small = averaged(masks, (-(-masks.shape[1] // 2), -(-masks.shape[2] // 2)))
        output = self.model(pixels, small)
        loss = segmentation_loss(output, small)
        if output.cut is not None:
            self.degenerate += int(output.cut.degenerate.sum())
            self.unsolved += int((~output.cut.solved).sum())
            loss = loss[output.cut.solved]
        self.optimizer.zero_grad()
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self._rate()
        mean = loss.mean()
        if len(loss):
            mean.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), _LARGEST_NORM)
            self.optimizer.step()
        self.done += 1
        figures = {"loss": float(mean.detach())}
        if self.done % self.epoch_steps == 0:
            tested = test(self.model, self.tested, self.device, max(self.config.height, self.config.width))
            figures |= {"test_iou": tested.iou}
        return figures

    def _rate(self) -> float:
        turn = (1 + math.cos(math.pi * self.done / self.total_steps)) / 2
        return _LAST_RATE + (1 - _LAST_RATE) * turn

    def _batch(self) -> tuple[Tensor, Tensor]:
        epoch, index = divmod(self.done, self.epoch_steps)
        # Of the step alone, so that a resumed run finds the same order and the same changes.
        order = torch.randperm(len(self.pixels), generator=_generator(self.seed, epoch, 0))
        rows = order[index * self.config.batch : (index + 1) * self.config.batch]
        pixels, masks = self.pixels[rows].float() / 255, self.masks[rows].float() / 255
        return changed(pixels, masks, _generator(self.seed, epoch, index + 1), self.device)

    def further_state(self) -> dict[str, Tensor]:
        """The counts."""
        return {"counts": torch.tensor([self.done, self.degenerate, self.unsolved])}

    def restore_further(self, tensors: dict[str, Tensor]) -> None:
        """The same from a checkpoint."""
        self.done, self.degenerate, self.unsolved = tensors["counts"].tolist()


def _generator(seed: int, epoch: int, part: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 4096 + epoch) * 65536 + part)


def changed(pixels: Tensor, masks: Tensor, generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
    """Half of the pictures mirrored, all of them brighter or darker, with other contrast and tint."""
    count = len(pixels)
    mirrored = torch.rand(count, generator=generator) < 0.5
    pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
    masks = torch.where(mirrored[:, None, None], masks.flip(-1), masks)
    gamma = torch.exp(0.3 * torch.randn(count, 1, 1, 1, generator=generator, dtype=torch.float32))
    tint = torch.exp(0.08 * torch.randn(count, 3, 1, 1, generator=generator, dtype=torch.float32))
    return (pixels.pow(gamma) * tint).clamp(0, 1).to(device), masks.to(device)


@torch.no_grad()
def test(model: AbstractSegmenter, examples: Sequence[Example], device: torch.device, longer: int) -> Tested:
    """Intersection over union of a network's masks, each at the size of its picture."""
    training = model.training
    model.eval()
    each, right, unsolved = [], 0.0, 0
    for example in examples:
        mask = predicted(model, example.pixels, device, longer)
        unsolved += mask is None
        found = torch.zeros_like(example.mask) if mask is None else mask
        each.append(iou(found, example.mask))
        right += float((found == example.mask).double().mean())
    model.train(training)
    count = max(len(each), 1)
    return Tested(100 * sum(each) / count, 100 * right / count, unsolved, tuple(each))


@torch.no_grad()
def predicted(model: AbstractSegmenter, pixels: Tensor, device: torch.device, longer: int) -> Tensor | None:
    """(height, width) bool of a picture (3, height, width), cut at a size of at most `longer`; None where that failed."""
    height, width = pixels.shape[1:]
    output = model(fitted(pixels, working_size(height, width, longer)).to(device))
    if output.cut is not None and not bool(output.cut.solved.all()):
        return None
    return resized(output.logits, (height, width))[0].cpu() > 0


def iou(found: Tensor, wanted: Tensor) -> float:
    """Intersection over union of two masks; 1 where both are empty."""
    either = int((found | wanted).sum())
    return int((found & wanted).sum()) / either if either else 1.0
