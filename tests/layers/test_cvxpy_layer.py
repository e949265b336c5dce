"""CvxpyLayer: closed forms, finite differences, every mode of differentiation, batches, failures, errors."""

import copy
import gc
import pickle
import warnings

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, vmap

from implayer.adjoints import ImplicitAdjoint
from implayer.errors import (
    DegenerateWarning,
    DtypeError,
    ImplayerError,
    InfeasibleError,
    NotConvexError,
    ShapeError,
    SingularJacobianError,
    SolveError,
    UnboundedError,
)
from implayer.layers.cvxpy_layer import CvxpyLayer
from implayer.linear import LSMR
from implayer.solution import Status


def parameter(*shape, name="p", **attributes):
    return cp.Parameter(shape, name=name, **attributes)


def ball():
    """min c'x over |x| <= r: x = -r c / |c|."""
    x, c, r = cp.Variable(3, name="x"), parameter(3, name="c"), cp.Parameter(name="r", nonneg=True)
    return CvxpyLayer(cp.Problem(cp.Minimize(c @ x), [cp.norm(x) <= r]), [c, r], [x])


def softmax():
    """max of the entropy less c'x over the simplex: x = softmax(-c)."""
    x, c = cp.Variable(4), parameter(4, name="c")
    return CvxpyLayer(cp.Problem(cp.Maximize(cp.sum(cp.entr(x)) - c @ x), [cp.sum(x) == 1]), [c], [x])


def box(**options):
    """The point of the box 0 <= x <= h nearest to c."""
    x, c, h = cp.Variable(2, name="x"), parameter(2, name="c"), parameter(2, name="h")
    return CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x >= 0, x <= h]), [c, h], [x], **options)


def nearest_semidefinite():
    X, C = cp.Variable((3, 3), symmetric=True), parameter(3, 3, name="C")
    return CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [X >> 0]), [C], [X])


def positive_part(C):
    values, vectors = torch.linalg.eigh((C + C.mT) / 2)
    return (vectors * values.clamp_min(0)) @ vectors.mT


CLOSED = {
    "box": (box, lambda c, h: torch.minimum(c.clamp_min(0), h), lambda: (torch.tensor([0.3, 2.0]), torch.ones(2))),
    "ball": (ball, lambda c, r: -r * c / c.norm(), lambda: (torch.randn(3), torch.tensor(1.5))),
    "softmax": (softmax, lambda c: torch.softmax(-c, -1), lambda: (torch.randn(4),)),
    "semidefinite": (nearest_semidefinite, positive_part, lambda: (torch.randn(3, 3),)),
}


@pytest.mark.parametrize("case", CLOSED)
def test_closed_forms_and_their_derivatives_of_both_orders(case):
    make, formula, draw = CLOSED[case]
    layer, args = make(), draw()
    every = tuple(range(len(args)))
    torch.testing.assert_close(layer(*args)[0], formula(*args), atol=1e-9, rtol=1e-9)
    for mode in (jacrev, jacfwd):
        for found, expected in zip(
            mode(lambda *a: layer(*a)[0], every)(*args), mode(formula, every)(*args), strict=True
        ):
            torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
    found = hessian(lambda *a: layer(*a)[0].sin().sum())(*args)
    torch.testing.assert_close(found, hessian(lambda *a: formula(*a).sin().sum())(*args), atol=1e-7, rtol=1e-7)


# ------------------------------------------------------------------------ the examples of cvxpylayers' documentation
def l1_regression():
    x, A, b = cp.Variable(2), parameter(3, 2, name="A"), parameter(3, name="b")
    problem = cp.Problem(cp.Minimize(cp.pnorm(A @ x - b, p=1)), [x >= 0])
    return problem, [A, b], [x], [torch.randn(3, 2), torch.randn(3)]


def least_squares():
    x, A, b, lam = cp.Variable(5), parameter(8, 5, name="A"), parameter(8, name="b"), cp.Parameter(nonneg=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b) + lam * cp.norm1(x)), [x >= 0])
    return problem, [A, b, lam], [x], [torch.randn(8, 5), torch.randn(8), torch.tensor(0.1)]


def logistic_regression():
    beta, bias = cp.Variable(3), cp.Variable()
    X, lam = parameter(15, 3, name="X"), cp.Parameter(nonneg=True)
    labels = np.arange(15) % 2.0
    margins = X @ beta + bias
    gain = cp.sum(cp.multiply(labels, margins) - cp.logistic(margins)) / 15
    return (
        cp.Problem(cp.Maximize(gain - lam * cp.sum_squares(beta))),
        [X, lam],
        [beta, bias],
        [
            torch.randn(15, 3),
            torch.tensor(0.1),
        ],
    )


