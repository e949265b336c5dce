"""R17: a scalar (0-d) unknown, alone and in batches."""

import pytest
import torch

import implayer


def cubic(x, y):
    return y**3 + y - x


SOLVERS = [
    implayer.Newton(),
    implayer.Broyden(),
    implayer.Bisection(-10.0, 10.0),
    implayer.ScipyRoot(),
    implayer.LevenbergMarquardt(),
    implayer.Anderson(),
]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("shape", [(), (1,), (2, 3)], ids=str)
def test_every_solver(solver, shape):
    x = torch.full(shape, 10.0, requires_grad=True)
    layer = implayer.ImplicitLayer(cubic, solver, initial=torch.ones_like, event_ndim=0, sign=-1)
    solution = layer.solve(x)
    (first,) = torch.autograd.grad(solution.value.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert (
        solution.value.shape == shape == solution.status.shape == solution.residual_norm.shape == solution.steps.shape
    )
    torch.testing.assert_close(solution.value, torch.full(shape, 2.0))
    torch.testing.assert_close(first, torch.full(shape, 1 / 13))
    torch.testing.assert_close(second, torch.full(shape, -12 / 13**3))


def test_transforms():
    layer = implayer.ImplicitLayer(cubic, implayer.Newton(), initial=torch.ones_like, event_ndim=0)
    x = torch.tensor(10.0)
    torch.testing.assert_close(torch.func.grad(layer)(x), torch.tensor(1 / 13))
    torch.testing.assert_close(torch.func.hessian(layer)(x), torch.tensor(-12 / 13**3))
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(layer))(x.expand(4)), torch.full((4,), 1 / 13))
