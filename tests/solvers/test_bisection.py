"""Bisection: a whole batch of brackets, exact to rounding."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from implayer.errors import ShapeError
from implayer.problem import Problem
from implayer.solution import Status
from implayer.solvers import Bisection
from implayer.verify.check_solver import check_solver
from tests import problems
from tests.problems import Counted


def test_contract():
    check_solver(Bisection(-10.0, 10.0), unknowns=(1,))


def test_exact_to_rounding_in_few_evaluations():
    case = problems.square_root(100)
    F = Counted(case.F)
    solution = Bisection(0, 5)(Problem(F, case.x, None, 0))
    assert solution.converged.all()
    assert ((solution.value - case.answer).abs() <= 4e-16 * case.answer).all()
    assert F.calls < 62


def test_given_tolerances_end_it_early():
    case = problems.square_root()
    solution = Bisection(0.0, 5.0, atol=1e-2, rtol=0.0)(case.problem)
    assert solution.converged.all() and solution.steps.max() < 12


@pytest.mark.parametrize("event_ndim, shape", [(0, (4,)), (1, (4, 1)), (2, (4, 1, 1)), (1, (2, 3, 1)), (0, ())])
def test_shape_from_F_when_there_is_no_start(event_ndim, shape):
    x = 1 + torch.rand(shape)
    solution = Bisection(0.0, 3.0)(Problem(lambda x, y: y**2 - x, x, None, event_ndim))
    torch.testing.assert_close(solution.value, x.sqrt())
    assert solution.status.shape == shape[: len(shape) - event_ndim]


def test_bounds_for_each_sample():
    lower, upper = torch.tensor([0.0, -3.0]), torch.tensor([3.0, 0.0])
    solution = Bisection(lower, upper)(Problem(lambda x, y: y**2 - 2, None, None, 0))
    torch.testing.assert_close(solution.value, torch.tensor([math.sqrt(2), -math.sqrt(2)]))


def test_bounds_in_the_wrong_order():
    solution = Bisection(3.0, 0.0)(Problem(lambda x, y: y**2 - 2, None, torch.zeros(1), 0))
    assert solution.value.item() == pytest.approx(math.sqrt(2), abs=1e-15)


def test_dtype_of_x():
    x = torch.tensor([2.0], dtype=torch.float32)
    solution = Bisection(0, 3)(Problem(lambda x, y: y**2 - x, x, None, 0))
    assert solution.value.dtype == torch.float32
    assert solution.value.item() == pytest.approx(math.sqrt(2), abs=3e-7)


def test_no_change_of_sign_fails_alone():
    x = torch.tensor([2.0, -1.0, 4.0])
    solution = Bisection(0.0, 3.0)(Problem(lambda x, y: y**2 - x, x, None, 0))
    assert solution.status.tolist() == [Status.CONVERGED, Status.MAX_STEPS, Status.CONVERGED]
    assert solution.aux["unbracketed"].tolist() == [False, True, False]
    assert solution.value[2].item() == 2.0


def test_no_root_fails():
    assert not Bisection(-3.0, 3.0)(problems.no_root()).converged.any()


@pytest.mark.parametrize("lower, upper, root", [(2.0, 3.0, 2.0), (-1.0, 2.0, 2.0), (2.0, 2.0, 2.0)])
def test_a_root_at_an_end(lower, upper, root):
    solution = Bisection(lower, upper)(Problem(lambda x, y: y - 2, None, torch.zeros(1), 0))
    assert solution.converged.all() and solution.value.item() == root


def test_a_root_at_zero():
    solution = Bisection(-1.0, 2.0)(Problem(lambda x, y: y**3, None, torch.zeros(1), 0))
    assert solution.converged.all() and abs(solution.value.item()) < 1e-15


def test_a_pole_is_no_root():
    solution = Bisection(0.0, 1.0)(Problem(lambda x, y: 1 / (y - 1 / 3), None, torch.zeros(1), 0))
    assert not solution.converged.any()


def test_one_unknown_only():
    with pytest.raises(ShapeError, match="event_ndim=0"):
        Bisection(0.0, 1.0)(Problem(lambda x, y: y - 0.5, None, torch.zeros(2, 3)))


def test_bounds_that_do_not_broadcast():
    with pytest.raises(ShapeError, match="lower"):
        Bisection(torch.zeros(3), 1.0)(Problem(lambda x, y: y - 0.5, None, torch.zeros(2), 0))


@given(root=st.floats(-100, 100), left=st.floats(0.01, 1e3), right=st.floats(0.01, 1e3), slope=st.floats(0.1, 10))
def test_any_bracket(root, left, right, slope):
    F = lambda x, y: torch.tanh(slope * (y - root)) + 0.1 * (y - root)  # noqa: E731
    solution = Bisection(root - left, root + right)(Problem(F, None, torch.zeros(1), 0))
    assert solution.converged.all()
    assert abs(solution.value.item() - root) <= 4e-16 * abs(root) + 1e-13
