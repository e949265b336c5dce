"""A batched primal-dual interior point method for smooth constrained minimisation, convex or not."""

from dataclasses import KW_ONLY, dataclass, replace

import torch
from torch import Tensor

from ..linear.base import default_tolerance
from ..linear.dense import matvec
from ..problem import Problem
from ..solution import Solution, Status
from .feasible import nearest_feasible
from .kkt_step import least_squares_multipliers, newton_step
from .newton import Newton
from .polish import Polished, settle
from .program import Derivatives, Program, largest
from .quadratic_answer import quadratic_answer

_LARGEST_GRADIENT = 100.0  # f, h, g are scaled down to that at the start
_FIRST_BARRIER = 0.1
_DECREASE = 1e-4  # Armijo
_HALVINGS = 30
_FAILURES = 12  # line searches in a row that may fail, each with a larger shift of the Hessian
_NEARLY = 0.3  # times sqrt(tolerance): what is left to the polish where rounding stops the line search
_PATIENCE = 20  # steps in which the violation of constraints may stay what it was
_UNBOUNDED = 1e10  # relative to the start: a value that low, or an iterate that far away, has no end
_WORTH = 2**11  # unknowns of a batch from which on leaving finished samples out is worth two evaluations of F
_ESCAPES, _ASIDE = 3, 1e-2  # how often, and how far, a saddle is left along its direction of descent
_FEASIBLE = 10  # tolerances of the constraints within which a point is feasible


@dataclass(frozen=True)
class InteriorPoint:
    r"""Primal-dual interior point method with a line search: the default solver of `ArgminLayer`.

    $$\min_{y,\,s>0}\; f(x, y) - \mu \sum_i \log s_i \quad\text{s.t.}\quad h(x, y) = 0,\; g(x, y) + s = 0,\qquad \mu \to 0$$

    Newton steps on the perturbed KKT conditions with exact second derivatives. Where the Hessian of the Lagrangian is not
    positive definite on the null space of the equalities it is shifted until it is (only minima attract), and a step is
    shortened until it lowers the merit function $f - \mu \sum \log s + \rho\,\|(h, g + s)\|_1$, or it is taken whole
    because it lowers the KKT residual itself. A sample that gets stuck away from feasibility looks for the nearest
    feasible point (Levenberg-Marquardt on the violation) and goes on from there, or is INFEASIBLE. All samples work in one
    batch, each with its own barrier, step length and stopping. At last Newton steps on the KKT conditions with the
    active set frozen make the answer exact to rounding; their factor serves the adjoint.

    Where the constraints turn out linear and the objective quadratic, with a positive definite Hessian, the samples are
    quadratic programs: on a CPU the active-set method of `QPSolver` solves them, if `daqp` is installed.

    **Arguments** (keywords)

    - `atol`, `rtol`: of the scaled KKT residual, the larger one counts; None means 1e-9 in float64 and 1e-5 in float32.
      The polish does the rest, so there is seldom a reason to change them.
    - `max_steps` (default 300): Newton steps of a sample, after which it is given up.

    **Returns** from `solver(problem)`: a `Solution` whose value is (y, nu, lam), with `aux["redundant"]`, and the status
    INFEASIBLE, UNBOUNDED, NONFINITE, MAX_STEPS or DEGENERATE for the samples where that is so. For nonconvex problems
    INFEASIBLE means that the violation has a local minimum there, CONVERGED that f has.

    **References** Waechter and Biegler, "On the implementation of an interior-point filter line-search algorithm for
    large-scale nonlinear programming", 2006; Nocedal and Wright, "Numerical Optimization", chapter 19.

    >>> import torch, implayer
    >>> layer = implayer.ArgminLayer(lambda x, y: ((y - x) ** 2).sum(-1), inequality=lambda x, y: -y,
    ...                              forward_solver=InteriorPoint(), initial=torch.ones_like)
    >>> layer(torch.tensor([[-1.0, 2.0]])).round(decimals=4).abs().tolist()
    [[0.0, 2.0]]
    """

    _: KW_ONLY
    atol: float | int | None = None
    rtol: float | int | None = None
    max_steps: int = 300

    def __post_init__(self) -> None:
        for name in ("atol", "rtol"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and 0 <= value < float("inf")):
                raise ValueError(f"`{name}` is {value!r}; expected a number that is not negative, or None.")
        if not isinstance(self.max_steps, int) or self.max_steps < 1:
            raise ValueError(f"`max_steps` is {self.max_steps!r}; expected 1 or more.")

    def __call__(self, problem: Problem) -> Solution:
        """Solve for every sample; failures are in the status, nothing is raised for them."""
        program = Program.of(problem, "InteriorPoint")
        start = program.vectors.y0
        if not start.numel():
            zero = start.new_zeros(len(start))
            none = zero.bool()
            return program.vectors.solution(
                start, status=zero.long(), residual_norm=zero, steps=zero.long(), aux={"redundant": none}
            )
        tolerances = (default_tolerance(None if t is None else float(t), start.dtype) for t in (self.atol, self.rtol))
        tolerance = max(tolerances)
        y0 = program.split(start)[0]
        try:
            program = program.scaled(y0, _LARGEST_GRADIENT)
        except (
            ValueError,
            RuntimeError,
        ):  # verification wraps F: the KKT residual is left, and its root near the start
            return Newton()(problem)
        first = _first_try(program, y0, tolerance, self.max_steps)
        answer = _second_try(program, first, tolerance, self.max_steps)
        polished = _polished(program, answer)
        for _ in range(_ESCAPES):
            saddle, down = polished.saddle()
            saddle = saddle & (answer[3] == Status.CONVERGED)
            if not bool(saddle.any()):
                break
            answer = _escaped(program, answer, saddle, down, tolerance, self.max_steps)
            polished = _polished(program, answer)
        return settle(polished, start, *answer[3:])


