"""Eager derivatives are made when they are asked for: the same as by chord steps, with nothing run twice and nothing kept."""

import contextlib
import dataclasses
import gc
import weakref

import pytest
import torch

import implayer
from implayer import eager
from implayer.linear.lu import LUInverse
from implayer.on_demand import OnDemand

pytestmark = pytest.mark.filterwarnings("ignore:Using backward\\(\\) with create_graph=True")

W8 = 0.4 * torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
X8 = torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def root(w, **options):
    """y + tanh(W y) / 2 = x; F refers to W."""
    return implayer.ImplicitLayer(
        lambda x, y: y + 0.5 * torch.tanh(y @ w.mT) - x, implayer.Newton(), initial=torch.zeros_like, **options
    )


def expected(w, x, c):
    """Gradients of sum(c * y) by a dense adjoint at a y polished by plain iteration."""
    y = torch.zeros_like(x)
    for _ in range(500):
        y = x - 0.5 * torch.tanh(y @ w.mT)
    slope = 0.5 * (1 - torch.tanh(y @ w.mT) ** 2)
    jacobian = torch.eye(x.shape[-1], dtype=x.dtype) + slope.unsqueeze(-1) * w
    u = torch.linalg.solve(jacobian.mT, c.unsqueeze(-1)).squeeze(-1)
    return u, -(slope * u).mT @ y


def _qp(q):
    return implayer.QPLayer()(
        torch.eye(3, dtype=q.dtype), q, G=torch.ones(1, 3, dtype=q.dtype), h=torch.ones(1, dtype=q.dtype)
    )


def _matrix(v):
    m = torch.diag_embed(torch.arange(1.0, 4.0, dtype=v.dtype)) + 0.1 * v.unsqueeze(-1) * v.unsqueeze(-2)
    return 0.5 * (m + m.mT)


LAYERS = {
    "root": lambda x: root(W8[:3, :3])(x),
    "picard": lambda x: implayer.FixedPointLayer(lambda x, y: 0.3 * torch.tanh(y) + x, implayer.Picard())(
        x, torch.zeros_like(x)
    ),
    "qp": _qp,
    "eigen": lambda x: implayer.EigenLayer(k=1)(_matrix(x))[0],
    "level set": lambda x: implayer.LevelSetLayer(ndim=2)(x - 0.1).vertices,
}


