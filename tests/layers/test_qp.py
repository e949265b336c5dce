"""QPLayer: planted problems, every mode of differentiation, awkward input, and the policy for failures."""

import copy
import pickle
import warnings
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

from implayer import ShapeError, SolveError, Status
from implayer.errors import (
    DegenerateWarning,
    DtypeError,
    InfeasibleError,
    NotConvexError,
    SingularJacobianError,
    UnboundedError,
)
from implayer.layers import qp_form
from implayer.layers.qp import QPLayer
from implayer.layers.qp_form import arranged
from implayer.solvers.qp import QPSolver
from implayer.verify import certify, check_layer
from implayer.verify.planted import NAMES, planted

INF, DOUBLE = float("inf"), torch.float64
SIZES = [(1, 10, 0, 10), (4, 10, 3, 0), (3, 12, 2, 8), (2, 30, 5, 30), (5, 3, 0, 0)]
METHODS = ["active-set", "interior-point", "conic"]


def leaves(case):
    return {name: value.clone().requires_grad_() for name, value in case.given.items()}


def worst(found, expected):
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12)) if expected.numel() else 0.0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", SIZES)
def test_planted_solutions_multipliers_and_six_gradients(size, method):
    case = planted(*size)
    x = leaves(case)
    solution = QPLayer(solver=QPSolver(method)).solve(*x.values())
    assert (solution.status == Status.CONVERGED).all() and solution.residual_norm.max() < 1e-12 * 1e2
    torch.testing.assert_close(solution.value, case.y, atol=1e-11, rtol=1e-11)
    torch.testing.assert_close(solution.aux["equality_multipliers"], case.nu, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(solution.aux["inequality_multipliers"], case.lam, atol=1e-10, rtol=1e-10)
    assert not solution.aux["redundant"].any()
    (case.weight * solution.value).sum().backward()
    for name in NAMES:
        found = x[name].grad if x[name].grad is not None else torch.zeros_like(x[name])
        assert worst(found, case.gradients[name]) < 1e-9, name


@pytest.mark.parametrize("method", METHODS)
def test_single_precision_in_and_out(method):
    case = planted(3, 12, 2, 8, dtype=torch.float32)
    x = leaves(case)
    y = QPLayer(solver=QPSolver(method))(*x.values())
    assert y.dtype == torch.float32
    (case.weight * y).sum().backward()
    for name in NAMES:
        assert x[name].grad.dtype == torch.float32 and worst(x[name].grad.double(), case.gradients[name]) < 1e-5, name


@given(seed=st.integers(0, 10**6), n=st.integers(1, 6), m=st.integers(0, 2), p=st.integers(0, 6))
def test_any_strictly_convex_problem_agrees_with_central_differences(seed, n, m, p):
    case = planted(2, n, min(m, n - 1), p, seed=seed)
    layer, x = QPLayer(), leaves(case)
    (case.weight * layer(*x.values())).sum().backward()
    for name in NAMES:
        if not x[name].numel():
            continue
        direction = torch.randn(x[name].shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        if name == "Q":
            direction = direction + direction.mT

        def moved(step, name=name, direction=direction):
            shifted = {**case.given, name: case.given[name] + step * direction}
            return (case.weight * layer(*shifted.values())).sum()

        slope = (moved(1e-6) - moved(-1e-6)) / 2e-6
        slopes = x[name].grad
        assert slopes is not None
        found = (slopes * direction).sum()
        torch.testing.assert_close(found, slope, atol=2e-5 * (1 + float(slope.abs())), rtol=1e-4)


def problem(n=5, m=1, p=3, seed=3):
    """One sample, as functions of q and Q need it."""
    case = planted(1, n, m, p, seed=seed)
    return {name: value[0] for name, value in case.given.items()}, case.weight[0]


def test_first_and_second_order_in_every_mode():
    x, w = problem()
    layer, rest = QPLayer(), [x[name] for name in NAMES[2:]]

    def f(Q, q):
        y = layer(Q, q, *rest)
        return (w * y).sum() + (y**2).sum()

    by_q = lambda q: f(x["Q"], q)  # noqa: E731
    slope = grad(by_q)(x["q"])
    torch.testing.assert_close(jacfwd(by_q)(x["q"]), slope, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(jvp(by_q, (x["q"],), (w,))[1], (slope * w).sum(), atol=1e-12, rtol=1e-12)
    second = hessian(by_q)(x["q"])
    expected = torch.stack(
        [(grad(by_q)(x["q"] + 1e-5 * e) - grad(by_q)(x["q"] - 1e-5 * e)) / 2e-5 for e in torch.eye(5)]
    )
    torch.testing.assert_close(second, expected, atol=1e-8, rtol=1e-7)
    assert second.abs().max() > 1e-3

    def size(Q):  # second order in Q, where the KKT system is bilinear
        return (grad(f)(Q, x["q"]) ** 2).sum()

    direction = torch.ones(5, 5)
    found = (grad(size)(x["Q"]) * direction).sum()
    slope = (size(x["Q"] + 1e-5 * direction) - size(x["Q"] - 1e-5 * direction)) / 2e-5
    torch.testing.assert_close(found, slope, atol=1e-9, rtol=1e-6)
    assert found.abs() > 1e-6
    q = x["q"].clone().requires_grad_()
    (first,) = torch.autograd.grad(by_q(q), q, create_graph=True)
    (eager,) = torch.autograd.grad(first[0], q)
    torch.testing.assert_close(eager, second[0], atol=1e-11, rtol=1e-11)


def test_vmap_over_any_argument_equals_a_loop_and_a_batch():
    case = planted(4, 5, 1, 3, seed=5)
    layer, (Q, q, A, b, G, h) = QPLayer(), case.given.values()
    expected = layer(Q, q, A, b, G, h)
    torch.testing.assert_close(vmap(layer)(Q, q, A, b, G, h), expected, atol=1e-12, rtol=1e-12)
    shared = vmap(lambda q, h: layer(Q[0], q, A[0], b[0], G[0], h))(q, h)
    torch.testing.assert_close(shared, layer(Q[0], q, A[0], b[0], G[0], h), atol=1e-12, rtol=1e-12)
    per_sample = vmap(grad(lambda q, i: (layer(Q[0], q, A[0], b[0], G[0], h[0]) * i).sum()), in_dims=(0, 0))(q, q)
    loop = [grad(lambda v, i: (layer(Q[0], v, A[0], b[0], G[0], h[0]) * i).sum())(v, v) for v in q]
    torch.testing.assert_close(per_sample, torch.stack(loop), atol=1e-12, rtol=1e-12)
    nested = vmap(vmap(lambda q: layer(Q[0], q, A[0], b[0], G[0], h[0])))(q.reshape(2, 2, 5))
    torch.testing.assert_close(nested.reshape(4, 5), layer(Q[0], q, A[0], b[0], G[0], h[0]), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(jacrev(layer, 1)(Q[0], q[0], A[0], b[0], G[0], h[0]),
                               jacfwd(layer, 1)(Q[0], q[0], A[0], b[0], G[0], h[0]), atol=1e-12, rtol=1e-12)  # fmt: skip


@pytest.mark.parametrize("shared", NAMES)
def test_a_shared_argument_gets_the_sum_of_the_gradients(shared):
    case = planted(3, 5, 1, 3, seed=7)
    layer, total = QPLayer(), 0
    mixed = {name: value[0] if name == shared else value for name, value in case.given.items()}
    mixed["h"] = mixed["h"] + 1  # feasible with every choice of the others
    leaf = mixed[shared].clone().requires_grad_()
    (layer(*{**mixed, shared: leaf}.values()) * case.weight).sum().backward()
    for i in range(3):
        single = {name: value if name == shared else value[i] for name, value in mixed.items()}
        alone = leaf.detach().clone().requires_grad_()
        (layer(*{**single, shared: alone}.values()) * case.weight[i]).sum().backward()
        total = total + alone.grad
    torch.testing.assert_close(leaf.grad, total, atol=1e-10, rtol=1e-9)


def test_two_sided_bounds_with_infinities():
    G = torch.eye(3)
    l, h = torch.tensor([-1.0, -INF, -1.0]), torch.tensor([1.0, 2.0, INF])  # noqa: E741
    q = torch.tensor([[-3.0, -1.0, 3.0], [3.0, -5.0, -9.0]], requires_grad=True)
    lower, upper = l.clone().requires_grad_(), h.clone().requires_grad_()
    solution = QPLayer().solve(torch.eye(3), q, G=G, h=upper, l=lower)
    torch.testing.assert_close(solution.value, torch.tensor([[1.0, 1.0, -1.0], [-1.0, 2.0, 9.0]]))
    torch.testing.assert_close(
        solution.aux["inequality_multipliers"], torch.tensor([[2.0, 0.0, -2.0], [-2.0, 3.0, 0.0]])
    )
    solution.value.sum().backward()
    torch.testing.assert_close(upper.grad, torch.tensor([1.0, 1.0, 0.0]))
    torch.testing.assert_close(lower.grad, torch.tensor([1.0, 0.0, 1.0]))
    torch.testing.assert_close(q.grad, torch.tensor([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0]]))
    only = QPLayer()(torch.eye(3), q[0], G=G, l=l)
    torch.testing.assert_close(only, torch.tensor([3.0, 1.0, -1.0]))


def test_absent_blocks_and_batch_axes():
    Q, q = torch.eye(2), torch.tensor([1.0, 2.0])
    layer = QPLayer()
    torch.testing.assert_close(layer(Q, q), -q)
    torch.testing.assert_close(layer(Q, q, torch.zeros(0, 2), torch.zeros(0), torch.zeros(0, 2), torch.zeros(0)), -q)
    torch.testing.assert_close(layer(Q, q, torch.ones(1, 2), torch.ones(1)), torch.tensor([1.0, 0.0]))
    assert layer(Q, torch.randn(2, 3, 2), G=torch.eye(2), h=torch.ones(3, 2)[None].expand(2, 3, 2)).shape == (2, 3, 2)
    empty = layer(Q, torch.zeros(0, 2, requires_grad=True), G=torch.eye(2), h=torch.ones(2))
    assert empty.shape == (0, 2)
    empty.sum().backward()


def test_sparse_arguments():
    G = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).to_sparse().requires_grad_()
    q = torch.tensor([-3.0, -0.5])
    y = QPLayer()(torch.eye(2).to_sparse(), q, G=G, h=torch.ones(2))
    torch.testing.assert_close(y, torch.tensor([1.0, 0.5]))
    y.sum().backward()
    assert G.grad is not None


AWKWARD = {  # name: (arguments, y, dy/dq where it is unique)
    "linear program": (dict(Q=[[0, 0], [0, 0]], q=[1, 0.5], G="box", h=[1, 1, 1, 1]), [-1, -1], [[0, 0], [0, 0]]),
    "singular Q": (dict(Q=[[1, 1], [1, 1]], q=[-1, -0.5], G="box", h=[1, 1, 1, 1]), [1, -0.5], [[0, 0], [0, -1]]),
    "unsymmetric Q": (dict(Q=[[2, 1], [0, 2]], q=[-1, -1], G="box", h=[5, 5, 5, 5]), [0.4, 0.4], None),
    "redundant equations": (
        dict(Q=[[1, 0], [0, 1]], q=[0, 0], A=[[1, 1], [2, 2]], b=[1, 2], G=[[0, 1]], h=[5]), [0.5, 0.5],
        [[-0.5, 0.5], [0.5, -0.5]],
    ),
    "a row twice": (dict(Q=[[1, 0], [0, 1]], q=[-1, -1], G=[[1, 0], [1, 0]], h=[0, 0]), [0, 1], [[0, 0], [0, -1]]),
    "an equation as inequality, too": (
        dict(Q=[[1, 0], [0, 1]], q=[0, 0], A=[[1, 0]], b=[1], G=[[1, 0]], h=[1]), [1, 0], [[0, 0], [0, -1]],
    ),
    "more active rows than unknowns": (
        dict(Q=[[1, 0], [0, 1]], q=[-3, -3], G=[[1, 0], [0, 1], [1, 1]], h=[1, 1, 2]), [1, 1], [[0, 0], [0, 0]],
    ),
    "an equation as two inequalities": (
        dict(Q=[[1, 0], [0, 1]], q=[0, 0], G=[[1, 1], [-1, -1]], h=[1, -1]), [0.5, 0.5], [[-0.5, 0.5], [0.5, -0.5]],
    ),
    "an infinite bound": (dict(Q=[[1, 0], [0, 1]], q=[-1, -2], G=[[1, 0], [0, 1]], h=[INF, 1]), [1, 1], [[-1, 0], [0, 0]]),
    "large numbers": (
        dict(Q=[[1, 0], [0, 1]], q=[-1e6, -2e6], G=[[1, 0], [0, 1]], h=[5e5, 5e6]), [5e5, 2e6], [[0, 0], [0, -1]],
    ),
    "small numbers": (
        dict(Q=[[1, 0], [0, 1]], q=[-1e-6, -2e-6], G=[[1, 0], [0, 1]], h=[5e-7, 5e-6]), [5e-7, 2e-6], [[0, 0], [0, -1]],
    ),
    "condition 1e8": (
        dict(Q=[[1e-4, 0], [0, 1e4]], q=[-1, -1], G=[[1, 0], [0, 1]], h=[2e4, 1]), [1e4, 1e-4], [[-1e4, 0], [0, -1e-4]],
    ),
}  # fmt: skip


def as_tensors(given):
    box = [[1, 0], [0, 1], [-1, 0], [0, -1]]
    return {name: torch.tensor(box if value == "box" else value, dtype=torch.float64) for name, value in given.items()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_input(name, method):
    given, y, slope = AWKWARD[name]
    x = as_tensors(given)
    layer = QPLayer(solver=QPSolver(method))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateWarning)
        solution = layer.solve(**x)
        y = torch.tensor(y, dtype=torch.float64)
        torch.testing.assert_close(solution.value, y, atol=1e-9 * float(y.abs().max()), rtol=1e-9)
        if slope is not None:
            found = torch.autograd.functional.jacobian(lambda q: layer(**{**x, "q": q}), x["q"])
            expected = torch.tensor(slope, dtype=torch.float64)
            torch.testing.assert_close(found, expected, atol=1e-9 * max(1, float(expected.abs().max())), rtol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_redundant_rows_are_told_and_have_the_least_multipliers(method):
    x = as_tensors(AWKWARD["a row twice"][0])
    with pytest.warns(DegenerateWarning):
        solution = QPLayer(solver=QPSolver(method)).solve(**x)
    assert solution.status == Status.DEGENERATE and solution.aux["redundant"] and solution.converged
    torch.testing.assert_close(solution.aux["inequality_multipliers"], torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize("method", METHODS)
def test_a_weakly_active_row_is_told_and_counts_as_inactive(method):
    q = torch.tensor([0.0, -1.0])
    layer = QPLayer(solver=QPSolver(method))
    with pytest.warns(DegenerateWarning):
        solution = layer.solve(torch.eye(2), q, G=torch.tensor([[1.0, 0.0]]), h=torch.zeros(1))
        assert solution.status == Status.DEGENERATE and not solution.aux["redundant"]
        slope = torch.autograd.functional.jacobian(
            lambda q: layer(torch.eye(2), q, G=torch.tensor([[1.0, 0.0]]), h=torch.zeros(1)), q
        )
    torch.testing.assert_close(solution.value, torch.tensor([0.0, 1.0]), atol=1e-9, rtol=0)
    torch.testing.assert_close(slope, -torch.eye(2), atol=1e-9, rtol=0)


FAILING = {
    "infeasible inequalities": (dict(G=[[1, 0], [-1, 0]], h=[-1, -1]), Status.INFEASIBLE, InfeasibleError),
    "infeasible equations": (dict(A=[[1, 0], [1, 0]], b=[0, 1], G=[[0, 1]], h=[5]), Status.INFEASIBLE, InfeasibleError),
    "crossed bounds": (dict(G=[[1, 0]], h=[-1], l=[1]), Status.INFEASIBLE, InfeasibleError),
    "unbounded": (dict(Q=[[1, 0], [0, 0]], q=[0, 1], G=[[0, 1]], h=[1]), Status.UNBOUNDED, UnboundedError),
    "NaN": (dict(q=[float("nan"), 0], G=[[0, 1]], h=[1]), Status.NONFINITE, SolveError),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FAILING)
def test_failures_have_a_status_and_raise(name, method):
    given, status, error = FAILING[name]
    x = as_tensors({"Q": [[1, 0], [0, 1]], "q": [0, 0], **given})
    with pytest.raises(error) as caught:
        QPLayer(solver=QPSolver(method)).solve(**x)
    assert caught.value.solution.status == status


@pytest.mark.parametrize("policy", ["warn", "nan", "ignore"])
def test_one_infeasible_sample_leaves_the_others_alone(policy):
    G, q = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([[-2.0, -1.0], [-1.0, -1.0], [0.2, -2.0]])
    h = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [0.3, 0.1]])
    shared = torch.eye(2).requires_grad_()
    layer = QPLayer(on_failure=policy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        solution = layer.solve(shared, q, G=G, h=h)
    assert solution.status.tolist() == [Status.CONVERGED, Status.INFEASIBLE, Status.CONVERGED]
    good = [0, 2]
    expected = QPLayer()(torch.eye(2), q[good], G=G, h=h[good])
    torch.testing.assert_close(solution.value[good], expected, atol=1e-12, rtol=1e-12)
    solution.value[good].sum().backward()
    alone = torch.eye(2).requires_grad_()
    QPLayer()(alone, q[good], G=G, h=h[good]).sum().backward()
    torch.testing.assert_close(shared.grad, alone.grad, atol=1e-12, rtol=1e-12)
    if policy == "nan":
        assert solution.value[1].isnan().all()


def test_a_matrix_that_is_not_positive_semidefinite_is_named():
    Q = torch.stack([torch.eye(2), torch.diag(torch.tensor([1.0, -1.0]))])
    for policy in ("raise", "ignore"):
        with pytest.raises(NotConvexError, match=r"`Q` of sample 1 .* least eigenvalue is -1"):
            QPLayer(on_failure=policy)(Q, torch.zeros(2, 2), G=torch.eye(2), h=torch.ones(2))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"h": torch.ones(3, dtype=DOUBLE)}, ShapeError, r"`h` has shape \(3,\); expected \(\*batch, 2\)"),
        ({"Q": torch.eye(3, dtype=DOUBLE)}, ShapeError, r"`Q` has shape \(3, 3\); expected \(\*batch, 2, 2\)"),
        ({"G": torch.ones(2, 3, dtype=DOUBLE)}, ShapeError, r"`G` has shape \(2, 3\); expected \(\*batch, 2, 2\)"),
        ({"G": torch.ones(2, dtype=DOUBLE)}, ShapeError, r"`G` has shape \(2,\); expected \(\*batch, rows, 2\)"),
        (
            {"q": torch.ones(4, 2, dtype=DOUBLE), "h": torch.ones(3, 2, dtype=DOUBLE)},
            ShapeError,
            r"`h` has batch axes \(3,\) but `q` has \(4,\)",
        ),
        ({"h": None}, ShapeError, "`G` is given without `h` and `l`"),
        ({"G": None}, ShapeError, "`h` is given without `G`"),
        ({"A": torch.ones(1, 2, dtype=DOUBLE)}, ShapeError, "`A` is given without `b`"),
        ({"q": torch.ones(2, dtype=torch.float32)}, DtypeError, "`Q` is torch.float64 but `q` is torch.float32"),
        ({"h": torch.ones(2, dtype=torch.int64)}, DtypeError, "`h` is torch.int64"),
    ],
)
def test_wrong_arguments_are_named(change, error, text):
    given = {"Q": torch.eye(2), "q": torch.zeros(2), "G": torch.eye(2), "h": torch.ones(2), **change}
    with pytest.raises(error, match=text):
        QPLayer()(**given)


