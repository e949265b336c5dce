"""Convex quadratic programs with bounds on rows: what is asked, what came out, and the solvers that do not fit a batch."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..errors import NotConvexError
from ..solution import Status

BOUND = 1e30  # what the C solvers take for infinity
WEAK = 1e-8  # a row is weakly active where distance and multiplier, both scaled, are below
CONVEX = 1e-10  # an eigenvalue below -1e-10 of the largest one is no rounding


@dataclass(frozen=True)
class QuadraticProgram:
    """min 1/2 y'Qy + q'y over low <= C y <= high, for samples of one size; equations are rows with low = high.

    **Attributes**: `hessian` Q (samples, n, n) symmetric, `linear` q (samples, n), `rows` C (samples, k, n), `low` and
    `high` (samples, k) with infinities, `equations`: the first so many rows are equations. Shared Q and C have a batch
    axis of stride zero.
    """

    hessian: Tensor
    linear: Tensor
    rows: Tensor
    low: Tensor
    high: Tensor
    equations: int

    @property
    def samples(self) -> int:
        """Number of samples."""
        return self.linear.shape[0]

    @property
    def n(self) -> int:
        """Number of unknowns."""
        return self.linear.shape[1]

    @property
    def k(self) -> int:
        """Number of rows."""
        return self.rows.shape[1]

    def take(self, index: Tensor) -> "QuadraticProgram":
        """Some samples alone."""
        part = [whole[index] for whole in (self.hessian, self.linear, self.rows, self.low, self.high)]
        return QuadraticProgram(part[0], part[1], part[2], part[3], part[4], self.equations)


def margin(bound: Tensor) -> Tensor:
    """Rows within rounding of their bound and without multiplier are inactive: of two one-sided derivatives, this one."""
    return 64 * torch.finfo(bound.dtype).eps * (1 + bound.detach().abs())


def cannot_hold(low: Any, high: Any) -> Any:
    """Whether bounds of a row, tensors or arrays, leave it no value."""
    return (low > high + 1e-9 * (1 + abs(high).clip(None, BOUND))) | (high == -np.inf) | (low == np.inf)


@dataclass(frozen=True)
class Answer:
    """Per sample: y (samples, n), the multipliers of the rows (samples, k; upper minus lower), `status` and steps.

    `lower`: the Cholesky factor of Q where the solver made one for all samples. `weak` (samples,): whether an inequality
    is active without multiplier, `whitened` (samples, n, k): L^-1 C', where the solver knows them.
    """

    y: Tensor
    mu: Tensor
    status: Tensor
    steps: Tensor
    lower: Tensor | None = None
    weak: Tensor | None = None
    whitened: Tensor | None = None

    def put(self, index: Tensor, other: "Answer") -> "Answer":
        """The same with the answers of some samples replaced."""

        def put(mine: Tensor, theirs: Tensor) -> Tensor:
            return mine.index_copy(0, index, theirs.to(mine.dtype))

        return Answer(
            put(self.y, other.y), put(self.mu, other.mu), put(self.status, other.status), put(self.steps, other.steps)
        )


@dataclass(frozen=True)
class Whitened:
    """The program in x = L' y / size with Q = L L': min 1/2 |x|^2 + v'x over low <= C x <= high, rows of norm one."""

    lower: Tensor  # L (samples, n, n)
    linear: Tensor  # v (samples, n)
    rows: Tensor  # (samples, k, n)
    low: Tensor
    high: Tensor
    size: Tensor  # (samples, 1), the length of the problem
    norms: Tensor  # (samples, k), of the rows before
    whitened: Tensor  # L^-1 C' (samples, n, k)

    @staticmethod
    def of(program: QuadraticProgram, lower: Tensor) -> "Whitened":
        """Scaled so that the absolute tolerances of a solver mean the same for every problem."""
        shared = lower.stride(0) == 0 and program.rows.stride(0) == 0 and program.samples > 1
        if shared:
            rows = torch.linalg.solve_triangular(lower[0], program.rows[0].mT, upper=False).mT
            rows = rows.contiguous().expand(program.samples, -1, -1)
        else:
            rows = torch.linalg.solve_triangular(lower, program.rows.mT, upper=False).mT
        linear = torch.linalg.solve_triangular(lower, program.linear.unsqueeze(-1), upper=False).squeeze(-1)
        norms = torch.linalg.vector_norm(rows, dim=-1)
        norms = torch.where(norms > 0, norms, 1)
        low, high = program.low / norms, program.high / norms
        travel = torch.maximum(low, -high).clamp(min=0)  # to the rows that y = 0 violates
        size = torch.linalg.vector_norm(linear, dim=-1, keepdim=True)
        if travel.shape[-1]:
            size = torch.maximum(size, travel.amax(-1, keepdim=True))
        size = torch.where((size > 0) & size.isfinite(), size, 1)
        unit = rows / norms.unsqueeze(-1)
        return Whitened(lower, linear / size, unit, low / size, high / size, size, norms, rows.mT)

    def unscaled(self, x: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        """y and its multipliers."""
        y = torch.linalg.solve_triangular(self.lower.mT, (x * self.size).unsqueeze(-1), upper=True).squeeze(-1)
        return y, mu * self.size / self.norms


def require_convex(program: QuadraticProgram, suspects: Tensor) -> None:
    """Raise where Q has a negative eigenvalue; `suspects`: the samples without a Cholesky factor."""
    for index in suspects.nonzero().squeeze(-1).tolist():
        values = torch.linalg.eigvalsh(program.hessian[index])
        if float(values[0]) < -CONVEX * float(values.abs().max()):
            raise NotConvexError(
                f"`Q` of sample {index} is not positive semidefinite: its least eigenvalue is {float(values[0]):.3g} (the "
                f"largest {float(values[-1]):.3g}), so the problem is not convex. Add a multiple of the identity, or use "
                f"`ArgminLayer`, which finds a local minimum."
            )


def active_set(program: Whitened, equations: int, guess: Any = None) -> Answer | None:
    """The dual active-set method in C, one sample after the other: exact, and fastest for small problems on a CPU.

    Returns None where the package `daqp` is absent. y and mu are those of the scaled program. `guess` (samples, k): 1, -1
    or 0 for rows that are held at their upper or lower bound, or are not, to begin with.

    Reference: Arnström, Bemporad and Axehill, "A dual active-set solver for embedded quadratic programming using
    recursive LDL' updates", IEEE Transactions on Automatic Control 67 (2022).
    """
    if daqp() is None:
        return None
    linear, rows = (part.detach().cpu().double().numpy() for part in (program.linear, program.rows))
    low, high = (part.detach().cpu().double().clamp(-BOUND, BOUND).numpy() for part in (program.low, program.high))
    samples, k, n = rows.shape
    sense = np.zeros(k, dtype=np.int32)
    sense[:equations] = 5
    identity = np.eye(n)
    x, mu = np.zeros((samples, n)), np.zeros((samples, k))
    status, steps = np.zeros(samples, dtype=np.int64), np.zeros(samples, dtype=np.int64)
    for i in range(samples):
        if k:
            matrix = np.ascontiguousarray(rows[i])
            x[i], _, flag, info = daqp_solve(
                (identity, linear[i], matrix, high[i], low[i]), sense, None if guess is None else guess[i]
            )
            steps[i], status[i] = info["iterations"], _FLAGS.get(flag, Status.MAX_STEPS)
            if status[i] == Status.CONVERGED:
                mu[i] = info["lam"]
            else:  # what DAQP hands over then is not set
                x[i] = -linear[i]
        else:
            x[i] = -linear[i]
    found = _answer(program.linear, x, mu, status, steps)
    value = (rows @ x[..., None])[..., 0]
    distance = np.minimum(high - value, value - low)[:, equations:]
    weak = ((np.abs(distance) <= WEAK) & (np.abs(mu[:, equations:]) <= WEAK)).any(-1)
    return replace(found, weak=torch.as_tensor(weak, device=program.linear.device))


_UPPER, _LOWER = 1, 3  # how DAQP is told that a row is active


def guessed(value: Any, mu: Any, low: Any, high: Any, equations: int) -> Any:
    """1 or -1 where a row is to be tried as active: by its multiplier, or by y where there are no multipliers."""
    mu = mu.copy()
    mu[..., :equations] = 0
    up, down = value >= high - WEAK * (1 + np.abs(value)), value <= low + WEAK * (1 + np.abs(value))
    met = np.where((mu != 0).any(-1, keepdims=True), 0, up.astype(np.int8) - (down & ~up))
    return np.sign(np.nan_to_num(mu)).astype(np.int8) + met


def daqp_solve(program: tuple[Any, ...], sense: Any, guess: Any) -> tuple[Any, float, int, dict[str, Any]]:
    """DAQP from the active rows of a guess, and from none where that leads nowhere."""
    solve = daqp()
    assert solve is not None
    if guess is not None and 0 < np.count_nonzero(guess) <= len(program[0]):
        warm = np.where(guess > 0, _UPPER, np.where(guess < 0, _LOWER, sense)).astype(np.int32)
        warm[sense != 0] = sense[sense != 0]
        found = solve(*program, warm, primal_tol=1e-9)
        if found[2] == 1:
            return found
    return solve(*program, sense.copy(), primal_tol=1e-9)


@cache
def daqp() -> Callable[..., Any] | None:
    """The function of the package `daqp`, or None where it is absent."""
    try:
        from daqp import solve
    except ImportError:
        return None
    return solve


def _answer(like: Tensor, y: Any, mu: Any, status: Any, steps: Any) -> Answer:
    """Arrays as tensors with the dtype and device of the program."""
    numbers = [torch.as_tensor(np.asarray(part), dtype=like.dtype, device=like.device) for part in (y, mu)]
    counts = [torch.as_tensor(np.asarray(part), dtype=torch.int64, device=like.device) for part in (status, steps)]
    return Answer(*numbers, *counts)


_FLAGS = {1: Status.CONVERGED, -1: Status.INFEASIBLE, -3: Status.UNBOUNDED}


def conic(program: QuadraticProgram) -> Answer:
    """The interior-point method of Clarabel, one sample after the other: for a singular Q, and where others gave up."""
    import scipy.sparse as sparse

    answers = []
    for i in range(program.samples):
        parts = (program.hessian, program.rows, program.linear, program.low, program.high)
        q, c, linear, low, high = (part[i].detach().cpu().double().numpy() for part in parts)
        matrices = sparse.csc_array(q), sparse.csc_array(c)
        answers.append(clarabel_solve(matrices[0], matrices[1], linear, low, high, program.equations))
    return _answer(program.linear, *zip(*answers, strict=True))


def clarabel_solve(q: Any, c: Any, linear: Any, low: Any, high: Any, equations: int) -> tuple[Any, Any, int, int]:
    """y, multipliers, status and steps of one program with matrices of `scipy.sparse`.

    Reference: Goulart and Chen, "Clarabel: an interior-point solver for conic programs with quadratic objectives" (2024).
    """
    import clarabel
    import scipy.sparse as sparse

    clarabel, m = cast(Any, clarabel), equations  # a module in Rust, without types
    upper, under = np.isfinite(high), np.isfinite(low)
    upper[:m], under[:m] = False, False
    c = c.tocsr()
    matrix = sparse.vstack([c[:m], c[upper.nonzero()[0]], -c[under.nonzero()[0]]], format="csc")
    bounds = np.concatenate([high[:m], high[upper], -low[under]])
    size = max(float(abs(q.data).max(initial=0)), float(np.abs(linear).max(initial=0))) or 1.0
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-10
    cones = [clarabel.ZeroConeT(m)] if m else []
    cones += [clarabel.NonnegativeConeT(len(bounds) - m)] if len(bounds) > m else []
    upper_half = sparse.csc_matrix(sparse.triu(q, format="csc") / size)
    solver = clarabel.DefaultSolver(upper_half, linear / size, sparse.csc_matrix(matrix), bounds, cones, settings)
    found = solver.solve()
    dual, mu = np.asarray(found.z) * size, np.zeros(len(high))
    mu[:m] = dual[:m]
    mu[upper] += dual[m : m + upper.sum()]
    mu[under] -= dual[m + upper.sum() :]
    return np.asarray(found.x), mu, _conic_status(str(found.status)), found.iterations


def descent_ray(program: QuadraticProgram) -> Tensor:
    """Directions (samples, n) with Q y = 0, q'y < 0 and |y_i| <= 1 in which no row is ever violated; else zero."""
    q, c = program.hessian, program.rows
    samples, n, m = program.samples, program.n, program.equations
    identity = torch.eye(n, dtype=q.dtype, device=q.device).expand(samples, n, n)
    one, zero = torch.ones_like(program.linear), torch.zeros_like(program.linear)
    high = torch.cat([zero, torch.where(program.high.isfinite(), 0, torch.inf), one], -1)
    low = torch.cat([zero, torch.where(program.low.isfinite(), 0, -torch.inf), -one], -1)
    rows = torch.cat([q, c, identity], -2)
    found = conic(QuadraticProgram(torch.zeros_like(q), program.linear, rows, low, high, n + m))
    falls = (program.linear * found.y).sum(-1) < 0
    return torch.where((falls & (found.status == Status.CONVERGED)).unsqueeze(-1), found.y, 0)


def _conic_status(name: str) -> int:
    if "PrimalInfeasible" in name:
        return Status.INFEASIBLE
    if "DualInfeasible" in name:
        return Status.UNBOUNDED
    return Status.CONVERGED if name in ("Solved", "AlmostSolved", "InsufficientProgress") else Status.MAX_STEPS
