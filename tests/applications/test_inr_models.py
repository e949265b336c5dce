"""The networks: equations (4), (7), (8), initial weights, and the fixed points against closed forms and differences."""

import dataclasses
import math
from typing import Any

import pytest
import torch

import implayer
from applications.inr.config import PRESETS, FieldConfig, ImageConfig
from applications.inr.grid import grid
from applications.inr.models.build import build_model
from applications.inr.models.networks import ExplicitNetwork, ImplicitNetwork

SMALL = FieldConfig(width=8, tolerance=1e-13, max_solve_steps=1000, norm="spectral", reuse=False, terms=60)
FAMILIES = ["fourier-imfn", "gabor-imfn", "isiren", "fourier-mfn", "gabor-mfn", "siren-inj"]
OTHERS = ["siren", "finer", "wire", "bacon", "grid"]


def model(inputs=2, outputs=1, **changes) -> Any:
    return build_model(dataclasses.replace(SMALL, **changes), inputs, outputs, 4.0, torch.float64).eval()


def exact_state(network, x):
    """z* = (I - diag(g1) W)^-1 diag(g1) (W g2 + b): for one layer the multiplicative map is affine in z."""
    map = network.map
    entry, gate = map.inject(x)
    weight, bias = map.hidden[0].weight, map.hidden[0].bias
    matrix = torch.eye(len(bias)) - gate.unsqueeze(-1) * weight
    return torch.linalg.solve(matrix, (gate * (entry @ weight.mT + bias)).unsqueeze(-1)).squeeze(-1)


def gradients(value, parameters):
    weights = torch.randn(value.shape, generator=torch.Generator().manual_seed(1), dtype=value.dtype)
    return torch.autograd.grad((value * weights).sum(), parameters)


def distance(found, expected):
    apart = sum((a - b).square().sum() for a, b in zip(found, expected, strict=True))
    return float((apart / sum(b.square().sum() for b in expected)).sqrt())


@pytest.mark.parametrize("name", ["fourier-imfn", "gabor-imfn"])
def test_values_and_exact_gradients_are_those_of_the_closed_form(name):
    network, x = model(model=name, terms=-1), grid(3, 4, dtype=torch.float64)
    assert isinstance(network, ImplicitNetwork)
    parameters = list(network.map.parameters())
    expected = exact_state(network, x)
    for found in (network.state(x).value, network.improved(x, None).value):
        assert torch.allclose(found, expected, atol=1e-10, rtol=0)
        assert distance(gradients(found, parameters), gradients(exact_state(network, x), parameters)) < 1e-10


def test_truncated_gradients_converge_to_the_exact_one_with_more_terms():
    x, apart = grid(3, 4, dtype=torch.float64), []
    for terms in (0, 1, 2, 5, 20, 60):
        network = model(terms=terms)
        parameters = list(network.map.parameters())
        found = gradients(network.improved(x, None).value, parameters)
        apart.append(distance(found, gradients(exact_state(network, x), parameters)))
    assert apart == sorted(apart, reverse=True)
    assert apart[0] > 0.05 and apart[-1] < 1e-10


def test_truncated_gradient_is_equation_14():
    network, x = model(terms=1), grid(3, 4, dtype=torch.float64)
    parameters = list(network.map.parameters())
    z = network.state(x).value.detach().requires_grad_()
    image = network.map(x, z)
    c = torch.randn_like(z)
    (jc,) = torch.autograd.grad(image, z, c, retain_graph=True)
    expected = torch.autograd.grad(image, parameters, c + jc)
    ours = torch.autograd.grad((network.improved(x, None).value * c).sum(), parameters)
    assert distance(ours, expected) < 1e-10


