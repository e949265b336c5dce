"""Levenberg-Marquardt: least squares, poor starts, and stationary points that are no roots."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from implayer.problem import Problem
from implayer.solution import Status
from implayer.solvers import LevenbergMarquardt
from implayer.verify.check_solver import check_solver
from tests import problems


def test_contract():
    check_solver(LevenbergMarquardt())


@pytest.mark.parametrize("make", [*problems.SQUARE, problems.tall, problems.wide])
def test_closed_forms(make):
    case = make()
    solution = LevenbergMarquardt(atol=1e-12, rtol=0.0)(case.problem)
    assert solution.converged.all()
    for found, expected in zip(problems.leaves(solution.value), problems.leaves(case.answer), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-8, rtol=1e-8)


def test_residual_norm_of_least_squares_is_that_of_the_gradient():
    case = problems.tall()
    A = torch.autograd.functional.jacobian(lambda y: case.F(case.x[:1], y), case.y0[:1]).squeeze()
    solution = LevenbergMarquardt()(case.problem)
    r = case.F(case.x, solution.value)
    torch.testing.assert_close(solution.residual_norm, torch.linalg.vector_norm(r @ A, dim=-1), atol=1e-12, rtol=1e-6)
    assert (solution.residual_norm < 1e-8).all() and (torch.linalg.vector_norm(r, dim=-1) > 0.1).all()


def test_exponential_fit_with_large_residual():
    t = torch.linspace(0, 2, 9)
    x = 2 * torch.exp(-1.3 * t) + 0.1 * torch.sin(20 * t)
    F = lambda x, y: y[..., :1] * torch.exp(y[..., 1:] * t) - x  # noqa: E731
    y0 = torch.tensor([[1.0, 0.0], [5.0, -5.0]])
    solution = LevenbergMarquardt()(Problem(F, x.expand(2, 9), y0))
    assert solution.converged.all()
    torch.testing.assert_close(solution.value[0], solution.value[1], atol=1e-7, rtol=1e-7)
    y = solution.value[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(0.5 * (F(x, y) ** 2).sum(), y)
    assert gradient.abs().max() < 1e-8


def test_stationary_is_no_success_for_square_systems():
    solution = LevenbergMarquardt(max_steps=200)(problems.no_root())
    assert solution.status.item() == Status.MAX_STEPS
    assert solution.residual_norm.item() == pytest.approx(1.0, abs=1e-4)


def test_stationary_is_success_for_least_squares():
    F = lambda x, y: torch.cat([y**2 + 1, 0 * y], dim=-1)  # noqa: E731
    solution = LevenbergMarquardt()(Problem(F, None, torch.full((1, 1), 0.7)))
    assert solution.converged.all()
    assert abs(solution.value.item()) < 1e-4


def test_badly_scaled_unknowns():
    # MINPACK's Brown badly scaled function: y = (1e6, 2e-6).
    F = lambda x, y: torch.stack([y[..., 0] - 1e6, y[..., 1] - 2e-6, y[..., 0] * y[..., 1] - 2], dim=-1)  # noqa: E731
    solution = LevenbergMarquardt(atol=1e-6)(Problem(F, None, torch.ones(1, 2)))
    torch.testing.assert_close(solution.value, torch.tensor([[1e6, 2e-6]]), atol=1e-12, rtol=1e-8)


def test_poor_starts():
    # Powell's badly scaled function; Newton's method from here is lost without a line search.
    F = lambda x, y: torch.stack([1e4 * y[..., 0] * y[..., 1] - 1, (-y).exp().sum(-1) - 1.0001], dim=-1)  # noqa: E731
    solution = LevenbergMarquardt(max_steps=300)(Problem(F, None, torch.tensor([[0.0, 1.0]])))
    assert solution.converged.all()
    torch.testing.assert_close(solution.value, torch.tensor([[1.098159e-5, 9.106146]]), atol=1e-5, rtol=1e-5)


def test_an_unknown_without_influence():
    F = lambda x, y: y[..., :1] - 2 + 0 * y[..., 1:]  # noqa: E731
    solution = LevenbergMarquardt()(Problem(lambda x, y: F(x, y).expand(*y.shape[:-1], 2), None, torch.ones(1, 2)))
    torch.testing.assert_close(solution.value, torch.tensor([[2.0, 1.0]]), atol=1e-8, rtol=0.0)


@given(seed=st.integers(0, 10_000), n=st.integers(1, 4), extra=st.integers(0, 4))
def test_batch_equals_loop_in_least_squares(seed, n, extra):
    A = problems.matrix_with_condition(n, 5.0, seed, rows=n + extra)
    x = problems.randn(4, n + extra, seed=seed + 3)
    F = lambda x, y: torch.tanh(y @ A.mT) + 0.5 * y @ A.mT - x  # noqa: E731
    whole = LevenbergMarquardt()(Problem(F, x, torch.zeros(4, n)))
    for b in range(4):
        alone = LevenbergMarquardt()(Problem(F, x[b : b + 1], torch.zeros(1, n)))
        assert (alone.value - whole.value[b]).abs().max() < 1e-12
        assert alone.steps.item() == whole.steps[b]
