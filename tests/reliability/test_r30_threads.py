"""R30: eight threads, forward and backward, equal the serial run bit for bit."""

import concurrent.futures

import pytest
import torch

import implayer

W = torch.randn(6, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64) / 8
ADJOINTS = {
    "dense": implayer.ImplicitAdjoint(),
    "matrix-free": implayer.ImplicitAdjoint(linear_solver=implayer.GMRES()),
}


def f(x, y):
    return torch.tanh(y @ W.T + x)


def inputs(count=16):
    return [torch.randn(4, 6, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(count)]


def eager(layer, x):
    x = x.clone().requires_grad_()
    y = layer(x)
    return y.detach(), *torch.autograd.grad((y**2).sum(), x)


def transformed(layer, x):
    return torch.func.grad_and_value(lambda x: (layer(x) ** 2).sum())(x)


def mapped(layer, x):
    return (torch.vmap(torch.func.grad(lambda x: (layer(x) ** 2).sum()))(x),)


NEWTON = implayer.Newton()
CASES = [
    (eager, NEWTON),
    (eager, implayer.Anderson()),
    (eager, implayer.Broyden()),
    (transformed, NEWTON),
    (mapped, NEWTON),
]


@pytest.mark.parametrize(("run", "solver"), CASES, ids=lambda c: getattr(c, "__name__", type(c).__name__))
@pytest.mark.parametrize("adjoint", ADJOINTS.values(), ids=ADJOINTS)
def test_bit_for_bit(run, solver, adjoint):
    layer = implayer.FixedPointLayer(f, solver, adjoint=adjoint, initial=torch.zeros_like)
    serial = [run(layer, x) for x in inputs()]
    shared = implayer.FixedPointLayer(f, solver, adjoint=adjoint, initial=torch.zeros_like)  # not yet probed
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        parallel = list(pool.map(lambda x: run(shared, x), inputs()))
    for one, other in zip(serial, parallel, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
