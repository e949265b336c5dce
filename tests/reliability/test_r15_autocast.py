"""R15: autocast is off inside the layer, in the forward solve and at backward."""

import pytest
import torch

import implayer

W = 0.4 * torch.randn(8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float32) / 8**0.5
SOLVERS = [implayer.Anderson(), implayer.Picard(), implayer.Newton(), implayer.Broyden()]


def f(x, y):
    return torch.tanh(y @ W.T + x)


def run(solver, enabled, adjoint=None):
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float32).requires_grad_()
    layer = implayer.FixedPointLayer(f, solver, adjoint=adjoint, initial=torch.zeros_like)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
        solution = layer.solve(x)
    (gradient,) = torch.autograd.grad(solution.value.square().sum(), x)
    return solution, gradient


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("linear_solver", [implayer.Auto(), implayer.GMRES()], ids=["Auto", "GMRES"])
def test_same_steps_same_values(solver, linear_solver):
    adjoint = implayer.ImplicitAdjoint(linear_solver=linear_solver)
    plain, plain_gradient = run(solver, False, adjoint)
    cast, cast_gradient = run(solver, True, adjoint)
    assert cast.value.dtype == torch.float32
    assert cast.steps.tolist() == plain.steps.tolist()
    assert torch.equal(cast.value, plain.value)
    assert torch.equal(cast_gradient, plain_gradient)