def robust_program():
    x, a, F, c = cp.Variable(4), parameter(5, 4, name="a"), parameter(3, 4, name="F"), parameter(4, name="c")
    problem = cp.Problem(cp.Minimize(c @ x), [a @ x + cp.norm(F @ x) <= 1, cp.norm(x) <= 3])
    return problem, [a, F, c], [x], [torch.randn(5, 4), torch.randn(3, 4), torch.randn(4)]


def semidefinite_program():
    X, C, A = cp.Variable((3, 3), symmetric=True), parameter(3, 3, name="C"), parameter(3, 3, name="A")
    problem = cp.Problem(cp.Minimize(cp.trace(C @ X)), [X >> 0, cp.trace(A @ X) == 1, cp.trace(X) == 2])
    root = torch.randn(3, 3)
    return problem, [C, A], [X], [root @ root.mT, torch.diag(torch.tensor([1.0, 0.2, -1.0])) + 0.1 * torch.randn(3, 3)]


def entropy_maximisation():
    x, A, b = cp.Variable(6), parameter(2, 6, name="A"), parameter(2, name="b")
    matrix = torch.randn(2, 6)
    problem = cp.Problem(cp.Maximize(cp.sum(cp.entr(x))), [A @ x == b, cp.sum(x) == 1])
    return problem, [A, b], [x], [matrix, matrix @ torch.softmax(torch.randn(6), 0)]


def quadratic_program():
    x, P, q = cp.Variable(4), parameter(4, 4, name="P", PSD=True), parameter(4, name="q")
    G, h = parameter(3, 4, name="G"), parameter(3, name="h")
    root = torch.randn(4, 4)
    problem = cp.Problem(cp.Minimize(cp.quad_form(x, P) / 2 + q @ x), [G @ x <= h])
    return problem, [P, q, G, h], [x], [root @ root.mT + torch.eye(4), torch.randn(4), torch.randn(3, 4), torch.rand(3)]


DOCUMENTED = [l1_regression, least_squares, logistic_regression, robust_program, semidefinite_program,
              entropy_maximisation, quadratic_program]  # fmt: skip


def slope(layer, args, weights, directions, h=2e-4):
    """The derivative along the directions, by differences of the sixth order between solves."""
    total = 0.0
    for k, factor in ((1, 45), (2, -9), (3, 1)):
        for sign in (1, -1):
            values = layer(*(a + sign * k * h * d for a, d in zip(args, directions, strict=True)))
            total += sign * factor * sum(float((w * y).sum()) for w, y in zip(weights, values, strict=True))
    return total / (60 * h)


@pytest.mark.parametrize("example", DOCUMENTED)
def test_documented_examples_against_differences_and_cvxpy(example):
    problem, parameters, variables, args = example()
    layer = CvxpyLayer(problem, parameters, variables)
    leaves = [a.clone().requires_grad_() for a in args]
    values = layer(*leaves)
    for p, a in zip(parameters, args, strict=True):
        p.value = a.numpy()
    problem.solve(solver="CLARABEL")
    for variable, value in zip(variables, values, strict=True):
        np.testing.assert_allclose(value.detach().numpy(), variable.value, atol=2e-5)
    weights = [torch.randn_like(value) for value in values]
    gradients = torch.autograd.grad(sum((w * y).sum() for w, y in zip(weights, values, strict=True)), leaves)
    with torch.no_grad():
        for k, gradient in enumerate(gradients):
            direction = torch.randn_like(args[k])
            if parameters[k].attributes["PSD"]:
                direction = direction + direction.mT
            directions = [direction if j == k else torch.zeros_like(a) for j, a in enumerate(args)]
            expected = slope(layer, args, weights, directions)
            assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-7, abs=1e-8), parameters[k]


def test_residual_is_at_rounding_and_multipliers_are_those_of_cvxpy():
    problem, parameters, variables, args = robust_program()
    solution = CvxpyLayer(problem, parameters, variables).solve(*args)
    assert solution.status == Status.CONVERGED and solution.residual_norm < 1e-12
    assert solution.aux["multipliers"] @ solution.aux["slack"] == pytest.approx(0, abs=1e-12)


# ---------------------------------------------------------------------------------------------- modes and batches
def exponential_problem():
    x, F, c = cp.Variable(3), parameter(2, 3, name="F"), parameter(3, name="c")
    problem = cp.Problem(cp.Minimize(c @ x + cp.sum(cp.exp(x))), [cp.norm(F @ x) <= 1, x >= -2])
    return CvxpyLayer(problem, [F, c], [x]), (torch.randn(2, 3), torch.randn(3))


def trace_problem():
    X, C, t = cp.Variable((3, 3), PSD=True), parameter(3, 3, name="C", symmetric=True), cp.Parameter(name="t")
    problem = cp.Problem(cp.Minimize(cp.trace(C @ X) + cp.sum_squares(X) / 2), [cp.trace(X) == t])
    return CvxpyLayer(problem, [C, t], [X]), (torch.randn(3, 3), torch.tensor(2.0))


