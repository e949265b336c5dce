"""The networks: features, then a normalised cut of their affinities; and the control without a cut."""

import abc
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from implayer.layers.eigen import EigenLayer
from implayer.solution import Status

from .config import NCutConfig
from .graph import Graph, Step, build_graph, dilated

STRIDE = 2  # pixels of a node's side
_ANCHOR_SCALE = -3.0  # at the start: anchors that hold fast before they mean anything hide the picture
PRIOR = (24, 32)  # cells of the map of where foreground is expected
CHANNEL_UNIT = 8  # groups of the normalisation: it needs no batch, so a test picture is treated as a training picture


@dataclass(frozen=True)
class Cut:
    """The second eigenvector of a picture's graph, and what became of its computation."""

    vector: Tensor  # (batch, n) of the nodes of the grid, v'Dv = 1, v'D1 = 0 with the anchors; its sign means nothing
    value: Tensor  # (batch,) the relaxed NCut value
    weights: Tensor  # (batch, m)
    degree: Tensor  # (batch, n) of the nodes of the grid
    graph: Graph
    solved: Tensor  # (batch,) bool
    degenerate: Tensor  # (batch,) bool: the next eigenvalue is the same to rounding


@dataclass(frozen=True)
class Output:
    """What a network says of a batch."""

    logits: Tensor  # (batch, height, width) of the nodes; the mask is where they are positive
    cut: Cut | None


class NormalisedCut(nn.Module):
    r"""Features of nodes -> affinities on a fixed pattern -> second eigenvector of (D - W) v = l D v.

    $$w_{ij} = \epsilon + e^{s_{i-j}}\, e^{-|f_i - f_j|^2},\qquad
    w_{ia} = \epsilon + e^{s}\, \frac{e^{-|f_i - p_a|^2}}{\sum_b e^{-|f_i - p_b|^2}}$$

    with a learned scale $s$ for each step of the pattern; an edge is stored once, so W is symmetric. Anchors a are further
    nodes, joined to all of the picture, whose features $p_a$ are parameters: they hold together what is alike but apart, as a
    sky that a tree divides, and cost the sparse factor a row each. The vector of ones, whose eigenvalue is zero, is known and
    left out.
    """

    def __init__(self, steps: tuple[Step, ...], floor: float, features: int = 1, anchors: int = 0):
        super().__init__()
        self.steps, self.floor = steps, floor
        scales = torch.tensor([0.0] * len(steps) + [_ANCHOR_SCALE] * (anchors > 0), dtype=torch.float32)
        self.scales = nn.Parameter(scales)
        self.anchors = nn.Parameter(torch.randn(features, anchors, dtype=torch.float32))
        self.pairs = EigenLayer(on_failure="ignore")  # the task leaves out what failed, and counts it

    def forward(self, features: Tensor) -> Cut:
        """The cut of features (batch, d, height, width)."""
        graph = build_graph(features.shape[2], features.shape[3], self.steps, self.anchors.shape[1])
        return self.cut(graph, self.affinities(graph, features.flatten(2).double()))

    def affinities(self, graph: Graph, f: Tensor) -> Tensor:
        """(batch, m) weights of the edges, of features (batch, d, n) of the nodes of the grid."""
        scales, local = self.scales.double().exp(), graph.kind < len(self.steps)
        i, j = graph.edges[:, local]
        w = torch.exp(-(f[..., i] - f[..., j]).square().sum(-2))
        if graph.anchors:
            distance = (f.unsqueeze(2) - self.anchors.double().unsqueeze(-1)).square().sum(1)  # (batch, anchors, cells)
            w = torch.cat([w, torch.softmax(-distance, 1).flatten(1)], -1)
        return self.floor + scales[graph.kind] * w

    def cut(self, graph: Graph, w: Tensor) -> Cut:
        """The cut of a graph with given weights (batch, m)."""
        degree = graph.degree(w)
        ones = w.new_ones(graph.n, 1)
        found = [
            self.pairs.solve(graph.laplacian(*each), each[1], deflate=ones) for each in zip(w, degree, strict=True)
        ]
        values, vectors = zip(*(solution.value for solution in found), strict=True)
        status = torch.stack([solution.status for solution in found])
        solved = (status == Status.CONVERGED) | (status == Status.DEGENERATE)
        vectors, grid = torch.stack(vectors)[..., 0], slice(graph.cells)
        return Cut(vectors[:, grid], torch.cat(values), w, degree[:, grid], graph, solved, status == Status.DEGENERATE)


