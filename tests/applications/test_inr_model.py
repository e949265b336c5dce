"""The networks: equations (7) and (8), their initial weights, and the layer against its closed-form fixed point."""

import dataclasses
from typing import Any

import pytest
import torch

import implayer
from applications.inr.config import ImageConfig
from applications.inr.grid import grid
from applications.inr.model import ExplicitNetwork, ImplicitNetwork, build_model

SMALL = ImageConfig(width=8, size=8, tolerance=1e-12, max_solve_steps=1000, norm="spectral", reuse=False, terms=60)


def model(**changes) -> Any:
    return build_model(dataclasses.replace(SMALL, **changes), 1, 8, torch.float64).eval()


def exact_state(network, x):
    """z* = (I - diag(g1) W)^-1 diag(g1) (W g2 + b): for one layer the multiplicative map is affine in z."""
    map = network.map
    entry, gate = map.inject(x)
    weight, bias = map.hidden[0].weight, map.hidden[0].bias
    matrix = torch.eye(len(bias)) - gate.unsqueeze(-1) * weight
    return torch.linalg.solve(matrix, (gate * (entry @ weight.mT + bias)).unsqueeze(-1)).squeeze(-1)


def test_solves_the_multiplicative_fixed_point():
    network, x = model(), grid(3, 4, dtype=torch.float64)
    assert isinstance(network, ImplicitNetwork)
    assert torch.allclose(network.state(x).value, exact_state(network, x), atol=1e-9)


def test_gradient_with_many_terms_is_that_of_the_closed_form():
    network, x = model(), grid(3, 4, dtype=torch.float64)
    parameters = list(network.map.parameters())
    weights = torch.randn(12, 8)
    ours = torch.autograd.grad((network.improved(x, None).value * weights).sum(), parameters)
    exact = torch.autograd.grad((exact_state(network, x) * weights).sum(), parameters)
    for a, b in zip(ours, exact, strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-8)


def test_truncated_gradient_is_equation_14():
    network, x = model(terms=1), grid(3, 4, dtype=torch.float64)
    parameters = list(network.map.parameters())
    z = network.state(x).value.detach().requires_grad_()
    image = network.map(x, z)
    c = torch.randn_like(z)
    (jc,) = torch.autograd.grad(image, z, c, retain_graph=True)
    expected = torch.autograd.grad(image, parameters, c + jc)
    ours = torch.autograd.grad((network.improved(x, None).value * c).sum(), parameters)
    for a, b in zip(ours, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["fourier-imfn", "fourier-mfn", "isiren", "siren-inj"])
@pytest.mark.parametrize("depth", [1, 3])
def test_one_evaluation_from_zero_is_the_explicit_network(name, depth):
    network, x = model(model=name, depth=depth), grid(3, 4, dtype=torch.float64)
    map = network.map
    state = torch.sin(x @ map.injections[0].frequency + map.injections[0].phase)
    for injection, linear in zip(map.injections[1:], map.hidden, strict=True):
        waves = x @ injection.frequency + injection.phase
        hidden = state @ linear.weight.mT + linear.bias
        state = hidden * waves.sin() if "mfn" in name else torch.sin(hidden + waves)
    assert torch.allclose(map(x, None), state, atol=1e-12)
    assert torch.allclose(map(x, torch.zeros(12, 8)), state, atol=1e-12)
    assert isinstance(network, ExplicitNetwork) == (name in ("fourier-mfn", "siren-inj"))


@pytest.mark.parametrize(("depth", "parameters"), [(1, 67_585), (4, 267_265)])
def test_as_many_parameters_as_published(depth, parameters):
    network: Any = build_model(ImageConfig(depth=depth), 1, 512)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_initial_weights_are_those_of_the_authors():
    network: Any = build_model(ImageConfig(width=512, depth=1), 1, 512)
    share = 256 / 2**0.5
    for injection in network.map.injections:
        assert 0.99 * share / 2**0.5 < injection.frequency.abs().max() <= share / 2**0.5
        assert 3.0 < injection.phase.abs().max() <= torch.pi
    assert 0.99 / 512**0.5 < network.map.hidden[0].weight.abs().max() <= 1 / 512**0.5


def test_the_scale_follows_the_resolution():
    networks: list[Any] = [build_model(ImageConfig(width=16), 1, size) for size in (64, 512)]
    small, large = (network.map.injections[0].frequency for network in networks)
    assert torch.allclose(large, 8 * small)


def test_the_norm_bounds_every_hidden_map():
    network: Any = build_model(ImageConfig(width=32, depth=2, norm="spectral", norm_target=0.5), 1, 64)
    for linear in network.map.hidden:
        assert torch.linalg.matrix_norm(linear.weight, 2) < 0.51


def test_the_layer_passes_its_checks():
    network = model(width=4)
    layer = implayer.FixedPointLayer(network.map, implayer.Picard(atol=1e-13, rtol=1e-13, max_steps=2000))
    implayer.verify.check_layer(layer, grid(2, 2, dtype=torch.float64), y0=torch.zeros(4, 4), orders=1)


@pytest.mark.parametrize("name", ["fourier-imfn", "isiren"])
def test_a_step_from_the_last_fixed_point_moves_towards_the_next(name):
    network, x = model(model=name, reuse=True), grid(3, 4, dtype=torch.float64)
    exact = network.state(x).value
    z = exact + 0.1 * torch.randn_like(exact)
    assert (network.improved(x, z).value - exact).norm() < 0.97 * (z - exact).norm()
