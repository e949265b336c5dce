"""R26: every nesting of forward and reverse mode up to order three is right to 1e-7, or a typed error."""

import itertools

import pytest
import torch
from torch.autograd import forward_ad

import implayer

W = torch.tensor([[0.3, -0.2], [0.4, 0.1]], dtype=torch.float64)
X = torch.tensor([0.3, -0.5], dtype=torch.float64)


def f(x, y):
    return torch.tanh(y @ W.T + x * y + x)


def reference(x):
    y = torch.zeros_like(x)
    for _ in range(100):
        y = f(x, y)
    return y


ADJOINTS = {
    "dense": implayer.ImplicitAdjoint(),
    "matrix-free": implayer.ImplicitAdjoint(linear_solver=implayer.GMRES(atol=1e-13, rtol=1e-13)),
}
NESTS = [
    modes for order in (1, 2, 3) for modes in itertools.product([torch.func.jacfwd, torch.func.jacrev], repeat=order)
]


def named(modes):
    return "-".join(mode.__name__ for mode in modes)


def differentiated(modes, function):
    for mode in modes:
        function = mode(function)
    return function


@pytest.mark.parametrize("modes", NESTS, ids=named)
@pytest.mark.parametrize("adjoint", ADJOINTS.values(), ids=ADJOINTS)
def test_nested_transforms(adjoint, modes):
    layer = implayer.FixedPointLayer(f, implayer.Newton(), adjoint=adjoint, initial=torch.zeros_like)
    got = differentiated(modes, layer)(X)
    # the reference in reverse mode, which is the sounder one of torch
    expected = differentiated([torch.func.jacrev] * len(modes), reference)(X)
    torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("outer", [torch.func.jvp, torch.func.vjp])
def test_jvp_of_and_vjp_of_grad(outer):
    layer = implayer.FixedPointLayer(f, implayer.Newton(), initial=torch.zeros_like)
    hessian = torch.func.hessian(lambda x: (reference(x) ** 3).sum())(X)
    v = torch.tensor([0.7, -1.1])

    def gradient(x):
        return torch.func.grad(lambda x: (layer(x) ** 3).sum())(x)

    product = (
        torch.func.jvp(gradient, (X,), (v,))[1] if outer is torch.func.jvp else torch.func.vjp(gradient, X)[1](v)[0]
    )
    torch.testing.assert_close(product, hessian @ v, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("adjoint", ADJOINTS.values(), ids=ADJOINTS)
def test_eager_forward_mode(adjoint):
    layer = implayer.FixedPointLayer(f, implayer.Newton(), adjoint=adjoint, initial=torch.zeros_like)
    v = torch.tensor([0.7, -1.1])
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(layer(forward_ad.make_dual(X, v))).tangent
    torch.testing.assert_close(tangent, torch.func.jacrev(reference)(X) @ v, rtol=1e-9, atol=1e-10)


def test_gradcheck_in_all_its_modes():
    layer = implayer.FixedPointLayer(f, implayer.Newton(), initial=torch.zeros_like)
    x = X.expand(2, 2).clone().requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(layer, (x,), check_fwd_over_rev=True)


def test_transforms_inside_eager_autograd():
    """grad of torch.func, then backward of autograd through what it returned."""
    layer = implayer.FixedPointLayer(f, implayer.Newton(), initial=torch.zeros_like)
    x = X.clone().requires_grad_()
    g = torch.func.grad(lambda x: (layer(x) ** 3).sum())(x)
    (got,) = torch.autograd.grad(g.sum(), x)
    expected = torch.func.hessian(lambda x: (reference(x) ** 3).sum())(X).sum(0)
    torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-9)
