"""Newton: order of convergence, kept factors, line search, singular and rectangular Jacobians."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from implayer.errors import ShapeError
from implayer.linear.gmres import GMRES
from implayer.linear.lu import LU
from implayer.operators import JacobianOperator
from implayer.problem import Problem
from implayer.solution import Status
from implayer.solvers import Newton
from implayer.verify.check_solver import check_solver
from tests import problems
from tests.problems import Counted


@pytest.mark.parametrize("refresh", [None, 0.0, 0.5])
def test_contract(refresh):
    check_solver(Newton(refresh=refresh))


@pytest.mark.parametrize("make", problems.SQUARE)
def test_closed_forms(make):
    case = make()
    solution = Newton(atol=1e-13, rtol=0.0)(case.problem)
    assert solution.converged.all()
    for found, expected in zip(problems.leaves(solution.value), problems.leaves(case.answer), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("refresh", [None, 0.0, 0.1])
def test_a_linear_system_takes_one_step(refresh):
    assert Newton(refresh=refresh)(problems.linear().problem).steps.tolist() == [1] * 4


def test_classical_method_is_quadratic():
    x = torch.tensor([[2.0]])
    problem, errors = Problem(lambda x, y: y**2 - x, x, 2 * x), []
    for k in range(1, 6):
        found = Newton(refresh=0, max_steps=k, atol=0.0, rtol=0.0)(problem)
        errors.append((found.value - x.sqrt()).abs())
    for before, after in itertools.pairwise(errors):
        assert after <= before**2 / 2  # e+ = e^2 / (2 y)


def test_kept_factors_are_cheaper_and_as_good(monkeypatch):
    made = []
    original = JacobianOperator.materialise
    monkeypatch.setattr(JacobianOperator, "materialise", lambda self: made.append(1) or original(self))
    case = problems.equilibrium(4, 32, 0.9)
    counts = []
    for refresh in (0.0, None, 0.5):
        made.clear()
        solution = Newton(refresh=refresh)(case.problem)
        counts.append(len(made))
        assert solution.converged.all()
        assert (solution.value - case.answer).abs().max() < 1e-7
    assert counts[1] < counts[0] and counts[2] < counts[0]


def test_line_search_saves_the_arctangent():
    # Full steps from |y| > 1.392 diverge; the classical example of Kelley's book.
    y0 = torch.tensor([[1.0], [1.4], [10.0], [-50.0]])
    solution = Newton()(Problem(lambda x, y: torch.atan(y), None, y0))
    assert solution.converged.all()
    assert solution.value.abs().max() < 1e-8


def test_line_search_leaves_the_domain_of_no_function():
    x = torch.tensor([[3.0]])
    solution = Newton()(Problem(lambda x, y: torch.log(y) + 4, x, x))  # the full step goes to y < 0
    assert solution.converged.all()
    torch.testing.assert_close(solution.value, torch.exp(torch.tensor([[-4.0]])), atol=1e-8, rtol=1e-8)


def test_a_search_of_one_sample_changes_no_other():
    F = lambda x, y: torch.atan(y - x)  # noqa: E731
    x = torch.tensor([[0.1], [20.0]])
    whole = Newton()(Problem(F, x, torch.zeros(2, 1)))
    alone = Newton()(Problem(F, x[:1], torch.zeros(1, 1)))
    assert torch.equal(whole.value[:1], alone.value) and whole.steps[0] == alone.steps[0]


def test_singular_start_of_one_sample():
    # J = diag(2 y) is singular at a zero of y; the pseudo-inverse moves the other unknowns, then nothing can.
    x = torch.tensor([[4.0, 9.0], [4.0, 9.0]])
    y0 = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    solution = Newton()(Problem(lambda x, y: y**2 - x, x, y0))
    assert solution.status.tolist() == [Status.MAX_STEPS, Status.CONVERGED]
    torch.testing.assert_close(solution.value[1], torch.tensor([2.0, 3.0]), atol=1e-8, rtol=0.0)
    assert solution.value[0, 0] == 0 and solution.value[0, 1].item() == pytest.approx(3.0, abs=1e-3)


def test_consistent_singular_system():
    A = torch.tensor([[1.0, 2.0], [2.0, 4.0]])
    b = torch.tensor([[1.0, 2.0], [5.0, 10.0]])
    solution = Newton()(Problem(lambda x, y: y @ A.mT - x, b, torch.zeros(2, 2)))
    assert solution.converged.all()
    torch.testing.assert_close(solution.value, b @ torch.linalg.pinv(A).mT, atol=1e-9, rtol=1e-9)


def test_double_root_converges_slowly_but_does():
    solution = Newton()(Problem(lambda x, y: (y - 1) ** 2, None, torch.full((1, 1), 3.0)))
    assert solution.converged.all()


def test_wide_systems_take_the_shortest_step():
    case = problems.wide()
    solution = Newton()(case.problem)
    assert solution.steps.tolist() == [1] * 4
    torch.testing.assert_close(solution.value, case.answer, atol=1e-12, rtol=1e-12)


def test_wide_and_curved():
    x = torch.tensor([[4.0], [9.0]])
    solution = Newton()(Problem(lambda x, y: (y**2).sum(-1, keepdim=True) - x, x, torch.ones(2, 3)))
    assert solution.converged.all()
    torch.testing.assert_close(solution.value, (x / 3).sqrt().expand(2, 3), atol=1e-8, rtol=0.0)


def test_tall_systems_are_refused():
    with pytest.raises(ShapeError, match="LevenbergMarquardt"):
        Newton()(problems.tall().problem)


@pytest.mark.parametrize("linear_solver", [GMRES(), GMRES(rtol=1e-2, atol=0.0), LU()])
def test_a_linear_solver_of_ones_own(linear_solver):
    case = problems.equilibrium(5, 7, 0.9)
    solution = Newton(linear_solver=linear_solver)(case.problem)
    assert solution.converged.all()
    assert (solution.value - case.answer).abs().max() < 1e-7


def test_large_samples_need_no_matrix(monkeypatch):
    monkeypatch.setattr(JacobianOperator, "materialise", lambda self: pytest.fail("a dense Jacobian of 10^10 numbers"))
    n = 100_000
    x = problems.randn(1, n)
    F = lambda x, y: y + 0.3 * torch.tanh(torch.roll(y, 1, -1)) - x  # noqa: E731
    solution = Newton()(Problem(F, x, torch.zeros_like(x)))
    assert solution.converged.all()
    assert solution.steps.max() < 8


def test_residuals_are_evaluated_once_a_step_and_once_a_jacobian():
    case = problems.equilibrium(4, 32, 0.9)
    F = Counted(case.F)
    solution = Newton()(Problem(F, case.x, case.y0))
    assert F.calls <= 2 * solution.steps.max() + 1


@given(seed=st.integers(0, 10_000), n=st.integers(1, 6), condition=st.floats(0, 6))
def test_conditioned_linear_systems(seed, n, condition):
    case = problems.linear(3, n, seed, condition=10.0**condition)
    solution = Newton()(case.problem)
    assert solution.converged.all()
    error = torch.linalg.vector_norm(solution.value - case.answer, dim=-1)
    assert bool((error <= 10**condition * 1e-8 * (1 + torch.linalg.vector_norm(case.x, dim=-1))).all())


@given(seed=st.integers(0, 10_000))
def test_batch_equals_loop_with_kept_factors(seed):
    case = problems.exponential(6, 3, seed)
    x = case.x * 3
    F = lambda x, y: case.F(x, y + 0.3 * torch.sin(y))  # noqa: E731
    solver = Newton(refresh=0.3)
    whole = solver(Problem(F, x, case.y0))
    for b in range(6):
        alone = solver(Problem(F, x[b : b + 1], case.y0[b : b + 1]))
        assert (alone.value - whole.value[b]).abs().max() < 1e-12
        assert alone.steps.item() == whole.steps[b]
