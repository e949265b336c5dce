"""J from the graph of F is that of vector products, or there is none."""

import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given
from hypothesis import strategies as st

from implayer import graph
from implayer.operators import JacobianOperator

N, SAMPLES = 6, 5
GENERATOR = torch.Generator().manual_seed(0)


def _random(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=GENERATOR)


W, V, U, B, X = _random(N, N), _random(9, N), _random(N, 9), _random(N), _random(SAMPLES, N)

ELEMENTWISE = {
    "neg": torch.neg, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "relu": torch.relu, "softplus": functional.softplus,
    "gelu": functional.gelu, "gelu tanh": lambda y: functional.gelu(y, approximate="tanh"), "silu": functional.silu,
    "elu": functional.elu, "leaky": functional.leaky_relu, "mish": functional.mish, "logsigmoid": functional.logsigmoid,
    "hardtanh": functional.hardtanh, "sin": torch.sin, "cos": torch.cos, "exp": torch.exp, "log": lambda y: (y * y + 1).log(),
    "log1p": lambda y: torch.log1p(y * y), "expm1": torch.expm1, "sqrt": lambda y: (y * y + 1).sqrt(),
    "rsqrt": lambda y: (y * y + 1).rsqrt(), "reciprocal": torch.reciprocal, "square": lambda y: y**2, "cube": lambda y: y**3,
    "abs": torch.abs, "sinh": torch.sinh, "cosh": torch.cosh, "atan": torch.atan, "erf": torch.erf,
    "clamp": lambda y: y.clamp(-1, 1), "min": lambda y: y.clamp(min=0), "max": lambda y: y.clamp(max=0.3),
    "where": lambda y: torch.where(y > 0, y, 0.1 * y), "clone": torch.clone, "over": lambda y: X / (2 + y * y),
    "times": lambda y: X * y * y, "minus": lambda y: 1 - y, "of two": lambda y: torch.tanh(y) * torch.sin(y),
}  # fmt: skip
DENSE = {
    "root": lambda y: y + 0.5 * torch.tanh(y @ W.mT) - X,
    "equilibrium": lambda y: torch.tanh(y @ W.mT + X) - y,
    "linear": lambda y: functional.linear(y, W, B) - X,
    "network": lambda y: functional.linear(torch.relu(functional.linear(y, V)), U, B) + y * y,
    "deep": lambda y: torch.tanh(torch.sin(y @ V.mT) @ U.mT + torch.tanh(y @ W)) - X * y,
    "product of two": lambda y: torch.sin(y @ W) * torch.cos(y @ W.mT) + y,
    "twice": lambda y: (lambda z: z * z + z)(y @ W),
    "fewer rows": lambda y: torch.tanh(y @ W[:, :3]),
    "more rows": lambda y: torch.tanh(y @ V.mT),
}
REFUSED = {
    "sum": lambda y: y * y.sum(-1, keepdim=True), "part": lambda y: y[:, :1] * y, "softmax": lambda y: y.softmax(-1),
    "gram": lambda y: y @ (y.mT @ y), "mean": lambda y: y - y.mean(0),
    "scaled product": lambda y: torch.addmm(B, y, W, alpha=2.0),
    "scan": lambda y: y.cumsum(-1), "turned": lambda y: y.flip(-1), "normed": lambda y: functional.layer_norm(y, (N,)),
    "itself": lambda y: y, "constant": lambda y: X.clone().requires_grad_() * 1,
}  # fmt: skip


def both(F, y):
    """J of the graph, and that of vector products."""
    leaf = y.clone().requires_grad_()
    r = F(leaf)
    found, _ = graph.jacobian_of_graph(r, leaf)
    return found, JacobianOperator.from_tape(r, leaf)._by_products() if r.requires_grad else None


