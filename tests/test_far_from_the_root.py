"""Where one more step of the solver would change J: at multiple roots, and after a solver that was told to stop early."""

import pytest
import torch
from torch.autograd import forward_ad

import implayer

MODES = ("backward", "create_graph", "vjp", "jvp", "dual")
ADJOINTS = {
    "auto": implayer.ImplicitAdjoint(),
    "lu": implayer.ImplicitAdjoint(linear_solver=implayer.LU()),
    "first order": implayer.ImplicitAdjoint(order=1),
}


def slope(mode, layer, x):
    """The value, and J'1 or J 1 of the layer at x."""
    ones = torch.ones_like(x)
    if mode in ("backward", "create_graph"):
        live = x.clone().requires_grad_()
        y = layer(live)
        (g,) = torch.autograd.grad(y, live, ones, create_graph=mode == "create_graph")
        return y.detach(), g.detach()
    if mode == "vjp":
        y, pull, *_ = torch.func.vjp(layer, x)
        return y, pull(ones)[0]
    if mode == "jvp":
        y, g, *_ = torch.func.jvp(layer, (x,), (ones,))
        return y, g
    with forward_ad.dual_level():
        y, g = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, ones)))
        return y.clone(), g.clone()


@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n", [1, 3, 20])
def test_a_double_root_has_the_derivative_of_its_branch(n, mode, adjoint):
    layer = implayer.ImplicitLayer(lambda x, y: (y - x) ** 2, implayer.Newton(), adjoint=ADJOINTS[adjoint])
    x = torch.linspace(-1, 1, 2 * n, dtype=torch.float64).reshape(2, n)
    _, g = slope(mode, lambda v: layer(v, y0=v.detach() + 1), x)
    torch.testing.assert_close(g, torch.ones_like(g), rtol=0, atol=1e-12)


@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("n", [1, 3, 20])
def test_where_the_derivative_grows_without_bound_all_modes_agree(n, adjoint):
    layer = implayer.ImplicitLayer(
        lambda x, y: y**2 - x, implayer.Newton(), initial=torch.ones_like, adjoint=ADJOINTS[adjoint]
    )
    x = torch.zeros(2, n, dtype=torch.float64)
    for mode in MODES:
        y, g = slope(mode, layer, x)
        torch.testing.assert_close(g * 2 * y, torch.ones_like(y), rtol=0, atol=1e-12, msg=lambda m, s=mode: f"{s}: {m}")


@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rtol", [1e-1, 1e-3])
@pytest.mark.parametrize("n", [1, 3, 20])
def test_a_solver_that_stops_early_has_the_derivative_of_what_it_returned(n, rtol, mode, adjoint):
    """F = sinh(y) + sum(y) / 2 - x has a symmetric J, so J 1 = J'1."""
    layer = implayer.ImplicitLayer(
        lambda x, y: torch.sinh(y) + 0.5 * y.sum(-1, keepdim=True) - x, implayer.Newton(rtol=rtol, atol=0.0),
        initial=torch.zeros_like, adjoint=ADJOINTS[adjoint],
    )  # fmt: skip
    x = torch.randn(4, n, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y, g = slope(mode, layer, x)
    jacobian = torch.diag_embed(torch.cosh(y)) + 0.5
    expected = torch.linalg.solve(jacobian, torch.ones_like(y))
    torch.testing.assert_close(g, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("mode", MODES)
def test_samples_near_their_root_are_polished_whatever_the_others_do(mode):
    layer = implayer.ImplicitLayer(lambda x, y: y**2 - x, implayer.Newton(), initial=torch.ones_like)
    y, g = slope(mode, layer, torch.tensor([[0.0], [2.0]], dtype=torch.float64))
    assert abs(y[1].item() - 2**0.5) < 1e-15
    assert abs(g[1].item() - 8**-0.5) < 1e-15


@pytest.mark.parametrize("order", [1, 2, 3])
def test_torch_func_inside_of_eager_autograd(order):
    """A closure that requires grad costs one more chord step under torch.func, whose J has to be right, too."""
    w = 0.3 * torch.eye(3, dtype=torch.float64).requires_grad_()
    layer = implayer.ImplicitLayer(
        lambda x, y: torch.tanh(y @ w + x) - y, implayer.Newton(rtol=1e-2, atol=0.0), initial=torch.zeros_like,
        adjoint=implayer.ImplicitAdjoint(order=order),
    )  # fmt: skip
    x = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3)
    y, g = slope("vjp", layer, x)
    bend = 1 - torch.tanh(y @ w + x).detach() ** 2
    torch.testing.assert_close(g.detach(), bend / (1 - 0.3 * bend), rtol=1e-10, atol=1e-11)