@pytest.mark.parametrize("make", [exponential_problem, trace_problem])
def test_modes_agree(make):
    layer, args = make()

    def f(*a):
        return layer(*a)[0]

    eager = torch.autograd.functional.jacobian(f, args)
    for mode in (jacrev, jacfwd):
        for found, expected in zip(mode(f, (0, 1))(*args), eager, strict=True):
            torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
    leaves = tuple(a.clone().requires_grad_() for a in args)
    assert torch.autograd.gradcheck(f, leaves, check_forward_ad=True, check_batched_grad=False, rtol=1e-6, atol=1e-7)
    assert torch.autograd.gradgradcheck(f, leaves, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [exponential_problem, trace_problem])
def test_vmap_and_batches_equal_the_loop(make):
    layer, args = make()
    many = [torch.stack([a, a + 0.1 * torch.randn_like(a), a - 0.1]) for a in args]

    def f(*a):
        return layer(*a)[0]

    loop = torch.stack([f(*one) for one in zip(*many, strict=True)])
    torch.testing.assert_close(f(*many), loop, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(vmap(f)(*many), loop, atol=1e-12, rtol=1e-12)
    shared = torch.stack([f(one, args[1]) for one in many[0]])
    torch.testing.assert_close(vmap(f, in_dims=(0, None))(many[0], args[1]), shared, atol=1e-12, rtol=1e-12)
    slopes = grad(lambda *a: f(*a).sin().sum())
    torch.testing.assert_close(
        vmap(slopes)(*many), torch.stack([slopes(*one) for one in zip(*many, strict=True)]), atol=1e-10, rtol=1e-10
    )
    inner = torch.stack([many[0], many[0] + 0.05], 1)  # (3, 2, ...): vmap over the second axis of a batch
    found = vmap(f, in_dims=(1, None), out_dims=1)(inner, args[1])
    torch.testing.assert_close(found[:, 1], f(inner[:, 1], args[1]), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("example", [least_squares, quadratic_program, robust_program])
def test_a_shared_parameter_gets_the_sum_of_the_gradients(example):
    problem, parameters, variables, args = example()
    layer = CvxpyLayer(problem, parameters, variables)
    batch = [args[0].expand(3, *args[0].shape) + 0.02 * torch.randn(3, *args[0].shape), *args[1:]]
    if parameters[0].attributes["PSD"]:
        batch[0] = (batch[0] + batch[0].mT) / 2
    leaves = [a.clone().requires_grad_() for a in batch]
    (y,) = layer(*leaves)
    assert y.shape == (3, *variables[0].shape)
    found = torch.autograd.grad(y.sin().sum(), leaves)
    total = [torch.zeros_like(a) for a in batch]
    for i in range(3):
        alone = [a.clone().requires_grad_() for a in (batch[0][i], *args[1:])]
        parts = torch.autograd.grad(layer(*alone)[0].sin().sum(), alone)
        total[0][i] = parts[0]
        for k in range(1, len(args)):
            total[k] += parts[k]
    for a, b in zip(found, total, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


def test_a_batch_of_one_and_a_parameter_that_does_not_count():
    x, c, unused = cp.Variable(2), parameter(2, name="c"), parameter(2, name="unused")
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - c) + 0 * cp.sum(unused))), [c, unused], [x])
    assert layer(torch.ones(1, 2), torch.ones(2))[0].shape == (1, 2)
    y, c = layer(torch.ones(2), torch.ones(3, 2))[0], torch.ones(2)
    torch.testing.assert_close(y, c.expand(3, 2))


# ------------------------------------------------------------------------------------------ quadratic and sparse forms
def test_quadratic_form_is_kept_and_the_two_routes_agree():
    problem, parameters, variables, args = quadratic_program()
    layer = CvxpyLayer(problem, parameters, variables)
    assert layer.canonical.program.cones.polyhedral and layer.canonical.program.n == 4
    leaves = [a.clone().requires_grad_() for a in args]
    results = []
    for options in (None, {"eps": 1e-9}):
        (y,) = layer(*leaves, solver_args=options)
        results.append((y.detach(), *torch.autograd.grad(y.sin().sum(), leaves)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(results[0][1], results[0][1].mT)


def test_sums_of_squares_become_small_dense_programs():
    x, F, g, q = cp.Variable(4), parameter(6, 4, name="F"), parameter(6, name="g"), parameter(4, name="q")
    G = parameter(4, 4, name="G")
    constraints = [G @ x <= 0.3, cp.sum(x) == 0.2]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(F @ x - g) + q @ x), constraints)
    duals = [constraint.dual_variables[0] for constraint in constraints]
    layer = CvxpyLayer(problem, [F, g, q, G], [x, *duals])
    assert layer.canonical.program.n == 10 and layer.canonical.elimination is not None
    assert layer.canonical.elimination.gone.numel() == 6
    leaves = [torch.randn(3, 6, 4), torch.randn(6), torch.randn(4), torch.eye(4)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    results = []
    for options in (None, {"eps": 1e-9}):
        solution = layer.solve(*leaves, solver_args=options)
        found = (*solution.value, solution.aux["multipliers"], solution.aux["slack"])
        total = sum((y + k).sin().sum() for k, y in enumerate(found))
        first = torch.autograd.grad(total, leaves, retain_graph=True)
        gradients = torch.autograd.grad(total, leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in gradients), leaves)
        results.append((*found, *first, *gradients, *second))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)
    single = [leaf.detach()[0] if leaf.ndim == 3 else leaf.detach() for leaf in leaves]
    torch.testing.assert_close(layer(*single)[0], results[0][0][0], atol=1e-12, rtol=1e-12)


