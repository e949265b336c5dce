"""The network: two linear maps, and a quadratic program whose minimiser holds the scores of the ten digits."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .config import LayerName, MnistConfig
from .solvers import build_solver

CLASSES = 10


@dataclass(frozen=True)
class Scores:
    """What the network says of a batch, and what became of its quadratic programs."""

    z: Tensor  # (batch, 10), NaN where a program was not solved
    solved: Tensor  # (batch,) bool
    degenerate: int  # programs whose derivative is one-sided

    @property
    def digits(self) -> Tensor:
        """(batch,) the digit of the largest score; -1 where a program was not solved."""
        return torch.where(self.solved, self.z.argmax(-1), -1)


class QuadraticScores(nn.Module):
    """z = argmin z'Qz/2 + q'z subject to Gz <= G z0 + s0, and Az = b if learn_all; Q = LL' + epsilon I.

    L, G, z0, s0 are parameters, and q (batch, n) is what comes in. With learn_all there comes more, `rest`: what is added
    to L, then A and b.
    """

    def __init__(
        self, n: int, inequalities: int, equations: int, epsilon: float, layer: LayerName, spread: float = 0.1
    ):
        super().__init__()
        wide = torch.float64  # single precision leaves a QP with Q near 1e-4 few digits
        self.n, self.equations, self.epsilon = n, equations, epsilon
        self.L = nn.Parameter(torch.eye(n, dtype=wide) + spread * torch.rand(n, n, dtype=wide))  # its lower triangle
        self.G = nn.Parameter(torch.rand(inequalities, n, dtype=wide) * 2 - 1)
        self.z0 = nn.Parameter(torch.zeros(n, dtype=wide))
        self.s0 = nn.Parameter(torch.ones(inequalities, dtype=wide))
        self.solve = build_solver(layer, n, equations, inequalities)

    @property
    def rest(self) -> int:
        """How many numbers come in for each sample besides q."""
        return self.n * (self.n + 1) // 2 + self.equations * (self.n + 1) if self.equations else 0

    def forward(self, q: Tensor, rest: Tensor) -> Scores:
        """Programs that have no solution are left out: their scores are NaN and they carry no gradient."""
        given = torch.cat([q, rest], -1).double()
        z, solved, degenerate = self._solution(given)
        if bool(solved.all()):
            return Scores(z, solved, int(degenerate.sum()))
        scores = torch.full_like(z.detach(), torch.nan)
        if bool(solved.any()):
            index = solved.nonzero().squeeze(-1)
            scores = scores.index_copy(0, index, self._solution(given[index])[0])
        return Scores(scores, solved, int((degenerate & solved).sum()))

    def _solution(self, given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, lower, A, b = given[:, : self.n], self.L.tril(), None, None
        if self.equations:
            rows = self.n * (self.n + 1) // 2
            _, change, A, b = given.split([self.n, rows, self.equations * self.n, self.equations], -1)
            i, j = torch.tril_indices(self.n, self.n, device=given.device)
            sample = torch.arange(len(given), device=given.device)[:, None]
            lower = lower.expand(len(given), -1, -1).index_put((sample, i, j), change, accumulate=True)
            A = A.unflatten(-1, (self.equations, self.n))
        Q = lower @ lower.mT + self.epsilon * torch.eye(self.n, dtype=lower.dtype, device=lower.device)
        return self.solve(Q, q, A, b, self.G, self.G @ self.z0 + self.s0)


class DigitNetwork(nn.Module):
    """Pixels -> linear, ReLU -> linear -> quadratic program -> scores."""

    def __init__(self, config: MnistConfig, pixels: int):
        super().__init__()
        self.scores = QuadraticScores(
            CLASSES, config.inequalities, config.equations if config.learn_all else 0, config.epsilon, config.layer,
            config.spread,
        )  # fmt: skip
        single = torch.float32
        self.inner = nn.Linear(pixels, config.hidden, dtype=single)
        self.outer = nn.Linear(config.hidden, CLASSES + self.scores.rest, dtype=single)
        norm, self.last_relu = config.batch_norm, config.last_relu
        self.inner_norm = nn.BatchNorm1d(config.hidden, dtype=single) if norm else nn.Identity()
        self.outer_norm = nn.BatchNorm1d(CLASSES, dtype=single) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Scores:
        """Scores of normalised pictures (batch, pixels)."""
        hidden = self.inner_norm(self.inner(x).relu())
        q, rest = self.outer(hidden).split([CLASSES, self.scores.rest], -1)
        return self.scores(self.outer_norm(q.relu() if self.last_relu else q), rest)


def build_model(config: MnistConfig, pixels: int) -> DigitNetwork:
    """The network of a configuration, with the weights of its seed, which are those of every layer."""
    state = torch.get_rng_state()
    torch.manual_seed(config.seed)
    model = DigitNetwork(config, pixels)
    torch.set_rng_state(state)
    return model