def test_what_is_no_tensor_and_an_unknown_method_are_refused():  # past the type checks of the test run
    with pytest.raises(DtypeError, match="`h` is list; expected a floating-point tensor"):
        arranged({"Q": torch.eye(2), "q": torch.zeros(2), "G": torch.eye(2), "h": [1.0, 1.0]})
    with pytest.raises(ValueError, match="`method` is 'simplex'; expected one of 'auto'"):
        QPSolver.__post_init__(SimpleNamespace(method="simplex"))


def test_multipliers_are_differentiable():
    x, _ = problem(5, 1, 3)

    def total(h):
        aux = QPLayer().solve(x["Q"], x["q"], x["A"], x["b"], x["G"], h).aux
        return aux["inequality_multipliers"].sum() + 2 * aux["equality_multipliers"].sum()

    slope = torch.stack([(total(x["h"] + 1e-6 * e) - total(x["h"] - 1e-6 * e)) / 2e-6 for e in torch.eye(3)])
    torch.testing.assert_close(grad(total)(x["h"]), slope, atol=1e-7, rtol=1e-6)
    assert slope.abs().max() > 1e-3


def test_properties_of_every_layer():
    x, _ = problem(4, 1, 3)

    class InQ(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = QPLayer()

        def forward(self, q):
            return self.layer(x["Q"], q, x["A"], x["b"], x["G"], x["h"])

    check_layer(InQ(), x["q"].expand(2, 4).contiguous())


def test_a_certificate():
    case = planted(3, 6, 1, 4)
    layer = QPLayer()
    certificate = certify(layer.kkt, arranged(case.given)[0])
    assert certificate.valid.all() and (certificate.gradient_error_bound < 1e-9).all()


def test_copies():
    case = planted(2, 5, 1, 3)
    layer = QPLayer(on_failure="nan")
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(*case.given.values()), layer(*case.given.values()))


