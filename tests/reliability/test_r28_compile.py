"""R28: torch.compile around the layer, of grad, of jvp: right (a graph break is allowed), never the dropped rule."""

import functools

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


class Cell(torch.nn.Module):
    """Two products, so that compiled code has arrays of its own to keep for the way back."""

    def __init__(self):
        super().__init__()
        self.there, self.back = (torch.nn.Parameter(matrix.clone()) for matrix in (W, W.T))

    def forward(self, x, y):
        return torch.tanh(torch.tanh(y @ self.there + x) @ self.back)


class Counted:
    """A backend that counts the calls of what it has compiled."""

    def __init__(self):
        self.calls = 0

    def __call__(self, graph, inputs):
        def run(*arguments):
            self.calls += 1
            return graph.forward(*arguments)

        return run


def as_function(cell, **options):
    return torch.compile(lambda x, y: cell(x, y), **options)


def as_module(cell, **options):
    return torch.compile(cell, **options)


def in_place(cell, **options):
    cell.compile(**options)
    return cell


@pytest.mark.parametrize("make", [as_function, as_module, in_place])
@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize(
    "solver", [implayer.Picard(atol=1e-13, rtol=0), implayer.Newton()], ids=lambda solver: type(solver).__name__
)
def test_a_compiled_map(make, backend, solver):
    """Second derivatives, gradients of x and of parameters, all transforms: as without."""
    cell, plain = Cell(), Cell()
    fast = implayer.FixedPointLayer(make(cell, backend=backend, dynamic=True), solver, initial=torch.zeros_like)
    slow = implayer.FixedPointLayer(plain, solver, initial=torch.zeros_like)
    x = torch.linspace(-1, 1, 14, dtype=torch.float64).reshape(7, 2)
    close(fast(x), slow(x))
    leaf = x.clone().requires_grad_()
    torch.autograd.gradgradcheck(fast, (leaf,))
    for one, other in ((cell.there, plain.there), (cell.back, plain.back), (leaf, leaf)):
        close(
            torch.autograd.grad(fast(leaf).square().sum(), one), torch.autograd.grad(slow(leaf).square().sum(), other)
        )
    for transform in (torch.func.jacrev, torch.func.jacfwd, torch.func.hessian):
        close(transform(lambda x: fast(x).square().sum(0))(x), transform(lambda x: slow(x).square().sum(0))(x))
    close(torch.vmap(fast)(x), torch.vmap(slow)(x))


@pytest.mark.parametrize("make", [as_function, as_module, in_place])
def test_the_steps_of_the_solver_are_compiled(make, x):
    backend, steps = Counted(), []

    def solver(problem):
        y = problem.y0
        for _ in range(60):
            y = y + problem.residual(y)
            steps.append(backend.calls)
        return y

    layer = implayer.FixedPointLayer(make(Cell(), backend=backend), solver, initial=torch.zeros_like)
    x.requires_grad_()
    layer(x).sum().backward()
    assert steps == list(range(steps[0], steps[0] + 60))
    assert backend.calls <= 62  # the residual of the answer may be evaluated once more, without a tape, too


def rows(x, y):
    return y[..., :1] - y[..., 1:]


@pytest.mark.parametrize("gauge", [None, rows])
def test_a_compiled_residual_and_gauge(gauge, x):
    def layer(change):
        return implayer.ImplicitLayer(
            change(lambda x, y: (f(x, y) - y)[..., : 1 if gauge else 2]), implayer.Newton(), initial=torch.zeros_like,
            gauge=gauge and change(gauge),
        )  # fmt: skip

    fast, slow = layer(lambda g: torch.compile(g, backend="aot_eager")), layer(lambda g: g)
    close(torch.func.hessian(lambda x: fast(x).sum())(x), torch.func.hessian(lambda x: slow(x).sum())(x))


def test_a_function_around_a_compiled_one_is_itself(x):
    compiled = torch.compile(f, backend="eager")

    @functools.wraps(compiled)  # which copies what tells a compiled function
    def around(x, y):
        return compiled(x, y) / 2

    leaf = x.clone().requires_grad_()
    found, right = (
        implayer.FixedPointLayer(map, implayer.Newton(), initial=torch.zeros_like)(leaf)
        for map in (around, lambda x, y: f(x, y) / 2)
    )
    close(found, right)
    close(torch.autograd.grad(found.sum(), leaf), torch.autograd.grad(right.sum(), leaf))
