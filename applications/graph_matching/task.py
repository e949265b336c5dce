"""What the training loop does with pairs of graphs: votes against the true displacement, Adam, tests now and then."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..shared.training import AbstractTask
from .config import MatchingConfig
from .data import Landmarks, Pairs
from .graphs import assignment, complete, delaunay, membership
from .model import Matcher, Side, build_model, displacement_loss

_TEST_BATCH = 100  # pairs that are tested at a time, where graphs are of one pattern


@dataclass(frozen=True)
class Tested:
    """Figures of the test pairs, per cent."""

    accuracy: float  # of the best one-to-one assignment
    pck: float  # landmarks that the votes bring within alpha times the diagonal of the box


class MatchingTask(AbstractTask):
    """The mean distance of the votes to the true landmarks."""

    model: Matcher
    remedy = "two edges of equal features make a repeated eigenvalue: another `--seed`"

    def __init__(self, config: MatchingConfig, landmarks: Landmarks, device: torch.device):
        self.config, self.landmarks, self.device, self.seed = config, landmarks, device, config.seed
        self.model = build_model(config).to(device)
        self.optimizer = torch.optim.Adam(
            [parameter for parameter in self.model.parameters() if parameter.requires_grad], lr=config.learning_rate
        )
        self.total_steps, self.done = config.steps, 0
        self.graphs = Graphs(landmarks)

    def step(self) -> dict[str, float]:
        """One batch; and now and then the test pairs."""
        generator = torch.Generator().manual_seed(2**20 * self.config.seed + self.done)
        rows = torch.randint(len(self.landmarks.train), (self.config.batch,), generator=generator)
        loss = torch.stack([self._loss(pairs) for pairs in self.graphs.batches(self.landmarks.train, rows)]).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.done += 1
        figures = {"loss": float(loss.detach())}
        if self.done % self.config.evaluate_every == 0 or self.done == self.total_steps:
            tested = self.test()
            figures |= {"accuracy": tested.accuracy, "pck": tested.pck}
        return figures

    def test(self) -> Tested:
        """Accuracy and PCK on the test pairs."""
        return test(self.model, self.graphs, self.config)

    def _loss(self, pairs: Pairs) -> Tensor:
        first, second, order = self.graphs.sides(pairs, self.model)
        moved = self.model.vote(self.model(first, second), second)
        return displacement_loss(moved, at(second.points, order))

    def further_state(self) -> dict[str, Tensor]:
        """How many steps are done."""
        return {"done": torch.tensor([self.done])}

    def restore_further(self, tensors: dict[str, Tensor]) -> None:
        """The same from a checkpoint."""
        self.done = int(tensors["done"][0])


class Graphs:
    """The graphs of all point sets, made when first needed.

    Birds have few landmarks: their second graph has all edges, and their first one is a mask on all edges, so that a batch is
    one call. Others have Delaunay graphs on both sides, one pair at a time.
    """

    def __init__(self, landmarks: Landmarks):
        self.landmarks, self.together = landmarks, landmarks.name == "cub"
        self._edges: dict[int, Tensor] = {}
        n = landmarks.points.shape[1]
        self._all = complete(n)
        # The landmarks of every second graph are shuffled: no order can tell which is which.
        self._shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(n))

    def batches(self, pairs: Pairs, rows: Tensor) -> list[Pairs]:
        """The chosen pairs: all at once, or one by one."""
        parts = [rows] if self.together else list(rows.split(1))
        return [Pairs(pairs.first[part], pairs.second[part]) for part in parts]

    def sides(self, pairs: Pairs, model: Matcher) -> tuple[Side, Side, Tensor]:
        """Both graphs of the pairs, and (n,) which node of the second each node of the first is."""
        order = self._shuffled
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        unit, points = self.landmarks.unit, self.landmarks.points
        one, two = (points[side] / unit[side, None, None] for side in (pairs.first, pairs.second))
        two = two[:, order]
        if self.together:
            mask = torch.stack([membership(self.edges(int(each)), self._all) for each in pairs.first])
            return Side(one, self._all, mask), Side(two, self._all), place
        a, b = int(pairs.first[0]), int(pairs.second[0])
        shuffled = place[self.edges(b)]
        looks = [None, None] if model.visual is None else [self._looks(model, each) for each in (a, b)]
        other = None if looks[1] is None else looks[1][order]
        return Side(one[0], self.edges(a), looks=looks[0]), Side(two[0], shuffled, looks=other), place

    def edges(self, index: int) -> Tensor:
        """The Delaunay graph of a point set."""
        if index not in self._edges:
            name = f"the landmarks of {self.landmarks.name} {index}"
            self._edges[index] = delaunay(self.landmarks.points[index].numpy(), name)
        return self._edges[index]

    def _looks(self, model: Matcher, index: int) -> Tensor:
        assert model.visual is not None
        return model.visual(self.landmarks.pictures[index], self.landmarks.points[index])


def at(points: Tensor, order: Tensor) -> Tensor:
    """Rows of (*batch, n, 2) in an order."""
    return points.index_select(-2, order)


@torch.no_grad()
def test(model: Matcher, graphs: Graphs, config: MatchingConfig) -> Tested:
    """Accuracy and PCK of a matcher on the test pairs."""
    pairs = graphs.landmarks.test
    size = _TEST_BATCH if graphs.together else 1
    right, near, total = 0, 0, 0
    for rows in torch.arange(len(pairs)).split(size):
        part = Pairs(pairs.first[rows], pairs.second[rows])
        first, second, order = graphs.sides(part, model)
        X = model(first, second)
        unit, radius = graphs.landmarks.unit[part.second], graphs.landmarks.radius[part.second]
        away = torch.linalg.vector_norm(model.vote(X, second) - at(second.points, order), dim=-1)
        near += int((away.reshape(len(rows), -1) * unit[:, None] < config.alpha * radius[:, None]).sum())
        right += sum(int((assignment(one) == order).sum()) for one in X.reshape(-1, *X.shape[-2:]))
        total += len(rows) * len(order)
    return Tested(100 * right / total, 100 * near / total)
