"""The one loop of all iterative forward solvers: stopping, freezing, compaction and status, sample by sample."""

import abc
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .._tree import map_tensors
from ..errors import ShapeError
from ..linear.base import default_tolerance
from ..problem import Problem, VectorProblem
from ..solution import Solution, Status
from ..types import Tree, Vectors

_ROUNDING = 16  # units of rounding within which a step, or a residual, counts as none
_LONG = 256  # a step of more units of rounding than this measures |J| without much noise
_PROGRESS = 0.99  # a step that lowers the least residual to this part of itself is progress
_FEW = 64  # rows whose norms are compared as numbers
_WORTH = 2**13  # unknowns of a batch from which on leaving finished samples out is worth two evaluations of F


@dataclass(frozen=True, kw_only=True)
class AbstractIterativeSolver(abc.ABC):
    r"""A forward solver that improves an iterate: a subclass gives `init` and `step`, this class the loop.

    Every sample stops by itself, as soon as

    $$\|F(x, y_k)\| \le \text{atol} + \text{rtol}\,\|F(x, y_0)\|$$

    or when the last step was at most $16\,\varepsilon\,|y|$ and $\|F\|$ is at its rounding floor
    $16\,\varepsilon\,|J|\,|y|$, with $|J|$ the largest $|\Delta F| / |\Delta y|$ seen. Its value does not change
    afterwards, and equals the value that it would have alone. A sample is given up when its residual is not finite
    (NONFINITE), exceeds $10^{10}$ times its least one (`aux["diverged"]`), or has not fallen by one percent for many
    steps (`aux["stalled"]`). The iterate with the least residual is returned then, with status MAX_STEPS.

    **Arguments** (keywords)

    - `atol`, `rtol`: tolerances of the residual; None means 1e-9 in float64 and 1e-5 in float32. Lower them to 1e-12
      where the gradient of a fixed-point solve must be exact to nine digits.
    - `max_steps`: steps after which a sample is given up; F is evaluated at most once more than that, line searches
      aside.

    **Returns** from `solver(problem)`: a `Solution` whose `aux` holds `diverged`, `stalled` and `contraction` (the
    ratio of the last two residual norms, NaN where there was no step), each of shape (*batch).
    """

    atol: float | int | None = None
    rtol: float | int | None = None
    max_steps: int = 100

    _patience: ClassVar[int] = 50  # steps without progress after which a sample is stalled
    _divergence: ClassVar[float] = 1e10  # so many times the least residual seen
    _keeps_residual: ClassVar[bool] = False

    @abc.abstractmethod
    def init(self, problem: VectorProblem, y: Vectors, r: Tensor) -> Tree:
        """The state before the first step: a nest whose tensors have the samples as first axis."""

    @abc.abstractmethod
    def step(self, problem: VectorProblem, y: Vectors, r: Tensor, state: Tree) -> tuple[Vectors, Tensor | None, Tree]:
        """One step from y with F(x, y) = r: the next iterate, its residual where that is known, the next state.

        A sample whose r is zero is finished: it must not hold up the others.
        """

    def __call__(self, problem: Problem) -> Solution:
        """Solve for every sample; failures are in the status, nothing is raised for them."""
        vectors = self._vectors(problem)
        if vectors.samples == 0 or vectors.n == 0:
            return _nothing_to_do(vectors)
        return Run(self, vectors).solution()

    def solved(self, problem: Problem) -> tuple[Solution, "Factored | None"]:
        """The solution, and the factor of a Jacobian close to it where the method has one: for a derivative at hand."""
        return self(problem), None

    def _vectors(self, problem: Problem) -> VectorProblem:
        return problem.vectors()

    def _start(self, problem: VectorProblem) -> tuple[Tensor, Tree]:
        r = problem.residual(problem.y0)
        return r, self.init(problem, problem.y0, r)

    def _target(self, start: Tensor, dtype: torch.dtype) -> Tensor:
        """The residual at which a sample that began with `start` has converged."""
        rtol, atol = self._tolerances(dtype)
        return start * rtol + atol

    def _tolerances(self, dtype: torch.dtype) -> tuple[float, float]:
        """rtol and atol."""
        rtol, atol = (default_tolerance(None if t is None else float(t), dtype) for t in (self.rtol, self.atol))
        return rtol, atol

    def _measure(self, r: Tensor, state: Tree) -> Tensor:
        """The vector whose norm has to vanish: F itself, save for least squares."""
        del state
        return r

    def _norm(self, v: Tensor, state: Tree) -> Tensor:
        """(samples,) norms of what is measured; from the state where the last step knows them."""
        del state
        return torch.linalg.vector_norm(v, dim=-1)

    def _settled(self, y: Vectors, r: Tensor, state: Tree) -> Tensor | None:
        """Samples that may stop as soon as their residual allows it; None means all."""
        del y, r, state
        return None

    def _given_up(self, state: Tree) -> tuple[str, Tensor] | None:
        """Samples that the method cannot solve, with the name under which `aux` tells of them."""
        del state
        return None

    @property
    def _evaluate_last(self) -> bool:
        """Whether the residual of the last allowed step is worth an evaluation of F."""
        return True


