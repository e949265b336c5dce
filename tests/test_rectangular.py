"""F with fewer or more rows than unknowns: minimal norm, gauge rows, least squares with the exact Hessian."""

import pytest
import torch

import implayer

DENSE = implayer.ImplicitAdjoint()
MATRIX_FREE = implayer.ImplicitAdjoint(linear_solver=implayer.LSMR(atol=1e-13, rtol=1e-13), order=2)


def close(got, expected, tolerance=1e-9):
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def central(function, x, h=1e-4):
    """Richardson-extrapolated central difference of a function of a 0-d tensor."""

    def difference(h):
        return (function(x + h) - function(x - h)) / (2 * h)

    return (4 * difference(h / 2) - difference(h)) / 3


# --------------------------------------------------------------------------------------------- wide: fewer rows
def sphere(x, y):
    """|y|^2 = x: one equation for three unknowns. The nearest move is along y: y = y* sqrt(x / x*)."""
    return (y**2).sum(-1, keepdim=True) - x


@pytest.mark.parametrize("adjoint", [DENSE, MATRIX_FREE], ids=["dense", "matrix-free"])
def test_minimal_norm_first_and_second_derivative(adjoint):
    y0 = torch.tensor([[2.0, 1.0, 2.0], [1.0, 0.0, 0.0]])
    x = torch.tensor([[9.0], [1.0]], requires_grad=True)
    y = implayer.ImplicitLayer(sphere, implayer.Newton(), adjoint=adjoint)(x, y0)
    close(y.detach(), y0)
    v = torch.tensor([[0.3, -1.0, 2.0]])
    (first,) = torch.autograd.grad((y * v).sum(), x, create_graph=True)
    close(first.detach(), ((y0 * v).sum(-1, keepdim=True) / (2 * x)).detach())
    (second,) = torch.autograd.grad(first.sum(), x)
    close(second, -((y0 * v).sum(-1, keepdim=True) / (4 * x**2)).detach(), 1e-8)


def curved(x, y):
    """Two equations for three unknowns, with curvature that turns the null space."""
    return torch.stack([y[..., 0] ** 2 + y[..., 1] * y[..., 2] - x, y[..., 1] + y[..., 2] ** 3 - x.sin()], -1)


def square_reference(x, point):
    """The rule of the contract by hand: rows N (y - y*) = 0 frozen at y*, N spanning the null space of J*."""
    J = torch.func.jacrev(lambda y: curved(torch.tensor(1.0), y))(point)
    N = torch.linalg.svd(J)[2][2:]
    y = point
    for _ in range(30):
        r = torch.cat([curved(x, y), N @ (y - point)])
        y = y - torch.linalg.solve(torch.cat([torch.func.jacrev(lambda y: curved(x, y))(y), N]), r)
    return y


def curved_layer(order=2):
    return implayer.ImplicitLayer(
        lambda x, y: curved(x[..., 0], y),
        implayer.Newton(atol=1e-14, rtol=0.0),
        adjoint=implayer.ImplicitAdjoint(order=order),
    )


@pytest.mark.parametrize("nest", [torch.func.jacrev, torch.func.jacfwd])
def test_second_derivative_keeps_the_frozen_null_space(nest):
    start = torch.tensor([[0.8, 0.5, 0.6]])
    point = curved_layer()(torch.tensor([[1.0]]), start)[0].detach()

    def moved(x):
        return curved_layer()(x.reshape(1, 1), point[None])[0]

    first = central(lambda x: square_reference(x, point), torch.tensor(1.0))
    close(nest(moved)(torch.tensor(1.0)), first, 1e-8)
    second = central(lambda t: central(lambda x: square_reference(x, point), t, 1e-3), torch.tensor(1.0), 1e-3)
    close(nest(nest(moved))(torch.tensor(1.0)), second, 1e-6)


def test_gauge_rows_replace_the_minimal_norm():
    gauge = lambda x, y: torch.stack([y[..., 1] - 1.0, y[..., 2] - x[..., 0]], -1)  # noqa: E731
    x = torch.tensor([[1.0]], requires_grad=True)
    y = implayer.ImplicitLayer(lambda x, y: (y**2).sum(-1, keepdim=True) - 9 * x, implayer.Newton(), gauge=gauge)(
        x, torch.ones(1, 3)
    )
    first_unknown = (9 * x - 1 - x**2).sqrt()  # y1^2 = 9 x - 1 - x^2
    close(y[0].detach(), torch.stack([first_unknown[0, 0], torch.tensor(1.0), x[0, 0]]).detach())
    (got,) = torch.autograd.grad(y[0, 0], x, create_graph=True)
    (expected,) = torch.autograd.grad(first_unknown.sum(), x, create_graph=True)
    close(got.detach(), expected.detach())
    close(torch.autograd.grad(got.sum(), x)[0], torch.autograd.grad(expected.sum(), x)[0], 1e-8)