Answer = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # y, nu, lam, status, steps


def _first_try(program: Program, y: Tensor, tolerance: float, max_steps: int) -> Answer:
    """The exact answer of a convex quadratic program, where it is one; the interior point method for the other samples."""
    exact = quadratic_answer(program)
    if exact is None:
        return _Run(program, y, tolerance, max_steps).finished()
    left = exact[3] != Status.CONVERGED
    return _again(program, exact, left, y, tolerance, max_steps) if bool(left.any()) else exact


def _again(program: Program, answer: Answer, chosen: Tensor, y: Tensor, tolerance: float, max_steps: int) -> Answer:
    """The answer in which the chosen samples are those of the interior point method from y."""
    second = _Run(program, y, tolerance, max_steps, chosen).finished()
    parts = [torch.where(chosen.unsqueeze(-1), b, a) for a, b in zip(answer[:3], second[:3], strict=True)]
    status, steps = torch.where(chosen, second[3], answer[3]), answer[4] + torch.where(chosen, second[4], 0)
    return parts[0], parts[1], parts[2], status, steps


def _second_try(program: Program, first: Answer, tolerance: float, max_steps: int) -> Answer:
    """Samples that ended away from feasibility: once more from the nearest feasible point, where there is one."""
    y, nu, lam, status, steps = first
    lost = (status == Status.MAX_STEPS) | (status == Status.INFEASIBLE)
    if not bool(lost.any()) or not program.m + program.p:
        return first
    near, violation = nearest_feasible(program, y, tolerance)
    reachable = violation <= _FEASIBLE * tolerance
    was_feasible = _violation(program, y) <= _FEASIBLE * tolerance
    again = lost & reachable & ~was_feasible
    hopeless = lost & ~reachable
    status = torch.where(hopeless, int(Status.INFEASIBLE), status)
    y = torch.where(hopeless.unsqueeze(-1), near, y)
    nu, lam = (torch.where(hopeless.unsqueeze(-1), 0, t) for t in (nu, lam))  # they have grown without bound
    if not bool(again.any()):
        return y, nu, lam, status, steps
    start = torch.where(again.unsqueeze(-1), near, y)
    return _again(program, (y, nu, lam, status, steps), again, start, tolerance, max_steps)


def _polished(program: Program, answer: Answer) -> Polished:
    return Polished.of(program, torch.cat(answer[:3], -1), answer[3] == Status.CONVERGED)