@pytest.mark.parametrize("late", [False, True], ids=["hooked before", "hooked between"])
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_a_hook_of_an_input_runs_once(name, graph, late):
    """It sees the sum of all cotangents, also where a derivative inside of the derivative passes the input."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 3, dtype=torch.float64, generator=generator).requires_grad_()
    (plain,) = torch.autograd.grad((LAYERS[name](x) ** 2).sum(), x)
    calls = []

    def double(g):
        calls.append(1)
        return 2 * g

    if not late:
        x.register_hook(double)
    loss = (LAYERS[name](x) ** 2).sum()
    if late:
        x.register_hook(double)
    loss.backward(create_graph=graph)
    assert len(calls) == 1
    torch.testing.assert_close(x.grad.detach(), 2 * plain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("late", [False, True], ids=["hooked before", "hooked between"])
@pytest.mark.parametrize("graph", [False, True])
def test_a_hook_of_a_tensor_in_a_closure_runs_once(graph, late):
    w, c = W8.clone().requires_grad_(), torch.ones_like(X8)
    calls = []
    if not late:
        w.register_hook(lambda g: calls.append(1) or 3 * g)
    loss = (c * root(w)(X8)).sum()
    if late:
        w.register_hook(lambda g: calls.append(1) or 3 * g)
    loss.backward(create_graph=graph)
    assert len(calls) == 1
    torch.testing.assert_close(w.grad.detach(), 3 * expected(W8, X8, c)[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n", [8, 24])
def test_results_of_operations_in_a_closure_get_their_gradient(n):
    """F refers to W = 2 V, made outside: asked for W itself, for V, and for both through a hook that keeps the gradient."""
    generator = torch.Generator().manual_seed(2)
    v = (0.2 * torch.randn(n, n, dtype=torch.float64, generator=generator) / n**0.5).requires_grad_()
    x = torch.randn(4, n, dtype=torch.float64, generator=generator).requires_grad_()
    w = 2 * v
    w.retain_grad()
    c = torch.ones_like(x)
    gx, gw = expected(w.detach(), x.detach(), c)
    y = root(w)(x)
    for found, right in zip(torch.autograd.grad((c * y).sum(), (x, w), retain_graph=True), (gx, gw), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-13)
    w.grad = None  # where `torch.autograd.grad` has left it, too
    (c * y).sum().backward()
    torch.testing.assert_close(w.grad, gw, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(v.grad, 2 * gw, rtol=1e-12, atol=1e-13)


def test_an_input_that_F_refers_to_as_well():
    x = X8.clone().requires_grad_()
    layer = implayer.ImplicitLayer(lambda a, y: y - a * x, implayer.Newton(), initial=torch.zeros_like)
    (g,) = torch.autograd.grad(layer(x).sum(), x)
    torch.testing.assert_close(g, 2 * X8)


def test_derivatives_of_all_kinds_in_turn():
    """A first derivative, again, one with a graph, its own derivative, and the first once more."""
    w, x = W8.clone().requires_grad_(), X8.clone().requires_grad_()
    y = root(w)(x)
    c = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    right = expected(W8, X8, c)
    for graph in (False, False, True, False):
        found = torch.autograd.grad((c * y).sum(), (x, w), retain_graph=True, create_graph=graph)
        for one, other in zip(found, right, strict=True):
            torch.testing.assert_close(one.detach(), other, rtol=1e-9, atol=1e-12)
        if graph:
            (second,) = torch.autograd.grad((found[1] ** 2).sum(), x, retain_graph=True)
            step = 1e-5 * torch.ones_like(x)
            ahead, behind = ((expected(W8, X8 + s, c)[1] ** 2).sum() for s in (step, -step))
            assert float((second * step).sum()) == pytest.approx(float(ahead - behind) / 2, rel=1e-6)


def test_the_graph_is_set_free():
    """As of any operation: a second derivative without `retain_graph` is refused, and no memory waits for the collector."""
    tapes = []

    def F(x, y):
        r = y + 0.5 * torch.tanh(y @ W8.mT) - x
        tapes.append(weakref.ref(r))
        return r

    x = X8.clone().requires_grad_()
    gc.collect()
    gc.disable()
    try:
        y = implayer.ImplicitLayer(F, implayer.Newton(), initial=torch.zeros_like)(x)
        loss = y.sum()
        assert any(tape() is not None for tape in tapes)
        loss.backward()
        assert all(tape() is None for tape in tapes)
    finally:
        gc.enable()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_an_input_changed_in_between_is_refused():
    x = X8.clone().requires_grad_()
    z = x * 1
    loss = root(W8)(z).sum()
    z.mul_(2)
    with pytest.raises(RuntimeError, match=r"in-?place"):
        loss.backward()


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("n", [8, 24])
def test_an_output_may_be_changed_in_place(n, graph):
    generator = torch.Generator().manual_seed(7)
    w = (0.4 * torch.randn(n, n, dtype=torch.float64, generator=generator) / n**0.5).requires_grad_()
    x = torch.randn(3, n, dtype=torch.float64, generator=generator).requires_grad_()
    y = root(w)(x)
    y.mul_(3).add_(1)
    found = torch.autograd.grad(y.sum(), (x, w), create_graph=graph)
    right = expected(w.detach(), x.detach(), torch.full_like(x.detach(), 3.0))
    for one, other in zip(found, right, strict=True):
        torch.testing.assert_close(one.detach(), other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("wrong", [0.9, 3.0, float("nan")])
def test_a_poor_factor_costs_time_and_no_digits(monkeypatch, wrong):
    """The solver's factor is refined by products with the live J, and replaced where that does not contract."""
    kept = eager.well_conditioned
    used = []

    def spoiled(lu, pivots, matrix):
        inverse = kept(lu, pivots, matrix)
        used.append(inverse)
        return None if inverse is None else LUInverse(lu * wrong, pivots, matrix, inverse.singular, inverse.condition)

    monkeypatch.setattr(eager, "well_conditioned", spoiled)
    monkeypatch.setattr(eager, "_polished", lambda outcome: _unpolished(outcome))
    generator = torch.Generator().manual_seed(3)
    w = (0.1 * torch.randn(24, 24, dtype=torch.float64, generator=generator)).requires_grad_()
    x = torch.randn(6, 24, dtype=torch.float64, generator=generator).requires_grad_()
    c = torch.randn(6, 24, dtype=torch.float64, generator=generator)
    found = torch.autograd.grad((c * root(w)(x)).sum(), (x, w))
    assert used and used[0] is not None
    for one, other in zip(found, expected(w.detach(), x.detach(), c), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


def _unpolished(outcome):
    """The spoiled factor for the derivative alone; a copy of y passes for a polished one."""
    factored = outcome.factored
    if factored is None:
        return outcome, None
    close = eager.well_conditioned(factored.lu, factored.pivots, factored.matrix)
    return dataclasses.replace(outcome, y=factored.y.clone(), factored=None), close


def test_one_sample_of_nan_leaves_the_gradients_of_the_others():
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(6, 24, dtype=torch.float64, generator=generator).requires_grad_()
    w = 0.1 * torch.randn(24, 24, dtype=torch.float64, generator=generator)
    c = torch.ones_like(x)
    right = expected(w, x.detach(), c)[0]
    c[2] = torch.nan
    (g,) = torch.autograd.grad((c * root(w)(x)).sum(), x)
    keep = torch.arange(6) != 2
    torch.testing.assert_close(g[keep], right[keep], rtol=1e-9, atol=1e-12)
    assert bool(g[2].isnan().all())


@pytest.mark.parametrize("n", [8, 24])
def test_values_do_not_depend_on_the_company(n):
    """Easy, hard and solved samples together and alone: the same values, steps and gradients."""
    generator = torch.Generator().manual_seed(5)
    w = 0.3 * torch.randn(n, n, dtype=torch.float64, generator=generator) / n**0.5
    x = (
        torch.randn(7, n, dtype=torch.float64, generator=generator)
        * torch.tensor([1e-9, 1e-3, 1, 1, 3, 30, 0.0])[:, None]
    )
    x.requires_grad_()
    layer = root(w)
    together = layer.solve(x)
    (g,) = torch.autograd.grad(together.value.sum(), x)
    for i in range(len(x)):
        alone = layer.solve(x[i : i + 1])
        torch.testing.assert_close(alone.value[0], together.value[i], rtol=1e-11, atol=1e-13)
        assert int(alone.steps[0]) == int(together.steps[i])
        (one,) = torch.autograd.grad(alone.value.sum(), x)
        torch.testing.assert_close(one[i], g[i], rtol=1e-10, atol=1e-12)


def test_a_failing_sample_is_told_as_by_the_solver_alone():
    """Where one sample has no root, the others come out as they do without it."""
    x = torch.randn(3, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(6)).abs() + 1
    x[1, 0] = -1.0  # y^2 = -1
    x.requires_grad_()
    layer = implayer.ImplicitLayer(lambda x, y: y**2 - x, implayer.Newton(), initial=torch.ones_like, on_failure="nan")
    solution = layer.solve(x)
    assert [implayer.Status(int(s)) for s in solution.status] == [
        implayer.Status.CONVERGED, implayer.Status.MAX_STEPS, implayer.Status.CONVERGED,
    ]  # fmt: skip
    (g,) = torch.autograd.grad(solution.value.nan_to_num(0.0).sum(), x)
    torch.testing.assert_close(g[[0, 2]], 0.5 / x.detach()[[0, 2]].sqrt(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("policy", ["raise", "warn", "nan", "ignore"])
def test_a_jacobian_that_turns_out_singular_in_the_backward_pass(monkeypatch, policy):
    """Found only once the solver's factor does not serve: the policy of the layer holds then, for that sample alone."""
    kept, fresh = eager.well_conditioned, OnDemand._fresh

    def spoiled(lu, pivots, matrix):
        inverse = kept(lu, pivots, matrix)
        return None if inverse is None else LUInverse(3 * lu, pivots, matrix, inverse.singular, inverse.condition)

    def singular(self):
        inverse = fresh(self)
        return dataclasses.replace(inverse, singular=torch.arange(len(inverse.matrix)) == 1)

    monkeypatch.setattr(eager, "well_conditioned", spoiled)
    monkeypatch.setattr(eager, "_polished", _unpolished)
    monkeypatch.setattr(OnDemand, "_fresh", singular)
    generator = torch.Generator().manual_seed(8)
    w = 0.3 * torch.randn(20, 20, dtype=torch.float64, generator=generator) / 20**0.5
    x = torch.randn(3, 20, dtype=torch.float64, generator=generator).requires_grad_()
    loss = root(w, on_failure=policy)(x).sum()
    if policy == "raise":
        with pytest.raises(implayer.SingularJacobianError):
            loss.backward()
        return
    with pytest.warns(implayer.SolveWarning) if policy == "warn" else contextlib.nullcontext():
        (g,) = torch.autograd.grad(loss, x)
    right = expected(w, x.detach(), torch.ones(3, 20, dtype=torch.float64))[0]
    torch.testing.assert_close(g[[0, 2]], right[[0, 2]], rtol=1e-9, atol=1e-11)
    assert bool(g[1].isnan().all()) if policy == "nan" else not g[1].any()
