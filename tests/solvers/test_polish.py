"""What the solvers of constrained minimisations say of an answer: minimum, saddle, degenerate, none; in any scaling."""

import warnings

import pytest
import torch

from implayer.layers.argmin import ArgminLayer
from implayer.problem import Problem
from implayer.solution import Status
from implayer.solvers.interior_point import InteriorPoint
from implayer.solvers.program import Program
from implayer.solvers.scipy_minimize import ScipyMinimize

SOLVERS = [InteriorPoint(), ScipyMinimize(), ScipyMinimize("trust-constr")]
TWO = SOLVERS[:2]


def half_square(x, y):
    return ((y - x) ** 2).sum(-1) / 2


def sphere(x, y):
    return (y**2).sum(-1, keepdim=True) - 1


def solved(objective, x, y0, solver, **constraints):
    layer = ArgminLayer(objective, **constraints, forward_solver=solver, on_failure="ignore")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return layer.solve(x, y0)


def statuses(solution):
    return [Status(value) for value in solution.status.tolist()]


# ------------------------------------------------------------------------------------------------ saddles and maxima
# A start at a stationary point, where the KKT residual is zero: (objective, constraints, start, the minima).
def double_well(x, y):
    return y[..., 0] ** 4 / 4 - y[..., 0] ** 2 / 2 + y[..., 1] ** 2 / 2


STATIONARY = {
    "saddle": (double_well, {}, [0.0, 0.0], [1.0, 0.0]),
    "maximum in a box": (
        lambda x, y: -(y**2).sum(-1),
        {"inequality": lambda x, y: torch.cat([y - 1, -y - 1], -1)},
        [0.0, 0.0],
        [1.0, 1.0],
    ),
    "eigenvector in the middle": (
        lambda x, y: (y**2 * torch.tensor([1.0, 2.0, 3.0])).sum(-1),
        {"equality": sphere},
        [0.0, 1.0, 0.0],
        [1.0, 0.0, 0.0],
    ),
    "farthest point of a sphere": (
        lambda x, y: ((y - torch.tensor([2.0, 0.0])) ** 2).sum(-1),
        {"equality": sphere},
        [-1.0, 0.0],
        [1.0, 0.0],
    ),
}


@pytest.mark.parametrize("name", STATIONARY)
def test_saddles_are_left(name):
    objective, constraints, start, minimum = STATIONARY[name]
    solution = solved(objective, None, torch.tensor([start]), InteriorPoint(), **constraints)
    assert statuses(solution) == [Status.CONVERGED]
    torch.testing.assert_close(solution.value[0].abs(), torch.tensor(minimum), atol=1e-9, rtol=0.0)


@pytest.mark.parametrize("solver", SOLVERS[1:])
@pytest.mark.parametrize("name", STATIONARY)
def test_saddles_are_not_called_minima(name, solver):
    objective, constraints, start, minimum = STATIONARY[name]
    solution = solved(objective, None, torch.tensor([start]), solver, **constraints)
    at_minimum = torch.allclose(solution.value[0].abs(), torch.tensor(minimum), atol=1e-6)
    assert at_minimum or statuses(solution) == [Status.MAX_STEPS]


@pytest.mark.parametrize("solver", TWO)
def test_several_weak_constraints_may_hold_a_saddle_together(solver):
    # y1 y2 has its minimum over the positive quadrant at zero, though it bends down along (1, -1).
    solution = solved(
        lambda x, y: y.prod(-1) + (y**2).sum(-1) * 0.1, None, torch.zeros(1, 2), solver, inequality=lambda x, y: -y
    )
    assert statuses(solution) == [Status.DEGENERATE]
    alone = solved(lambda x, y: y.sum(-1) - y[..., 0] - y[..., 0] ** 2, None, torch.zeros(1, 2), TWO[1],
                   inequality=lambda x, y: torch.cat([-y, y - 1], -1))  # fmt: skip
    assert statuses(alone) == [Status.MAX_STEPS]  # y1 = 0 is held by one weak constraint, and y1 = 1 is lower


