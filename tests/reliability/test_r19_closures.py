"""R19: F closes over a tensor that requires grad. Its gradient is right wherever F keeps it; never None, never zero."""

import pytest
import torch

import implayer

EXACT = 1 / (1 - 0.5)  # y = w x + y / 2, so y = 2 w x
GLOBAL = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)


class Holder:
    def __init__(self, weight):
        self.weight = {"deep": [weight]}

    def __call__(self, x, y):
        return self.weight["deep"][0] * x + y / 2 - y


def closure(weight):
    return lambda x, y: weight * x + y / 2 - y


def default_argument(weight):
    def F(x, y, w=weight):
        return w * x + y / 2 - y

    return F


def derived(weight):
    product = weight * 1.0  # not a leaf: its graph began before the layer
    return lambda x, y: product * x + y / 2 - y


def bound_by_partial(weight):
    import functools

    return functools.partial(lambda w, x, y: w * x + y / 2 - y, weight)


KEEPERS = [closure, default_argument, Holder, derived, bound_by_partial]
ADJOINTS = [
    implayer.ImplicitAdjoint(),
    implayer.ImplicitAdjoint(linear_solver=implayer.GMRES()),
    implayer.ImplicitAdjoint(linear_solver=implayer.LSMR()),
    implayer.UnrolledAdjoint(),
]
X = torch.tensor([[1.0], [2.0]], dtype=torch.float64)


def layer_of(F, adjoint=None):
    solver = implayer.Picard(atol=1e-13, rtol=0.0)
    return implayer.ImplicitLayer(F, solver, adjoint=adjoint, initial=torch.zeros_like)


@pytest.mark.parametrize("keep", KEEPERS)
@pytest.mark.parametrize("adjoint", ADJOINTS, ids=["dense", "gmres", "lsmr", "unrolled"])
def test_eager(keep, adjoint):
    weight = torch.tensor(3.0, requires_grad=True)
    y = layer_of(keep(weight), adjoint)(X)
    (gradient,) = torch.autograd.grad(y.sum(), weight)
    torch.testing.assert_close(gradient, torch.tensor(EXACT * 3.0), rtol=1e-9, atol=1e-9)


def test_global():
    y = layer_of(lambda x, y: GLOBAL * x + y / 2 - y)(X)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), GLOBAL)[0], torch.tensor(6.0))


@pytest.mark.parametrize("keep", KEEPERS)
def test_transforms(keep):
    def loss(weight):
        return (layer_of(keep(weight))(X) ** 2).sum()

    weight = torch.tensor(3.0)  # the loss is 20 w^2
    torch.testing.assert_close(torch.func.grad(loss)(weight), torch.tensor(120.0))
    torch.testing.assert_close(torch.func.jacfwd(loss)(weight), torch.tensor(120.0))
    torch.testing.assert_close(torch.func.hessian(loss)(weight), torch.tensor(40.0))
    torch.testing.assert_close(torch.vmap(torch.func.grad(loss))(torch.tensor([3.0, 1.0])), torch.tensor([120.0, 40.0]))


@pytest.mark.parametrize("keep", KEEPERS)
def test_eager_forward_mode(keep):
    with torch.autograd.forward_ad.dual_level():
        weight = torch.autograd.forward_ad.make_dual(torch.tensor(3.0), torch.tensor(1.0))
        tangent = torch.autograd.forward_ad.unpack_dual(layer_of(keep(weight))(X)).tangent
    torch.testing.assert_close(tangent, EXACT * X)


def test_closed_over_by_the_solver_alone_gets_nothing_and_takes_nothing():
    """Whatever the solver does inside never leaks into the gradient."""
    noise = torch.tensor(1e-12, requires_grad=True)
    x = X.clone().requires_grad_()
    y = implayer.ImplicitLayer(lambda x, y: 3 * x - y / 2, lambda p: 6 * p.x + noise)(x)
    gradients = torch.autograd.grad(y.sum(), [x, noise], allow_unused=True)
    torch.testing.assert_close(gradients[0], torch.full((2, 1), 6.0))
    assert gradients[1] is None
