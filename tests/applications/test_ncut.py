"""The segmentation application: graphs, cuts, losses, baselines, and what is learned."""

import dataclasses
import sys
import types
from itertools import product

import numpy as np
import pytest
import torch
from scipy.linalg import eigh

from applications.ncut import baselines
from applications.ncut.baselines import HandcraftedCut, agreeing, best_split, evaluate, spectral_clustering
from applications.ncut.config import NCutConfig
from applications.ncut.data import (
    Example,
    Scenes,
    generated,
)
from applications.ncut.draw import contact_sheet, overlay
from applications.ncut.graph import build_graph, dilated, disc
from applications.ncut.losses import mask_loss, projector_loss, segmentation_loss
from applications.ncut.model import NormalisedCut, build_model, oriented
from applications.ncut.task import SegmentationTask, iou, predicted

CPU = torch.device("cpu")
TINY = NCutConfig(height=16, width=24, test_size=32, channels=8, features=3, reaches="1", pictures=3)


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return generated()


# Graphs


def test_every_pair_is_one_edge():
    assert dilated((1, 3)) == ((0, 1), (1, -1), (1, 0), (1, 1), (0, 3), (3, -3), (3, 0), (3, 3))
    assert len(disc(5.0)) == 40 and (3, -4) in disc(5.0) and (4, 4) not in disc(5.0)
    for steps in (dilated((1, 2)), disc(2.5)):
        graph = build_graph(4, 6, steps)
        pairs = {frozenset(pair) for pair in graph.edges.T.tolist()}
        assert len(pairs) == graph.edges.shape[1]
        place = [divmod(node, 6) for node in range(graph.n)]
        both = {*steps, *((-down, -right) for down, right in steps)}
        expected = {
            frozenset((i, j))
            for i, j in product(range(graph.n), repeat=2)
            if (place[j][0] - place[i][0], place[j][1] - place[i][1]) in both
        }
        assert pairs == expected
        down, right = np.array(steps)[graph.kind].T
        moved = [(place[j][0] - place[i][0], place[j][1] - place[i][1]) for i, j in graph.edges.T.tolist()]
        assert moved == list(zip(down, right, strict=True))


def test_anchors_are_joined_to_the_whole_grid():
    graph = build_graph(2, 3, dilated((1,)), 2)
    assert graph.n == 8 and graph.cells == 6
    anchored = graph.edges[:, graph.kind == 4]
    assert {tuple(edge) for edge in anchored.T.tolist()} == set(product(range(6), (6, 7)))
    assert graph.edges[:, graph.kind < 4].tolist() == build_graph(2, 3, dilated((1,))).edges.tolist()


def test_a_grid_that_is_narrower_than_a_step():
    graph = build_graph(1, 5, dilated((1, 2)))
    assert graph.edges.shape[1] == 4 + 3  # to the right alone


def test_laplacian_on_its_pattern():
    graph = build_graph(4, 5, dilated((1, 2)))
    w = torch.rand(graph.edges.shape[1], requires_grad=True)
    L = graph.laplacian(w, graph.degree(w)).coalesce()
    W = torch.zeros(20, 20).index_put(tuple(graph.edges), w.detach())
    W = W + W.T
    torch.testing.assert_close(L.detach().to_dense(), torch.diag(W.sum(1)) - W)
    weight = torch.randn_like(L.values())
    (gradient,) = torch.autograd.grad((L.values() * weight).sum(), w)
    change = torch.zeros(20, 20).index_put(tuple(L.indices()), weight)
    i, j = graph.edges
    torch.testing.assert_close(gradient, change[i, i] + change[j, j] - change[i, j] - change[j, i])


def test_ncut_values_of_splits():
    graph = build_graph(2, 3, dilated((1,)))
    w = torch.rand(graph.edges.shape[1])
    sides = torch.tensor(list(product((False, True), repeat=6)))
    values = graph.cuts(w, graph.degree(w), sides)
    W = torch.zeros(6, 6).index_put(tuple(graph.edges), w)
    W = W + W.T
    for side, value in zip(sides, values, strict=True):
        cut, inside, outside = W[side][:, ~side].sum(), W[side].sum(), W[~side].sum()
        expected = cut / inside + cut / outside if bool(side.any()) and not bool(side.all()) else torch.inf
        assert float(value) == pytest.approx(float(expected))


# The cut