def test_every_eager_way_to_a_second_derivative():
    """A plain first derivative leaves the earlier chord steps out; whatever else follows must find them."""
    x, w = problem()
    layer, rest = QPLayer(), [x[name] for name in NAMES[1:]]
    step = torch.eye(5, dtype=DOUBLE) + 0.1
    f = lambda t: (w * layer(x["Q"] + t * step, *rest)).sum()  # noqa: E731  # y depends on y in the derivative for Q
    zero, one = torch.zeros((), dtype=DOUBLE), torch.ones((), dtype=DOUBLE)
    expected = (grad(f)(zero + 1e-5) - grad(f)(zero - 1e-5)) / 2e-5
    assert expected.abs() > 1e-3

    def agrees(found):
        torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-6)

    t = zero.clone().requires_grad_()
    value = f(t)
    (plain,) = torch.autograd.grad(value, t, retain_graph=True)  # plain first, on the same graph
    (first,) = torch.autograd.grad(value, t, create_graph=True)
    torch.testing.assert_close(plain, first, atol=1e-12, rtol=1e-12)
    agrees(torch.autograd.grad(first, t)[0])
    with forward_ad.dual_level():  # forward over reverse
        dual = forward_ad.make_dual(zero.clone().requires_grad_(), one)
        (slope,) = torch.autograd.grad(f(dual), dual)
        agrees(forward_ad.unpack_dual(slope).tangent)
    with forward_ad.dual_level():  # reverse over forward
        leaf = zero.clone().requires_grad_()
        tangent = forward_ad.unpack_dual(f(forward_ad.make_dual(leaf, one))).tangent
        agrees(torch.autograd.grad(tangent, leaf)[0])


