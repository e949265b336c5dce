"""Finite differences with a step of their own: accurate, and honest about how accurate."""

import math

import pytest
import torch

import implayer
from implayer.verify.differences import derivative


@pytest.mark.parametrize(
    ("f", "exact", "allowed"),
    [(lambda t: math.exp(2 * t), 2.0, 1e-9), (lambda t: math.sin(40 * t), 40.0, 1e-5), (lambda t: 3.0, 0.0, 0.0),
     (lambda t: 1e8 + t, 1.0, 1e-5), (lambda t: 1 / (0.05 + t), -400.0, 1e-2)],
)  # fmt: skip
def test_error_is_within_its_estimate(f, exact: float, allowed: float):
    value, error = derivative(lambda t: torch.tensor([f(t)], dtype=torch.float64))
    assert abs(float(value) - exact) <= max(10 * error, 1e-12) and abs(float(value) - exact) <= allowed


def test_noise_and_kinks_show_in_the_estimate():
    generator = torch.Generator().manual_seed(0)
    value, error = derivative(lambda t: t + 1e-9 * torch.randn(1, generator=generator, dtype=torch.float64))
    assert abs(float(value) - 1) <= 1e-7 and 1e-12 < error < 1e-5
    value, error = derivative(lambda t: torch.tensor([abs(t - 0.01)], dtype=torch.float64))
    assert float(value) == pytest.approx(-1, abs=1e-6)


def test_steps_out_of_the_domain_are_shortened():
    def phi(t: float) -> torch.Tensor:
        if t < -1e-3:
            raise implayer.SolveError("outside")
        return torch.tensor([math.sqrt(0.01 + t)], dtype=torch.float64)

    value, _ = derivative(phi)
    assert float(value) == pytest.approx(5.0, rel=1e-6)


def test_single_precision():
    value, error = derivative(lambda t: torch.exp(torch.tensor([2 * t], dtype=torch.float32)))
    assert abs(float(value) - 2) <= 10 * error < 0.1
