"""R6: dF/dy is nearly singular: a warning with the estimate, and an error of the linear solve that is looked at."""

import warnings

import pytest
import torch

import implayer


def linear_layer(gap, **options):
    A = torch.tensor([[1.0, 1.0], [1.0, 1.0 + gap]])
    return implayer.ImplicitLayer(
        lambda x, y: y @ A.to(y.dtype).T - x, lambda p: torch.linalg.solve(A.to(p.x.dtype), p.x.mT).mT, **options
    )


def test_warning_with_the_estimate():
    x = torch.tensor([[2.0, 2.0]], requires_grad=True)
    with pytest.warns(
        implayer.IllConditionedWarning, match=r"1 of 1 samples \(condition about [2-8]\.\de\+13, limit 1e\+12"
    ):
        linear_layer(1e-13)(x)
    assert issubclass(implayer.IllConditionedWarning, implayer.SolveWarning)


def test_float32_has_its_own_limits():
    """For two unknowns condition 1.05e6 is singular already, so that the warning has next to no room."""
    x = torch.tensor([[2.0, 2.0]], requires_grad=True, dtype=torch.float32)
    with pytest.raises(implayer.SingularJacobianError):
        linear_layer(2e-6)(x)


def test_bad_scaling_is_not_ill_conditioning():
    scale = torch.tensor([1.0, 1e-30])
    x = torch.tensor([[2.0, 3.0]], requires_grad=True)
    y = implayer.ImplicitLayer(lambda x, y: scale * (y - x), lambda p: p.x.clone())(x)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], torch.ones(1, 2))


def test_quiet_where_it_should_be():
    x = torch.tensor([[2.0, 2.0]], requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        linear_layer(1e-9)(x)
        linear_layer(1e-13, on_failure="ignore")(x)