def features(batch: int = 2, size: tuple[int, int] = (4, 5)) -> torch.Tensor:
    """Two regions, left and right, with noise."""
    f = 0.3 * torch.randn(batch, 3, *size)
    f[:, 0, :, : size[1] // 2] += 1.5
    return f.requires_grad_()


def dense_pair(ncut: NormalisedCut, f: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The second pair by torch's dense eigh on the normalised Laplacian."""
    graph = build_graph(*f.shape[2:], ncut.steps, ncut.anchors.shape[1])
    w = ncut.affinities(graph, f.flatten(2).double())
    degree = graph.degree(w)
    dense = torch.stack([graph.laplacian(*each).to_dense() for each in zip(w, degree, strict=True)])
    root = degree.sqrt()
    values, vectors = torch.linalg.eigh(dense / root.unsqueeze(-1) / root.unsqueeze(-2))
    return values[:, 1], (vectors[..., 1] / root)[:, : graph.cells]


@pytest.mark.parametrize("anchors", [0, 2])
def test_the_cut_is_the_second_eigenvector(anchors):
    ncut = NormalisedCut(dilated((1, 2)), 1e-4, 3, anchors)
    cut = ncut(features())
    degree = cut.graph.degree(cut.weights)
    for index in range(2):
        L = cut.graph.laplacian(cut.weights[index], degree[index]).detach().to_dense().numpy()
        D = np.diag(degree[index].detach().numpy())
        values, vectors = eigh(L, D)
        assert float(cut.value[index].detach()) == pytest.approx(values[1], rel=1e-9)
        v, expected = cut.vector[index].detach().numpy(), vectors[:20, 1]
        np.testing.assert_allclose(v * np.sign(v @ expected), expected, atol=1e-9)
        torch.testing.assert_close(cut.degree[index], degree[index, :20])
    assert bool(cut.solved.all()) and not bool(cut.degenerate.any())


@pytest.mark.parametrize("anchors", [0, 2])
def test_gradient_is_that_of_dense_eigh(anchors):
    ncut = NormalisedCut(dilated((1, 2)), 1e-4, 3, anchors)
    f, mask = features(), torch.rand(2, 20)
    cut = ncut(f)
    loss = cut.value.sum() + (cut.vector * mask).sum(-1).square().sum()
    learned = [f, ncut.scales, ncut.anchors]
    found = torch.autograd.grad(loss, learned, allow_unused=not anchors)
    value, vector = dense_pair(ncut, f)
    loss = value.sum() + (vector * mask).sum(-1).square().sum()
    expected = torch.autograd.grad(loss, learned, allow_unused=not anchors)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-8, atol=1e-10)
    for one, other in zip(found[1:], expected[1:], strict=True):  # float32
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_derivative_of_the_ncut_value_by_an_edge():
    ncut = NormalisedCut(dilated((1,)), 1e-4)
    graph = build_graph(4, 5, dilated((1,)))
    w = (0.1 + torch.rand(1, graph.edges.shape[1])).requires_grad_()
    cut = ncut.cut(graph, w)
    (found,) = torch.autograd.grad(cut.value.sum(), w)
    v, (i, j) = cut.vector[0].detach(), graph.edges
    expected = (v[i] - v[j]).square() - cut.value.detach() * (v[i].square() + v[j].square())
    torch.testing.assert_close(found[0], expected, rtol=1e-8, atol=1e-12)


def test_affinities_lie_above_the_floor():
    ncut = NormalisedCut(dilated((1,)), 0.01)
    far = torch.zeros(1, 1, 2, 2)
    far[..., 0, 0] = 100
    graph = build_graph(2, 2, dilated((1,)))
    w = ncut.affinities(graph, far.flatten(2).double()).detach()
    touched = (graph.edges == 0).any(0)
    assert w[0][touched].tolist() == [0.01] * 3 and w[0][~touched].tolist() == [1.01] * 3


def test_anchors_share_a_node_among_them():
    ncut = NormalisedCut(dilated((1,)), 0.01, 3, 2)
    graph = build_graph(4, 5, dilated((1,)), 2)
    f = features().detach().flatten(2)
    w = ncut.affinities(graph, f).detach()[:, graph.kind == 4].unflatten(1, (2, 20)) - 0.01
    torch.testing.assert_close(w.sum(1), torch.full((2, 20), float(ncut.scales[-1].detach().double().exp())))
    nearer = (f - ncut.anchors[:, :1]).square().sum(1) < (f - ncut.anchors[:, 1:]).square().sum(1)
    assert bool(((w[:, 0] > w[:, 1]) == nearer).all())


@pytest.mark.parametrize("anchors", [0, 2])
def test_anchors_hold_together_what_a_tree_divides(anchors):
    ncut = NormalisedCut(dilated((1,)), 1e-4, 1, anchors)
    with torch.no_grad():
        ncut.anchors.copy_(torch.tensor([[3.0, -3.0]])[:, :anchors])
    sky = torch.zeros(12, 16, dtype=torch.bool)
    sky[:6], sky[:, 6:9] = True, False
    cut = ncut(torch.where(sky, 3.0, -3.0)[None, None])
    v = oriented(cut, sky[None].double() - sky.double().mean()).detach()
    found = (v > (v.min() + v.max()) / 2).unflatten(1, (12, 16))[0]
    assert (iou(found, sky) > 0.95) == (anchors > 0)


# Losses


def test_projector_loss_does_not_know_the_sign():
    cut = NormalisedCut(dilated((1,)), 1e-4)(features())
    mask = (torch.rand(2, 20) > 0.5).double()
    loss = projector_loss(cut, mask)
    torch.testing.assert_close(projector_loss(dataclasses.replace(cut, vector=-cut.vector), mask), loss)
    torch.testing.assert_close(projector_loss(cut, 1 - mask), loss)
    D = cut.degree[0].detach()
    g = mask[0] - (mask[0] * D).sum() / D.sum()
    u, g = D.sqrt() * cut.vector[0].detach(), D.sqrt() * g
    g = g / g.norm()
    assert float(loss[0].detach()) == pytest.approx(float((u.outer(u) - g.outer(g)).square().sum()))
    own = dataclasses.replace(cut, vector=(g / D.sqrt()).expand(2, -1))
    assert float(projector_loss(own, mask)[0].detach()) == pytest.approx(0, abs=1e-9)


def test_projector_loss_of_a_constant_mask():
    f = features()
    cut = NormalisedCut(dilated((1,)), 1e-4)(f)
    loss = projector_loss(cut, torch.ones(2, 20))
    assert loss.tolist() == [0, 0]
    (gradient,) = torch.autograd.grad(loss.sum() + 0 * cut.vector.sum(), f)
    assert not bool(gradient.any())


def test_mask_loss():
    mask = torch.zeros(1, 4, 4)
    mask[:, :2] = 1
    right, half = mask_loss(40 * (2 * mask - 1), mask), mask_loss(torch.zeros(1, 4, 4), mask)
    assert float(right) == pytest.approx(0, abs=1e-9)
    assert float(half) == pytest.approx(np.log(2) + 1 - (4 + 1) / (12 + 1))
    assert float(mask_loss(-40 * (2 * mask - 1), mask)) > 40


def test_the_sign_of_a_cut():
    cut = NormalisedCut(dilated((1,)), 1e-4)(features())
    left = torch.zeros(2, 4, 5)
    left[..., :2] = 1
    left = left - left.mean()
    for side, sign in ((left, 1), (-left, -1)):
        v = oriented(cut, side).detach().unflatten(1, (4, 5))
        assert bool((sign * v[..., 0] > 0).all()) and bool((sign * v[..., -1] < 0).all())
    torch.testing.assert_close(oriented(dataclasses.replace(cut, vector=-cut.vector), left), oriented(cut, left))


def test_iou():
    one = torch.tensor([True, True, False, False])
    assert iou(one, one) == 1 and iou(one, ~one) == 0 and iou(one, torch.ones(4, dtype=torch.bool)) == 0.5
    assert iou(one & ~one, one & ~one) == 1


# Training


@pytest.mark.parametrize("model", ["ncut", "cnn"])
def test_training_lowers_the_loss(scenes, model):
    config = dataclasses.replace(TINY, model=model, epochs=10, batch=2, learning_rate=0.01)
    task = SegmentationTask(config, scenes, CPU)
    losses = [task.step()["loss"] for _ in range(20)]
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])
    assert task.unsolved == task.degenerate == 0


