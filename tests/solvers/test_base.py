"""The one loop: when samples stop, what they come to, and what it costs."""

from dataclasses import KW_ONLY, dataclass, field

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from implayer.errors import ShapeError
from implayer.problem import Problem
from implayer.solution import Status
from implayer.solvers import Anderson, Broyden, LevenbergMarquardt, Newton, Picard
from implayer.solvers.base import AbstractIterativeSolver
from tests import problems
from tests.problems import Counted

ITERATIVE = [Picard(), Anderson(), Broyden(), Newton(), Newton(refresh=0), LevenbergMarquardt()]


@dataclass(frozen=True)
class Scripted(AbstractIterativeSolver):
    """A stub that walks through given points (steps, samples, n): the loop without mathematics."""

    points: torch.Tensor
    _: KW_ONLY
    max_steps: int = 100
    seen: list = field(default_factory=list, compare=False)

    def init(self, problem, y, r):
        return {"row": torch.arange(len(y)), "count": 0}

    def step(self, problem, y, r, state):
        self.seen.append(y.squeeze(-1).tolist())
        new = self.points[state["count"]][state["row"]]
        return new, None, {**state, "count": state["count"] + 1}


def identity(x, y):
    return y


def walk(values, **options):
    """A solve of F = y in which sample b visits values[b] (its start first)."""
    table = torch.tensor(values).unsqueeze(-1)
    solver = Scripted(table[:, 1:].movedim(0, 1), max_steps=table.shape[1] - 1, **options)
    return solver(Problem(identity, None, table[:, 0])), solver


def test_each_sample_stops_by_itself_and_keeps_its_value():
    solution, _ = walk([[1.0, 1e-10, 7.0, 8.0], [1.0, 0.5, 0.25, 1e-11]], atol=1e-9, rtol=0.0)
    assert solution.value.squeeze(-1).tolist() == [1e-10, 1e-11]
    assert solution.steps.tolist() == [1, 3]
    assert solution.residual_norm.tolist() == [1e-10, 1e-11]
    assert solution.converged.all()


def test_a_finished_sample_is_frozen():
    _, solver = walk([[1.0, 1e-10, 7.0, 8.0], [1.0, 0.5, 0.25, 1e-11]], atol=1e-9, rtol=0.0)
    assert solver.seen == [[1.0, 1.0], [1e-10, 0.5], [1e-10, 0.25]]


def test_relative_tolerance_is_that_of_the_start():
    solution, _ = walk([[1e6, 1.0, 0.1], [1.0, 0.5, 0.1]], atol=0.0, rtol=1e-5)
    assert solution.steps.tolist() == [1, 2]
    assert solution.status.tolist() == [Status.CONVERGED, Status.MAX_STEPS]


def test_best_iterate_is_returned_where_none_converged():
    solution, _ = walk([[1.0, 0.5, 0.01, 0.7, 0.6]])
    assert solution.value.item() == 0.01
    assert solution.residual_norm.item() == 0.01
    assert solution.status.item() == Status.MAX_STEPS
    assert solution.steps.item() == 4


def test_a_sample_that_is_not_finite_ends_alone():
    nan = float("nan")
    solution, _ = walk([[1.0, 0.1, nan, 3.0], [1.0, 0.9, 0.8, 0.0], [nan, 0.0, 0.0, 0.0]])
    assert solution.status.tolist() == [Status.NONFINITE, Status.CONVERGED, Status.NONFINITE]
    assert solution.value[:2].squeeze(-1).tolist() == [0.1, 0.0]
    assert solution.steps.tolist() == [2, 3, 0]


def test_an_infinite_start_is_no_measure():
    solution, _ = walk([[float("inf"), 1.0, 0.0]])
    assert solution.status.item() == Status.NONFINITE


def test_divergence_is_told():
    solution, _ = walk([[1.0, 2.0, 1e11, 0.0], [1.0, 0.5, 0.2, 0.0]])
    assert solution.aux["diverged"].tolist() == [True, False]
    assert solution.value.squeeze(-1).tolist() == [1.0, 0.0]
    assert solution.aux["contraction"][0] == 1e11 / 2


def test_stall_is_told():
    solution, _ = walk([[1.0] + [0.999] * 80])
    assert solution.aux["stalled"].item()
    assert solution.steps.item() == AbstractIterativeSolver._patience
    assert "1 stalled" in solution.message()


def test_slow_progress_is_no_stall():
    values = [0.999**k for k in range(200)]
    solution, _ = walk([values], atol=0.82, rtol=0.0)
    assert solution.converged.item()