def test_a_form_that_is_not_convex_is_refused():
    for options in (None, {"eps": 1e-9}):
        problem, parameters, variables, args = quadratic_program()
        layer = CvxpyLayer(problem, parameters, variables, on_failure="ignore")
        with pytest.raises(NotConvexError, match="positive semidefinite"):
            layer(args[0] - 10 * torch.eye(4), *args[1:], solver_args=options)


def test_dual_variables():
    x, c, h = cp.Variable(3), parameter(3, name="c"), parameter(2, name="h")
    constraints = [x[:2] <= h, cp.sum(x) == 1]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), constraints)
    duals = [constraint.dual_variables[0] for constraint in constraints]
    layer = CvxpyLayer(problem, [c, h], [*duals, x])
    args = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.1, -0.3])
    lam, nu, _ = layer(*args)
    c.value, h.value = (a.numpy() for a in args)
    problem.solve(solver="CLARABEL")
    np.testing.assert_allclose(lam.numpy(), constraints[0].dual_value, atol=1e-6)
    np.testing.assert_allclose(float(nu), constraints[1].dual_value, atol=1e-6)
    leaves = tuple(a.clone().requires_grad_() for a in args)
    assert torch.autograd.gradcheck(lambda *a: layer(*a)[:2], leaves)


def classification(rows=60, columns=20):
    x, A, b = cp.Variable(columns), parameter(rows, columns, name="A"), parameter(rows, name="b")
    total = cp.sum(cp.logistic(A @ x - b)) + 0.5 * cp.norm(x)
    return cp.Problem(cp.Minimize(total), [x <= 0.5]), [A, b], [x], [torch.randn(rows, columns), torch.randn(rows)]


def test_large_programs_take_the_sparse_route():
    problem, parameters, variables, args = classification()
    layer = CvxpyLayer(problem, parameters, variables)
    assert layer.canonical.program.is_sparse
    leaves = [a.clone().requires_grad_() for a in args]
    (y,) = layer(*leaves)
    weight = torch.randn_like(y)
    found = torch.autograd.grad((weight * y).sum(), leaves, create_graph=False)
    with torch.no_grad():
        for k in range(2):
            direction = torch.randn_like(args[k])
            directions = [direction if j == k else torch.zeros_like(a) for j, a in enumerate(args)]
            expected = slope(layer, args, [weight], directions)
            assert float((found[k] * direction).sum()) == pytest.approx(expected, rel=1e-7)
    forward = torch.func.jvp(lambda b: layer(args[0], b)[0], (args[1],), (torch.ones(60),))[1]
    assert float(forward @ weight) == pytest.approx(float(found[1].sum()), rel=1e-9)


def test_sparse_route_keeps_failures_apart():
    x, A, b, h = cp.Variable(30), parameter(40, 30, name="A"), parameter(40, name="b"), cp.Parameter(name="h")
    objective = cp.sum(cp.huber(A @ x - b))
    layer = CvxpyLayer(cp.Problem(cp.Minimize(objective), [cp.norm(x) <= h]), [A, b, h], [x], on_failure="nan")
    assert layer.canonical.program.is_sparse
    matrix, vector = torch.randn(40, 30, requires_grad=True), torch.randn(40)
    heights = torch.tensor([1.0, -1.0, 2.0], requires_grad=True)
    solution = layer.solve(matrix, vector, heights)
    assert solution.status.tolist() == [Status.CONVERGED, Status.INFEASIBLE, Status.CONVERGED]
    assert solution.value[0][1].isnan().all()
    found = torch.autograd.grad(solution.value[0][::2].sum(), [matrix, heights])
    (alone,) = layer(matrix, vector, heights[::2])
    expected = torch.autograd.grad(alone.sum(), [matrix, heights])
    for a, b_ in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b_, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("example", [l1_regression, robust_program, semidefinite_program])