def test_no_silent_derivative_where_the_solution_is_not_unique_or_its_inverse_is_not_at_hand():
    layer, q = QPLayer(), torch.tensor([-1.0, 0.0])
    flat = torch.diag(torch.tensor([1.0, 0.0]))  # any second entry is a minimiser
    with pytest.raises(SingularJacobianError):
        layer(flat, q.clone().requires_grad_())
    box = torch.cat([torch.eye(2), -torch.eye(2)])
    with pytest.raises(SingularJacobianError):
        layer(torch.zeros(2, 2), q.clone().requires_grad_(), G=box, h=torch.ones(4))
    with pytest.raises(SingularJacobianError):
        jacrev(lambda q: layer(torch.zeros(2, 2), q, G=box, h=torch.ones(4)))(q)


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("name", ["redundant equations", "a row twice", "more active rows than unknowns"])
def test_redundant_rows_under_every_transform(name, small, monkeypatch):
    """The inverse of the solver does not travel through transforms; the derivative of y is exact all the same."""
    monkeypatch.setattr(qp_form, "SMALL", 40 if small else 0)
    given, _, slope = AWKWARD[name]
    x, expected, layer = as_tensors(given), torch.tensor(slope, dtype=DOUBLE), QPLayer()
    y = lambda q: layer(**{**x, "q": q})  # noqa: E731
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateWarning)
        q, step = x["q"], torch.tensor([0.3, -0.7], dtype=DOUBLE)
        close = lambda found, wanted: torch.testing.assert_close(found, wanted, atol=1e-9, rtol=1e-9)  # noqa: E731
        close(jacrev(y)(q), expected)
        close(jacfwd(y)(q), expected)
        close(jvp(y, (q,), (step,))[1], expected @ step)
        close(vmap(grad(lambda q: (y(q) * step).sum()))(torch.stack([q, q])), (expected.T @ step).expand(2, 2))
        both = lambda q: layer.solve(**{**x, "q": q}).aux["redundant"]  # noqa: E731
        assert vmap(both)(torch.stack([q, q])).tolist() == [True, True]
