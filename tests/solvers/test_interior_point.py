"""InteriorPoint: problems with known minimisers, poor starts, nonconvex functions, and what has no solution."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from implayer.errors import DegenerateWarning
from implayer.layers.argmin import ArgminLayer
from implayer.problem import Problem
from implayer.solution import Status
from implayer.solvers import Newton
from implayer.solvers.feasible import nearest_feasible
from implayer.solvers.interior_point import InteriorPoint
from implayer.solvers.program import Program


def solved(objective, x, y0, *, solver=None, **constraints):
    layer = ArgminLayer(objective, **constraints, forward_solver=solver or InteriorPoint(), on_failure="ignore")
    with torch.no_grad():
        return layer.solve(x, y0)


def statuses(solution):
    return [Status(value) for value in solution.status.tolist()]


def rosenbrock(x, y):
    return x[..., 0] * ((1 - y[..., 0]) ** 2 + 100 * (y[..., 1] - y[..., 0] ** 2) ** 2)


ONE = torch.ones(1, 1)


def test_hock_schittkowski_71():
    solution = solved(
        lambda x, y: y[..., 0] * y[..., 3] * y[..., :3].sum(-1) + y[..., 2],
        ONE.expand(3, 1),
        torch.tensor([[1.0, 5.0, 5.0, 1.0], [3.0, 3.0, 3.0, 3.0], [-9.0, 20.0, 0.0, 7.0]]),
        equality=lambda x, y: (y**2).sum(-1, keepdim=True) - 40,
        inequality=lambda x, y: torch.cat([25 - y.prod(-1, keepdim=True), 1 - y, y - 5], -1),
    )
    assert solution.converged.all()
    for objective in solution.aux["objective"][:2].tolist():
        assert objective == pytest.approx(17.0140173, abs=1e-6)
    torch.testing.assert_close(
        solution.value[0], torch.tensor([1.0, 4.7429994, 3.8211503, 1.3794082]), atol=1e-6, rtol=0.0
    )


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e6])
def test_rosenbrock_from_poor_starts(scale):
    start = torch.tensor([[-1.2, 1.0], [5.0, -5.0], [0.0, 0.0], [30.0, -20.0]])
    solution = solved(rosenbrock, scale * ONE.expand(4, 1), start)
    assert solution.converged.all()
    torch.testing.assert_close(solution.value, torch.ones(4, 2), atol=1e-7, rtol=0.0)


def test_rosenbrock_on_balls():
    # On the unit ball: (0.7864, 0.6177), the example of MATLAB's fmincon; on the larger one the constraint is inactive.
    solution = solved(
        rosenbrock, ONE.expand(3, 1), torch.tensor([[-1.2, 1.0], [10.0, 10.0], [9.0, -7.0]]),
        inequality=lambda x, y: (y**2).sum(-1, keepdim=True) - torch.tensor([[1.0], [3.0], [1.0]]),
    )  # fmt: skip
    assert solution.converged.all()
    torch.testing.assert_close(
        solution.value, torch.tensor([[0.786415, 0.617698], [1.0, 1.0], [0.786415, 0.617698]]), atol=1e-6, rtol=0.0
    )
    assert int(solution.steps.max()) < 40


def test_saddles_do_not_attract():
    # f = y1^4 / 4 - y1^2 / 2 + y2^2 / 2 has a saddle at zero; Newton's method for F = 0 stays there.
    f = lambda x, y: y[..., 0] ** 4 / 4 - y[..., 0] ** 2 / 2 + y[..., 1] ** 2 / 2  # noqa: E731
    start = torch.tensor([[0.1, 1.0], [-0.2, 3.0]])
    solution = solved(f, ONE.expand(2, 1), start)
    torch.testing.assert_close(solution.value, torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), atol=1e-9, rtol=0.0)
    saddle = solved(f, ONE.expand(2, 1), start, solver=Newton())
    assert float(saddle.value[0].abs().max()) < 0.1


def test_smallest_eigenvalue_from_any_start():
    matrix = torch.randn(50, 5, 5)
    matrix = matrix + matrix.mT
    solution = solved(
        lambda x, y: (y * (x @ y.unsqueeze(-1)).squeeze(-1)).sum(-1), matrix, torch.randn(50, 5),
        equality=lambda x, y: (y**2).sum(-1, keepdim=True) - 1,
    )  # fmt: skip
    assert solution.converged.all()
    lowest = torch.linalg.eigvalsh(matrix)[:, 0]
    torch.testing.assert_close(solution.aux["objective"], lowest, atol=1e-9, rtol=0.0)
    torch.testing.assert_close(solution.aux["equality_multipliers"][:, 0], -lowest, atol=1e-9, rtol=0.0)


def test_linear_programs_with_equalities():
    # min c'y on the simplex: the unit vector of the smallest cost.
    cost = torch.randn(20, 6)
    solution = solved(
        lambda x, y: (x * y).sum(-1), cost, torch.zeros(20, 6), equality=lambda x, y: y.sum(-1, keepdim=True) - 1,
        inequality=lambda x, y: -y,
    )  # fmt: skip
    assert solution.converged.all()
    expected = torch.nn.functional.one_hot(cost.argmin(-1), 6).double()
    torch.testing.assert_close(solution.value, expected, atol=1e-9, rtol=0.0)
    torch.testing.assert_close(solution.aux["objective"], cost.amin(-1), atol=1e-9, rtol=0.0)


@pytest.mark.parametrize(
    "objective",
    [
        lambda x, y: (x * y).sum(-1),
        lambda x, y: -torch.exp(x * y).sum(-1),
        lambda x, y: -(x * y**2).sum(-1),
        lambda x, y: (y**2).sum(-1) - 2 * y.prod(-1) ** 2,
    ],
)
def test_unbounded(objective):
    solution = solved(objective, torch.ones(2, 2), torch.ones(2, 2))
    assert statuses(solution) == [Status.UNBOUNDED] * 2
    assert torch.isfinite(solution.value).all()


def test_unbounded_along_an_edge_of_the_feasible_set():
    solution = solved(
        lambda x, y: (x * y).sum(-1), torch.tensor([[1.0, 1.0], [1.0, -1.0]]), torch.ones(2, 2),
        inequality=lambda x, y: -y,
    )  # fmt: skip
    assert statuses(solution) == [Status.CONVERGED, Status.UNBOUNDED]


@pytest.mark.parametrize(
    "constraints",
    [
        {"equality": lambda x, y: torch.stack([y.sum(-1) - 1, y.sum(-1) - x[..., 0]], -1)},
        {"equality": lambda x, y: (y**2).sum(-1, keepdim=True) + x - 2},
        {"inequality": lambda x, y: torch.cat([y - 1, x + 0.5 - y.sum(-1, keepdim=True)], -1)},
        {"inequality": lambda x, y: torch.cat([(y**2).sum(-1, keepdim=True) - 1, x**2 - y[..., :1] ** 2], -1)},
    ],
)
def test_infeasible_samples_among_feasible_ones(constraints):
    x = torch.tensor([[1.0], [3.0], [1.0]])
    solution = solved(lambda x, y: (y**2).sum(-1), x, torch.full((3, 2), 0.3), **constraints)
    assert solution.status[1] == Status.INFEASIBLE
    assert solution.converged[[0, 2]].all()
    assert torch.isfinite(solution.value).all()


def test_infeasible_start_far_away():
    solution = solved(
        lambda x, y: y.sum(-1), ONE, torch.full((1, 2), 1e3), inequality=lambda x, y: torch.cat([y**2 - 1, -y], -1)
    )
    assert solution.converged.all()
    torch.testing.assert_close(solution.value, torch.zeros(1, 2), atol=1e-8, rtol=0.0)


def test_a_start_outside_the_domain_is_not_finite():
    solution = solved(lambda x, y: -torch.log(y).sum(-1) + y.sum(-1), ONE.expand(2, 1), torch.tensor([[-1.0], [2.0]]))
    assert statuses(solution) == [Status.NONFINITE, Status.CONVERGED]
    torch.testing.assert_close(solution.value[1], torch.ones(1), atol=1e-9, rtol=0.0)


def test_the_domain_is_not_left():
    # Full Newton steps for the entropy from 5 go below zero.
    solution = solved(lambda x, y: (y * torch.log(y)).sum(-1), ONE, torch.full((1, 3), 5.0))
    torch.testing.assert_close(solution.value, torch.full((1, 3), math.exp(-1)), atol=1e-9, rtol=0.0)


def test_max_steps():
    solution = solved(rosenbrock, ONE, torch.tensor([[-1.2, 1.0]]), solver=InteriorPoint(max_steps=3))
    assert statuses(solution) == [Status.MAX_STEPS] and solution.steps.tolist() == [3]


def test_weakly_active_and_redundant():
    constraints = lambda x, y: torch.stack([y[..., 0] - 1, 3 * y[..., 0] - 3], -1)  # noqa: E731
    layer = ArgminLayer(lambda x, y: ((y - x) ** 2).sum(-1) / 2, inequality=constraints, initial=torch.zeros_like)
    with pytest.warns(DegenerateWarning):
        solution = layer.solve(torch.tensor([[1.0, 5.0], [2.0, 5.0], [0.0, 5.0]]))
    assert statuses(solution) == [Status.DEGENERATE, Status.DEGENERATE, Status.CONVERGED]
    assert solution.aux["redundant"].tolist() == [False, True, False]
    lam = solution.aux["inequality_multipliers"]
    torch.testing.assert_close(lam[1], torch.tensor([0.1, 0.3]), atol=1e-9, rtol=0.0)


def test_single_precision():
    target = 3 * torch.randn(20, 4)
    layer = lambda t: solved(  # noqa: E731
        lambda x, y: ((y - x) ** 2).sum(-1) / 2, t, torch.zeros_like(t), inequality=lambda x, y: y**2 - 1
    )
    found = layer(target.float())
    assert found.converged.all() and found.value.dtype == torch.float32
    torch.testing.assert_close(found.value.double(), target.clamp(-1, 1), atol=1e-5, rtol=0.0)


def test_equations_are_refused_by_name():
    with pytest.raises(TypeError, match=r"`InteriorPoint` solves the problem of an `ArgminLayer`"):
        InteriorPoint()(Problem(lambda x, y: y, None, torch.ones(1, 2)))


def test_samples_do_not_depend_on_their_batch():
    target = torch.cat([3 * torch.randn(5, 3), torch.full((1, 3), torch.nan), 1e4 * torch.randn(2, 3)])
    f, ball = lambda x, y: ((y - x) ** 2).sum(-1), lambda x, y: (y**2).sum(-1, keepdim=True) - 1
    whole = solved(f, target, torch.zeros(8, 3), inequality=ball)
    assert statuses(whole).count(Status.NONFINITE) == 1
    for b in (0, 4, 6):
        alone = solved(f, target[b : b + 1], torch.zeros(1, 3), inequality=ball)
        torch.testing.assert_close(alone.value[0], whole.value[b], atol=1e-12, rtol=1e-12)


def test_finished_samples_are_left_out(monkeypatch):
    sizes = []
    original = Program.derivatives
    monkeypatch.setattr(Program, "derivatives", lambda self, y, *rest: sizes.append(len(y)) or original(self, y, *rest))
    start = torch.ones(600, 4) * 0.5
    start[:10, :2] = torch.tensor([30.0, -20.0])
    f = lambda x, y: rosenbrock(x, y) + ((y[..., 2:] - 1) ** 2).sum(-1)  # noqa: E731
    solution = solved(f, torch.ones(600, 1), start)
    assert solution.converged.all()
    torch.testing.assert_close(solution.value, torch.ones(600, 4), atol=1e-7, rtol=0.0)
    assert min(sizes) <= 10


def test_nearest_feasible():
    layer = ArgminLayer(lambda x, y: y.sum(-1), inequality=lambda x, y: torch.cat([y - 1, x - y], -1))
    x = torch.tensor([[0.0], [3.0]])
    problem = Problem(layer.kkt.F, x, layer.start(x, torch.full((2, 1), 9.0)))
    program = Program.of(problem, "test")
    y, violation = nearest_feasible(program, torch.full((2, 1), 9.0), 1e-9)
    assert violation[0] <= 1e-9 and 0 <= float(y[0]) <= 1 + 1e-9
    assert violation.tolist()[1] == pytest.approx(1.0) and y[1].item() == pytest.approx(2.0)


@settings(max_examples=12)
@given(seed=st.integers(0, 2**31))
def test_nonconvex_answers_satisfy_the_kkt_conditions(seed):
    generator = torch.Generator().manual_seed(seed)
    random = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    x = {"A": random(4, 3, 3), "b": random(4, 3), "c": random(4, 2, 3)}
    mv = lambda a, v: (a @ v.unsqueeze(-1)).squeeze(-1)  # noqa: E731
    inequality = lambda x, y: torch.cat([torch.tanh(mv(x["c"], y)) - 0.3, (y**2).sum(-1, keepdim=True) - 9], -1)  # noqa: E731
    solution = solved(
        lambda x, y: torch.sin(mv(x["A"], y)).sum(-1) + (x["b"] * y).sum(-1), x, 3 * random(4, 3), inequality=inequality
    )
    good = solution.converged
    assert int(good.sum()) >= 3  # a start from which the violation has a local minimum is legal
    g, lam = inequality(x, solution.value)[good], solution.aux["inequality_multipliers"][good]
    assert bool((g < 1e-8).all()) and bool((lam > -1e-8).all()) and bool(((lam * g).abs() < 1e-6).all())
    assert bool((solution.residual_norm[good] < 1e-8).all())
