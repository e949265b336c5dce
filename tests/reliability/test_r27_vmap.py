"""R27: vmap, nested vmap, vmap of grad, in_dims None: equal to the loop, without a performance warning."""

import pytest
import torch

import implayer

W = torch.tensor([[0.3, -0.2, 0.1], [0.4, 0.1, 0.0], [0.0, 0.2, -0.3]], dtype=torch.float64)
ADJOINTS = {
    "dense": implayer.ImplicitAdjoint(),
    "matrix-free": implayer.ImplicitAdjoint(linear_solver=implayer.GMRES()),
}


def f(x, y):
    return torch.tanh(y @ x["weight"].T + x["input"] * y + x["input"])


@pytest.fixture(params=ADJOINTS.values(), ids=ADJOINTS)
def layer(request):
    fixed = implayer.FixedPointLayer(
        f, implayer.Newton(atol=1e-13, rtol=0.0), adjoint=request.param, initial=lambda x: torch.zeros_like(x["input"])
    )
    return lambda weight, input: fixed({"weight": weight, "input": input})


@pytest.fixture
def inputs():
    return torch.stack([W, W.T, W / 2]), 0.4 * torch.randn(3, 2, 3)


def stacked(function, *batches):
    return torch.stack([function(*items) for items in zip(*batches, strict=True)])


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-10)


def test_in_dims(layer, inputs):
    weights, x = inputs
    close(torch.vmap(layer)(weights, x), stacked(layer, weights, x))
    close(torch.vmap(layer, in_dims=(None, 0))(W, x), stacked(lambda x: layer(W, x), x))
    close(torch.vmap(layer, in_dims=(0, None))(weights, x[0]), stacked(lambda w: layer(w, x[0]), weights))
    close(torch.vmap(layer, in_dims=(2, 1))(weights.movedim(0, 2), x.movedim(0, 1)), stacked(layer, weights, x))
    close(torch.vmap(layer, out_dims=1)(weights, x), stacked(layer, weights, x).movedim(0, 1))


def test_nested(layer, inputs):
    weights, x = inputs
    got = torch.vmap(torch.vmap(layer, in_dims=(None, 0)), in_dims=(0, None))(weights, x)
    close(got, stacked(lambda w: stacked(lambda x: layer(w, x), x), weights))


def test_of_grad(layer, inputs):
    weights, x = inputs
    gradient = torch.func.grad(lambda w, x: (layer(w, x) ** 2).sum(), argnums=(0, 1))
    got = torch.vmap(gradient)(weights, x)
    close(got[0], stacked(lambda w, x: gradient(w, x)[0], weights, x))
    close(got[1], stacked(lambda w, x: gradient(w, x)[1], weights, x))


def test_grad_of(layer, inputs):
    weights, x = inputs
    got = torch.func.grad(lambda w: (torch.vmap(layer, in_dims=(None, 0))(w, x) ** 2).sum())(W)
    close(got, sum(torch.func.grad(lambda w, item=item: (layer(w, item) ** 2).sum())(W) for item in x))
    got = torch.func.jacfwd(lambda x: torch.vmap(layer)(weights, x))(x)
    assert got.shape == x.shape + x.shape
    close(got[1, :, :, 1], torch.func.jacfwd(lambda x: layer(weights[1], x))(x[1]))


def test_of_hessian(layer, inputs):
    weights, x = inputs
    hessian = torch.func.hessian(lambda w, x: (layer(w, x) ** 2).sum(), argnums=1)
    close(torch.vmap(hessian)(weights, x), stacked(hessian, weights, x))


def test_with_batch_axes_of_its_own_and_an_empty_axis(inputs):
    x = inputs[1]
    fixed = implayer.FixedPointLayer(lambda x, y: torch.tanh(y @ W.T + x), initial=torch.zeros_like)
    close(torch.vmap(fixed)(x), fixed(x))
    assert torch.vmap(fixed)(x[:1])[0].shape == x[0].shape


def test_one_failed_sample_spoils_no_other():
    fixed = implayer.ImplicitLayer(lambda x, y: y**2 - x, implayer.Newton(), initial=torch.ones_like, on_failure="nan")
    y = torch.vmap(fixed)(torch.tensor([[4.0], [-1.0], [9.0]]))
    close(y[[0, 2]], torch.tensor([[2.0], [3.0]]))
    assert y[1].isnan().all()


def test_status_per_sample_comes_out():
    fixed = implayer.ImplicitLayer(
        lambda x, y: y**2 - x, implayer.Newton(), initial=torch.ones_like, on_failure="ignore"
    )
    status = torch.vmap(lambda x: fixed.solve(x).status)(torch.tensor([[4.0], [-1.0], [9.0]]))
    assert status.tolist() == [0, implayer.Status.MAX_STEPS, 0]