class FeatureNetwork(nn.Module):
    """A small U-net from colours and positions to features of nodes, one node for every `STRIDE` pixels."""

    def __init__(self, channels: int, features: int):
        super().__init__()
        c = channels
        self.first = _convolution(5, c, stride=STRIDE)
        self.down = nn.ModuleList(
            [_convolution(c, 2 * c, 2), _convolution(2 * c, 4 * c, 2), _convolution(4 * c, 4 * c, 2)]
        )
        self.up = nn.ModuleList([_convolution(4 * c, 4 * c), _convolution(4 * c, 2 * c), _convolution(2 * c, c)])
        self.inner = _convolution(4 * c, 4 * c)
        self.head = nn.Conv2d(c, features, 3, padding=1, dtype=torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, features, height / 2, width / 2) of pictures (batch, 3, height, width) in [0, 1]."""
        x = self.first(torch.cat([2 * x - 1, _positions(x)], 1))
        skipped = []
        for down in self.down:
            skipped.append(x)
            x = down(x)
        x = self.inner(x)
        for up, skip in zip(self.up, reversed(skipped), strict=True):
            x = skip + nn.functional.interpolate(up(x), skip.shape[2:], mode="bilinear", align_corners=False)
        return self.head(x)


class AbstractSegmenter(nn.Module, abc.ABC):
    """A network from pictures to masks."""

    features: FeatureNetwork

    @abc.abstractmethod
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Output:
        """What it says of pictures (batch, 3, height, width); `mask` (batch, height / 2, width / 2) only orients a cut."""


class CutSegmenter(AbstractSegmenter):
    """The mask is one side of the normalised cut. Which side: that of `prior`, the mean of the training masks."""

    prior: Tensor

    def __init__(self, config: NCutConfig):
        super().__init__()
        self.features = FeatureNetwork(config.channels, config.features)
        self.ncut = NormalisedCut(dilated(reaches(config)), config.floor, config.features, config.anchors)
        self.slope = nn.Parameter(torch.tensor(4.0, dtype=torch.float32))
        self.offset = nn.Parameter(torch.tensor(0.0, dtype=torch.float32))
        self.register_buffer("prior", torch.zeros(PRIOR, dtype=torch.float32))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Output:
        """Logits that are 0 in the middle between the extremes of the eigenvector, but for a learned offset."""
        f = self.features(x)
        cut = self.ncut(f)
        side = resized(self.prior.expand(len(x), -1, -1), f.shape[2:]) if mask is None else mask
        v = oriented(cut, side).unflatten(1, f.shape[2:])
        low, high = v.amin((1, 2), keepdim=True), v.amax((1, 2), keepdim=True)
        z = (2 * v - low - high) / (high - low)
        return Output(self.slope * z.to(x.dtype) + self.offset, cut)


class PlainSegmenter(AbstractSegmenter):
    """The same features, and a linear map of those of a node."""

    def __init__(self, config: NCutConfig):
        super().__init__()
        self.features = FeatureNetwork(config.channels, config.features)
        self.last = nn.Conv2d(config.features, 1, 1, dtype=torch.float32)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Output:
        """Logits of the nodes."""
        del mask
        return Output(self.last(self.features(x))[:, 0], None)


def oriented(cut: Cut, side: Tensor) -> Tensor:
    """(batch, n) the eigenvector with the sign for which it agrees with `side` (batch, height, width)."""
    with torch.no_grad():
        product = (cut.vector * cut.degree * side.flatten(1)).sum(-1, keepdim=True)
        sign = torch.where(product < 0, -1.0, 1.0)
    return cut.vector * sign


def resized(maps: Tensor, size: torch.Size | tuple[int, ...]) -> Tensor:
    """(batch, height, width) at another size, bilinearly."""
    return nn.functional.interpolate(maps.unsqueeze(1), tuple(size), mode="bilinear", align_corners=False)[:, 0]


def averaged(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """(batch, height, width) at a smaller size: means of what lies in a cell."""
    return nn.functional.adaptive_avg_pool2d(masks.float().unsqueeze(1), size)[:, 0]


def reaches(config: NCutConfig) -> tuple[int, ...]:
    """The steps of a configuration as numbers. Raises ValueError."""
    return tuple(int(part) for part in config.reaches.split(","))


def build_model(config: NCutConfig) -> AbstractSegmenter:
    """The network of a configuration, with the weights of its seed."""
    state = torch.get_rng_state()
    torch.manual_seed(config.seed)
    model = CutSegmenter(config) if config.model == "ncut" else PlainSegmenter(config)
    torch.set_rng_state(state)
    return model


def _convolution(inner: int, outer: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inner, outer, 3, stride, 1, bias=False, dtype=torch.float32)
    return nn.Sequential(convolution, nn.GroupNorm(CHANNEL_UNIT, outer, dtype=torch.float32), nn.ReLU())


def _positions(x: Tensor) -> Tensor:
    """(batch, 2, height, width) rows and columns from -1 to 1."""
    row = torch.linspace(-1, 1, x.shape[2], dtype=x.dtype, device=x.device)
    column = torch.linspace(-1, 1, x.shape[3], dtype=x.dtype, device=x.device)
    return torch.stack(torch.meshgrid(row, column, indexing="ij")).expand(len(x), -1, -1, -1)
