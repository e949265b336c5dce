"""Masks without learning: normalised cuts of colours and distances by hand, and scikit-learn's spectral clustering."""

import importlib
import importlib.util
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import scipy.sparse as sparse
import torch
from torch import Tensor

from .data import Example, fitted, working_size
from .graph import build_graph, disc
from .model import STRIDE, Cut, NormalisedCut, resized
from .task import Tested, iou

THRESHOLDS = 64  # that are tried for the least NCut value

Baseline = Callable[[Tensor, Tensor, int], Tensor]  # pixels (3, height, width), prior, longer side -> mask


class HandcraftedCut:
    r"""Shi and Malik's affinities, $e^{-|c_i-c_j|^2/\sigma_c^2}\,e^{-|x_i-x_j|^2/\sigma_x^2}$ within a radius, c a colour.

    The eigenvector is split where the NCut value is least; foreground is the side that agrees with `prior`.

    **Arguments**

    - `colour`, `reach`: the two sigmas, in units of the colours (0 to 1) and of nodes.
    - `radius`: in nodes.

    **Reference** Shi and Malik, "Normalized Cuts and Image Segmentation", IEEE TPAMI 22, 2000.
    """

    def __init__(self, colour: float = 0.1, reach: float = 4.0, radius: float = 5.0, floor: float = 1e-4):
        self.colour, self.reach, self.steps, self.floor = colour, reach, disc(radius), floor
        self.ncut = NormalisedCut(self.steps, floor)

    @torch.no_grad()
    def __call__(self, pixels: Tensor, prior: Tensor, longer: int) -> Tensor:
        """(height, width) bool."""
        nodes = _nodes(pixels, longer)
        cut = self.ncut.cut(*self.affinities(nodes))
        side = resized(prior[None], nodes.shape[1:])[0]
        return _at_size(best_split(cut, side), pixels)

    def affinities(self, nodes: Tensor) -> tuple[Any, Tensor]:
        """The graph of colours (3, height, width), and its weights (1, m)."""
        graph = build_graph(nodes.shape[1], nodes.shape[2], self.steps)
        i, j = graph.edges
        c = nodes.flatten(1).double()
        length = torch.tensor([down**2 + right**2 for down, right in self.steps], dtype=torch.float64)
        distance = (c[:, i] - c[:, j]).square().sum(0) / self.colour**2 + length[graph.kind] / self.reach**2
        return graph, (self.floor + torch.exp(-distance))[None]


def best_split(cut: Cut, side: Tensor) -> Tensor:
    """(height, width) bool: the split of the eigenvector with the least NCut value, the part that agrees with `side`."""
    v = cut.vector[0]
    levels = torch.quantile(v, torch.linspace(0, 1, THRESHOLDS + 2, dtype=v.dtype)[1:-1])
    levels = torch.cat([levels, torch.linspace(float(v.min()), float(v.max()), THRESHOLDS + 2, dtype=v.dtype)[1:-1]])
    sides = v > levels.unsqueeze(-1)
    values = cut.graph.cuts(cut.weights[0], cut.degree[0], sides)
    return agreeing(sides[int(values.argmin())].unflatten(0, side.shape), side)


def agreeing(mask: Tensor, side: Tensor) -> Tensor:
    """The mask or its complement, whichever has the larger mean of `side`."""
    inside, outside = side[mask], side[~mask]
    return ~mask if len(inside) and len(outside) and inside.mean() < outside.mean() else mask


def spectral_clustering(colour: float = 0.1, reach: float = 4.0, radius: float = 5.0) -> Baseline | None:
    """scikit-learn's two clusters of the same graph; None where it is not installed."""
    if importlib.util.find_spec("sklearn") is None:
        return None
    cluster = importlib.import_module("sklearn.cluster").spectral_clustering
    by_hand = HandcraftedCut(colour, reach, radius)

    def baseline(pixels: Tensor, prior: Tensor, longer: int) -> Tensor:
        nodes = _nodes(pixels, longer)
        graph, w = by_hand.affinities(nodes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            labels = cluster(_scipy(graph, w[0]), n_clusters=2, random_state=0, eigen_solver="lobpcg")
        side = resized(prior[None], nodes.shape[1:])[0]
        return _at_size(agreeing(torch.from_numpy(labels == 1).unflatten(0, side.shape), side), pixels)

    return baseline


def evaluate(baseline: Baseline, examples: Sequence[Example], prior: Tensor, longer: int) -> Tested:
    """Its figures on test pictures, as those of a network."""
    each, right = [], 0.0
    for example in examples:
        found = baseline(example.pixels, prior, longer)
        each.append(iou(found, example.mask))
        right += float((found == example.mask).double().mean())
    return Tested(100 * math.fsum(each) / len(each), 100 * right / len(each), 0, tuple(each))


def _nodes(pixels: Tensor, longer: int) -> Tensor:
    """(3, h, w) colours of the nodes of a picture."""
    height, width = working_size(pixels.shape[1], pixels.shape[2], longer)
    return fitted(pixels, (-(-height // STRIDE), -(-width // STRIDE)))[0]


def _at_size(mask: Tensor, pixels: Tensor) -> Tensor:
    return resized(mask[None].float(), pixels.shape[1:])[0] > 0.5


def _scipy(graph: Any, w: Tensor) -> Any:
    i, j = graph.edges.numpy()
    one = sparse.csr_array((w.numpy(), (i, j)), shape=(graph.n, graph.n))
    return (one + one.T).tocsr()
