"""The guard: it leaves contractions alone, tightens where the measured iteration slows down, and lets go again."""

from typing import Any

import pytest
import torch

import implayer
from applications.inr.config import FieldConfig
from applications.inr.models.build import build_model

X = torch.rand(300, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2 - 1


def guarded(**changes) -> Any:
    config = FieldConfig(**{"width": 24, "norm": "guard", **changes})
    network = build_model(config, 2, 1, 4.0, torch.float64).eval()
    network.watch(X)
    return network


def spectral_radius(network, x):
    """Of diag(g1) W, which is dF/dz of one multiplicative layer, at each point."""
    _, gate = network.map.inject(x)
    return torch.linalg.eigvals(gate.unsqueeze(-1) * network.map.hidden[0].weight).abs().amax(-1)


def grow(network, factor):
    for linear in network.map.hidden:
        original = linear.parametrizations.weight.original
        with torch.no_grad():
            original.mul_(factor)


def follow(network, times):
    for _ in range(times):
        network.follow_weights()


def test_a_contraction_is_left_alone_although_its_norm_is_above_one():
    network = guarded()
    before = network.map.hidden[0].weight.clone()
    assert torch.linalg.matrix_norm(before, 2) > 1
    follow(network, 50)
    assert torch.equal(network.map.hidden[0].weight, before)


@pytest.mark.parametrize("changes", [{}, {"depth": 2}, {"model": "gabor-imfn"}])
def test_the_measured_rate_comes_below_the_limit_and_solves_converge(changes):
    network = guarded(**changes)
    grow(network, 4.0)
    loose = network.guard.rate()
    assert loose > 1 and bool((network.state(X).status != implayer.Status.CONVERGED).any())
    follow(network, 500)
    assert network.guard.rate() <= 0.8 * 1.03
    assert bool((network.state(X).status == implayer.Status.CONVERGED).all())
    if not changes:
        assert spectral_radius(network, X).max() < 0.9


def test_the_rate_is_the_spectral_radius_where_one_eigenvalue_leads():
    network = guarded(width=4)
    with torch.no_grad():
        network.map.hidden[0].parametrizations.weight.original.copy_(torch.diag(torch.tensor([0.9, 0.3, 0.2, 0.1])))
    _, gate = network.map.inject(network.guard.points)
    leading = (0.9 * gate[:, 0]).abs().max().item()
    assert network.guard.rate() == pytest.approx(leading, rel=0.01)


def test_it_lets_go_when_the_weights_come_back():
    network = guarded()
    grow(network, 4.0)
    follow(network, 300)
    factor = network.map.hidden[0].parametrizations.weight[0].factor
    assert factor < 0.6
    grow(network, 0.25)
    follow(network, 600)
    assert factor == 1


def test_a_map_that_explodes_counts_as_slow():
    network = guarded(model="fourier-imfn")
    grow(network, 1e30)
    assert network.guard.rate() > 1
    found = network.follow_weights()
    assert found["guard"] == pytest.approx(0.9) and found["contraction"] > 1


def test_its_state_is_kept():
    network, twin = guarded(), guarded(seed=5)
    grow(network, 3.0)
    follow(network, 55)
    twin.load_state_dict(network.state_dict())
    for each in (network, twin):
        follow(each, 20)
    assert torch.equal(network.map.hidden[0].weight, twin.map.hidden[0].weight)