# ------------------------------------------------------------------------------------------------ no KKT point
def touching_discs(x, y):
    one = torch.tensor([1.0, 0.0])
    return torch.stack([((y - one) ** 2).sum(-1) - 1, ((y + one) ** 2).sum(-1) - 1], -1)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    "constraints",
    [
        {"equality": lambda x, y: (y.sum(-1, keepdim=True) - 1) ** 2},
        {"equality": lambda x, y: (y**2).sum(-1, keepdim=True)},
        {"inequality": touching_discs},
    ],
)
def test_nothing_with_a_large_residual_is_called_solved(constraints, solver):
    short = InteriorPoint(max_steps=60) if isinstance(solver, InteriorPoint) else solver
    solution = solved(half_square, torch.tensor([[0.5, 2.0]]), torch.tensor([[0.3, 0.4]]), short, **constraints)
    assert not solution.converged.any() or float(solution.residual_norm.max()) < 1e-6
    assert torch.isfinite(solution.value).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_vanishing_curvature_is_degenerate(solver):
    # min y^4 / 4 + x y at x = 0: y = -x^(1/3) has no derivative, and Newton's method creeps.
    x = torch.tensor([[0.0], [1.0]], requires_grad=True)
    solution = solved(lambda x, y: (y**4 / 4 + x * y).sum(-1), x, torch.tensor([[1.0], [1.0]]), solver)
    assert statuses(solution)[0] in (Status.DEGENERATE, Status.SINGULAR)
    assert statuses(solution)[1] == Status.CONVERGED
    (slope,) = torch.autograd.grad(solution.value[1].sum(), x)
    assert float(slope[1]) == pytest.approx(-1 / 3, rel=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_flat_objectives_have_no_derivative(solver):
    x = torch.tensor([[1.0, 0.3]], requires_grad=True)
    solution = solved(lambda x, y: (y.sum(-1) - x.sum(-1)) ** 2, x, torch.zeros(1, 2), solver)
    assert statuses(solution) == [Status.SINGULAR]


# ------------------------------------------------------------------------------------------------ scaling
@pytest.mark.parametrize("solver", TWO)
@pytest.mark.parametrize("f_scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("g_scale", [1e-6, 1.0, 1e6])
def test_scaling_of_objective_and_constraints(f_scale, g_scale, solver):
    target = torch.tensor([[3.0, 0.3, -1.0], [0.2, 2.0, 0.1]])

    def answer(f_scale, g_scale, x):
        return solved(
            lambda x, y: f_scale * (half_square(x, y) + (y**4).sum(-1) / 12), x, torch.zeros(2, 3), solver,
            inequality=lambda x, y: g_scale * torch.cat([y - 1, y.sum(-1, keepdim=True) - 1.5], -1),
        )  # fmt: skip

    x, plain = target.clone().requires_grad_(), target.clone().requires_grad_()
    found, expected = answer(f_scale, g_scale, x), answer(1.0, 1.0, plain)
    assert found.converged.all() and statuses(expected) == [Status.CONVERGED] * 2
    torch.testing.assert_close(found.value, expected.value, atol=1e-8, rtol=0.0)
    lam, plain_lam = (s.aux["inequality_multipliers"] for s in (found, expected))
    torch.testing.assert_close(lam * g_scale / f_scale, plain_lam, atol=1e-7, rtol=0.0)
    weight = torch.randn(2, 3)
    slopes = [torch.autograd.grad((s.value * weight).sum(), t)[0] for s, t in ((found, x), (expected, plain))]
    torch.testing.assert_close(slopes[0], slopes[1], atol=1e-7, rtol=0.0)


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_scaling_of_unknowns(size):
    target = torch.tensor([[3.0, 0.3, -1.0], [0.2, 2.0, 0.1]])
    solution = solved(
        lambda x, y: ((y / size - x) ** 2).sum(-1) / 2, target, torch.zeros(2, 3), InteriorPoint(),
        inequality=lambda x, y: torch.cat([y - size, y.sum(-1, keepdim=True) - 5 * size], -1),
    )  # fmt: skip
    assert solution.converged.all()
    torch.testing.assert_close(solution.value / size, target.clamp(max=1), atol=1e-8, rtol=0.0)


# ------------------------------------------------------------------------------------------------ what is remembered
def program_of(objective, x, y, **constraints):
    layer = ArgminLayer(objective, **constraints)
    return Program.of(Problem(layer.kkt.F, x, layer.start(x, y)), "test")


def huber(x, y):
    return torch.where(y.abs() < 1, y**2 / 2, y.abs() - 0.5).sum(-1) + (x * y).sum(-1)


@pytest.mark.parametrize(
    ("objective", "constraints", "remembered", "quadratic"),
    [
        (half_square, {"inequality": lambda x, y: y - 1}, True, True),
        (double_well, {"inequality": lambda x, y: y - 1}, True, False),
        (half_square, {"equality": sphere}, False, False),
        (half_square, {"equality": lambda x, y: ((y[..., :1] - y[..., 1:]) ** 2) - 1}, False, False),
        (huber, {}, True, True),
    ],
)
def test_derivatives_at_other_points_are_right(objective, constraints, remembered, quadratic):
    x, y = torch.randn(3, 2), 0.3 * torch.randn(3, 2)
    program = program_of(objective, x, y, **constraints)
    nu, lam = torch.randn(3, program.m), torch.rand(3, program.p)
    program.derivatives(y, nu, lam)
    assert (program.memory.at is not None, program.memory.quadratic) == (remembered, quadratic)
    for point in (y, y + 1e-3, y + 5.0, 0 * y + 0.2):
        fresh = program_of(objective, x, y, **constraints).derivatives(point, nu, lam)
        for a, b in zip(vars(program.derivatives(point, nu, lam)).values(), vars(fresh).values(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


def test_the_cost_of_a_quadratic_program(monkeypatch):
    products = []
    original = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: products.append(1) or original(*a, **k))
    x = torch.randn(40, 30)
    layer = ArgminLayer(half_square, inequality=lambda x, y: torch.cat([y - 1, -y - 1], -1), initial=torch.zeros_like)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), x.clamp(-1, 1), atol=1e-10, rtol=0.0)
    assert len(products) < 90 + 100  # n + p once, and about one a step


def test_no_second_look_at_the_kkt_matrix_for_the_derivative():
    layer = ArgminLayer(
        lambda x, y: half_square(x, y) + (y**4).sum(-1), inequality=lambda x, y: y - 1, initial=torch.zeros_like
    )
    x = 3 * torch.randn(4, 3)
    problem = Problem(layer.kkt.F, x, layer.start(x))
    solution = InteriorPoint()(problem)
    vectors = problem.vectors()
    operator_of = torch.func.vmap(torch.func.jacrev(lambda z, x: torch.cat(
        [t.reshape(-1) for t in torch.utils._pytree.tree_leaves(layer.kkt.F(x, (z[:3], z[:0], z[3:])))]
    )))  # fmt: skip
    z = vectors.layout.pack(solution.value)
    torch.testing.assert_close(solution.inverse.matrix, operator_of(z, x), atol=1e-10, rtol=1e-10)