def test_equal_size_of_the_control():
    counts = {
        name: sum(p.numel() for p in build_model(NCutConfig(model=name)).parameters()) for name in ("ncut", "cnn")
    }
    assert abs(counts["ncut"] - counts["cnn"]) < 20
    one, other = (build_model(NCutConfig(model=name)).features for name in ("ncut", "cnn"))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_gradient_reaches_every_weight():
    model = build_model(TINY)
    mask = torch.zeros(2, 8, 12)
    mask[:, :3] = 1
    segmentation_loss(model(torch.rand(2, 3, 16, 24, dtype=torch.float32), mask), mask).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.any()), name


def test_a_cut_that_failed_is_left_out(scenes, monkeypatch):
    task = SegmentationTask(dataclasses.replace(TINY, batch=3), scenes, CPU)
    forward = task.model.forward

    def failed(x, mask=None):
        output = forward(x, mask)
        solved = torch.tensor([True, False, True])[: len(x)] if len(x) > 1 else torch.tensor([False])
        return dataclasses.replace(output, cut=dataclasses.replace(output.cut, solved=solved))

    monkeypatch.setattr(task.model, "forward", failed)
    figures = task.step()
    assert task.unsolved == 1 and figures["loss"] > 0
    assert predicted(task.model, scenes.test[0].pixels, CPU, 32) is None