def test_scs_gives_the_same(example):
    problem, parameters, variables, args = example()
    exact = CvxpyLayer(problem, parameters, variables)
    rough = CvxpyLayer(problem, parameters, variables, solver="SCS", solver_args={"eps": 1e-7})
    for a, b in zip(exact(*args), rough(*args), strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


# ------------------------------------------------------------------------------------------------------- failures
HEIGHTS, CENTRE = [[1.0, 1.0], [-1.0, 1.0], [2.0, 0.1]], [2.5, 3.0]


@pytest.mark.parametrize("extra", [False, True], ids=["quadratic", "conic"])
@pytest.mark.parametrize("policy", ["warn", "nan", "ignore"])
def test_one_infeasible_instance_leaves_the_others_alone(policy, extra):
    x, c, h = cp.Variable(2), parameter(2, name="c"), parameter(2, name="h")
    objective = cp.sum_squares(x - c) + (cp.norm(x) if extra else 0)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(objective), [x >= 0, x <= h]), [c, h], [x], on_failure=policy)
    centre, heights = torch.tensor(CENTRE, requires_grad=True), torch.tensor(HEIGHTS, requires_grad=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        solution = layer.solve(centre, heights)
    assert solution.status.tolist() == [Status.CONVERGED, Status.INFEASIBLE, Status.CONVERGED]
    assert bool(caught) == (policy == "warn")
    (y,) = solution.value
    torch.testing.assert_close(y[[0, 2]], layer(centre, heights[[0, 2]])[0], atol=1e-12, rtol=1e-12)
    assert y[1].isnan().all() if policy == "nan" else y[1].isfinite().all()
    used = y if policy == "ignore" else y[[0, 2]]
    found = torch.autograd.grad(used.sum(), [centre, heights])
    expected = torch.autograd.grad(layer(centre, heights[[0, 2]])[0].sum(), [centre, heights])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


def test_errors_of_failed_instances():
    layer = box()
    with pytest.raises(
        InfeasibleError, match=r"`CvxpyLayer`: 1 of 3 samples have no feasible point \(samples 1"
    ) as caught:
        layer(torch.tensor(CENTRE), torch.tensor(HEIGHTS))
    assert caught.value.solution.status.tolist() == [0, Status.INFEASIBLE, 0]
    torch.testing.assert_close(caught.value.solution.value[0][0], torch.ones(2))
    heights = torch.tensor(HEIGHTS).abs()
    heights[2, 1] = torch.nan
    with pytest.raises(SolveError, match=r"First cause: `h` is nan at index \[2, 1\]"):
        layer(torch.tensor(CENTRE), heights)
    x, c = cp.Variable(2), parameter(2, name="c")
    with pytest.raises(UnboundedError):
        CvxpyLayer(cp.Problem(cp.Minimize(c @ x), [x <= 1]), [c], [x])(torch.ones(2))


@pytest.mark.parametrize("extra", [False, True], ids=["quadratic", "conic"])
def test_a_nan_stays_in_its_instance(extra):
    x, c = cp.Variable(2), parameter(2, name="c")
    objective = cp.sum_squares(x - c) + (cp.norm(x) if extra else 0)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(objective), [x >= 0.1]), [c], [x], on_failure="nan")
    centres = torch.tensor([[1.0, 2.0], [torch.nan, 1.0]], requires_grad=True)
    solution = layer.solve(centres)
    assert solution.status.tolist() == [Status.CONVERGED, Status.NONFINITE]
    solution.value[0][0].sum().backward()
    assert centres.grad.isfinite().all() and (centres.grad[1] == 0).all()  # type: ignore[index]


def test_weakly_active_constraint_is_degenerate():
    x, c = cp.Variable(2), parameter(2, name="c")
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - c) + 0.1 * cp.norm(x)), [x[0] >= 0]), [c], [x])
    with pytest.warns(DegenerateWarning):
        solution = layer.solve(torch.tensor([0.0, 1.0]))
    assert solution.status == Status.DEGENERATE
    torch.testing.assert_close(solution.value[0], torch.tensor([0.0, 0.95]), atol=1e-7, rtol=0)


def test_free_auxiliary_unknowns_do_no_harm():
    """t >= |x| with t <= 1 leaves t undetermined, but not x."""
    x, t, c = cp.Variable(2), cp.Variable(2), parameter(2, name="c")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c) + 0.1 * cp.norm(x)), [cp.abs(x) <= t, t <= 1])
    c0 = torch.tensor([0.3, 2.0])
    solution = CvxpyLayer(problem, [c], [x]).solve(c0)
    assert solution.status == Status.CONVERGED
    assert torch.autograd.gradcheck(lambda c: CvxpyLayer(problem, [problem.parameters()[0]], [x])(c)[0],
                                    (c0.clone().requires_grad_(),))  # fmt: skip
    with pytest.warns(DegenerateWarning):  # asked for, t is not unique
        assert CvxpyLayer(problem, [c], [x, t]).solve(c0).status == Status.DEGENERATE