def _escaped(
    program: Program, answer: Answer, saddle: Tensor, down: Tensor, tolerance: float, max_steps: int
) -> Answer:
    """Samples at a saddle or maximum: once more from a little further along the direction in which they bend down."""
    y = answer[0]
    step = _ASIDE * (1 + largest(y)).unsqueeze(-1) * down
    lower = program.parts(y + step)[0] <= program.parts(y - step)[0]
    aside = y + torch.where(lower.unsqueeze(-1), step, -step)
    return _again(program, answer, saddle, torch.where(saddle.unsqueeze(-1), aside, y), tolerance, max_steps)


def _violation(program: Program, y: Tensor) -> Tensor:
    _, h, g = program.parts(y)
    return largest(torch.cat([h.abs(), g.clamp(min=0)], -1))


@dataclass
class _State:
    """Where the samples are; every tensor has the samples first."""

    y: Tensor
    s: Tensor
    nu: Tensor
    lam: Tensor
    mu: Tensor
    penalty: Tensor
    shift: Tensor  # of the Hessian, learned from failed and successful steps
    floor: Tensor  # how far a Hessian that is not positive definite is shifted beyond that
    failures: Tensor
    least: Tensor  # the least violation seen, `age` steps ago
    age: Tensor
    f0: Tensor
    size0: Tensor
    status: Tensor  # -1 while a sample is worked on
    steps: Tensor


