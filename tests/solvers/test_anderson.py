"""Anderson: acceleration, restarts, and samples that cannot spoil each other."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from implayer.problem import Problem, VectorProblem
from implayer.solution import Status
from implayer.solvers import Anderson, Picard
from implayer.verify.check_solver import check_solver
from tests import problems
from tests.problems import Counted


def test_contract():
    check_solver(Anderson())


def test_first_step_is_the_damped_picard_step():
    case = problems.equilibrium()
    one = Anderson(damping=0.7, max_steps=1, atol=0.0, rtol=0.0)(case.problem)
    assert torch.equal(one.value, case.y0 + 0.7 * case.F(case.x, case.y0))


def test_memory_one_on_a_scalar_is_the_secant_method():
    y, f = [0.0], lambda v: v - 0.3 * v**2 - 0.5  # the root of f, as F = -f
    y.append(y[0] - f(y[0]))
    for _ in range(3):
        slope = (f(y[-1]) - f(y[-2])) / (y[-1] - y[-2])
        y.append(y[-1] - f(y[-1]) / slope)
    problem = Problem(lambda x, y: -(y - 0.3 * y**2 - 0.5), None, torch.zeros(1, 1))
    found = Anderson(memory=1, regularisation=0.0, max_steps=4, atol=0.0, rtol=0.0)(problem)
    assert found.aux is not None and found.status.item() == Status.MAX_STEPS
    state = Anderson(memory=1, regularisation=0.0)
    values = trajectory(state, problem.vectors(), 4)
    assert values == pytest.approx(y, rel=1e-10)


def trajectory(solver: Anderson, problem: VectorProblem, steps: int) -> list[float]:
    values = [float(problem.y0)]
    y, r = problem.y0, problem.residual(problem.y0)
    state = solver.init(problem, y, r)
    for _ in range(steps):
        y, _, state = solver.step(problem, y, r, state)
        r = problem.residual(y)
        values.append(float(y))
    return values


@given(seed=st.integers(0, 10_000), n=st.integers(1, 5))
def test_linear_systems_end_after_n_plus_one_steps(seed, n):
    # Type II with full memory is GMRES (Walker and Ni, theorem 2.2), one step behind.
    case = problems.affine(3, n, 0.8, seed)
    solution = Anderson(memory=n + 2, atol=1e-8, rtol=0.0)(case.problem)
    assert solution.converged.all()
    assert solution.steps.max() <= n + 3


def test_fewer_steps_than_picard_where_the_map_is_slow():
    case = problems.affine(4, 6, 0.99, seed=1)
    symmetric = problems.contraction_matrix(6, 1.0, seed=1)
    W = 0.99 * (q := torch.linalg.qr(symmetric)[0]) @ torch.diag(torch.linspace(-1, 1, 6)) @ q.mT
    problem = Problem(lambda x, y: y @ W.mT + x - y, case.x, case.y0)
    fast, slow = Anderson()(problem), Picard(max_steps=5000)(problem)
    assert fast.converged.all() and slow.converged.all()
    assert fast.steps.max() * 20 < slow.steps.min()


def test_solves_what_no_picard_iteration_can():
    assert not Picard()(problems.diverging()).converged.any()
    assert Anderson()(problems.diverging()).converged.all()


def test_singular_history_of_one_sample():
    # Sample 0 has F constant in y, so that all its differences are zero; sample 1 is at its root; sample 2 is ordinary.
    slope = torch.tensor([[0.0], [1.0], [1.0]])
    x = torch.tensor([[1.0], [0.0], [3.0]])
    solution = Anderson()(Problem(lambda x, y: x - slope * y * 1.5, x, torch.zeros(3, 1)))
    assert solution.status.tolist() == [Status.MAX_STEPS, Status.CONVERGED, Status.CONVERGED]
    assert solution.value[2].item() == pytest.approx(2.0)


def test_a_bad_step_is_taken_back():
    # With full steps the secant through the flat part throws the iterate far away; the sample returns and goes on.
    F = lambda x, y: torch.tanh(4 * (1 - y)) + 0.001 * (1 - y)  # noqa: E731
    y0 = torch.tensor([[6.0], [0.9]])
    values = []

    def watched(x, y):
        values.append(y.clone())
        return F(x, y)

    solution = Anderson(max_steps=100)(Problem(watched, None, y0))
    assert solution.converged.all()
    torch.testing.assert_close(solution.value, torch.ones(2, 1), atol=1e-8, rtol=0.0)


def test_a_restart_forgets_the_history_of_that_sample_alone():
    solver = Anderson(memory=3)
    problem = problems.equilibrium(2, 3).problem.vectors()
    y, r = problem.y0, problem.residual(problem.y0)
    state = solver.init(problem, y, r)
    for _ in range(3):
        y, _, state = solver.step(problem, y, r, state)
        r = problem.residual(y)
    r = r.clone()
    r[0] *= 1e6  # as if the last accelerated step had been a disaster
    before = state["z"].clone()
    y, _, state = solver.step(problem, y, r, state)
    assert torch.equal(y[0], before[0])
    assert not state["df"][0].any() and not state["gram"][0].any()
    assert state["df"][1].any()


def test_float32_history_is_solved_in_float64():
    case = problems.equilibrium(8, 16, 0.95, dtype=torch.float32)
    solution = Anderson(atol=1e-6, rtol=0.0)(case.problem)
    assert solution.converged.all()
    assert solution.steps.max() < 60


def test_evaluations():
    case = problems.equilibrium(4, 6, 0.9)
    F = Counted(case.F)
    solution = Anderson()(Problem(F, case.x, case.y0))
    assert F.calls == solution.steps.max() + 1


def test_steps_can_be_differentiated():
    # The unrolled adjoint takes the steps with a graph; nothing may be written in place then.
    case = problems.equilibrium(2, 3, 0.5)
    x = case.x.clone().requires_grad_()
    problem = Problem(case.F, x, case.y0).vectors()
    solver = Anderson(memory=3)
    y, r = problem.y0, problem.residual(problem.y0)
    state = solver.init(problem, y, r)
    for _ in range(12):
        y, _, state = solver.step(problem, y, r, state)
        r = problem.residual(y)
    (found,) = torch.autograd.grad(y.sum(), x)
    z = torch.zeros_like(x)
    for _ in range(100):
        z = z + case.F(x, z)
    (expected,) = torch.autograd.grad(z.sum(), x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
