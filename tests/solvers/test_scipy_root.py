"""ScipyRoot: SciPy for every sample, judged by us."""

import pytest
import torch

from implayer.errors import ShapeError
from implayer.problem import Problem
from implayer.solution import Status
from implayer.solvers import ScipyRoot
from implayer.verify.check_solver import check_solver
from tests import problems


def test_contract():
    check_solver(ScipyRoot())


@pytest.mark.parametrize("make", problems.SQUARE)
def test_closed_forms(make):
    case = make()
    solution = ScipyRoot()(case.problem)
    assert solution.converged.all()
    for found, expected in zip(problems.leaves(solution.value), problems.leaves(case.answer), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("method", ["hybr", "lm", "broyden1", "krylov", "anderson", "df-sane"])
def test_methods(method):
    case = problems.affine(2, 3, 0.5)
    solution = ScipyRoot(method, atol=1e-4)(case.problem)
    assert solution.converged.all()
    assert (solution.value - case.answer).abs().max() < 1e-3


def test_each_sample_has_its_status():
    x = torch.tensor([[2.0], [-1.0], [float("nan")]])
    solution = ScipyRoot()(Problem(lambda x, y: y**2 - x, x, torch.ones(3, 1)))
    assert solution.status.tolist() == [Status.CONVERGED, Status.MAX_STEPS, Status.NONFINITE]
    assert solution.value[0].item() == pytest.approx(2**0.5)
    assert solution.steps[2] == 0


def test_limit_of_steps():
    case = problems.rosenbrock()
    solution = ScipyRoot(max_steps=2)(case.problem)
    assert not solution.converged.all()


def test_an_F_that_needs_the_whole_batch():
    x = problems.randn(3, 2)

    def F(x, y):
        assert y.shape == (3, 2)
        return 2 * y - x

    solution = ScipyRoot()(Problem(F, x, torch.zeros(3, 2)))
    torch.testing.assert_close(solution.value, x / 2)


def test_options_reach_scipy():
    case = problems.rosenbrock()
    few, many = (ScipyRoot(options={"maxfev": count})(case.problem) for count in (3, 300))
    assert not few.converged.any() and many.converged.all()


def test_other_shapes_are_refused():
    with pytest.raises(ShapeError, match="as many equations as unknowns"):
        ScipyRoot()(problems.tall().problem)
