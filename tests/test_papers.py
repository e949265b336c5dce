"""The worked examples of "Implicitly Defined Layers in Neural Networks", and explicit layers as implicit ones."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

import implayer


def close(got, expected, tolerance=1e-9):
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


# ------------------------------------------------------------------------------------------------------- example (3)
def quintic(x, y):
    """y^5 + 16 y - 32 x^3 + 32 x = 0, which no formula solves for y."""
    return y**5 + 16 * y - 32 * x**3 + 32 * x


@pytest.mark.parametrize(
    "solver", [implayer.Newton(), implayer.Bisection(-10.0, 10.0), implayer.ScipyRoot()], ids=lambda s: type(s).__name__
)
def test_example_3(solver):
    x = torch.linspace(-2.0, 2.0, 21, requires_grad=True)
    y = implayer.ImplicitLayer(quintic, solver, initial=torch.zeros_like, event_ndim=0)(x)
    close(quintic(x, y), torch.zeros(21), 1e-7)
    (got,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    slope = (96 * x**2 - 32) / (5 * y.detach() ** 4 + 16)
    close(got.detach(), slope.detach())
    (second,) = torch.autograd.grad(got.sum(), x)
    close(second, (192 * x - 20 * y**3 * slope**2).div(5 * y**4 + 16).detach(), 1e-7)


def test_example_3_at_known_points():
    """x^3 = x makes y = 0, and y = 2 belongs to 32 x^3 - 32 x = 64."""
    layer = implayer.ImplicitLayer(quintic, implayer.Newton(), initial=torch.zeros_like, event_ndim=0)
    close(layer(torch.tensor([-1.0, 0.0, 1.0])), torch.zeros(3))
    x = torch.tensor(1.5213797068045676)  # x^3 - x = 2
    close(layer(x), torch.tensor(2.0), 1e-8)
    close(torch.func.grad(layer)(x), (96 * x**2 - 32) / 96, 1e-8)


# ------------------------------------------------------------------------------------------------- equations (28)-(34)
def two_equations(x, y):
    """F1 = x^2 + y1^2 + y2^2 - 4, F2 = x y1 - 1, at (1, 1, sqrt 2)."""
    y1, y2 = y[..., 0], y[..., 1]
    return torch.stack([x[..., 0] ** 2 + y1**2 + y2**2 - 4, x[..., 0] * y1 - 1], -1)


POINT = torch.tensor([1.0, 2**0.5], dtype=torch.float64)


def test_equation_33_the_blocks_of_the_jacobian():
    x = torch.ones(1)
    close(torch.func.jacrev(two_equations)(x, POINT), torch.tensor([[2.0], [1.0]]))
    operator = implayer.JacobianOperator(lambda y: two_equations(x, y), POINT[None])
    close(operator.materialise()[0], torch.tensor([[2.0, 2 * 2**0.5], [1.0, 0.0]]))


@pytest.mark.parametrize(
    "linear_solver", [implayer.Auto(), implayer.LU(), implayer.GMRES(), implayer.LSMR()], ids=lambda s: type(s).__name__
)
def test_equation_34(linear_solver):
    """The paper does not evaluate it: dy/dx = (-1, 0)."""
    layer = implayer.ImplicitLayer(
        two_equations, implayer.Newton(), adjoint=implayer.ImplicitAdjoint(linear_solver=linear_solver)
    )

    def solved(x):
        return layer(x[None], torch.tensor([[0.9, 1.5]]))[0]

    x = torch.ones(1)
    close(solved(x), POINT)
    for mode in (torch.func.jacrev, torch.func.jacfwd):
        close(mode(solved)(x), torch.tensor([[-1.0], [0.0]]), 1e-8)


def test_second_derivative_of_28():
    """y1 = 1 / x and y2 = sqrt(4 - x^2 - 1 / x^2): y1'' = 2, y2'' = -4 / sqrt 2 at x = 1."""
    layer = implayer.ImplicitLayer(two_equations, implayer.Newton())
    hessian = torch.func.jacfwd(torch.func.jacrev(lambda x: layer(x[None], POINT[None])[0]))(torch.ones(1)).flatten()
    close(hessian, torch.tensor([2.0, -4 / 2**0.5]), 1e-7)


# ------------------------------------------------------------------------------- explicit layers as implicit ones
EXPLICIT = {
    "affine": lambda x: 2 * x + 1,
    "sine": lambda x: torch.sin(3 * x),
    "product": lambda x: x * x.roll(1, -1),
    "softmax": lambda x: torch.softmax(x, -1),
    "norm": lambda x: x / (1 + (x**2).sum(-1, keepdim=True)),
    "network": torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).double(),
}


@pytest.mark.parametrize("f", EXPLICIT.values(), ids=EXPLICIT)
@given(
    values=st.lists(st.floats(-2, 2), min_size=6, max_size=6),
    cotangent=st.lists(st.floats(-2, 2), min_size=6, max_size=6),
)
def test_any_explicit_layer(f, values, cotangent):
    """0 = y - f(x): value, gradients and Hessian products of f."""
    x = torch.tensor(values, dtype=torch.float64).reshape(2, 3).requires_grad_()
    v = torch.tensor(cotangent, dtype=torch.float64).reshape(2, 3)
    layer = implayer.ImplicitLayer(lambda x, y: y - f(x), implayer.Newton(), initial=torch.zeros_like)
    parameters = list(f.parameters()) if isinstance(f, torch.nn.Module) else []

    def derivatives(y):
        first = torch.autograd.grad((y * v).sum(), [x, *parameters], create_graph=True)
        if not first[0].requires_grad:
            return first
        return [*first, torch.autograd.grad((first[0] * v).sum(), x, allow_unused=True, materialize_grads=True)[0]]

    close(layer(x), f(x))
    for got, expected in zip(derivatives(layer(x)), derivatives(f(x)), strict=False):
        close(got, expected)


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=4), st.floats(-0.9, 0.9))
def test_closed_form_fixed_point(values, rate):
    """y = rate y + x: y = x / (1 - rate), also for every derivative with respect to the rate."""
    x, a = torch.tensor(values, dtype=torch.float64), torch.tensor(rate, dtype=torch.float64)
    solver = implayer.Newton(atol=1e-13)  # with 1e-9 a start of zeros is good enough for an x of 1e-9
    layer = implayer.FixedPointLayer(lambda x, y: x[0] * y + x[1], solver, initial=lambda x: torch.zeros_like(x[1]))
    gradient, hessian = (mode(lambda a: layer((a, x)).sum())(a) for mode in (torch.func.grad, torch.func.hessian))
    close(layer((a, x)), x / (1 - a))
    close(gradient, (x / (1 - a) ** 2).sum())
    close(hessian, (2 * x / (1 - a) ** 3).sum())