def wide_least_squares(**options):
    """Two equations for four unknowns: any x with A x = b."""
    x, A, b = cp.Variable(4), parameter(2, 4, name="A"), parameter(2, name="b")
    return CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b))), [A, b], [x], **options)


def test_one_of_many_minimisers():
    layer, A, b = wide_least_squares(), torch.randn(2, 4), torch.randn(2)
    with pytest.warns(DegenerateWarning):
        solution = layer.solve(A, b)
    assert solution.status == Status.DEGENERATE
    torch.testing.assert_close(A @ solution.value[0], b, atol=1e-8, rtol=0)
    with pytest.raises(SingularJacobianError, match=r"`CvxpyLayer`"), warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateWarning)
        layer(A, b.requires_grad_())
    chosen = wide_least_squares(adjoint=ImplicitAdjoint(linear_solver=LSMR()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateWarning)
        (y,) = chosen(A, b)
    torch.testing.assert_close(jacobian_of(A @ y, b), torch.eye(2), atol=1e-6, rtol=0)


def jacobian_of(y, x):
    return torch.stack([torch.autograd.grad(entry, x, retain_graph=True)[0] for entry in y])


def regression():
    """Least squares in a box: a quadratic program whose residuals are put away."""
    x, b, F = cp.Variable(3), parameter(4, name="b"), parameter(4, 3, name="F")
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(F @ x - b)), [x <= 0.1]), [b, F], [x])
    return layer, (torch.randn(4), torch.randn(4, 3))


@pytest.mark.parametrize("make", [exponential_problem, trace_problem, regression])
def test_the_direct_way_and_the_taped_one_agree(make):
    layer, args = make()
    leaves = [a.clone().requires_grad_() for a in args]

    def derivatives():
        (y,) = layer(*leaves)
        slope = torch.autograd.grad(y.sin().sum(), leaves[0], create_graph=True)[0]
        return jacobian_of(y.reshape(-1), leaves[0]), torch.autograd.grad(slope.cos().sum(), leaves[1])[0]

    direct, second = derivatives()
    with torch.autograd.graph.save_on_cpu():  # hooks on what is saved: the taped way
        taped, taped_second = derivatives()
    torch.testing.assert_close(direct, taped, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(second, taped_second, atol=1e-9, rtol=1e-9)
    (y,) = layer(*leaves)
    every = torch.autograd.grad(y.reshape(-1), leaves[0], torch.eye(y.numel()), is_grads_batched=True)[0]
    torch.testing.assert_close(every, direct, atol=1e-10, rtol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(layer(*leaves)[0], y.detach(), atol=0, rtol=0)


def bytes_alive():
    """Of all storages of tensors that Python knows."""
    gc.collect()
    storages = [entry.untyped_storage() for entry in gc.get_objects() if type(entry) is torch.Tensor]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def test_a_quadratic_program_keeps_its_data_and_a_factor_until_its_derivative_is_taken():
    x, F, G, h = cp.Variable(30), parameter(30, 30, name="F"), parameter(30, 30, name="G"), parameter(30, name="h")
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(F @ x - 1)), [G @ x <= h]), [F, G, h], [x])
    leaves = [torch.randn(8, 30, 30).requires_grad_(), torch.randn(8, 30, 30), torch.ones(30)]
    layer(*leaves)
    matrix, before = 8 * 30 * 30 * 8, bytes_alive()
    (y,) = layer(*leaves)
    assert bytes_alive() - before <= 6.5 * matrix  # Q, E, G, and what factorises the optimality conditions, once
    y.sum().backward()
    assert bytes_alive() - before <= 1.5 * matrix  # the gradient
    with pytest.raises(RuntimeError, match="second time"):
        y.sum().backward()
    (y,) = layer(*leaves)
    with torch.no_grad():
        leaves[0] += 1
    with pytest.raises(RuntimeError, match="inplace operation"):  # and no gradient of another program
        y.sum().backward()


def test_tiny_entries_of_exponential_cones_are_not_degenerate():
    layer, costs = softmax(), torch.tensor([0.0, 10.0, 20.0, 30.0])
    solution = layer.solve(costs)
    assert solution.status == Status.CONVERGED
    torch.testing.assert_close(solution.value[0], torch.softmax(-costs, -1), atol=1e-10, rtol=0)
    found = jacrev(lambda c: layer(c)[0])(costs)
    torch.testing.assert_close(found, jacrev(lambda c: torch.softmax(-c, -1))(costs), atol=1e-9, rtol=0)


