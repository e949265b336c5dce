"""ScipyMinimize: both methods give the minimiser, its multipliers, and a status for each sample."""

import pytest
import torch

from implayer.errors import DegenerateWarning
from implayer.layers.argmin import ArgminLayer
from implayer.problem import Problem
from implayer.solution import Status
from implayer.solvers.interior_point import InteriorPoint
from implayer.solvers.scipy_minimize import ScipyMinimize

METHODS = ["SLSQP", "trust-constr"]


def layer_of(method, *, on_failure="ignore", **options):
    return ArgminLayer(
        lambda x, y: (x["a"] * y**2 / 2 + x["c"] * y).sum(-1),
        inequality=lambda x, y: torch.cat([x["l"] - y, y - x["u"]], -1),
        initial=lambda x: torch.zeros_like(x["c"]),
        forward_solver=ScipyMinimize(method, **options),
        on_failure=on_failure,
    )


@pytest.mark.parametrize("method", METHODS)
def test_hock_schittkowski_71(method):
    layer = ArgminLayer(
        lambda x, y: x[..., 0] * y[..., 0] * y[..., 3] * y[..., :3].sum(-1) + y[..., 2],
        equality=lambda x, y: (y**2).sum(-1, keepdim=True) - 40,
        inequality=lambda x, y: torch.cat([25 - y.prod(-1, keepdim=True), 1 - y, y - 5], -1),
        forward_solver=ScipyMinimize(method),
    )
    x, start = torch.ones(2, 1), torch.tensor([[1.0, 5.0, 5.0, 1.0], [3.0, 3.0, 3.0, 3.0]])
    solution = layer.solve(x, start)
    assert solution.converged.all() and solution.steps.min() > 0
    assert solution.aux["objective"].tolist() == pytest.approx([17.0140173] * 2, abs=1e-6)
    ours = ArgminLayer(
        layer.objective, equality=layer.kkt.F.equality, inequality=layer.kkt.F.inequality,
        forward_solver=InteriorPoint(),
    ).solve(x, start)  # fmt: skip
    for name in ("equality_multipliers", "inequality_multipliers"):
        torch.testing.assert_close(solution.aux[name], ours.aux[name], atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_status_of_each_sample(method):
    x = {
        "a": torch.tensor([[1.0], [0.0], [1.0], [1.0], [0.0]]),
        "c": torch.tensor([[3.0], [1.0], [torch.nan], [1.0], [1.0]]),
        "l": torch.tensor([[-1.0], [-1e30], [-1.0], [1.0], [-2.0]]),
        "u": torch.tensor([[1.0], [5.0], [1.0], [-1.0], [2.0]]),
    }
    solution = layer_of(method).solve(x)
    assert [Status(s) for s in solution.status.tolist()] == [
        Status.CONVERGED, Status.UNBOUNDED, Status.NONFINITE, Status.INFEASIBLE, Status.CONVERGED
    ]  # fmt: skip
    torch.testing.assert_close(solution.value[[0, 4]], torch.tensor([[-1.0], [-2.0]]), atol=1e-10, rtol=0.0)
    lam = solution.aux["inequality_multipliers"]
    torch.testing.assert_close(lam[[0, 4]], torch.tensor([[2.0, 0.0], [1.0, 0.0]]), atol=1e-10, rtol=0.0)


@pytest.mark.parametrize("method", METHODS)
def test_weakly_active(method):
    x = {"a": torch.ones(1, 1), "c": -torch.ones(1, 1), "l": -torch.ones(1, 1), "u": torch.ones(1, 1)}
    with pytest.warns(DegenerateWarning):
        solution = layer_of(method, on_failure="raise").solve(x)
    assert solution.status.tolist() == [Status.DEGENERATE]


def test_unconstrained_and_an_F_that_cannot_be_restricted():
    w = torch.randn(3, 2)
    layer = ArgminLayer(
        lambda x, y: ((y - w) ** 2).sum(-1) + (y**4).sum(-1), forward_solver=ScipyMinimize(), initial=torch.zeros_like
    )
    found = layer(torch.zeros(3, 2))
    torch.testing.assert_close(2 * (found - w) + 4 * found**3, torch.zeros(3, 2), atol=1e-10, rtol=0.0)


def test_max_steps_and_options():
    rosenbrock = lambda x, y: (1 - y[..., 0]) ** 2 + 100 * (y[..., 1] - y[..., 0] ** 2) ** 2  # noqa: E731
    start = torch.tensor([[-1.2, 1.0]])
    short = ArgminLayer(rosenbrock, forward_solver=ScipyMinimize(max_steps=2), on_failure="ignore")
    solution = short.solve(None, start)
    assert solution.status.tolist() == [Status.MAX_STEPS] and solution.steps.tolist() == [2]
    full = ArgminLayer(rosenbrock, forward_solver=ScipyMinimize(options={"ftol": 1e-10}, atol=1e-10))
    torch.testing.assert_close(full(None, start), torch.ones(1, 2), atol=1e-8, rtol=0.0)


def test_empty_batch():
    layer = ArgminLayer(lambda x, y: (y**2).sum(-1), forward_solver=ScipyMinimize(), initial=torch.zeros_like)
    assert layer(torch.zeros(0, 2)).shape == (0, 2)


def test_wrong_use_is_refused():
    plain = getattr(ScipyMinimize.__init__, "__wrapped__", ScipyMinimize.__init__)  # below the checks of the test run
    with pytest.raises(ValueError, match=r"`method` is 'BFGS'; expected 'SLSQP' or 'trust-constr'"):
        plain(ScipyMinimize.__new__(ScipyMinimize), "BFGS")
    with pytest.raises(TypeError, match=r"`ScipyMinimize` solves the problem of an `ArgminLayer`"):
        ScipyMinimize()(Problem(lambda x, y: y, None, torch.ones(1, 2)))