@pytest.mark.parametrize("solver", ITERATIVE, ids=repr)
def test_start_at_the_answer_takes_no_step(solver):
    case = problems.affine()
    F, start = Counted(case.F), case.answer
    solution = solver(Problem(F, case.x, start))
    assert solution.steps.tolist() == [0] * 4
    assert F.calls == 1
    assert torch.equal(solution.value, start)
    assert solution.value.data_ptr() != start.data_ptr()


@pytest.mark.parametrize("solver", [Picard, Anderson, Broyden, lambda **k: Newton(refresh=0, **k)])
@pytest.mark.parametrize("steps", [0, 2, 3])
def test_evaluations_are_one_more_than_steps(solver, steps):
    case = problems.equilibrium(norm=0.95)
    F = Counted(case.F)
    solution = solver(max_steps=steps, atol=1e-14, rtol=0.0)(Problem(F, case.x, case.y0))
    assert F.calls == steps + 1
    assert solution.steps.tolist() == [steps] * 4
    assert solution.status.tolist() == [Status.MAX_STEPS] * 4


@pytest.mark.parametrize("solver", ITERATIVE, ids=repr)
@pytest.mark.parametrize("make", problems.CONTRACTIVE)
def test_contractions_are_solved_by_all(solver, make):
    case = make()
    problem = Problem(case.F, case.x, case.y0, case.event_ndim, sign=case.sign)
    solution = solver(problem)
    assert solution.converged.all()
    for found, expected in zip(problems.leaves(solution.value), problems.leaves(case.answer), strict=True):
        assert (found - expected).abs().max() < 1e-7


@pytest.mark.parametrize("solver", ITERATIVE, ids=repr)
def test_no_root_never_succeeds(solver):
    solution = solver(problems.no_root(batch=3))
    assert not solution.converged.any()


@pytest.mark.parametrize("solver", ITERATIVE, ids=repr)
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0), (2, 0, 3)])
def test_nothing_to_solve(solver, shape):
    solution = solver(Problem(lambda x, y: y - 1, None, torch.zeros(shape)))
    assert solution.value.shape == shape
    assert solution.status.shape == shape[:-1]
    assert solution.converged.all()


@pytest.mark.parametrize("solver", ITERATIVE, ids=repr)
def test_float32_reaches_its_own_tolerance(solver):
    case = problems.equilibrium(dtype=torch.float32)
    solution = solver(case.problem)
    assert solution.converged.all()
    assert solution.value.dtype == torch.float32
    assert (solution.value - case.answer).abs().max() < 1e-3