def test_redundant_constraints():
    x, c, h = cp.Variable(2), parameter(2, name="c"), cp.Parameter(name="h")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c) + 0.1 * cp.norm(x)), [x[0] <= h, x[0] <= h])
    layer = CvxpyLayer(problem, [c, h], [x])
    args = torch.tensor([2.0, 1.0], requires_grad=True), torch.tensor(0.5, requires_grad=True)
    with pytest.warns(DegenerateWarning):
        solution = layer.solve(*args)
    assert bool(solution.aux["redundant"]) and bool(solution.converged)
    found = torch.autograd.grad(solution.value[0].sum(), args)
    single = CvxpyLayer(cp.Problem(problem.objective, problem.constraints[:1]), [c, h], [x])
    expected = torch.autograd.grad(single(*args)[0].sum(), args)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


# --------------------------------------------------------------------------------------------- as a module, and errors
def test_dtype_copies_and_state():
    problem, parameters, variables, args = robust_program()
    layer = CvxpyLayer(problem, parameters, variables)
    y = layer(*args)[0]
    single = [a.float().requires_grad_() for a in args]
    low = layer.solve(*single)
    assert low.value[0].dtype == torch.float32 and low.residual_norm.dtype == torch.float32
    torch.testing.assert_close(low.value[0].double(), y, atol=1e-5, rtol=1e-5)
    assert all(g.dtype == torch.float32 for g in torch.autograd.grad(low.value[0].sum(), single))
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(twin(*args)[0], y, atol=1e-12, rtol=1e-12)
    layer.load_state_dict(layer.state_dict())
    torch.nn.Sequential(layer).double()
    assert "F[3, 4]" in repr(layer)


def test_attributes_of_parameters_and_variables():
    X, D, s = cp.Variable((2, 2), diag=True), parameter(2, 2, name="D", diag=True), cp.Variable(nonneg=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - D) + cp.square(s + 1)))
    Y, t = CvxpyLayer(problem, [D], [X, s])(torch.diag(torch.tensor([1.0, 2.0])))
    torch.testing.assert_close(Y, torch.diag(torch.tensor([1.0, 2.0])), atol=1e-9, rtol=0)
    assert t == pytest.approx(0, abs=1e-9)
    Z, S = cp.Variable((2, 2), symmetric=True), parameter(2, 2, name="S", symmetric=True)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(Z - S)), [Z <= 3]), [S], [Z])
    given = torch.tensor([[1.0, 2.0], [0.0, 4.0]], requires_grad=True)  # its symmetric part counts
    (Z,) = layer(given)
    torch.testing.assert_close(Z.detach(), torch.tensor([[1.0, 1.0], [1.0, 3.0]]))
    torch.testing.assert_close(torch.autograd.grad(Z[0, 1], given)[0], torch.tensor([[0.0, 0.5], [0.5, 0.0]]))


def test_arguments_of_cvxpylayers_are_understood():
    problem, parameters, variables, args = robust_program()
    layer = CvxpyLayer(problem, parameters, variables)
    y = layer(*args)[0]
    for options in ({"solve_method": "SCS", "eps": 1e-8, "max_iters": 10000}, {"solve_method": "Clarabel"},
                    {"mode": "lsqr", "n_jobs_forward": 1}, {"tol_gap_abs": 1e-9}):  # fmt: skip
        torch.testing.assert_close(layer(*args, solver_args=options)[0], y, atol=1e-9, rtol=1e-9)
    with pytest.raises(ValueError, match="`solver_args` holds 'epsilon'"):
        layer(*args, solver_args={"epsilon": 1e-8})
    with pytest.raises(ValueError, match="the solver is 'GUROBI'"):
        CvxpyLayer(problem, parameters, variables, solver="GUROBI")


def test_problems_that_are_not_dpp_are_refused_by_term():
    x, a, b = cp.Variable(name="x"), cp.Parameter(name="a"), cp.Parameter(name="b")
    with pytest.raises(ImplayerError, match=r"not DPP.*the objective, in the term `a @ b`|in the term `a \* b`"):
        CvxpyLayer(cp.Problem(cp.Minimize(a * b * x + x**2)), [a, b], [x])
    with pytest.raises(ImplayerError, match=r"constraint 1 .*in the term"):
        CvxpyLayer(cp.Problem(cp.Minimize(x**2), [x >= a, x <= cp.exp(a) * b]), [a, b], [x])
    with pytest.raises(ImplayerError, match=r"not DCP"):
        CvxpyLayer(cp.Problem(cp.Minimize(cp.sqrt(x) + a)), [a], [x])
    P, v = parameter(2, 2, name="P", PSD=True), cp.Variable(2)
    with pytest.raises(ImplayerError, match=r"constraint 0"):
        CvxpyLayer(cp.Problem(cp.Minimize(cp.sum(v)), [cp.quad_form(v, P) <= 1]), [P], [v])


