"""What the training loop does with digits: batches in an order of their own for every epoch, Adam, a test after each."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..shared.training import AbstractTask
from .config import MnistConfig
from .data import Digits
from .model import DigitNetwork, build_model

_TEST_BATCH = 1000  # digits that are tested at a time


@dataclass(frozen=True)
class Tested:
    """Figures of the test set. A digit whose program was not solved counts as wrong."""

    accuracy: float  # per cent
    loss: float  # mean over the solved ones
    unsolved: int


class DigitTask(AbstractTask):
    """Negative log-likelihood of the softmax of the scores."""

    model: DigitNetwork
    remedy = "no quadratic program of the batch has a solution: another `--seed`"

    def __init__(self, config: MnistConfig, digits: Digits, device: torch.device):
        self.config, self.device, self.digits, self.seed = config, device, digits, config.seed
        self.mean, self.deviation = digits.statistics()
        self.model = build_model(config, digits.train.shape[1]).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate)
        self.images, self.labels = digits.train.to(device), digits.train_labels.to(device)
        if config.samples:
            self.images, self.labels = self.images[: config.samples], self.labels[: config.samples]
        self.epoch_steps = steps_of_epoch(config, digits)
        self.total_steps = config.epochs * self.epoch_steps
        self.done = self.degenerate = self.unsolved = 0
        self._order = torch.empty(0, dtype=torch.int64)

    def step(self) -> dict[str, float]:
        """One batch; after the last one of an epoch the test set too."""
        images, labels = self._batch()
        scores = self.model(normalised(images, self.mean, self.deviation))
        z, wanted = scores.z, labels
        if not bool(scores.solved.all()):
            z, wanted = z[scores.solved], wanted[scores.solved]
        loss = nn.functional.nll_loss(z.log_softmax(-1), wanted)
        self.optimizer.zero_grad()
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self.config.decay ** (self.done // self.epoch_steps)
        if len(wanted):
            loss.backward()
            self.optimizer.step()
        self.done += 1
        self.degenerate += scores.degenerate
        self.unsolved += len(labels) - len(wanted)
        figures = {"loss": float(loss.detach()), "accuracy": percent(scores.digits == labels)}
        if self.done % self.epoch_steps == 0:
            tested = self.test()
            figures |= {"test_accuracy": tested.accuracy, "test_loss": tested.loss}
        return figures

    def test(self) -> Tested:
        """Accuracy and loss on the test set."""
        return test(self.model, self.digits, self.device)

    def _batch(self) -> tuple[Tensor, Tensor]:
        epoch, index = divmod(self.done, self.epoch_steps)
        if index == 0 or not len(self._order):  # of the epoch alone, so that a resumed run finds the same order
            generator = torch.Generator().manual_seed(2**20 * self.config.seed + epoch)
            self._order = torch.randperm(len(self.labels), generator=generator)
        rows = self._order[index * self.config.batch : (index + 1) * self.config.batch].to(self.device)
        return self.images[rows], self.labels[rows]

    def further_state(self) -> dict[str, Tensor]:
        """The counts."""
        return {"counts": torch.tensor([self.done, self.degenerate, self.unsolved])}

    def restore_further(self, tensors: dict[str, Tensor]) -> None:
        """The same from a checkpoint."""
        self.done, self.degenerate, self.unsolved = tensors["counts"].tolist()


def steps_of_epoch(config: MnistConfig, digits: Digits) -> int:
    """Batches of one pass. The last may be smaller, but has no single digit: that has no variance to normalise by."""
    total = min(config.samples or len(digits.train), len(digits.train))
    return max(total // config.batch + (total % config.batch > 1), 1)


def normalised(images: Tensor, mean: float, deviation: float) -> Tensor:
    """Pixels of uint8 with the mean and deviation of the training set taken out, in single precision."""
    return (images.to(torch.float32) / 255 - mean) / deviation


@torch.no_grad()
def test(model: DigitNetwork, digits: Digits, device: torch.device) -> Tested:
    """Accuracy and loss of a network on the test set."""
    mean, deviation = digits.statistics()
    training = model.training
    model.eval()
    right = unsolved = 0
    total = 0.0
    for first in range(0, len(digits.test), _TEST_BATCH):
        rows = slice(first, first + _TEST_BATCH)
        labels = digits.test_labels[rows].to(device)
        scores = model(normalised(digits.test[rows].to(device), mean, deviation))
        right += int((scores.digits == labels).sum())
        unsolved += int((~scores.solved).sum())
        log = scores.z[scores.solved].log_softmax(-1)
        total += float(nn.functional.nll_loss(log, labels[scores.solved], reduction="sum"))
    model.train(training)
    count = len(digits.test)
    return Tested(100 * right / count, total / max(count - unsolved, 1), unsolved)


def percent(right: Tensor) -> float:
    """How many of the entries are true."""
    return 100 * float(right.double().mean())
