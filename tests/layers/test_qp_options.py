"""QPLayer: the warm start, smoothing, the direct way, and the signature that `forward` shares with `solve`."""

from inspect import signature

import pytest
import torch
from torch.func import jacrev, vmap

from implayer import ImplicitAdjoint, ImplicitLayer, Picard, ShapeError, SingularLayer, Status
from implayer.errors import InfeasibleError, SolveError, SolveWarning
from implayer.layers.qp import QPLayer
from implayer.solvers.qp import QPSolver
from implayer.verify.planted import planted

DOUBLE = torch.float64


@pytest.mark.parametrize("size", [(1, 10, 0, 10), (3, 12, 2, 20), (12, 30, 4, 40)])
def test_a_warm_start_saves_steps_and_changes_nothing(size):
    case, layer = planted(*size), QPLayer()
    first = layer.solve(*case.given.values())
    near = {**case.given, "q": 1.001 * case.given["q"], "h": case.given["h"] + 1e-4}
    cold = layer.solve(*near.values())
    alone = torch.full((size[1],), 1e3, dtype=DOUBLE)
    for start, saves in ((first, True), (first.value, None), (-100 * first.value, None), (alone, None)):
        x = {name: value.clone().requires_grad_() for name, value in near.items()}
        warm = layer.solve(*x.values(), y0=start)
        torch.testing.assert_close(warm.value, cold.value, atol=1e-11, rtol=1e-11)
        lam = "inequality_multipliers"
        torch.testing.assert_close(warm.aux[lam], cold.aux[lam], atol=1e-10, rtol=1e-10)
        assert (warm.status == Status.CONVERGED).all()
        if saves:
            assert (2 * warm.steps <= cold.steps).all()
        (slope,) = torch.autograd.grad(warm.value.sum(), x["q"])
        leaf = near["q"].clone().requires_grad_()
        (expected,) = torch.autograd.grad(layer(**{**near, "q": leaf}).sum(), leaf)
        torch.testing.assert_close(slope, expected, atol=1e-10, rtol=1e-10)


def test_a_warm_start_under_vmap_and_one_that_does_not_fit():
    case, layer = planted(4, 6, 1, 5), QPLayer()
    Q, q, A, b, G, h = case.given.values()
    start = layer(Q, q, A, b, G, h)
    found = vmap(lambda *given: layer(*given[:-1], y0=given[-1]))(Q, q, A, b, G, h, start)
    torch.testing.assert_close(found, start, atol=1e-12, rtol=1e-12)
    with pytest.raises(ShapeError, match=r"`y0` holds \(5,\) for the 6 y; expected \(4, 6\)"):
        layer(Q, q, A, b, G, h, y0=start[0, :5])


def test_smoothing_makes_a_linear_program_differentiable():
    G, h = torch.cat([torch.eye(2), -torch.eye(2), torch.ones(1, 2)]), torch.tensor([1.0, 1.0, 0.0, 0.0, 1.5])
    cost, smoothing = torch.tensor([-1.0, -0.9]), 0.5
    program = lambda q, s: QPLayer(smoothing=s)(torch.zeros(2, 2), q, G=G, h=h)  # noqa: E731
    exact, smooth = program(cost, 0.0), program(cost, smoothing)
    found = jacrev(lambda q: program(q, smoothing))(cost)
    step = 1e-6 * torch.eye(2)
    slopes = torch.stack([(program(cost + e, smoothing) - program(cost - e, smoothing)) / 2e-6 for e in step], -1)
    torch.testing.assert_close(found, slopes, atol=1e-8, rtol=1e-8)
    assert found.abs().max() > 0.5 and (jacrev(lambda q: program(q, 0.0))(cost) == 0).all()
    assert (cost * (smooth - exact)).sum() <= smoothing / 2 * (exact**2).sum()
    flat = program(torch.tensor([-1.0, -1.0]), 1e-3)  # of all minimisers the shortest
    torch.testing.assert_close(flat, torch.tensor([0.75, 0.75]))
    with pytest.raises(ValueError, match="`smoothing` is -1"):
        QPLayer(smoothing=-1.0)


def test_forward_has_the_arguments_of_solve():
    forward, solve = signature(QPLayer.forward), signature(QPLayer.solve)
    assert list(forward.parameters.values()) == list(solve.parameters.values())
    assert forward.return_annotation is torch.Tensor and "minimiser" in (QPLayer.forward.__doc__ or "")


