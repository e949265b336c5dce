"""R4: the backward linear solve fails although the forward solve passed. Not a zero vector; the same policy applies."""

import pytest
import torch

import implayer

B = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 4.0]], dtype=torch.float64)


def residual(x, y):
    """Sample 0 has J = I, which one step of GMRES solves; the others need three."""
    hard = torch.tensor([[0.0], [1.0], [1.0]], dtype=y.dtype)
    return y + hard * (y @ B.T) - x


def solved(on_failure, x):
    adjoint = implayer.ImplicitAdjoint(linear_solver=implayer.GMRES(max_steps=1))
    layer = implayer.ImplicitLayer(
        residual, implayer.Newton(), adjoint=adjoint, initial=torch.zeros_like, on_failure=on_failure
    )
    return layer(x)


@pytest.fixture
def x():
    return torch.arange(1.0, 10.0).reshape(3, 3).requires_grad_()


def test_raise(x):
    y = solved("raise", x)
    with pytest.raises(implayer.AdjointError, match="linear solve of the derivative") as caught:
        y.sum().backward()
    assert isinstance(caught.value, RuntimeError)
    for part in ("2 of 3 samples", "`max_steps`", "1 steps"):
        assert part in str(caught.value)
    assert caught.value.solution.converged.tolist() == [True, False, False]
    assert x.grad is None


def test_warn(x):
    y = solved("warn", x)
    with pytest.warns(implayer.SolveWarning, match="derivative"):
        y.sum().backward()
    torch.testing.assert_close(x.grad[0], torch.ones(3))


def test_nan(x):
    solved("nan", x).sum().backward()
    assert x.grad.isnan().any(-1).tolist() == [False, True, True]
    torch.testing.assert_close(x.grad[0], torch.ones(3))


def test_ignore(x):
    solved("ignore", x).sum().backward()
    torch.testing.assert_close(x.grad[0], torch.ones(3))


def test_forward_mode_too(x):
    adjoint = implayer.ImplicitAdjoint(linear_solver=implayer.GMRES(max_steps=1))
    layer = implayer.ImplicitLayer(residual, implayer.Newton(), adjoint=adjoint, initial=torch.zeros_like)
    with pytest.raises(implayer.AdjointError):
        torch.func.jvp(layer, (x.detach(),), (torch.randn(3, 3),))