@pytest.mark.parametrize("solver", [Picard(damping=0.5), Anderson(damping=0.5), Broyden(), Newton()], ids=repr)
def test_several_batch_axes(solver):
    W = problems.contraction_matrix(3, 0.5)
    x = problems.randn(2, 4, 3)
    solution = solver(Problem(lambda x, y: y @ W.mT + x - y, x, torch.zeros_like(x)))
    assert solution.status.shape == solution.aux["contraction"].shape == (2, 4)
    torch.testing.assert_close(solution.value, x @ torch.linalg.inv(torch.eye(3) - W).mT, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("solver", [Picard(), Anderson(), Broyden()], ids=repr)
def test_methods_along_F_refuse_other_shapes(solver):
    with pytest.raises(ShapeError, match="as many equations as unknowns"):
        solver(problems.wide().problem)


@pytest.mark.parametrize("solver", ITERATIVE, ids=repr)
def test_a_start_is_asked_for(solver):
    with pytest.raises(ValueError, match="initial"):
        solver(Problem(identity, None, None))


def test_floor_of_rounding_counts_as_converged():
    # With a scale of 1e12 no y has a residual below 1e-9; with zero tolerances none would ever be accepted.
    x = torch.tensor([[2.0], [3.0], [5.0]])
    solution = Newton(atol=0.0, rtol=0.0)(Problem(lambda x, y: 1e12 * (y * y - x), x, torch.ones_like(x)))
    assert solution.converged.all()
    torch.testing.assert_close(solution.value, x.sqrt(), atol=0.0, rtol=1e-15)


def test_a_jump_is_not_taken_for_the_floor():
    x = torch.tensor([[1 / 3]])
    problem = Problem(lambda x, y: torch.where(y < x, -1.0, 1.0), x, torch.zeros(1, 1))
    from implayer.solvers import Bisection

    assert not Bisection(0.0, 1.0)(problem).converged.any()


# ------------------------------------------------------------------------------------------------ compaction
def mixed(batch=4096):
    """Half of the samples converge at once (rate 0.01), the others slowly (0.6)."""
    rate = torch.where(torch.arange(batch) % 4 == 0, 0.6, 0.01).unsqueeze(-1)
    x = {"rate": rate, "shift": problems.randn(batch, 2), "shared": torch.eye(2)}
    F = Counted(lambda x, y: x["rate"] * (y @ x["shared"]) + x["shift"] - y)
    return F, x, torch.zeros(batch, 2)


@pytest.mark.parametrize("solver", [Picard(), Anderson(memory=0), Broyden(memory=0)], ids=repr)
def test_finished_samples_are_left_out(solver):
    F, x, y0 = mixed()
    sizes = []

    def watched(x, y):
        sizes.append(len(y))
        return F(x, y)

    solution = solver(Problem(watched, x, y0))
    assert min(sizes) == 1024
    assert sizes.count(4096) < 12
    assert solution.converged.all()
    torch.testing.assert_close(solution.value, x["shift"] / (1 - x["rate"]), atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("solver", ITERATIVE, ids=repr)
def test_compaction_changes_no_value(solver, monkeypatch):
    F, x, y0 = mixed()
    compacted = solver(Problem(F, x, y0))
    monkeypatch.setattr("implayer.problem.VectorProblem.restrict", lambda self, index: None)
    whole = solver(Problem(F, x, y0))
    torch.testing.assert_close(compacted.value, whole.value, atol=1e-13, rtol=1e-13)
    assert torch.equal(compacted.steps, whole.steps)


def test_samples_are_left_out_again_and_again():
    batch = 16384
    rate = torch.tensor([0.9, 0.8, 0.5, 0.5, 0.01, 0.01, 0.01, 0.01]).repeat(batch // 8).unsqueeze(-1)
    shift = problems.randn(batch, 2)
    sizes = []

    def F(x, y):
        sizes.append(len(y))
        return x["rate"] * y + x["shift"] - y

    solution = Picard()(Problem(F, {"rate": rate, "shift": shift}, torch.zeros(batch, 2)))
    assert {8192, 4096, 2048} <= set(sizes)
    assert solution.converged.all()
    torch.testing.assert_close(solution.value, shift / (1 - rate), atol=1e-6, rtol=1e-6)


def test_a_refused_restriction_is_not_asked_for_again(monkeypatch):
    F, x, y0 = mixed()
    asked = []
    monkeypatch.setattr("implayer.problem.VectorProblem.restrict", lambda self, index: asked.append(len(index)))
    assert Picard()(Problem(F, x, y0)).converged.all()
    assert asked == [1024]


def test_a_small_batch_is_not_compacted(monkeypatch):
    F, x, y0 = mixed(64)
    monkeypatch.setattr("implayer.problem.VectorProblem.restrict", lambda self, index: pytest.fail("not worth it"))
    assert Picard()(Problem(F, x, y0)).converged.all()


# ------------------------------------------------------------------------------------------------ properties
@given(
    seed=st.integers(0, 10_000), batch=st.integers(2, 6), n=st.integers(1, 5), which=st.integers(0, len(ITERATIVE) - 1)
)
def test_batch_equals_loop(seed, batch, n, which):
    case = problems.equilibrium(batch, n, 0.9, seed)
    solver = ITERATIVE[which]
    whole = solver(case.problem)
    for b in range(batch):
        alone = solver(Problem(case.F, case.x[b : b + 1], case.y0[b : b + 1]))
        assert (alone.value - whole.value[b]).abs().max() < 1e-12
        assert alone.steps.item() == whole.steps[b]


@given(seed=st.integers(0, 10_000), which=st.integers(0, len(ITERATIVE) - 1), bad=st.integers(0, 4))
def test_a_bad_sample_leaves_the_others_their_bits(seed, which, bad):
    case = problems.equilibrium(5, 3, 0.9, seed)
    solver, good = ITERATIVE[which], torch.arange(5) != bad
    before = solver(case.problem)
    x = case.x.clone()
    x[bad] = torch.nan
    after = solver(Problem(case.F, x, case.y0))
    assert torch.equal(after.value[good], before.value[good])
    assert torch.equal(after.steps[good], before.steps[good])
    assert after.status[bad] == Status.NONFINITE


@given(seed=st.integers(0, 10_000), which=st.integers(0, len(ITERATIVE) - 1), scale=st.floats(-6, 6))
def test_converged_means_within_the_tolerance(seed, which, scale):
    case = problems.exponential(3, 3, seed)
    y0 = 10.0 ** (scale / 3) * problems.randn(3, 3, seed=seed + 5)
    solution = ITERATIVE[which](Problem(case.F, case.x, y0, sign=case.sign))
    norm, start = (torch.linalg.vector_norm(case.F(case.x, y), dim=-1) for y in (solution.value, y0))
    assert torch.equal(solution.converged, norm <= 1e-9 + 1e-9 * start)
    torch.testing.assert_close(solution.residual_norm, norm)
    assert bool((solution.residual_norm <= start).all())
