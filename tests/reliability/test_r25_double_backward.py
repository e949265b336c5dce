"""R25: double backward is right, or an `OrderError`; never zero."""

import pytest
import torch

import implayer

W = torch.randn(3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64) / 3


def f(x, y):
    return torch.tanh(y @ W.T + x * y + x)  # dF/dx depends on y


def reference(x):
    y = torch.zeros_like(x)
    for _ in range(150):
        y = f(x, y)
    return y


def layer(**options):
    solver = options.pop("solver", implayer.Newton())
    return implayer.FixedPointLayer(f, solver, adjoint=implayer.ImplicitAdjoint(**options), initial=torch.zeros_like)


@pytest.fixture
def x():
    return 0.3 * torch.randn(2, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64).requires_grad_()


def nth(y, x, n):
    """The gradient of the gradient of ... of a sum of cubes."""
    value = (y**3).sum()
    for k in range(n):
        (g,) = torch.autograd.grad(value, x, create_graph=k < n - 1)
        value = (g * torch.linspace(1, 2, g.numel()).reshape(g.shape)).sum()
    return g


OPTIONS = [
    {"linear_solver": implayer.Auto()},
    {"linear_solver": implayer.LU()},
    {"linear_solver": implayer.GMRES(atol=1e-13, rtol=1e-13)},
    {"linear_solver": implayer.BiCGSTAB(atol=1e-13, rtol=1e-13)},
    {"linear_solver": implayer.LSMR(atol=1e-13, rtol=1e-13)},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: type(o["linear_solver"]).__name__)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_exact_to_the_order_and_an_error_beyond(options, order, x):
    expected = [nth(reference(x), x, n) for n in range(1, order + 1)]
    for n in range(1, order + 1):
        got = nth(layer(order=order, **options)(x), x, n)
        torch.testing.assert_close(got, expected[n - 1], rtol=1e-7, atol=1e-9)
    with pytest.raises(
        implayer.OrderError, match=rf"order {order + 1} .*up to order {order}.*order={order + 1}"
    ) as caught:
        nth(layer(order=order, **options)(x), x, order + 1)
    assert isinstance(caught.value, RuntimeError)


def test_the_default_is_two_for_dense_and_one_for_matrix_free(x):
    torch.testing.assert_close(nth(layer()(x), x, 2), nth(reference(x), x, 2), rtol=1e-7, atol=1e-9)
    with pytest.raises(implayer.OrderError):
        nth(layer()(x), x, 3)
    with pytest.raises(implayer.OrderError):
        nth(layer(linear_solver=implayer.GMRES())(x), x, 2)


@pytest.mark.parametrize("adjoint", [implayer.JacobianFree(), implayer.PhantomAdjoint()])
def test_approximations_are_of_first_order(adjoint, x):
    approximate = implayer.FixedPointLayer(f, implayer.Picard(), adjoint=adjoint, initial=torch.zeros_like)
    with pytest.raises(implayer.OrderError):
        nth(approximate(x), x, 2)


def test_unrolled_goes_to_any_order(x):
    solver = implayer.Picard(atol=1e-14, rtol=0.0)
    unrolled = implayer.FixedPointLayer(f, solver, adjoint=implayer.UnrolledAdjoint(), initial=torch.zeros_like)
    torch.testing.assert_close(nth(unrolled(x), x, 3), nth(reference(x), x, 3), rtol=1e-7, atol=1e-9)


def test_a_linear_loss_is_counted_too(x):
    """The cotangent is a constant, so that only the fence's anchor can notice the second derivative."""
    y = layer(order=1)(x)
    (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(implayer.OrderError):
        torch.autograd.grad(g.sum(), x)
