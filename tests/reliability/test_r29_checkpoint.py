"""R29: activation checkpointing, both kinds."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import implayer

W = torch.tensor([[0.3, -0.2], [0.4, 0.1]], dtype=torch.float64)
ADJOINTS = {
    "dense": implayer.ImplicitAdjoint(),
    "matrix-free": implayer.ImplicitAdjoint(linear_solver=implayer.GMRES()),
}


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("adjoint", ADJOINTS.values(), ids=ADJOINTS)
@pytest.mark.parametrize("solver", [implayer.Newton(), implayer.Anderson()], ids=["Newton", "Anderson"])
def test_same_gradient(solver, adjoint, use_reentrant):
    mix = torch.nn.Linear(2, 2)
    layer = implayer.FixedPointLayer(
        lambda x, y: torch.tanh(0.3 * mix(y) + x), solver, adjoint=adjoint, initial=torch.zeros_like
    )
    x = torch.randn(3, 2, requires_grad=True)
    inputs = [x, *mix.parameters()]

    def block(x):
        return torch.sin(layer(2 * x))

    expected = torch.autograd.grad(block(x).sum(), inputs)
    y = checkpoint(block, x, use_reentrant=use_reentrant)
    y.sum().backward()
    got = [t.grad for t in inputs]
    torch.testing.assert_close(got, list(expected), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_inside_F(use_reentrant):
    """F itself may be checkpointed: its activations are made again for every product."""
    x = torch.randn(3, 2, requires_grad=True)

    def f(x, y):
        return torch.tanh(y @ W.T + x)

    def checkpointed(x, y):
        return checkpoint(f, x, y, use_reentrant=False)

    def gradient(f):
        return torch.autograd.grad(implayer.FixedPointLayer(f, implayer.Newton(), initial=torch.zeros_like)(x).sum(), x)

    if use_reentrant:
        pytest.skip("torch: the reentrant kind refuses autograd.grad, by an error of its own")
    torch.testing.assert_close(gradient(checkpointed), gradient(f))
