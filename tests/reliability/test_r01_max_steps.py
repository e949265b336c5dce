"""R1: the solver hits `max_steps`. Never a clean-looking gradient."""

import pytest
import torch

import implayer


def slow_map(x, y):
    return 0.99 * y + x  # 20 steps reach 18.2 of 100


def layer(on_failure="raise"):
    solver = implayer.Picard(max_steps=20)
    return implayer.FixedPointLayer(slow_map, solver, initial=torch.zeros_like, on_failure=on_failure)


@pytest.fixture
def x():
    return torch.tensor([[1.0], [0.0], [2.0]], requires_grad=True)


def test_the_error_tells_the_whole_story(x):
    with pytest.raises(implayer.SolveError) as caught:
        layer()(x)
    error, text = caught.value, str(caught.value)
    assert isinstance(error, implayer.ImplayerError) and isinstance(error, RuntimeError)
    for part in (
        "`Picard",
        "2 of 3 samples",
        "samples 0, 2",
        "1.6",
        "20 steps",
        "1e-09",
        "`max_steps`",
        "`on_failure=",
    ):
        assert part in text, f"{part!r} is missing in: {text}"
    assert error.solution.status.tolist() == [
        implayer.Status.MAX_STEPS,
        implayer.Status.CONVERGED,
        implayer.Status.MAX_STEPS,
    ]
    assert error.solution.steps.tolist() == [20, 0, 20]


def test_it_fails_without_a_gradient_too(x):
    with torch.no_grad(), pytest.raises(implayer.SolveError):
        layer()(x)


def test_warn(x):
    with pytest.warns(implayer.SolveWarning, match="2 of 3 samples"):
        y = layer("warn")(x)
    assert y.isfinite().all()


def test_nan(x):
    y = layer("nan")(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert y.isnan().flatten().tolist() == [True, False, True]
    assert gradient.isnan().flatten().tolist() == [True, False, True]


def test_ignore_keeps_the_status(x):
    solution = layer("ignore").solve(x)
    assert solution.value.isfinite().all()
    assert solution.converged.tolist() == [False, True, False]
    assert "did not reach the tolerance" in solution.message()


def test_a_callable_that_claims_success_is_judged_by_its_residual(x):
    def liar(problem):
        return implayer.Solution(torch.ones_like(problem.x), status=[implayer.Status.CONVERGED] * 3)

    with pytest.raises(implayer.SolveError, match=r"3 of 3 samples|2 of 3 samples"):
        implayer.FixedPointLayer(slow_map, liar)(x)