# ---------------------------------------------------------------------------------------------- tall: least squares
LM = implayer.LevenbergMarquardt(atol=1e-13, rtol=1e-13)


def test_linear_least_squares():
    A, x = torch.randn(5, 2), torch.randn(3, 5, requires_grad=True)
    y = implayer.ImplicitLayer(lambda x, y: y @ A.T - x, LM, initial=lambda x: torch.zeros(3, 2))(x)
    close(y, x @ torch.linalg.pinv(A).T)
    v = torch.randn(3, 2)
    close(torch.autograd.grad((y * v).sum(), x)[0], v @ torch.linalg.pinv(A))


def test_where_gauss_newton_is_wrong():
    """r = (x - y, y^2 - c): stationary where -(x - y) + 2 y (y^2 - c) = 0.

    At y = 1: x = 1 + 2 (1 - c). With c = 1/2: x = 2, residual (1, 1/2), H = 1 + 4 y^2 + 2 (y^2 - c) = 6, dy/dx = 1/6.
    Gauss-Newton leaves the last term of H out and says 1/5.
    """
    x = torch.tensor([[2.0]], requires_grad=True)
    layer = implayer.ImplicitLayer(lambda x, y: torch.cat([x - y, y**2 - 0.5], -1), LM)
    solution = layer.solve(x, torch.ones(1, 1))
    close(solution.value.detach(), torch.ones(1, 1))
    assert solution.converged.all() and (solution.residual_norm < 1e-9).all()
    (first,) = torch.autograd.grad(solution.value.sum(), x, create_graph=True)
    close(first.detach(), torch.tensor([[1 / 6]]))
    (second,) = torch.autograd.grad(first.sum(), x)
    close(second, torch.tensor([[-12 / 6**3]]), 1e-8)  # y - x + 2 y^3 - y = 0: x = 2 y^3, y'' = -x'' / x'^3 = -12 / 6^3


def fit(x, y):
    """A two-parameter curve with data that it cannot meet."""
    t = torch.linspace(0.0, 1.0, 6, dtype=y.dtype)
    return y[..., :1] * torch.exp(y[..., 1:] * t) - x


def test_exact_hessian_against_finite_differences():
    layer = implayer.ImplicitLayer(fit, LM, initial=lambda x: torch.ones(*x.shape[:-1], 2))
    t = torch.linspace(0.0, 1.0, 6)
    data = 1 + t**2 + torch.tensor([0.3, -0.4, 0.2, 0.5, -0.3, 0.1])
    direction = torch.tensor([1.0, -0.5, 0.3, 0.2, -1.0, 0.4])

    def along(s):
        return layer((data + s * direction)[None])[0]

    zero = torch.tensor(0.0)
    close(torch.func.jacrev(along)(zero), central(along, zero, 1e-2), 1e-7)
    close(torch.func.jacfwd(along)(zero), central(along, zero, 1e-2), 1e-7)
    second = central(lambda s: torch.func.jacrev(along)(s), zero, 1e-2)
    for outer in (torch.func.jacrev, torch.func.jacfwd):
        close(outer(torch.func.jacrev(along))(zero), second, 1e-6)


def test_residual_norm_is_that_of_the_stationarity():
    solution = implayer.ImplicitLayer(fit, lambda p: torch.tensor([[1.0, 0.5]]), on_failure="ignore").solve(
        torch.ones(1, 6)
    )
    y = torch.tensor([1.0, 0.5])
    J, r = torch.func.jacrev(lambda y: fit(torch.ones(6), y))(y), fit(torch.ones(6), y)
    close(solution.residual_norm, torch.linalg.vector_norm(J.mT @ r)[None])
    assert not solution.converged.any()


def test_square_F_without_root_is_no_least_squares():
    """Stationarity is success only where F has more rows than unknowns."""
    for solver in (implayer.LevenbergMarquardt(), implayer.Newton()):
        with pytest.raises(implayer.SolveError):
            implayer.ImplicitLayer(lambda x, y: y**2 + x, solver, initial=torch.ones_like)(torch.ones(1, 1))
