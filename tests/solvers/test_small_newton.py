"""The short loop for small systems finds what the general one finds, and leaves to it what is out of the ordinary."""

import pytest
import torch

import implayer
from implayer.solvers import newton

X = torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
W = 0.5 * torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

SYSTEMS = {
    "root": (lambda x, y: y + 0.5 * torch.tanh(y @ W.mT) - x, X, torch.zeros_like(X)),
    "linear": (lambda x, y: y @ (torch.eye(5, dtype=x.dtype) + W) - x, X, torch.ones_like(X)),
    "solved": (lambda x, y: y - x, X, X.clone()),
    "some solved": (lambda x, y: y**3 + y - x, X, torch.where(torch.arange(9)[:, None] < 4, 0 * X, 0 * X + 1)),
    "no formula": (lambda x, y: y + 0.2 * y * y.sum(-1, keepdim=True) - x, 0.3 * X, torch.zeros_like(X)),
    "scales": (lambda x, y: y + torch.tanh(y) - x, X * 10.0 ** torch.arange(-8.0, 1.0)[:, None], torch.zeros_like(X)),
    "hard": (lambda x, y: torch.atan(y) - 0.1 * x, X, 0 * X + 3.0),
    "refuses": (lambda x, y: _only_nine(y) ** 3 + y.roll(1, -1) - x, X, torch.ones_like(X)),
    "wide": (lambda x, y: y @ W[:, :3] - x[:, :3], X, torch.zeros_like(X)),
}


def _only_nine(y):
    if len(y) != 9:
        raise ValueError("nine samples")
    return y


@pytest.mark.parametrize("name", SYSTEMS)
def test_both_loops_agree(name, monkeypatch):
    problem = implayer.Problem(*SYSTEMS[name])
    found = implayer.Newton()(problem)
    monkeypatch.setattr(newton.Newton, "_small", lambda self, problem: None)
    other = implayer.Newton()(problem)
    assert torch.equal(torch.as_tensor(found.status), torch.as_tensor(other.status))
    r = problem.norm(problem.residual(found.value))
    torch.testing.assert_close(found.residual_norm, r, rtol=1e-6, atol=1e-14)
    good = torch.as_tensor(found.status) == 0
    torch.testing.assert_close(found.value[good], other.value[good], rtol=1e-8, atol=1e-8)
    assert found.aux.keys() == other.aux.keys()
    assert found.aux["contraction"].shape == found.steps.shape == (9,)


def test_steps_and_stops_are_those_of_each_sample():
    """A sample alone comes to the same value in as many steps."""
    F, x, y0 = SYSTEMS["scales"]
    together = implayer.Newton()(implayer.Problem(F, x, y0))
    assert len(set(together.steps.tolist())) > 1
    for i in range(len(x)):
        alone = implayer.Newton()(implayer.Problem(F, x[i : i + 1], y0[i : i + 1]))
        assert torch.equal(alone.steps, together.steps[i : i + 1])
        torch.testing.assert_close(alone.value[0], together.value[i], rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_left_to_the_general_loop(bad):
    F, x, y0 = SYSTEMS["root"]
    x = x.clone()
    x[3, 1] = bad
    solution = implayer.Newton()(implayer.Problem(F, x, y0))
    status = [implayer.Status(int(s)) for s in solution.status]
    assert status[3] == implayer.Status.NONFINITE and status.count(implayer.Status.CONVERGED) == 8


def test_the_start_is_not_handed_back():
    """A sample that needs no step gets a copy: writing to the answer must not change the start."""
    x = X.clone()
    y0 = X.clone()
    solution = implayer.Newton()(implayer.Problem(lambda x, y: y - x, x, y0))
    solution.value.zero_()
    assert torch.equal(y0, X)