@pytest.mark.parametrize("name", [*FAMILIES[:3], "finer", "siren", "wire", "bacon"])
def test_derivatives_with_respect_to_the_coordinates_are_those_of_differences(name):
    network = model(model=name, width=6, depth=1, omega=3.0, wire_omega=3.0, wire_sigma=1.0)
    x = torch.tensor([[0.31, -0.42], [-0.77, 0.13]], dtype=torch.float64, requires_grad=True)

    def output(points):
        with torch.no_grad():
            return network(points)

    (first,) = torch.autograd.grad(network(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first[:, 0].sum(), x)
    h = 1e-4
    for axis in range(2):
        step = h * torch.eye(2, dtype=torch.float64)[axis]
        below, above = output(x - step), output(x + step)
        assert torch.allclose(first[:, axis : axis + 1], (above - below) / (2 * h), rtol=1e-5, atol=1e-6)
        if axis == 0:
            differences = (above - 2 * output(x) + below) / h**2
            assert torch.allclose(second[:, :1], differences, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["fourier-imfn", "isiren"])
def test_a_loss_on_coordinate_gradients_has_the_exact_gradient(name):
    network = model(model=name, width=5)
    x = torch.tensor([[0.31, -0.42], [-0.77, 0.13]], dtype=torch.float64)

    def eikonal():
        points = x.clone().requires_grad_()
        z = network.improved(points, torch.zeros(2, 5, dtype=torch.float64)).value
        (slope,) = torch.autograd.grad(network.readout(z).sum(), points, create_graph=True)
        return (slope.norm(dim=-1) - 1).square().sum()

    weight = network.map.injections[1].frequency
    (found,) = torch.autograd.grad(eikonal(), weight)
    h = 1e-6
    with torch.no_grad():
        weight[0, 0] += h
    above = eikonal().item()
    with torch.no_grad():
        weight[0, 0] -= 2 * h
    assert found[0, 0].item() == pytest.approx((above - eikonal().item()) / (2 * h), rel=1e-5)


def test_derivatives_beyond_the_order_are_refused_and_not_wrong():
    network = model(model="isiren", width=4)
    x = torch.tensor([[0.3, 0.4]], dtype=torch.float64, requires_grad=True)
    y = network.readout(network.state(x, order=1).value).sum()
    (slope,) = torch.autograd.grad(y, x, create_graph=True)
    with pytest.raises(implayer.OrderError):
        torch.autograd.grad(slope.sum(), x)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("depth", [1, 3])
def test_one_evaluation_from_zero_is_the_explicit_network(name, depth):
    network, x = model(model=name, depth=depth), grid(3, 4, dtype=torch.float64)
    map = network.map

    def waves(injection):
        return x @ injection.frequency + injection.phase

    def filtered(injection):
        if "gabor" not in name:
            return waves(injection).sin()
        apart = (x.unsqueeze(-1) - injection.centre).square().sum(1)  # |x - mu|^2, equation (4)
        return waves(injection).sin() * (-injection.sharpness / 2 * apart).exp()

    state = filtered(map.injections[0])
    for injection, linear in zip(map.injections[1:], map.hidden, strict=True):
        hidden = state @ linear.weight.mT + linear.bias
        state = hidden * filtered(injection) if "mfn" in name else torch.sin(hidden + waves(injection))
    assert torch.allclose(map(x, None), state, atol=1e-12)
    assert torch.allclose(map(x, torch.zeros(12, 8)), state, atol=1e-12)
    assert isinstance(network, ExplicitNetwork) == (name in ("fourier-mfn", "siren-inj", "gabor-mfn"))


@pytest.mark.parametrize(
    ("name", "depth", "parameters"),
    [("fourier-imfn", 1, 67_585), ("fourier-imfn", 4, 267_265), ("gabor-imfn", 1, 69_121), ("gabor-mfn", 4, 271_105)],
)
def test_as_many_parameters_as_published(name, depth, parameters):
    network: Any = build_model(FieldConfig(model=name, depth=depth), 2, 1, 256.0)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_initial_weights_are_those_of_the_authors():
    network: Any = build_model(FieldConfig(width=512), 2, 1, 256.0)
    share = 256 / 2**0.5
    for injection in network.map.injections:
        assert 0.99 * share / 2**0.5 < injection.frequency.abs().max() <= share / 2**0.5
        assert 3.0 < injection.phase.abs().max() <= torch.pi
    assert 0.99 / 512**0.5 < network.map.hidden[0].weight.abs().max() <= 1 / 512**0.5


def test_the_entry_of_the_authors_gabor_networks_is_narrower():
    paper = dataclasses.replace(PRESETS["paper"], model="gabor-imfn", width=4000)
    network: Any = build_model(paper, 2, 1, 256.0)
    means = [injection.sharpness.mean().item() for injection in network.map.injections]
    assert means == pytest.approx([3.0, 1.5], rel=0.1)
    network = build_model(dataclasses.replace(paper, gabor_entry_alpha=None), 2, 1, 256.0)
    assert network.map.injections[0].sharpness.mean().item() == pytest.approx(1.5, rel=0.1)


def test_initial_weights_of_siren_original_and_scaled():
    for init, gain in (("original", 1.0), ("scaled", 2.37)):
        network: Any = build_model(FieldConfig(model="siren", siren_init=init), 2, 3, 256.0)
        first, *others = network.layers
        assert first.weight.abs().max().item() == pytest.approx(gain / 2, rel=0.02)
        bound = math.sqrt(6 / 256) / 30
        assert all(layer.weight.abs().max().item() == pytest.approx(gain * bound, rel=0.02) for layer in others)
        assert network.readout.weight.abs().max().item() == pytest.approx(bound, rel=0.05)


def test_finer_wire_and_siren_are_their_formulas():
    x = grid(3, 4, dtype=torch.float64)
    network = model(model="finer", depth=1)
    h = x
    for layer in network.layers:
        a = layer(h)
        h = torch.sin(30 * (a.abs() + 1) * a)
    assert torch.allclose(network(x), network.readout(h), atol=1e-12)
    network = model(model="wire", depth=1)
    h = x.to(torch.complex128)
    for layer in network.layers:
        pair = layer.weight.ndim == 3
        weight, bias = (torch.view_as_complex(t) if pair else t.to(h.dtype) for t in (layer.weight, layer.bias))
        a = h @ weight + bias
        h = torch.exp(20j * a - (10 * a.abs()) ** 2)
    assert torch.allclose(network.state(x).value, torch.cat([h.real, h.imag], -1), atol=1e-12)


def test_a_level_of_bacon_keeps_to_its_band():
    network = model(inputs=1, model="bacon", width=16, depth=3, scale=20.0)
    count = 64
    x = torch.arange(count, dtype=torch.float64).unsqueeze(-1) / count * 2 - 1
    for level in (1, 2):
        spectrum = torch.fft.rfft(network.coarse(x, level).detach().squeeze(-1)).abs()
        last = round(network.bands[level] / math.pi)
        assert spectrum[: last + 1].max() > 1e-3
        assert spectrum[last + 1 :].max() < 1e-10


def test_the_grid_interpolates_its_nodes():
    network = model(model="grid", grid_levels=2, grid_features=1, grid_table=10, depth=1)
    features = network.grid
    assert features.cells == (16, 16)
    with torch.no_grad():
        for nodes in features.nodes:
            side = torch.linspace(0, 1, 17)
            nodes[:289, 0] = (
                (2 * side[None, :] - side[:, None]).flatten().to(torch.float64)
            )  # linear in the coordinates
    x = torch.rand(20, 2, dtype=torch.float64) * 2 - 1
    expected = 2 * (x[:, 0] + 1) / 2 - (x[:, 1] + 1) / 2
    assert torch.allclose(features(x)[:, 0], expected, atol=1e-6)


def test_the_norm_bounds_every_hidden_map():
    config = FieldConfig(width=32, depth=2, norm="spectral", norm_target=0.5)
    network: Any = build_model(config, 2, 1, 32.0)
    for linear in network.map.hidden:
        assert torch.linalg.matrix_norm(linear.weight, 2) < 0.51
    explicit = dataclasses.replace(config, model="fourier-mfn")
    network = build_model(dataclasses.replace(explicit, norm_explicit=False), 2, 1, 32.0)
    assert torch.linalg.matrix_norm(network.map.hidden[0].weight, 2) > 1
    network = build_model(explicit, 2, 1, 32.0)
    assert torch.linalg.matrix_norm(network.map.hidden[0].weight, 2) < 0.51


BOUNDED = [(name, norm) for name in FAMILIES[:3] for norm in ("none", "spectral", "weight", "guard")]


@pytest.mark.parametrize(("name", "norm"), [*BOUNDED, *((name, "weight") for name in [*FAMILIES[3:], *OTHERS])])
def test_all_models_have_one_interface(name, norm):
    config = FieldConfig(model=name, width=16, norm=norm, grid_table=8)
    for inputs, outputs in ((1, 1), (3, 2)):
        network = build_model(config, inputs, outputs, 8.0, torch.float64)
        network.watch(torch.rand(300, inputs))
        network.follow_weights()
        x = torch.rand(5, inputs, requires_grad=True)
        state = network.state(x).value
        assert state.shape == (5, network.width)
        assert torch.equal(network.readout(state), network(x)) and network(x).shape == (5, outputs)
        assert network.implicit == config.implicit
        better = network.improved(x.detach(), state.detach()).value
        assert better.shape == state.shape and better.requires_grad
        (slope,) = torch.autograd.grad(network(x).sum(), x)
        assert slope.shape == x.shape and bool(slope.isfinite().all())
        twin = build_model(dataclasses.replace(config, seed=1), inputs, outputs, 8.0, torch.float64)
        twin.load_state_dict(network.state_dict())
        assert torch.allclose(twin.eval()(x), network.eval()(x), atol=1e-6)


@pytest.mark.slow
def test_the_layer_passes_its_checks():
    network = model(width=3)
    layer = implayer.FixedPointLayer(network.map, implayer.Picard(atol=1e-13, rtol=1e-13, max_steps=2000))
    implayer.verify.check_layer(layer, grid(1, 2, dtype=torch.float64), y0=torch.zeros(2, 3), orders=1)


@pytest.mark.parametrize("name", FAMILIES[:3])
def test_a_step_from_the_last_fixed_point_moves_towards_the_next(name):
    network, x = model(model=name, reuse=True), grid(3, 4, dtype=torch.float64)
    exact = network.state(x).value
    z = exact + 0.1 * torch.randn_like(exact)
    assert (network.improved(x, z).value - exact).norm() < 0.97 * (z - exact).norm()


def test_the_presets_are_what_they_say():
    paper = PRESETS["paper"]
    assert (paper.norm, paper.norm_target, paper.power_iterations, paper.norm_explicit) == ("spectral", 0.97, 5, True)
    assert (paper.gabor_entry_alpha, paper.decay, paper.rate, paper.steps) == (6.0, 1.0, 1e-3, 5000)
    assert PRESETS["tuned"].norm == "guard" and ImageConfig(model="siren").layers == 3
