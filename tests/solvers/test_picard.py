"""Picard: the plain fixed-point iteration."""

import pytest
import torch

from implayer.problem import Problem
from implayer.solution import Status
from implayer.solvers import Picard
from implayer.verify.check_solver import check_solver
from tests import problems
from tests.problems import Counted


def test_contract():
    check_solver(Picard())


def test_iterates_are_those_of_the_map():
    case = problems.equilibrium()
    y = case.y0
    for _ in range(3):
        y = y + 0.5 * case.F(case.x, y)
    found = Picard(0.5, max_steps=3, atol=0.0, rtol=0.0)(case.problem)
    torch.testing.assert_close(found.value, y, atol=0.0, rtol=0.0)


def test_sign_belongs_to_the_problem():
    F = lambda x, y: y - torch.cos(y)  # noqa: E731
    y0 = torch.zeros(1, 1)
    assert Picard()(Problem(F, None, y0, sign=-1)).converged.all()
    wrong = Picard()(Problem(F, None, y0, sign=+1))
    assert not wrong.converged.any()
    assert wrong.aux["contraction"].item() > 1


def test_measured_contraction_is_that_of_the_map():
    solution = Picard()(Problem(lambda x, y: 0.7 * y + x - y, torch.ones(1, 1), torch.zeros(1, 1)))
    assert abs(solution.aux["contraction"].item() - 0.7) < 1e-6


def test_divergence_is_found_early():
    solution = Picard()(problems.diverging())
    assert solution.aux["diverged"].all()
    assert solution.steps.max() < 25
    assert solution.status.tolist() == [Status.MAX_STEPS] * 2
    torch.testing.assert_close(solution.aux["contraction"], torch.full((2,), 3.0))


def test_damping_tames_an_oscillation():
    problem = Problem(lambda x, y: -1.5 * y + 1 - y, None, torch.zeros(1, 1))
    assert not Picard()(problem).converged.any()
    assert Picard(damping=0.5)(problem).value.item() == pytest.approx(0.4)


def test_one_step_evaluates_once():
    case = problems.equilibrium()
    F = Counted(case.F)
    solution = Picard(max_steps=1)(Problem(F, case.x, case.y0))
    assert F.calls == 1
    assert solution.status is None and solution.residual_norm is None
    assert torch.equal(solution.value, torch.tanh(case.x))
    assert solution.steps.tolist() == [1] * 4
