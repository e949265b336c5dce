"""check_solver: passes what keeps the contract, and names the property that a broken solver breaks."""

import pytest
import torch

from implayer.errors import VerificationError
from implayer.solution import Solution, Status
from implayer.solvers import Newton, Picard
from implayer.verify.check_solver import check_solver


def by_hand(problem):
    y = problem.y0
    for _ in range(60):
        y = y + problem.residual(y)
    return y


def test_a_plain_function_passes():
    assert "batch_equals_loop" in check_solver(by_hand, dtypes=(torch.float64,))


def loose(problem):
    solution = Picard(atol=1e-2)(problem)
    return Solution(solution.value)


def coupled(problem):
    """Stops all samples together and takes one more step the more samples there are."""
    y = by_hand(problem)
    return y + 1e-10 * len(y)


def ordered(problem):
    y = by_hand(problem)
    return y + 1e-10 * torch.arange(len(y), dtype=y.dtype).unsqueeze(-1) if y.shape[-1] else y


def writes_into_y0(problem):
    y = problem.y0
    for _ in range(60):
        y += problem.residual(y)
    return y


def random(problem):
    y = by_hand(problem)
    return y + 1e-14 * torch.randn_like(y)


def poisoned(problem):
    y = by_hand(problem)
    return y + 0 * y.mean()


def proud(problem):
    """Claims success whatever happens."""
    solution = Newton()(problem)
    status = torch.where(solution.status == Status.MAX_STEPS, int(Status.CONVERGED), solution.status)
    return solution.replace(status=status)


def other_dtype(problem):
    return by_hand(problem).to(torch.float16)


def flat(problem):
    return by_hand(problem).flatten() if len(problem.y0) else problem.y0


def crashes_on_nothing(problem):
    return by_hand(problem) if len(problem.y0) else torch.zeros(3)


@pytest.mark.parametrize(
    "solver, name",
    [
        (loose, "residual_at_tolerance"),
        (coupled, "batch_equals_loop"),
        (ordered, "batch_equals_loop"),
        (writes_into_y0, "inputs_untouched"),
        (random, "deterministic"),
        (poisoned, "bad_sample_alone"),
        (proud, "no_root"),
        (crashes_on_nothing, "empty_batch"),
    ],
)
def test_faults_are_named(solver, name):
    with pytest.raises(VerificationError, match=f"property `{name}`"):
        check_solver(solver, dtypes=(torch.float64,))


@pytest.mark.parametrize("solver", [other_dtype, flat])
def test_shapes_and_dtypes_are_checked(solver):
    with pytest.raises(VerificationError, match="property `shape_and_dtype`"):
        check_solver(solver, dtypes=(torch.float64,))