class _Run:
    """One solve."""

    def __init__(self, program: Program, y: Tensor, tolerance: float, max_steps: int, chosen: Tensor | None = None):
        self.program, self.max_steps = program, max_steps
        self.tolerance = tolerance if y.dtype == torch.float64 else 10 * tolerance
        self.ids: Tensor | None = None
        self.out: _State | None = None
        at = program.derivatives(y, y.new_zeros(len(y), program.m), y.new_zeros(len(y), program.p))
        one = torch.ones_like(y[:, 0])
        mu = one * _FIRST_BARRIER if program.p else one * 0
        s = torch.maximum(-at.g, 1e-2 * (1 + at.g.abs()))
        status = torch.where(at.finite(), -1, int(Status.NONFINITE))
        if chosen is not None:
            status = torch.where(chosen, status, int(Status.MAX_STEPS))
        lam = mu.unsqueeze(-1) / s
        self.state = _State(
            y, s, least_squares_multipliers(at, lam), lam, mu, one, one * 0, one, status.new_zeros(len(y)), one / 0,
            status.new_zeros(len(y)), at.f, torch.linalg.vector_norm(y, dim=-1), status, status.new_zeros(len(y)),
        )  # fmt: skip

    def finished(self) -> Answer:
        for _ in range(self.max_steps):
            self._compact()
            state = self.state
            at = self.program.derivatives(state.y, state.nu, state.lam)
            self._judge(at)
            if not bool((state.status < 0).any()):
                break
            self._step(at)
        state = self._whole()
        state.status = torch.where(state.status < 0, int(Status.MAX_STEPS), state.status)
        return state.y, state.nu, state.lam, state.status, state.steps

    # ------------------------------------------------------------------------------------------------- judging
    def _judge(self, at: Derivatives) -> None:
        state, p = self.state, self.program
        active = state.status < 0
        error = _error(at, state, state.mu * 0)
        found = torch.where(error <= self.tolerance, int(Status.CONVERGED), -1)
        violation = torch.maximum(largest(at.h), largest((at.g).clamp(min=0)))
        far = torch.linalg.vector_norm(state.y, dim=-1) > _UNBOUNDED * (1 + state.size0)
        endless = (at.f < -_UNBOUNDED * (1 + state.f0.abs())) & (violation <= 1e-3 * (1 + largest(state.y)))
        found = torch.where(endless | (far & (violation <= 1e-3 * largest(state.y))), int(Status.UNBOUNDED), found)
        found = torch.where(far & (found < 0), int(Status.MAX_STEPS), found)
        better = violation < 0.9 * state.least
        state.least = torch.where(better, violation, state.least)
        state.age = torch.where(better | (violation <= _FEASIBLE * self.tolerance), 0, state.age + 1)
        lost = (state.failures >= _FAILURES) | (state.age > _PATIENCE)
        near = torch.where(error <= _NEARLY * self.tolerance**0.5, int(Status.CONVERGED), int(Status.MAX_STEPS))
        found = torch.where(lost & (found < 0), near, found)
        state.status = torch.where(active, found, state.status)
        if not p.p:
            return
        floor = self.tolerance / 10
        for _ in range(8):
            small = (_error(at, state, state.mu) <= 10 * state.mu) & (state.mu > floor)
            if not bool(small.any()):
                break
            lower = torch.minimum(0.2 * state.mu, state.mu**1.5).clamp(min=floor)
            state.mu = torch.where(small, lower, state.mu)

    # ------------------------------------------------------------------------------------------------- one step
    def _step(self, at: Derivatives) -> None:
        state = self.state
        dy, ds, dnu, dlam, exact = newton_step(at, state.s, state.nu, state.lam, state.mu, state.shift, state.floor)
        active = (state.status < 0) & dy.isfinite().all(-1) & dnu.isfinite().all(-1)
        reach = torch.maximum(1 - state.mu, torch.full_like(state.mu, 0.99))
        primal, dual = _to_boundary(state.s, ds, reach), _to_boundary(state.lam, dlam, reach)
        violation = at.h.abs().sum(-1) + (at.g + state.s).abs().sum(-1)
        push = (at.gradient * dy).sum(-1) - state.mu * (ds / state.s).sum(-1)
        bend = (dy * matvec(at.hessian, dy)).sum(-1).clamp(min=0) / 2
        state.penalty = _penalty(state, (push + bend) / (0.9 * violation.clamp(min=1e-30)), violation)
        slope = push - state.penalty * violation
        length, slack, done = self._search(at, (dy, ds, dnu, dlam), primal, dual, slope, violation, exact & active)
        moved = active & done
        column = moved.unsqueeze(-1)
        alpha = length.unsqueeze(-1)
        state.y = torch.where(column, state.y + alpha * dy, state.y)
        state.s = torch.where(column, slack, state.s)
        state.nu = torch.where(column, state.nu + alpha * dnu, state.nu)
        state.lam = torch.where(column, state.lam + dual.unsqueeze(-1) * dlam, state.lam)
        self._after(active, moved, length)

    def _after(self, active: Tensor, moved: Tensor, length: Tensor) -> None:
        """What has been learned from the step."""
        state = self.state
        if self.program.p:  # neither side of s * lam may run away from mu
            low, high = (state.mu.unsqueeze(-1) / (factor * state.s) for factor in (1e10, 1e-10))
            state.lam = torch.where(moved.unsqueeze(-1), state.lam.clamp(min=low, max=high), state.lam)
        stuck = active & ~moved
        grown = torch.where(state.shift > 0, 10 * state.shift, 1e-4).clamp(max=1e20)
        shrunk = torch.where(length > 0.5, state.shift / 10, state.shift)
        state.shift = torch.where(stuck, grown, torch.where(shrunk > 1e-12, shrunk, 0))
        whole = moved & (length > 0.5)
        state.floor = torch.where(whole, state.floor / 8, torch.where(stuck, state.floor * 8, state.floor))
        state.floor = state.floor.clamp(1e-12, 1.0)
        state.failures = torch.where(stuck, state.failures + 1, torch.zeros_like(state.failures))
        broken = (state.status < 0) & ~active
        state.shift = torch.where(broken, grown, state.shift)
        state.failures = torch.where(broken, state.failures + 1, state.failures)
        state.steps = state.steps + (state.status < 0)

    def _search(self, at: Derivatives, move: tuple[Tensor, ...], primal: Tensor, dual: Tensor, slope: Tensor,
                violation: Tensor, exact: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Step lengths, the slacks there, and the samples for which one was found."""
        state, p = self.state, self.program
        dy, ds = move[:2]
        merit = at.f - state.mu * state.s.log().sum(-1) + state.penalty * violation
        noise = 10 * torch.finfo(merit.dtype).eps * merit.abs()
        length, pending = primal.clone(), state.status < 0
        found = torch.zeros_like(pending)
        slack = state.s
        for k in range(_HALVINGS):
            y, s = state.y + length.unsqueeze(-1) * dy, state.s + length.unsqueeze(-1) * ds
            f, h, g = p.parts(y)
            s = _slack(s, g, state)
            slack = torch.where(pending.unsqueeze(-1), s, slack)
            reached = f - state.mu * s.log().sum(-1) + state.penalty * (h.abs().sum(-1) + (g + s).abs().sum(-1))
            good = reached <= merit + _DECREASE * length * slope.clamp(max=0) + noise
            if k == 0 and bool((pending & ~good & exact).any()):
                good = good | (exact & self._lowers_error(at, move, primal, dual))
            found = found | (pending & good)
            pending = pending & ~good
            if not bool(pending.any()):
                break
            length = torch.where(pending, length / 2, length)
        return length, slack, found

    def _lowers_error(self, at: Derivatives, move: tuple[Tensor, ...], primal: Tensor, dual: Tensor) -> Tensor:
        """Whether the whole step brings the KKT residual down: near a minimum the merit function may refuse it (Maratos)."""
        state = self.state
        dy, ds, dnu, dlam = move
        a, b = primal.unsqueeze(-1), dual.unsqueeze(-1)
        trial = replace(state, y=state.y + a * dy, s=state.s + a * ds, nu=state.nu + a * dnu, lam=state.lam + b * dlam)
        there = self.program.slopes(trial.y, trial.nu, trial.lam)
        after = _norm(there[0], there[1], there[2] + trial.s, trial.s * trial.lam - state.mu.unsqueeze(-1), trial)
        return after <= 0.5 * _error(at, state, state.mu)

    # ------------------------------------------------------------------------------------------------- leaving out
    def _compact(self) -> None:
        """Leave finished samples out, once they are the larger part."""
        state = self.state
        running = state.status < 0
        count = int(running.sum())
        if 2 * count > len(running) or not count or len(running) * self.program.n < _WORTH:
            return
        index = running.nonzero().squeeze(-1)
        small = self.program.restricted(index)
        if small is None:
            return
        self._write()
        self.ids = index if self.ids is None else self.ids[index]
        self.program, self.state = small, _State(**{k: v[index] for k, v in vars(state).items()})

    def _write(self) -> None:
        if self.ids is None or self.out is None:
            self.out = self.state
            return
        for name, value in vars(self.state).items():
            setattr(self.out, name, getattr(self.out, name).index_copy(0, self.ids, value))

    def _whole(self) -> _State:
        if self.ids is None:
            return self.state
        self._write()
        assert self.out is not None
        return self.out


def _norm(slope: Tensor, h: Tensor, c: Tensor, product: Tensor, state: _State) -> Tensor:
    """The KKT residual, the parts with multipliers relative to large multipliers."""
    duals = torch.cat([state.nu, state.lam], -1)
    size = (duals.abs().mean(-1) / 100).clamp(min=1) if duals.shape[-1] else torch.ones_like(state.mu)
    return torch.maximum(torch.maximum(largest(slope), largest(product)) / size, torch.maximum(largest(h), largest(c)))


def _error(at: Derivatives, state: _State, mu: Tensor) -> Tensor:
    return _norm(at.slope(state.nu, state.lam), at.h, at.g + state.s, state.s * state.lam - mu.unsqueeze(-1), state)


def _slack(s: Tensor, g: Tensor, state: _State) -> Tensor:
    """The slack of a trial point: -g instead of s where that lowers the merit function and stays off the boundary."""
    least = torch.maximum(5e-3 * state.s, (state.mu / state.penalty).unsqueeze(-1))
    return torch.where((-g >= least) | (-g > s), -g, s)


def _penalty(state: _State, needed: Tensor, violation: Tensor) -> Tensor:
    """The weight of the violation: enough for descent, and let down again where it is far above the multipliers."""
    duals = torch.maximum(largest(state.nu), largest(state.lam))
    high = torch.where(state.penalty > 100 * (duals + needed.clamp(min=0) + 1), state.penalty / 10, state.penalty)
    return torch.where((violation > 0) & (needed > high), 1.5 * needed.clamp(max=1e20), high)


def _to_boundary(value: Tensor, change: Tensor, reach: Tensor) -> Tensor:
    """The largest step length up to one that keeps value + length * change positive by a margin."""
    if not value.shape[-1]:
        return torch.ones_like(reach)
    ratio = torch.where(change < 0, -reach.unsqueeze(-1) * value / change, 1.0)
    return ratio.amin(-1).nan_to_num(0.0).clamp(max=1.0)
