"""R5: dF/dy is exactly singular at the solution of a sample."""

import pytest
import torch

import implayer


def residual(x, y):
    """Solved by y = x; J = diag(2 x1, 1) + a coupling that vanishes: singular where x1 = 0."""
    return torch.stack([y[..., 0] ** 2 - x[..., 0] ** 2, y[..., 1] - x[..., 1] + (y[..., 0] - x[..., 0])], -1)


def exact(problem):
    return problem.x.clone()


@pytest.fixture
def x():
    return torch.tensor([[1.0, 2.0], [0.0, 3.0], [2.0, 1.0]], requires_grad=True)


def test_error_names_sample_and_condition_and_gives_a_hint(x):
    with pytest.raises(implayer.SingularJacobianError, match="singular") as caught:
        implayer.ImplicitLayer(residual, exact)(x)
    assert isinstance(caught.value, implayer.SolveError) and isinstance(caught.value, RuntimeError)
    for part in ("1 of 3 samples", "samples 1", "condition", "LSMR()", "`gauge`"):
        assert part in str(caught.value), f"{part!r} is missing in: {caught.value}"
    assert caught.value.solution.status.tolist() == [0, implayer.Status.SINGULAR, 0]


def test_no_derivative_no_error(x):
    solution = implayer.ImplicitLayer(residual, exact).solve(x.detach())
    assert solution.converged.all()
    with torch.no_grad():
        assert implayer.ImplicitLayer(residual, exact).solve(x).converged.all()


@pytest.mark.parametrize("on_failure", ["warn", "nan", "ignore"])
@pytest.mark.filterwarnings("ignore::implayer.SolveWarning")
def test_the_others_keep_their_gradient(x, on_failure):
    scale = torch.ones((), requires_grad=True)
    layer = implayer.ImplicitLayer(lambda x, y: scale * residual(x, y), exact, on_failure=on_failure)
    solution = layer.solve(x)
    got = torch.autograd.grad(solution.value[[0, 2]].sum(), [x, scale])
    torch.testing.assert_close(got[0][[0, 2]], torch.ones(2, 2))
    torch.testing.assert_close(got[0][1], torch.zeros(2))
    torch.testing.assert_close(got[1], torch.tensor(0.0))
    assert solution.status.tolist() == [0, implayer.Status.SINGULAR, 0]
    assert bool(solution.value[1].isnan().all()) == (on_failure == "nan")


def test_transforms_raise_the_same(x):
    layer = implayer.ImplicitLayer(residual, exact)
    with pytest.raises(implayer.SingularJacobianError):
        torch.func.grad(lambda x: layer(x).sum())(x.detach())


def test_matrix_free_says_it_at_backward(x):
    y = implayer.ImplicitLayer(residual, exact, adjoint=implayer.ImplicitAdjoint(linear_solver=implayer.GMRES()))(x)
    with pytest.raises((implayer.AdjointError, implayer.SingularJacobianError), match="1 of 3 samples"):
        y[:, 0].sum().backward()


def test_minimal_norm_where_asked_for():
    """y1 + y2 = x: the shortest answer moves by (1/2, 1/2)."""
    x = torch.tensor([[3.0]], requires_grad=True)
    layer = implayer.ImplicitLayer(
        lambda x, y: (y.sum(-1, keepdim=True) - x).expand(-1, 2),  # twice the same equation
        lambda problem: (problem.x / 2).expand(-1, 2),
        adjoint=implayer.ImplicitAdjoint(linear_solver=implayer.LSMR()),
    )
    (gradient,) = torch.autograd.grad(layer(x)[0, 0], x)
    torch.testing.assert_close(gradient, torch.tensor([[0.5]]))
