"""Jacobians by differences inside Newton: as good as exact ones, and where they are not, they cost no answer."""

import pytest
import torch

from implayer.operators import JacobianOperator
from implayer.problem import Problem
from implayer.solvers import Newton
from implayer.solvers.differences import Differences
from tests import problems

W = problems.contraction_matrix(4)
X = problems.randn(5, 4, seed=1)


def equation(x, y):
    return y + torch.tanh(y @ W.mT) / 2 - x


def newton_fails_the_differences(problem):
    """Solve; the samples that had exact Jacobians in the end."""
    solution, exact = Newton()(problem), []
    original = JacobianOperator.materialise
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JacobianOperator, "materialise", lambda self: exact.append(1) or original(self))
        again = Newton()(problem)
    assert torch.equal(solution.value, again.value)
    return solution, bool(exact)


@pytest.mark.parametrize("y0", [torch.zeros_like(X), 1e3 * X, problems.randn(5, 4, seed=2)])
def test_they_have_five_digits(y0):
    problem = Problem(lambda x, y: y**3 / (1 + y**2) + y @ W.mT - x, X, y0).vectors()
    exact = JacobianOperator(problem.residual, problem.y0).materialise()
    found = Differences(problem).jacobian(problem.y0, problem.residual(problem.y0))
    torch.testing.assert_close(found, exact, atol=2e-5, rtol=2e-5)


def test_of_a_linear_equation_they_are_exact():
    problem = Problem(lambda x, y: y @ W.mT + 3 * y - x, X, torch.zeros_like(X))
    exact = (W + 3 * torch.eye(4)).expand(5, 4, 4)
    vectors = problem.vectors()
    found = Differences(vectors).jacobian(vectors.y0, vectors.residual(vectors.y0))
    torch.testing.assert_close(found, exact, atol=1e-9, rtol=0)


def test_a_smooth_system_needs_no_exact_one():
    solution, exact = newton_fails_the_differences(Problem(equation, X, torch.zeros(5, 4)))
    assert solution.converged.all() and not exact
    assert solution.residual_norm.max() < 1e-9 and solution.steps.max() <= 5


@pytest.mark.parametrize("size", [(5, 2), (5, 17), (200, 13), (2, 3, 4)])
def test_they_are_for_small_systems_with_one_batch_axis(size):
    assert not Differences.pay(Problem(lambda x, y: y, None, torch.zeros(size)).vectors())


def test_an_equation_that_insists_on_its_batch():
    weights = problems.randn(5, 4, seed=3).abs() + 1
    problem = Problem(lambda x, y: weights * y + y**3 - x, X, torch.zeros(5, 4))
    solution, exact = newton_fails_the_differences(problem)
    assert exact and solution.converged.all()


def test_a_shared_leaf_that_looks_like_a_batch():
    # The 4 x 4 matrix in x has as many rows as there are samples, so the larger batch makes nonsense of it.
    # The axis in between keeps the graph from telling J.
    def F(x, y):
        matrix, b = x
        return y + torch.tanh(y.unsqueeze(1) @ matrix[: y.shape[-1]].mT).squeeze(1) / 2 - b

    solution, exact = newton_fails_the_differences(Problem(F, (W, X[:4]), torch.zeros(4, 4)))
    assert exact and solution.converged.all()
    torch.testing.assert_close(F((W, X[:4]), solution.value), torch.zeros(4, 4), atol=1e-8, rtol=0)


def test_an_equation_with_noise():
    def F(x, y):  # constant between multiples of 1e-4, so that every difference is zero or huge; exact with autograd
        return y + (torch.round(y.detach() * 1e4) / 1e4 - y.detach()) * 0.5 - x

    solution, exact = newton_fails_the_differences(Problem(F, X, torch.zeros(5, 4)))
    assert exact and (solution.residual_norm < 1e-3).all()


def test_a_domain_that_ends_beside_the_iterate():
    start = torch.full((5, 4), 1e-7)
    solution, exact = newton_fails_the_differences(Problem(lambda x, y: torch.log(y) - x, X, start))
    assert exact and solution.converged.all()
    torch.testing.assert_close(solution.value, X.exp(), rtol=1e-7, atol=0)


def test_only_the_samples_that_need_it_get_exact_ones_and_the_others_keep_their_bits():
    def F(x, y):
        return torch.where(x[:, :1] > 5, torch.log(y.clamp(min=1e-300)) - 0.1 * x, y + torch.tanh(y @ W.mT) / 2 - x)

    easy, start = X, torch.full((5, 4), 1e-7)
    hard = torch.cat([easy, torch.full((1, 4), 6.0)])
    alone = Newton()(Problem(F, easy, start))
    mixed = Newton()(Problem(F, hard, torch.full((6, 4), 1e-7)))
    assert mixed.converged.all()
    torch.testing.assert_close(mixed.value[:5], alone.value, atol=1e-15, rtol=1e-15)
    assert torch.equal(mixed.steps[:5], alone.steps)


def test_float32_and_complex_unknowns():
    single = Newton()(Problem(lambda x, y: equation(x, y.double()).float(), X, torch.zeros(5, 4, dtype=torch.float32)))
    assert single.converged.all()
    x = torch.complex(X, X.flip(0))
    solution, exact = newton_fails_the_differences(Problem(lambda x, y: y + y**2 / 40 - x, x, torch.zeros_like(x)))
    assert solution.converged.all() and not exact
