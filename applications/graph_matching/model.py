"""The matcher: features of edges and nodes -> affinity -> spectral layer -> bi-stochastic layer -> votes."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from implayer.layers.affinity import Affinity
from implayer.layers.bistochastic import BistochasticLayer
from implayer.layers.matching import PowerIterationLayer, SpectralMatchingLayer

from .config import LayerName, MatchingConfig
from .visual import VGG, SmallNetwork

_START = 0.3  # deviation of the last weights: small, so that training begins near the affinity of lengths alone
_EPSILON = 1e-6  # under the root of the loss


@dataclass(frozen=True)
class Side:
    """One graph of every pair, or of a batch of pairs."""

    points: Tensor  # (*batch, n, 2), in units of length
    edges: Tensor  # (m, 2)
    mask: Tensor | None = None  # (*batch, m): 0 where a pair has no such edge
    looks: Tensor | None = None  # (*batch, n, channels), of pictures

    def vectors(self) -> Tensor:
        """(*batch, m, 2) along the edges."""
        return self.points[..., self.edges[:, 1], :] - self.points[..., self.edges[:, 0], :]


def gaussian(a: Tensor, b: Tensor) -> Tensor:
    """(*batch, m1, m2) exp(-|a_e - b_f|^2)."""
    far = a.square().sum(-1).unsqueeze(-1) + b.square().sum(-1).unsqueeze(-2) - 2 * a @ b.mT
    return torch.exp(-far.clamp_min(0))


def by_length(first: Side, second: Side) -> Affinity:
    """The usual affinity of the CMU benchmark: exp(-(d1 - d2)^2) for edge lengths, no nodes."""
    one, two = (torch.linalg.vector_norm(side.vectors(), dim=-1, keepdim=True) for side in (first, second))
    nodes = first.points.new_zeros(*first.points.shape[:-1], second.points.shape[-2])
    return Affinity(nodes, gaussian(one, two), first.edges, second.edges)


class LearnedAffinity(nn.Module):
    """Edges and nodes compared by features: k(e, f) = exp(-|phi(e) - phi(f)|^2).

    phi holds the length of the edge and what a small network makes of its vector (and of the looks of its ends), so that
    with its last weights zero the affinity is that of lengths. An edge has no direction: k is averaged over both.
    """

    def __init__(self, config: MatchingConfig, looks: int):
        super().__init__()
        wide = torch.float64
        self.with_nodes = config.nodes or looks > 0
        self.edge = _network(3 + 2 * looks, config.hidden, config.dims)
        self.node = _network(2 + looks, config.hidden, config.dims) if self.with_nodes else None
        self.weight = nn.Parameter(torch.zeros((), dtype=wide))  # of nodes; softplus keeps it positive

    def forward(self, first: Side, second: Side) -> Affinity:
        """The affinity of two graphs."""
        (a, a_back), (b, b_back) = self._edges(first), self._edges(second)
        same = (gaussian(a, b) + gaussian(a_back, b_back)) / 2
        turned = (gaussian(a, b_back) + gaussian(a_back, b)) / 2
        for side, axis in ((first, -1), (second, -2)):
            if side.mask is not None:
                same, turned = same * side.mask.unsqueeze(axis), turned * side.mask.unsqueeze(axis)
        nodes = same.new_zeros(*same.shape[:-2], first.points.shape[-2], second.points.shape[-2])
        if self.node is not None:
            nodes = nn.functional.softplus(self.weight) * gaussian(*(self._nodes(side) for side in (first, second)))
        return Affinity(nodes, same, first.edges, second.edges, turned)

    def _edges(self, side: Side) -> tuple[Tensor, Tensor]:
        """Features of the edges, walked forwards and backwards."""
        vector = side.vectors()
        length = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
        parts = [[vector, length], [-vector, length]]
        if side.looks is not None:
            ends = [side.looks[..., side.edges[:, end], :] for end in (0, 1)]
            parts = [parts[0] + ends, parts[1] + ends[::-1]]
        made = [torch.cat([length, self.edge(torch.cat(part, -1))], -1) for part in parts]
        return made[0], made[1]

    def _nodes(self, side: Side) -> Tensor:
        assert self.node is not None
        centred = side.points - side.points.mean(-2, keepdim=True)
        return self.node(centred if side.looks is None else torch.cat([centred, side.looks], -1))


class Matcher(nn.Module):
    """Two graphs -> (n1, n2) soft assignment, and where the nodes of the first go in the second."""

    def __init__(self, config: MatchingConfig):
        super().__init__()
        self.voting = config.voting
        self.visual = None
        if config.features != "geometry":
            self.visual = SmallNetwork(config.dims) if config.features == "picture" else VGG(Path(config.vgg))
        self.affinity = LearnedAffinity(config, 0 if self.visual is None else self.visual.channels)
        self.layer = build_layer(config.layer, config.pi_steps)
        self.bistochastic = None if config.layer == "smac" else BistochasticLayer()

    def forward(self, first: Side, second: Side) -> Tensor:
        """(*batch, n1, n2) with rows that sum to 1; SMAC needs no scaling for that."""
        X = self.layer(self.affinity(first, second))
        return X if self.bistochastic is None else self.bistochastic(X.clamp_min(0))

    def vote(self, X: Tensor, second: Side) -> Tensor:
        """(*batch, n1, 2) the mean of the second points, weighted by softmax(voting * X)."""
        return (self.voting * X).softmax(-1) @ second.points


def displacement_loss(moved: Tensor, truth: Tensor) -> Tensor:
    """The mean over landmarks of sqrt(|moved - truth|^2 + epsilon)."""
    return ((moved - truth).square().sum(-1) + _EPSILON).sqrt().mean()


def build_layer(layer: LayerName, pi_steps: int) -> nn.Module:
    """The matching layer of a name."""
    if layer == "pi":
        return PowerIterationLayer(pi_steps)
    return SpectralMatchingLayer("norm" if layer == "sm" else "one-to-one")


def build_model(config: MatchingConfig) -> Matcher:
    """The network of a configuration, with the weights of its seed, which are those of every layer."""
    state = torch.get_rng_state()
    torch.manual_seed(config.seed)
    model = Matcher(config)
    torch.set_rng_state(state)
    return model


def _network(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    wide = torch.float64  # gaps of eigenvalues are small
    last = nn.Linear(hidden, outputs, dtype=wide)
    nn.init.normal_(last.weight, std=_START / hidden**0.5)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, hidden, dtype=wide), nn.Tanh(), last)
