"""`spectral_norm`: a soft clip that follows the weight, with the gradient of the norm."""

import copy
from typing import Any

import pytest
import torch

import implayer


def bounded(scale: float = 5.0, **options) -> Any:
    linear: Any = torch.nn.Linear(6, 5)
    with torch.no_grad():
        linear.weight.mul_(scale)
    return implayer.spectral_norm(linear, **options)


def norm(weight: torch.Tensor) -> float:
    return float(torch.linalg.matrix_norm(weight.detach(), 2))


@pytest.mark.parametrize("target", [0.5, 0.97])
def test_clips_to_the_target(target):
    linear = bounded(target=target)
    for _ in range(200):
        linear(torch.zeros(1, 6))
    assert norm(linear.weight) == pytest.approx(target, rel=1e-9)


def test_leaves_a_small_weight_alone():
    linear = bounded(scale=0.1)
    assert torch.equal(linear.weight, linear.parametrizations.weight.original)


def test_gradient_includes_that_of_the_norm():
    linear = bounded(target=0.7).eval()
    original = linear.parametrizations.weight.original
    for _ in range(300):
        linear.train()(torch.zeros(1, 6))
    linear.eval()
    direction = torch.randn(5, 6)
    (ours,) = torch.autograd.grad((linear.weight * direction).sum(), original)
    exact = original.detach().requires_grad_()
    clipped = exact / (torch.linalg.matrix_norm(exact, 2) / 0.7)
    (expected,) = torch.autograd.grad((clipped * direction).sum(), exact)
    assert torch.allclose(ours, expected, rtol=1e-7, atol=1e-9)


def test_is_constant_within_a_solve_and_in_evaluation():
    linear = bounded(power_iterations=1)
    with torch.no_grad():
        linear.parametrizations.weight.original.add_(torch.randn(5, 6))
        first, second = linear.weight, linear.weight
    assert torch.equal(first, second)
    linear.eval()
    assert torch.equal(linear.weight, linear.weight)
    linear.train()
    assert not torch.equal(linear.weight, linear.weight)


def test_follows_a_moving_weight():
    linear = bounded()
    for _ in range(50):
        with torch.no_grad():
            linear.parametrizations.weight.original.add_(0.05 * torch.randn(5, 6))
        linear(torch.zeros(1, 6))
    assert norm(linear.weight.detach()) < 1.05


def test_copies_and_state_are_kept():
    linear = bounded()
    linear(torch.zeros(1, 6))
    linear.eval()
    twin = copy.deepcopy(linear)
    other = bounded(scale=2.0).eval()
    other.load_state_dict(linear.state_dict())
    assert torch.equal(twin.weight, linear.weight) and torch.equal(other.weight, linear.weight)


def test_leaves_the_generator_of_the_user_alone():
    linear = torch.nn.Linear(3, 3)
    before = torch.get_rng_state()
    implayer.spectral_norm(linear)
    assert torch.equal(torch.get_rng_state(), before)


def test_makes_a_fixed_point_layer_converge():
    square = implayer.spectral_norm(torch.nn.Linear(4, 4), target=0.9)
    layer: Any = implayer.FixedPointLayer(lambda x, y: torch.tanh(square(y) + x), implayer.Picard(max_steps=500))
    solution = layer.solve(torch.randn(3, 4), y0=torch.zeros(3, 4))
    assert bool(solution.converged.all())


@pytest.mark.parametrize(
    ("options", "word"), [({"target": 0.0}, "target"), ({"power_iterations": 0}, "power_iterations")]
)
def test_refuses_what_means_nothing(options, word):
    with pytest.raises(ValueError, match=word):
        implayer.spectral_norm(torch.nn.Linear(2, 2), **options)


def test_refuses_to_bound_twice():
    with pytest.raises(ValueError, match="once"):
        implayer.spectral_norm(bounded())