# Baselines


def two_regions() -> Example:
    """A dark disc in the upper half of a bright picture."""
    y, x = torch.meshgrid(torch.arange(48), torch.arange(64), indexing="ij")
    mask = (y - 16) ** 2 + (x - 30) ** 2 < 150
    pixels = torch.where(mask, 0.2, 0.8).expand(3, -1, -1).to(torch.float32)
    return Example("disc", pixels, mask)


def test_a_cut_by_hand_finds_two_colours():
    example = two_regions()
    prior = torch.linspace(1, -1, 24, dtype=torch.float32)[:, None].expand(24, 32)  # foreground is expected above
    tested = evaluate(HandcraftedCut(radius=2.0), [example], prior, 64)
    assert tested.iou > 90 and tested.accuracy > 98
    turned = HandcraftedCut(radius=2.0)(example.pixels, -prior, 64)
    assert iou(turned, ~example.mask) > 0.9


def test_best_split_has_the_least_value():
    cut = NormalisedCut(dilated((1,)), 1e-4)(features(1))
    cut = dataclasses.replace(cut, **{name: getattr(cut, name).detach() for name in ("vector", "weights", "degree")})
    mask = best_split(cut, torch.zeros(4, 5))
    order = cut.vector[0].argsort()
    splits = torch.stack([torch.zeros(20, dtype=torch.bool).index_fill(0, order[:k], True) for k in range(1, 20)])
    values = cut.graph.cuts(cut.weights[0], cut.degree[0], torch.cat([splits, mask.flatten()[None]]))
    assert float(values[-1]) == pytest.approx(float(values[:-1].min()))


def test_the_side_that_agrees():
    mask, side = torch.tensor([True, False, False]), torch.tensor([0.0, 1.0, 1.0])
    assert agreeing(mask, side).tolist() == [False, True, True] and agreeing(mask, -side).tolist() == mask.tolist()


@pytest.fixture
def fake_clustering(monkeypatch):
    """A stand-in for scikit-learn: the sign of the second eigenvector, densely."""

    def cluster(affinity, n_clusters, random_state, **_):
        W = affinity.toarray()
        assert n_clusters == 2 and random_state == 0 and abs(W - W.T).max() == 0
        D = np.diag(W.sum(0))
        return (eigh(D - W, D)[1][:, 1] > 0).astype(int)

    module = types.ModuleType("sklearn.cluster")
    module.spectral_clustering = cluster
    monkeypatch.setitem(sys.modules, "sklearn.cluster", module)
    monkeypatch.setattr(baselines.importlib.util, "find_spec", lambda name: object())


@pytest.mark.usefixtures("fake_clustering")
def test_spectral_clustering():
    example = two_regions()
    baseline = spectral_clustering(radius=2.0)
    assert baseline is not None
    prior = torch.linspace(1, -1, 24, dtype=torch.float32)[:, None].expand(24, 32)
    assert iou(baseline(example.pixels, prior, 48), example.mask) > 0.85


def test_overlay():
    pixels, mask = torch.zeros(3, 20, 30), torch.zeros(20, 30, dtype=torch.bool)
    mask[:10] = True
    drawn = overlay(pixels, mask)
    assert drawn.shape == (20, 30, 3) and not bool(drawn[10:].any())
    assert bool((drawn[9, :, 0] == 1).all()) and bool((drawn[:9, :, 0] == 0.45).all())
    sheet = contact_sheet([Example("a", pixels, mask)] * 2, [[mask], [None]])
    assert sheet.shape == (2 * 160 + 6, 3 * 240 + 2 * 6, 3)
