"""A primal-dual interior-point method for batches of quadratic programs, in tensor operations alone."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..solution import Status
from .quadratic import Answer, QuadraticProgram

_BACK = 0.995  # of the way to the boundary
_ROUNDS = 60
_BLOWN = 1e8  # multipliers, or unknowns, of such a scaled size tell of a problem without solution


@dataclass
class _State:
    """One iterate: y, multipliers nu of equations; slacks s and multipliers lam of the finite bounds (twice the rows)."""

    y: Tensor
    nu: Tensor
    s: Tensor
    lam: Tensor

    def moved(self, step: "_State", primal: Tensor, dual: Tensor) -> "_State":
        p, d = primal.unsqueeze(-1), dual.unsqueeze(-1)
        return _State(self.y + p * step.y, self.nu + d * step.nu, self.s + p * step.s, self.lam + d * step.lam)

    def where(self, mask: Tensor, other: "_State") -> "_State":
        column = mask.unsqueeze(-1)
        pairs = ((self.y, other.y), (self.nu, other.nu), (self.s, other.s), (self.lam, other.lam))
        return _State(*(torch.where(column, mine, theirs) for mine, theirs in pairs))


def mehrotra(program: QuadraticProgram) -> Answer:
    """Solve all samples together: for GPUs, and where no C solver is installed.

    Rows and objective are scaled to one. Each sample stops by itself, at residuals and complementarity of eps^(2/3); one
    whose iterates blow up is INFEASIBLE (multipliers) or UNBOUNDED (unknowns).

    Reference: Mehrotra, "On the implementation of a primal-dual interior point method", SIAM J. Optimization 2 (1992);
    Nocedal and Wright, Numerical Optimization (2006), algorithm 16.4.
    """
    run = _Run(program)
    return run.answer()


class _Run:
    """The scaled problem: min 1/2 y'Qy + q'y, A y = b, B y + s = u on the entries of `there`, s >= 0."""

    def __init__(self, program: QuadraticProgram):
        self.program, m = program, program.equations
        self.size = torch.maximum(program.hessian.abs().amax((-2, -1)), program.linear.abs().amax(-1)).clamp(min=1e-30)
        self.norms = torch.linalg.vector_norm(program.rows, dim=-1)
        self.norms = torch.where(self.norms > 0, self.norms, 1)
        rows = program.rows / self.norms.unsqueeze(-1)
        low, high = program.low / self.norms, program.high / self.norms
        self.q, self.c = program.hessian / self.size[:, None, None], program.linear / self.size.unsqueeze(-1)
        self.a, self.b = rows[:, :m], high[:, :m]
        self.g = torch.cat([rows[:, m:], -rows[:, m:]], -2)
        bounds = torch.cat([high[:, m:], -low[:, m:]], -1)
        self.there = bounds.isfinite()
        self.u = torch.where(self.there, bounds, 0)
        self.g = self.g * self.there.unsqueeze(-1)
        self.count = self.there.sum(-1).clamp(min=1)
        self.tolerance = torch.finfo(program.linear.dtype).eps ** (2 / 3)
        trace = self.q.diagonal(dim1=-2, dim2=-1).amax(-1)
        self.ridge = torch.finfo(program.linear.dtype).eps ** 0.75 * (1 + trace)

    def answer(self) -> Answer:
        state, samples = self._start(), self.program.samples
        status = torch.full((samples,), int(Status.MAX_STEPS), device=self.c.device)
        steps = torch.zeros_like(status)
        active = torch.ones_like(status, dtype=torch.bool)
        for _ in range(_ROUNDS):
            residuals = self._residuals(state)
            done, infeasible, unbounded = self._verdict(state, residuals)
            status = torch.where(active & done, int(Status.CONVERGED), status)
            status = torch.where(active & infeasible & ~done, int(Status.INFEASIBLE), status)
            status = torch.where(active & unbounded & ~done & ~infeasible, int(Status.UNBOUNDED), status)
            active = active & ~(done | infeasible | unbounded)
            if not bool(active.any()):
                break
            new = self._step(state, residuals)
            finite = new.y.isfinite().all(-1) & new.lam.isfinite().all(-1)
            active = active & finite
            state = new.where(active, state)
            steps = steps + active
        m, k = self.program.equations, self.program.k - self.program.equations
        lam = (state.lam[:, :k] - state.lam[:, k:]) if k else state.lam[:, :0]
        mu = torch.cat([state.nu, lam], -1) * self.size.unsqueeze(-1) / self.norms
        del m
        return Answer(state.y, mu, status, steps)

    def _start(self) -> _State:
        """The least-squares solution of all rows, with slacks and multipliers moved away from zero."""
        weight = self.there.to(self.c.dtype)
        empty = torch.zeros_like(self.c[:, :0])
        y, nu = self._reduced(weight, -self.c + _t(self.g, self.u * weight), self.b)
        s = self.u - _m(self.g, y)
        lam = -s
        push_s = (-1.5 * torch.where(self.there, s, 0)).amax(-1, keepdim=True).clamp(min=0) if s.shape[-1] else empty
        push_l = (-1.5 * torch.where(self.there, lam, 0)).amax(-1, keepdim=True).clamp(min=0) if s.shape[-1] else empty
        if s.shape[-1]:
            s, lam = s + push_s, lam + push_l
            product = (torch.where(self.there, s * lam, 0)).sum(-1, keepdim=True)
            total_s, total_l = (torch.where(self.there, part, 0).sum(-1, keepdim=True) for part in (s, lam))
            s = s + 0.5 * product / total_l.clamp(min=1e-30) + 1e-2
            lam = lam + 0.5 * product / total_s.clamp(min=1e-30) + 1e-2
        return _State(y, nu, torch.where(self.there, s, 1), torch.where(self.there, lam, 0))

    def _residuals(self, state: _State) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dual = _m(self.q, state.y) + self.c + _t(self.a, state.nu) + _t(self.g, state.lam)
        equal = _m(self.a, state.y) - self.b
        slack = torch.where(self.there, _m(self.g, state.y) + state.s - self.u, 0)
        gap = torch.where(self.there, state.s * state.lam, 0).sum(-1) / self.count
        return dual, equal, slack, gap

    def _verdict(
        self, state: _State, residuals: tuple[Tensor, Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        dual, equal, slack, gap = residuals
        size = 1 + _largest(state.y)
        force = 1 + torch.maximum(_largest(state.lam), _largest(state.nu))
        primal = torch.maximum(_largest(equal), _largest(slack))
        done = (_largest(dual) <= self.tolerance * force) & (primal <= self.tolerance * size)
        done = done & (gap <= self.tolerance * size)
        return done, (force > _BLOWN) & (primal > self.tolerance * size), (size > _BLOWN * (1 + _largest(self.u)))

    def _step(self, state: _State, residuals: tuple[Tensor, Tensor, Tensor, Tensor]) -> _State:
        dual, equal, slack, gap = residuals
        weight = torch.where(self.there, state.lam / state.s, 0)
        factors = self._factor(weight)
        affine = self._direction(
            state, factors, weight, dual, equal, slack, torch.where(self.there, state.s * state.lam, 0)
        )
        reach = torch.minimum(self._reach(state.s, affine.s), self._reach(state.lam, affine.lam))
        ahead = state.moved(affine, reach, reach)
        center = (torch.where(self.there, ahead.s * ahead.lam, 0).sum(-1) / self.count / gap.clamp(min=1e-300)) ** 3
        product = state.s * state.lam + affine.s * affine.lam - (center * gap).unsqueeze(-1)
        step = self._direction(state, factors, weight, dual, equal, slack, torch.where(self.there, product, 0))
        length = torch.minimum(self._reach(state.s, step.s), self._reach(state.lam, step.lam))
        length = torch.minimum(_BACK * length, torch.ones_like(length))
        return state.moved(step, length, length)

    def _direction(self, state: _State, factors: tuple[Tensor, Tensor, Tensor], weight: Tensor, dual: Tensor,
                   equal: Tensor, slack: Tensor, product: Tensor) -> _State:  # fmt: skip
        # s dlam + lam ds = -product, G dy + ds = -slack
        over = torch.where(self.there, product / state.s, 0)
        right = -dual - _t(self.g, weight * slack - over)
        dy, dnu = self._solve(factors, right, -equal)
        ds = torch.where(self.there, -slack - _m(self.g, dy), 0)
        dlam = torch.where(self.there, -over - weight * ds, 0)
        return _State(dy, dnu, ds, dlam)

    def _reach(self, value: Tensor, step: Tensor) -> Tensor:
        """The largest step up to one that keeps value >= 0."""
        if not value.shape[-1]:
            return torch.ones_like(self.size)
        ratio = torch.where(self.there & (step < 0), -value / step, torch.inf)
        return ratio.amin(-1).clamp(max=1 / _BACK)

    def _factor(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        identity = torch.eye(self.program.n, dtype=self.c.dtype, device=self.c.device)
        matrix = self.q + self.g.mT @ (weight.unsqueeze(-1) * self.g) + self.ridge[:, None, None] * identity
        if self.a.shape[1]:  # the rows of equations make it definite where Q alone is not
            matrix = matrix + self.a.mT @ self.a
        lower, _ = torch.linalg.cholesky_ex(matrix)
        white = torch.linalg.solve_triangular(lower, self.a.mT, upper=False)
        identity = torch.eye(self.a.shape[1], dtype=self.c.dtype, device=self.c.device)
        schur, _ = torch.linalg.cholesky_ex(white.mT @ white + torch.finfo(self.c.dtype).eps * identity)
        return lower, white, schur

    def _solve(self, factors: tuple[Tensor, Tensor, Tensor], right: Tensor, equal: Tensor) -> tuple[Tensor, Tensor]:
        lower, white, schur = factors
        right = right + _t(self.a, equal)
        w = torch.linalg.solve_triangular(lower, right.unsqueeze(-1), upper=False)
        nu = torch.cholesky_solve(white.mT @ w - equal.unsqueeze(-1), schur) if self.a.shape[1] else equal.unsqueeze(-1)
        y = torch.linalg.solve_triangular(lower.mT, w - white @ nu, upper=True)
        return y.squeeze(-1), nu.squeeze(-1)

    def _reduced(self, weight: Tensor, right: Tensor, equal: Tensor) -> tuple[Tensor, Tensor]:
        return self._solve(self._factor(weight), right, equal)


def _m(matrix: Tensor, v: Tensor) -> Tensor:
    return (v.unsqueeze(-2) @ matrix.mT).squeeze(-2)


def _t(matrix: Tensor, v: Tensor) -> Tensor:
    return (v.unsqueeze(-2) @ matrix).squeeze(-2)


def _largest(v: Tensor) -> Tensor:
    return v.abs().amax(-1) if v.shape[-1] else v.new_zeros(len(v))
