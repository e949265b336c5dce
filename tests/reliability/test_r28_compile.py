"""R28: torch.compile around the layer, of grad, of jvp: right (a graph break is allowed), never the dropped rule."""

import pytest
import torch

import implayer

W = torch.tensor([[0.3, -0.2], [0.4, 0.1]], dtype=torch.float64)
# Dynamo itself looks at `.grad` of every tensor that it meets.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
BACKENDS = ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def f(x, y):
    return torch.tanh(y @ W.T + x * y + x)


layer = implayer.FixedPointLayer(f, implayer.Newton(), initial=torch.zeros_like)


def model(x):
    return (torch.sin(layer(2 * x)) ** 2).sum()


def reference(x):
    x = 2 * x
    y = torch.zeros_like(x)
    for _ in range(100):
        y = f(x, y)
    return (torch.sin(y) ** 2).sum()


@pytest.fixture
def x():
    return torch.tensor([[0.3, -0.2], [0.1, 0.4]])


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_around_the_layer(backend, x):
    compiled = torch.compile(model, backend=backend)
    x.requires_grad_()
    close(compiled(x), reference(x))
    close(torch.autograd.grad(compiled(x), x), torch.autograd.grad(reference(x), x))


@pytest.mark.parametrize("backend", BACKENDS)
def test_of_grad(backend, x):
    close(torch.compile(torch.func.grad(model), backend=backend)(x), torch.func.grad(reference)(x))


@pytest.mark.parametrize("backend", BACKENDS)
def test_of_jvp(backend, x):
    v = torch.ones_like(x)
    got = torch.compile(lambda x, v: torch.func.jvp(model, (x,), (v,)), backend=backend)(x, v)
    close(got, torch.func.jvp(reference, (x,), (v,)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_of_vmap_of_grad(backend, x):
    close(
        torch.compile(torch.vmap(torch.func.grad(model)), backend=backend)(x), torch.vmap(torch.func.grad(reference))(x)
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_module_that_holds_the_layer(backend, x):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), layer, torch.nn.Linear(2, 1))
    expected = torch.autograd.grad(module(x).sum(), list(module.parameters()))
    close(torch.autograd.grad(torch.compile(module, backend=backend)(x).sum(), list(module.parameters())), expected)


def test_fullgraph_is_refused_in_words(x):
    with pytest.raises(Exception, match=r"disable|skip|graph"):
        torch.compile(model, backend="eager", fullgraph=True)(x)