@dataclass(frozen=True)
class Factored:
    """P L U of a matrix (samples, n, n) that nearly is J at a solution y (samples, n) with F(x, y) = r."""

    lu: Tensor
    pivots: Tensor
    matrix: Tensor
    y: Tensor
    r: Tensor


def require_square(y: Tensor, r: Tensor, who: str) -> None:
    """Methods that use F itself as a direction need as many equations as unknowns."""
    if r.shape != y.shape:
        raise ShapeError(
            f"`{who}` needs as many equations as unknowns, but F has {r.shape[-1]} for {y.shape[-1]} a sample. Use "
            f"`LevenbergMarquardt()` (or `Newton()` for fewer equations), or give the missing rows by `gauge=`."
        )


def _nothing_to_do(problem: VectorProblem) -> Solution:
    real = problem.y0.real if problem.y0.is_complex() else problem.y0
    zeros = real.new_zeros(problem.samples)
    none = torch.zeros_like(zeros, dtype=torch.bool)
    count = torch.zeros_like(zeros, dtype=torch.long)
    aux = {"diverged": none, "stalled": none, "contraction": zeros}
    return problem.solution(problem.y0, status=count, residual_norm=zeros, steps=count, aux=aux)


@dataclass
class _Point:
    """One iterate: y, the measured vector (F, or J'F for least squares) and its norm."""

    y: Tensor
    v: Tensor
    norm: Tensor

    def take(self, index: Tensor) -> "_Point":
        return _Point(self.y[index], self.v[index], self.norm[index])


