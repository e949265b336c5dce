"""R16: no samples (0, n), no unknowns (n = 0). The empty result, with a working backward."""

import pytest
import torch

import implayer

SOLVERS = [implayer.Newton(), implayer.Picard(), implayer.Anderson(), implayer.Broyden(), implayer.LevenbergMarquardt()]
SHAPES = [(0, 3), (4, 0), (0, 0), (2, 0, 3)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_backward_works(solver, shape):
    w = torch.tensor(0.5, requires_grad=True)
    x = torch.zeros(shape, requires_grad=True)
    solution = implayer.ImplicitLayer(lambda x, y: w * torch.sin(y) + x - y, solver, initial=torch.zeros_like).solve(x)
    assert solution.value.shape == shape
    for field in (solution.status, solution.residual_norm, solution.steps, solution.converged):
        assert field.shape == shape[:-1]
    assert bool(solution.converged.all())
    gradients = torch.autograd.grad(solution.value.sum(), [x, w], materialize_grads=True)
    assert gradients[0].shape == shape
    torch.testing.assert_close(gradients[1], torch.tensor(0.0))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_transforms_work(shape):
    layer = implayer.ImplicitLayer(lambda x, y: torch.sin(y) / 2 + x - y, implayer.Newton(), initial=torch.zeros_like)
    x = torch.zeros(shape)
    assert torch.func.grad(lambda x: layer(x).sum())(x).shape == shape
    assert torch.func.jvp(layer, (x,), (x,))[1].shape == shape
    assert torch.func.jacrev(layer)(x).shape == shape + shape


def test_a_solver_of_the_user_and_an_empty_message():
    solution = implayer.ImplicitLayer(lambda x, y: y - x, lambda p: p.x.clone()).solve(
        torch.zeros(0, 3, requires_grad=True)
    )
    assert solution.message() == "all 0 samples reached the tolerance"