@pytest.mark.parametrize("shape", [(), (3,), (2, 2), (12,)], ids=str)
@pytest.mark.parametrize("shared", ["", "Q", "AG", "qbhl"])
@pytest.mark.parametrize("n", [6, 30])
def test_the_direct_way_is_the_general_one(shape: tuple[int, ...], shared: str, n: int):
    """Without an adjoint of the user the first derivative is made on numbers, by a formula of its own."""
    cores = {"Q": (n, n), "q": (n,), "A": (2, n), "b": (2,), "G": (n, n), "h": (n,), "l": (n,)}
    x = {name: torch.randn(*(() if name in shared else shape), *core) for name, core in cores.items()}
    x["Q"] = x["Q"] @ x["Q"].mT + torch.eye(n)
    x["h"], x["l"] = 0.02 + 0.1 * x["h"].abs(), -0.02 - 0.1 * x["l"].abs()
    x["q"] = 9 * x["q"]
    x["b"] = 0.01 * x["b"]
    leaves = {name: value.requires_grad_() for name, value in x.items()}
    found = []
    for layer in (QPLayer(smoothing=0.1), QPLayer(smoothing=0.1, adjoint=ImplicitAdjoint())):
        Q, q, A, b, G, h, low = leaves.values()
        solution = layer.solve(Q, q, A, b, G, h, l=low)
        lam = solution.aux["inequality_multipliers"]
        assert bool((lam != 0).any())
        loss = solution.value.sin().sum() + (lam * torch.arange(n)).sum() + solution.aux["equality_multipliers"].sum()
        only = torch.autograd.grad(lam.sum(), leaves["h"], retain_graph=True)
        found.append((solution.value.detach(), *torch.autograd.grad(loss, list(leaves.values())), *only))
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other)


def test_what_was_found_is_not_looked_for_again(monkeypatch: pytest.MonkeyPatch):
    """Where there is something to report, the layer judges the answer that is there."""
    count, call = [], QPSolver.__call__
    monkeypatch.setattr(QPSolver, "__call__", lambda self, problem: (count.append(1), call(self, problem))[1])
    twice = torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # one row, two times
    solution = QPLayer(on_failure="ignore").solve(
        torch.eye(2), -torch.ones(2).requires_grad_(), G=twice, h=torch.zeros(2)
    )
    assert solution.status == Status.DEGENERATE and len(count) == 1


def test_a_solution_may_be_changed_in_place():
    q = torch.tensor([-1.0, -2.0], requires_grad=True)
    y = QPLayer()(torch.eye(2), q, G=torch.eye(2), h=torch.tensor([5.0, 1.0]))
    y.mul_(3)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), q)[0], torch.tensor([-3.0, 0.0]))


# ------------------------------------------------------------------------------------------------------- wrong inputs
@pytest.mark.parametrize("bounds", [{"h": -torch.inf}, {"h": 1.0, "l": 2.0}, {"h": 1.0, "l": torch.inf}])
@pytest.mark.parametrize("n", [3, 60, 300])  # small, dense, sparse
def test_bounds_that_leave_no_value_are_infeasible(n, bounds):
    eye = torch.eye(n).to_sparse() if n == 300 else torch.eye(n)
    rows = {name: torch.full((n,), value) for name, value in bounds.items()}
    with pytest.raises(InfeasibleError):
        QPLayer()(eye, torch.ones(n), G=eye, **rows)


@pytest.mark.parametrize("name", ["Q", "q", "A", "b", "G", "h", "l"])
@pytest.mark.parametrize("n", [3, 60])
def test_a_nan_is_named_as_the_argument_that_has_it(n, name):
    given = {"Q": torch.eye(n), "q": torch.ones(n), "A": torch.eye(n)[:1], "b": torch.ones(1)}
    given |= {"G": torch.eye(n), "h": torch.full((n,), torch.inf), "l": torch.full((n,), -torch.inf)}
    given[name] = given[name].clone()
    given[name][0] = torch.nan
    with pytest.raises(SolveError, match=rf"First cause: `{name}` is nan at index \[0"):
        QPLayer()(**given)


def test_warnings_and_layers_around_it_use_the_words_of_the_caller_too():
    q, eye = torch.tensor([torch.nan, 1.0]), torch.eye(2)
    with pytest.warns(SolveWarning, match=r"First cause: `q` is nan at index \[0\]\. Check the arguments"):
        QPLayer(on_failure="warn")(eye, q)
    with pytest.raises(SolveError, match=r"First cause: `M` is nan at index \[1, 0\]"):
        SingularLayer()(torch.tensor([[1.0, 0.0], [torch.nan, 1.0]]))
    layer = ImplicitLayer(lambda x, y: y - QPLayer(on_failure="nan")(eye, x), Picard())
    with pytest.raises(SolveError, match="First cause: `x` is nan"):  # the words of one layer do not reach another
        layer(q, torch.zeros(2))


def test_products_of_finite_arguments_that_are_not():
    with pytest.raises(SolveError, match=r"The arguments are finite, but products of them are not\. Scale the problem"):
        QPLayer()(1e308 * torch.eye(2), 1e308 * torch.ones(2), G=1e308 * torch.eye(2), h=1e308 * torch.ones(2))


def test_a_nan_in_a_sparse_matrix_is_named():
    eye = torch.eye(300)
    with pytest.raises(SolveError, match=r"First cause: `Q` is nan at index \[0, 0\]"):
        QPLayer()((eye * torch.nan).to_sparse(), torch.ones(300))


def test_a_smoothing_that_is_no_number_is_refused():
    for smoothing in (float("nan"), float("inf"), -1.0):
        with pytest.raises(ValueError, match="`smoothing`"):
            QPLayer(smoothing=smoothing)