class Run:
    """One solve: the samples that are still worked on (`rows`), and what the finished ones came to.

    While every sample makes progress an iteration costs a norm, two comparisons and one synchronisation; all else is
    done only in the iterations where something happens to a sample.
    """

    def __init__(self, solver: AbstractIterativeSolver, problem: VectorProblem, target: Tensor | None = None):
        self.solver, self.problem, self.whole = solver, problem, problem
        kind, base = type(solver), AbstractIterativeSolver
        self.plain = kind._settled is base._settled and kind._given_up is base._given_up  # the residual alone decides
        self.rows = self.running = problem.samples
        self.steps = 0
        self.active: Tensor | None = None  # None while all rows are active
        self.ids: Tensor | None = None  # None while no row has been left out
        self.wasted, self.may_restrict = 0.0, problem.samples * problem.n >= _WORTH
        self.out: dict[str, Tensor] | None = None
        self.eps = torch.finfo(problem.dtype).eps
        self.r, self.state = solver._start(problem)
        self.first = self.now = self.before = self._point(problem.y0)
        target = solver._target(self.first.norm, problem.dtype) if target is None else target
        self.target = torch.where(target.isfinite(), target, -1)  # an infinite start is no measure of anything
        self.best = _Point(self.now.y, self.now.v, torch.full_like(self.now.norm, torch.inf))
        self.mark = self.best.norm  # the residual at the last progress, `age` steps ago
        self.marks: list[float] | None = None  # what `mark`, `target` and `now.norm` hold, where that is known
        self.targets: list[float] | None = None
        self.norms: list[float] | None = None
        self.residual: Tensor | None = None  # F at the answer, for a solver that `_keeps_residual`
        self.age: Tensor | None = None  # None while all rows have just made progress
        self.slope: Tensor | None = None  # largest |dF| / |dy| of a long step

    def _point(self, y: Tensor) -> _Point:
        v = self.solver._measure(self.r, self.state)
        norm = self.solver._norm(v, self.state)
        return _Point(y, v, norm if self.active is None else norm.where(self.active, 0))

    def solution(self) -> Solution:
        """Step until every sample has stopped."""
        while True:
            self._judge()
            if self.running == 0 or self.steps >= self.solver.max_steps:
                break
            self._compact()
            y, r, self.state = self.solver.step(self.problem, self.now.y, self.r, self.state)
            self.steps += 1
            if self.active is not None:
                y = torch.where(self.active.unsqueeze(-1), y, self.now.y)
            if r is None and self.steps == self.solver.max_steps and not self.solver._evaluate_last:
                return self._unjudged(y)
            self.r = self.problem.residual(y) if r is None else r
            if self.active is not None:
                self.r = self.r.where(self.active.unsqueeze(-1), 0)
            self.before, self.now = self.now, self._point(y)
        if self.running:
            everything = torch.ones_like(self.target, dtype=torch.bool)
            rest = everything if self.active is None else self.active
            self._finish(rest, self.now.norm <= self.target, self.running)
        assert self.out is not None
        out = dict(self.out)
        self.residual = out.pop("measured", None)
        named = {key: out.pop(key) for key in ("status", "residual_norm", "steps")}
        return self.whole.solution(out.pop("value"), **named, aux=out)

    def _judge(self) -> None:
        norm = self.now.norm
        if self._all_advance():
            self._advance()
            return
        progress = norm < self.mark * _PROGRESS
        done = norm <= self.target
        if self.plain:
            stop = done if self.active is None else done & self.active
            stopped = int(stop.sum())
            if stopped == self.running or bool((done | progress).all()):
                self._advance()
                self._finish(stop, stop, stopped)
                self._freeze(stop)
                return
        done = done | self._at_floor()
        settled = None if self.plain else self.solver._settled(self.now.y, self.r, self.state)
        done = done if settled is None else done & settled
        failed = self._failures()
        stop = done | failed
        if self.active is not None:
            stop = stop & self.active
        stopped = int(stop.sum())
        if stopped:
            self._finish(stop, done, stopped)
            self._freeze(stop)

    def _all_advance(self) -> bool:
        """Whether every active row is above its target and made progress; NaN is not greater than anything."""
        norm = self.now.norm
        if self.rows > _FEW:
            return int(((norm > self.target) & (norm < self.mark * _PROGRESS)).sum()) == self.running
        # For a few rows the numbers themselves are cheaper than operations on tensors.
        marks = self.mark.tolist() if self.marks is None else self.marks
        targets = self.target.tolist() if self.targets is None else self.targets
        norms = norm.tolist()
        self.marks, self.targets, self.norms = marks, targets, norms
        found = zip(norms, targets, marks, strict=True)
        return sum(target < value < mark * _PROGRESS for value, target, mark in found) == self.running

    def _advance(self) -> None:
        """Every row that goes on has made progress."""
        self.best, self.mark, self.age = self.now, self.now.norm, None
        self.marks, self.norms = self.norms, None

    def _at_floor(self) -> Tensor:
        """The second stopping rule: the step and the residual are nothing but rounding."""
        now, unit = self.now, self.eps * torch.linalg.vector_norm(self.now.y, dim=-1)
        if self.steps == 0:
            return torch.zeros_like(unit, dtype=torch.bool)
        step = torch.linalg.vector_norm(now.y - self.before.y, dim=-1)
        way = torch.linalg.vector_norm(now.y - self.first.y, dim=-1)
        last = _ratio(torch.linalg.vector_norm(now.v - self.before.v, dim=-1), step)
        whole = _ratio(torch.linalg.vector_norm(now.v - self.first.v, dim=-1), way)
        seen = torch.where(step > _LONG * unit, last, 0).maximum(torch.where(way > _LONG * unit, whole, 0))
        self.slope = seen if self.slope is None else self.slope.maximum(seen)
        # Short steps measure |J| badly (at a jump of F they find it infinite): they count only without long ones.
        slope = torch.where(self.slope > 0, self.slope, last.maximum(whole))
        return (step <= _ROUNDING * unit) & (now.norm <= _ROUNDING * slope * unit)

    def _failures(self) -> Tensor:
        """Keep the best iterate; find samples that are not finite, diverge or stall."""
        now = self.now
        better = now.norm < self.best.norm
        column = better.unsqueeze(-1)
        progress = now.norm < self.mark * _PROGRESS
        age = torch.zeros_like(now.norm) if self.age is None else self.age
        self.age = torch.where(progress, 0, age + 1)
        self.mark, self.marks = torch.where(progress, now.norm, self.mark), None
        y, v = torch.where(column, now.y, self.best.y), torch.where(column, now.v, self.best.v)
        self.best = _Point(y, v, torch.where(better, now.norm, self.best.norm))
        self.diverged = now.norm > self.solver._divergence * self.best.norm
        self.stalled = (self.age >= self.solver._patience) & ~self.diverged
        failed = ~now.norm.isfinite() | self.diverged | self.stalled
        given_up = self.solver._given_up(self.state)
        return failed if given_up is None else failed | given_up[1]

    def _finish(self, stop: Tensor, done: Tensor, count: int) -> None:
        """Write down what the rows in `stop` came to: their own iterate where `done`, else the best one."""
        now, no = self.now, torch.zeros_like(done)
        found = {
            "status": torch.zeros_like(now.norm, dtype=torch.long),
            "residual_norm": now.norm,
            "steps": torch.full_like(now.norm, self.steps, dtype=torch.long),
            "diverged": no,
            "stalled": no,
            "contraction": now.norm / self.before.norm if self.steps else torch.full_like(now.norm, torch.nan),
            "value": now.y if self.steps else now.y.clone(),
        }
        if self.solver._keeps_residual:
            found["measured"] = now.v
        if done is not stop:
            own = done | ~self.best.norm.isfinite()
            status = torch.where(now.norm.isfinite(), int(Status.MAX_STEPS), int(Status.NONFINITE))
            found["status"] = torch.where(done, int(Status.CONVERGED), status)
            found["residual_norm"] = torch.where(own, now.norm, self.best.norm)
            found["value"] = torch.where(own.unsqueeze(-1), now.y, self.best.y)
            if self.solver._keeps_residual:
                found["measured"] = torch.where(own.unsqueeze(-1), now.v, self.best.v)
            if self.age is not None:
                found["diverged"], found["stalled"] = self.diverged & ~done, self.stalled & ~done
        given_up = self.solver._given_up(self.state)
        if given_up is not None:
            found[given_up[0]] = given_up[1] & ~done
        self.running -= count
        if self.out is None:  # the rows that go on are written over when they stop
            self.out = found
        elif self.ids is None:
            column = stop.unsqueeze(-1)
            for key, value in found.items():
                self.out[key] = torch.where(column if value.ndim > 1 else stop, value, self.out[key])
        else:
            index = stop.nonzero().squeeze(-1)
            for key, value in found.items():
                self.out[key] = self.out[key].index_copy(0, self.ids[index], value[index])

    def _freeze(self, stop: Tensor) -> None:
        if not self.running:
            return
        self.active = ~stop if self.active is None else self.active & ~stop
        self.r = self.r.where(self.active.unsqueeze(-1), 0)
        self.now = _Point(self.now.y, self.now.v, self.now.norm.where(self.active, 0))
        self.target = self.target.where(self.active, torch.inf)
        self.targets = self.marks = None

    def _compact(self) -> None:
        """Leave the finished rows out, once they have cost about as much as leaving them out does."""
        if self.active is None or not self.may_restrict:
            return
        self.wasted += 1 - self.running / self.rows
        if 2 * self.running > self.rows or self.wasted < 2:
            return
        index = self.active.nonzero().squeeze(-1)
        small = self.problem.restrict(index)
        self.may_restrict = small is not None and self.running * self.problem.n >= _WORTH
        if small is None:
            return
        self.problem, self.rows, self.active, self.wasted = small, self.running, None, 0.0
        self.ids = index if self.ids is None else self.ids[index]
        self.first, self.before, self.now, self.best = (
            point.take(index) for point in (self.first, self.before, self.now, self.best)
        )
        take = _taker(index)
        self.r, self.target, self.mark, self.state = (take(v) for v in (self.r, self.target, self.mark, self.state))
        self.age, self.slope = take(self.age), take(self.slope)
        self.targets = self.marks = None

    def _unjudged(self, y: Tensor) -> Solution:
        if self.ids is not None:
            assert self.out is not None
            y = self.out["value"].index_copy(0, self.ids, y)
        return self.whole.solution(y, steps=torch.full_like(self.whole.y0[:, 0].real, self.steps, dtype=torch.long))


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return (part / whole).nan_to_num(0.0, 0.0, 0.0)


def _taker(index: Tensor) -> Any:
    return lambda tree: map_tensors(lambda leaf: leaf[index], tree)