@pytest.mark.parametrize("name", [*ELEMENTWISE, *DENSE])
def test_it_is_that_of_vector_products(name):
    found, products = both({**ELEMENTWISE, **DENSE}[name], _random(SAMPLES, N))
    assert found is not None
    torch.testing.assert_close(found, products, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", REFUSED)
def test_other_graphs_are_left_to_vector_products(name):
    assert both(REFUSED[name], _random(SAMPLES, N))[0] is None


@given(
    first=st.sampled_from(sorted(ELEMENTWISE)), second=st.sampled_from(sorted(ELEMENTWISE)),
    third=st.sampled_from(sorted(ELEMENTWISE)), seed=st.integers(0, 2**16),
)  # fmt: skip
def test_compositions(first, second, third, seed):
    f, g, h = ELEMENTWISE[first], ELEMENTWISE[second], ELEMENTWISE[third]
    y = torch.rand(SAMPLES, N, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 0.5
    found, products = both(lambda y: f(0.1 * g(y) @ W) + h(0.1 * y) - X, y)
    assert found is not None and products is not None
    ok = products.isfinite() & found.isfinite()
    torch.testing.assert_close(found[ok], products[ok], rtol=1e-10, atol=1e-10)


def test_a_wide_network_stays_in_bounds():
    """Rows of the width of a layer in between would be many times those of J."""
    wide = torch.randn(2**13, 40, dtype=torch.float64)
    y = torch.randn(64, 40, dtype=torch.float64)
    assert both(lambda y: torch.tanh(y @ wide.mT) @ wide - y, y[:1])[0] is not None
    leaf = y.clone().requires_grad_()
    assert graph.jacobian_of_graph(torch.tanh(leaf @ wide.mT) @ wide - leaf, leaf)[0] is None


def test_a_kind_of_graph_is_compared_once(monkeypatch):
    """A graph whose J is not that of vector products is never asked again."""
    monkeypatch.setattr(graph, "_trusted", {})
    made = graph._propagated
    monkeypatch.setattr(graph, "_propagated", lambda *a: 1.01 * made(*a))
    y = _random(SAMPLES, N).requires_grad_()
    operator = JacobianOperator.from_tape(DENSE["root"](y), y)
    torch.testing.assert_close(operator.materialise(), operator._by_products())
    assert list(graph._trusted.values()) == [False]
    monkeypatch.setattr(graph, "_propagated", made)
    assert graph.jacobian_of_graph(DENSE["root"](y), y)[0] is None


def test_a_plan_serves_only_graphs_that_meet_y_in_the_same_places():
    """One after the other two F whose graphs have the same names; the second meets y also beside the way of the first."""
    leaf = _random(SAMPLES, N).requires_grad_()
    other = _random(SAMPLES, N).requires_grad_()

    def F(y, beside):
        return y * y + torch.tanh(beside @ W)

    for beside in (other, leaf, other, leaf):
        r = F(leaf, beside)
        found, _ = graph.jacobian_of_graph(r, leaf)
        assert found is not None
        products = JacobianOperator.from_tape(r, leaf)._by_products()
        torch.testing.assert_close(found, products, rtol=1e-13, atol=1e-14)


def test_a_plan_is_made_once_and_taken_again(monkeypatch):
    y = _random(SAMPLES, N).requires_grad_()
    graph.jacobian_of_graph(torch.sinh(y @ W) - X, y)
    monkeypatch.setattr(graph, "_planned", lambda r, y: pytest.fail("the plan was known"))
    z = _random(3, N).requires_grad_()
    assert graph.jacobian_of_graph(torch.sinh(z @ V[:N]) - X[:3], z)[0] is not None


def test_summands_have_the_cotangent_of_the_sum():
    y = _random(SAMPLES, N).requires_grad_()
    for r in (
        y.sin() + X,
        X + y.sin(),
        y.sin() - X,
        X - y.sin(),
        torch.add(y, y.sin(), alpha=3),
        torch.sub(y, y, alpha=2),
    ):
        found, _ = graph.jacobian_of_graph(r, y)
        assert found is not None
        torch.testing.assert_close(found, JacobianOperator.from_tape(r, y)._by_products(), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("name", sorted(DENSE))
def test_in_a_backward_pass_j_is_right_or_left_to_vector_products(name):
    """There torch calls nodes that do not belong to the pass in vain: what they leave out must not be taken for zero."""
    y = _random(SAMPLES, N).requires_grad_()
    r = DENSE[name](y)
    operator = JacobianOperator.from_tape(r, y)
    expected, found = operator.materialise(), []
    z = torch.ones((), requires_grad=True)
    doubled = 2 * z
    doubled.register_hook(lambda g: found.append(operator.materialise()))
    torch.autograd.grad(doubled.sin(), z)  # unlike `backward()`, it needs the nodes on the way to z alone
    torch.testing.assert_close(found[0], expected, rtol=1e-13, atol=1e-14)
