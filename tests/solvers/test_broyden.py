"""Broyden: finite termination on linear systems, whatever the order of their equations."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from implayer.problem import Problem
from implayer.solvers import Broyden
from implayer.verify.check_solver import check_solver
from tests import problems
from tests.problems import Counted


def test_contract():
    check_solver(Broyden())


def test_evaluations():
    case = problems.equilibrium()
    F = Counted(case.F)
    solution = Broyden()(Problem(F, case.x, case.y0))
    assert F.calls == solution.steps.max() + 1


def test_scalar_is_the_secant_method():
    f = lambda v: v**2 - 2  # noqa: E731
    y = [1.0, 1.0 - f(1.0)]
    for _ in range(4):
        y.append(y[-1] - f(y[-1]) * (y[-1] - y[-2]) / (f(y[-1]) - f(y[-2])))
    problem = Problem(lambda x, y: y**2 - 2, None, torch.ones(1, 1), sign=-1).vectors()
    solver, now = Broyden(), problem.y0
    r, found = problem.residual(now), [1.0]
    state = solver.init(problem, now, r)
    for _ in range(5):
        now, _, state = solver.step(problem, now, r, state)
        r = problem.residual(now)
        found.append(float(now))
    assert found == pytest.approx(y, rel=1e-9)


@given(seed=st.integers(0, 10_000), n=st.integers(1, 6))
def test_linear_systems_end_after_2n_steps(seed, n):
    case = problems.linear(2, n, seed, condition=5.0)
    solution = Broyden(atol=1e-7, rtol=0.0)(case.problem)
    assert solution.converged.all()
    assert solution.steps.max() <= 2 * n + 4  # the guard of the update may cost a step


def circuit(order):
    """Nodal equations of a resistor network with two sources, its six equations in any order."""
    g = torch.tensor([1.0, 0.5, 0.2, 2.0])
    A = torch.zeros(6, 6)
    for i, j, k in ((0, 1, 0), (1, 2, 1), (2, 3, 2), (0, 3, 3)):
        A[i, i] += g[k]
        A[j, j] += g[k]
        A[i, j] -= g[k]
        A[j, i] -= g[k]
    A[0, 4] = A[4, 0] = A[3, 5] = A[5, 3] = 1.0  # the currents through the sources and their voltages
    b = torch.tensor([0.0, 0.0, 0.1, 0.0, 5.0, 1.0])
    return A[list(order)], b[list(order)]


@pytest.mark.parametrize("order", list(itertools.islice(itertools.permutations(range(6)), 0, 720, 48)))
def test_order_of_the_equations_does_not_matter(order):
    A, b = circuit(order)
    solution = Broyden()(Problem(lambda x, y: y @ A.mT - b, None, torch.zeros(1, 6)))
    assert solution.converged.all()
    torch.testing.assert_close(solution.value[0], torch.linalg.solve(A, b), atol=1e-6, rtol=1e-6)


def test_memory_is_limited_by_restarts():
    case = problems.equilibrium(4, 8, 0.9)
    solver = Broyden(memory=3)
    assert solver.init(case.problem.vectors(), case.y0, case.y0)["u"].shape == (4, 3, 8)
    solution = solver(case.problem)
    assert solution.converged.all()
    assert (solution.value - case.answer).abs().max() < 1e-7


def test_a_step_into_nowhere_is_shortened():
    # The first step leads from 0 to 599, where the residual is 1e257 times larger and tells nothing.
    x = torch.tensor([[600.0], [2.0]])
    solution = Broyden(max_steps=40)(Problem(lambda x, y: x - torch.exp(y), x, torch.zeros(2, 1)))
    assert solution.converged.all()
    torch.testing.assert_close(solution.value, x.log(), atol=1e-8, rtol=0.0)