def test_what_is_not_supported_says_so():
    x, a = cp.Variable(name="x"), cp.Parameter(name="a")
    problem = cp.Problem(cp.Minimize((x - a) ** 2))
    with pytest.raises(ImplayerError, match="`gp=True`"):
        CvxpyLayer(problem, [a], [x], gp=True)
    k = cp.Variable(integer=True, name="k")
    with pytest.raises(ImplayerError, match="`k` is integer"):
        CvxpyLayer(cp.Problem(cp.Minimize((k - a) ** 2)), [a], [k])
    with pytest.raises(ImplayerError, match="power cones"):
        CvxpyLayer(cp.Problem(cp.Minimize(cp.power(x, 2.5, approx=False) + a * x)), [a], [x])


def test_errors_name_the_argument():
    x, c, h = cp.Variable(2, name="x"), parameter(2, name="c"), parameter(2, name="h")
    problem, stranger = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x <= h]), cp.Parameter(name="stranger")
    with pytest.raises(ValueError, match="`parameters` holds `stranger`, which `problem` does not have and lacks `h`"):
        CvxpyLayer(problem, [c, stranger], [x])
    with pytest.raises(ValueError, match="`variables` holds `z`, which is neither"):
        CvxpyLayer(problem, [c, h], [cp.Variable(name="z")])
    with pytest.raises(ValueError, match="twice"):
        CvxpyLayer(problem, [c, h], [x, x])
    with pytest.raises(TypeError, match="`variables` is a Variable"):
        CvxpyLayer(problem, [c, h], x)
    layer = box()
    for args, error, message in [
        ([torch.ones(2)], ShapeError, "got 1 tensors; expected 2, one for each parameter: `c`, `h`"),
        ([torch.ones(3), torch.ones(2)], ShapeError, r"`c` has shape \(3,\); expected \(2,\), or \(batch, 2\)"),
        ([torch.ones(2), torch.ones(1, 1, 2)], ShapeError, r"`h` has shape \(1, 1, 2\)"),
        ([torch.ones(4, 2), torch.ones(3, 2)], ShapeError, "`h` has a batch axis of 3 but `c` one of 4"),
        ([torch.ones(2), torch.ones(2).float()], DtypeError, "`h` is torch.float32 but `c` is torch.float64"),
        ([torch.ones(2).long(), torch.ones(2)], DtypeError, "`c` is torch.int64"),
        ([np.ones(2), torch.ones(2)], DtypeError, "`c` is a ndarray; expected a tensor"),
    ]:
        with pytest.raises(error, match=message):
            layer(*args)


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_the_size_of_the_data_does_not_matter(size):
    x, c = cp.Variable(3), parameter(3, name="c")
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.norm(x - c)), [cp.sum(x) <= 2.5 * size]), [c], [x])
    given = size * torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(layer(given)[0] / size, torch.tensor([1.0, 2.0, 3.0]) - 3.5 / 3, atol=1e-9, rtol=0)
    torch.testing.assert_close(jacrev(lambda c: layer(c)[0])(given), torch.eye(3) - 1 / 3, atol=1e-9, rtol=0)


@pytest.mark.parametrize("extra", [False, True], ids=["quadratic", "conic"])
def test_an_empty_batch(extra):
    x, c = cp.Variable(3), parameter(3, name="c")
    objective = cp.sum_squares(x - c) + (cp.norm(x) if extra else 0)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(objective), [x <= 1]), [c], [x])
    c = torch.ones(0, 3, requires_grad=True)
    solution = layer.solve(c)
    assert solution.value[0].shape == (0, 3) and solution.status.shape == (0,)
    solution.value[0].sum().backward()
    assert c.grad.shape == (0, 3)


def test_an_instance_that_is_not_unique_is_one_beside_failed_ones():
    """It has the status and the gradient that it has alone, also where the factors are dense."""
    x, a, h = cp.Variable(2), cp.Parameter((1, 2), name="a"), cp.Parameter(name="h")
    problem = cp.Problem(cp.Minimize(cp.norm(a @ x - 1)), [cp.norm(x) <= h])  # a whole line of solutions
    layer = CvxpyLayer(problem, [a, h], [x], on_failure="ignore")
    rows = torch.tensor([[1.0, 2.0]])
    alone = layer.solve(rows.requires_grad_(), torch.tensor([5.0]))
    beside = layer.solve(rows.requires_grad_(), torch.tensor([5.0, -1.0]))
    assert alone.status.tolist() == [Status.SINGULAR]
    assert beside.status.tolist() == [Status.SINGULAR, Status.INFEASIBLE]
    torch.testing.assert_close(beside.value[0][:1], alone.value[0])
