"""R21: a parameter that F does not use has no gradient, as in torch (with DDP: `find_unused_parameters=True`)."""

import pytest
import torch

import implayer


class Idle(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.used = torch.nn.Parameter(torch.tensor(2.0))
        self.unused = torch.nn.Parameter(torch.tensor(5.0))

    def forward(self, x, y):
        return self.used * y - x


@pytest.mark.parametrize("linear_solver", [implayer.LU(), implayer.GMRES()], ids=["LU", "GMRES"])
def test_none_like_torch(linear_solver):
    F = Idle()
    adjoint = implayer.ImplicitAdjoint(linear_solver=linear_solver)
    layer = implayer.ImplicitLayer(F, implayer.Newton(), adjoint=adjoint, initial=torch.zeros_like)
    layer(torch.ones(2, 1)).sum().backward()
    assert F.unused.grad is None
    torch.testing.assert_close(F.used.grad, torch.tensor(-0.5))


def test_unused_leaf_of_x_and_unused_x():
    x = {"a": torch.ones(2, 1, requires_grad=True), "b": torch.ones(2, 1, requires_grad=True)}
    layer = implayer.ImplicitLayer(lambda x, y: y - x["a"], implayer.Newton(), initial=lambda x: 0 * x["a"])
    assert torch.autograd.grad(layer(x).sum(), [x["a"], x["b"]], allow_unused=True)[1] is None
    y = implayer.ImplicitLayer(lambda x, y: y - 1, implayer.Newton(), initial=torch.zeros_like)(x["b"])
    torch.testing.assert_close(y, torch.ones(2, 1))
    assert not y.requires_grad or torch.autograd.grad(y.sum(), x["b"], allow_unused=True)[0] in (None, 0)


def test_zero_under_torch_func():
    layer = implayer.ImplicitLayer(lambda x, y: y - x["a"], implayer.Newton(), initial=lambda x: 0 * x["a"])
    gradient = torch.func.grad(lambda x: layer(x).sum())({"a": torch.ones(2, 1), "b": torch.ones(2, 1)})
    torch.testing.assert_close(gradient, {"a": torch.ones(2, 1), "b": torch.zeros(2, 1)})
