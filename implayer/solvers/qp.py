"""The forward solver of quadratic programs: choose a method, find the active set, make it exact, say what came out."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ..linear.kkt import freeze_kkt, freeze_small
from ..problem import Problem
from ..solution import Solution, Status
from .mehrotra import mehrotra
from .quadratic import (
    WEAK,
    Answer,
    QuadraticProgram,
    Whitened,
    active_set,
    cannot_hold,
    conic,
    descent_ray,
    guessed,
    margin,
    require_convex,
)
from .small_qp import solve_small
from .sparse_qp import solve_sparse

_REPAIRS = 10  # changes of the active set after a solver that ended near the solution


@dataclass(frozen=True)
class QPSolver:
    """Solves the KKT system of `QPLayer`: finds the active rows, makes the solution exact, and hands over its factor.

    **Arguments**

    - `method`: "auto" (default) takes the active set on a CPU and the interior point elsewhere. "active-set": where Q has
      a Cholesky factor L, the problem is scaled, written in x = L'y, and solved by the dual active-set method of DAQP
      in C, sample by sample. "interior-point": Mehrotra's method in tensor operations, all samples together. "conic":
      Clarabel, sample by sample; it also takes over where Q is singular, and where the others gave up.

    Save for the active-set method, which is exact, the active rows of the answer are repaired and one solve of the
    reduced KKT system makes them exact.

    **Returns** from `solver(problem)`: a `Solution` with value (y, multipliers), statuses CONVERGED, DEGENERATE
    (redundant or weakly active rows), INFEASIBLE, UNBOUNDED, MAX_STEPS or NONFINITE, and the frozen inverse. Where a
    sample is INFEASIBLE or UNBOUNDED, `aux["certificate"]` (*batch, n + rows) proves it: multipliers mu with C'mu = 0 and
    mu'bound < 0 (Farkas), or a direction y with Q y = 0 and q'y < 0 in which no row is violated. `y0`, where the layer is
    given one, is a warm start of the active-set method; the others leave it aside.

    **Raises** `NotConvexError` where Q has a negative eigenvalue.
    """

    method: Literal["auto", "active-set", "interior-point", "conic"] = "auto"

    def __post_init__(self) -> None:
        if self.method not in get_args(QPSolver.__annotations__["method"]):
            known = ", ".join(repr(name) for name in get_args(QPSolver.__annotations__["method"]))
            raise ValueError(f"`method` is {self.method!r}; expected one of {known}.")

    def __call__(self, problem: Problem) -> Solution:
        """Solve for every sample; failures are in the status, save for a Q that is not positive semidefinite."""
        if "Q at" in problem.x:
            return solve_sparse(problem.x)
        if self.method in ("auto", "active-set"):
            solution = _small(problem.x, problem.y0)
            if solution is not None:
                return solution
        program, batch = _read(problem.x)
        finite = _finite(program)
        clean = program if bool(finite.all()) else _harmless(program, finite)
        start = None if problem.y0 is None else problem.y0.detach().reshape(program.samples, -1)
        answer = self._solved(clean, start) if program.samples else _nothing(program)
        empty = cannot_hold(clean.low, clean.high).any(-1)
        if bool(empty.any()):
            answer = replace(answer, status=torch.where(empty, int(Status.INFEASIBLE), answer.status))
        return _finished(clean, answer, finite, batch)

    def _solved(self, program: QuadraticProgram, start: Tensor | None) -> Answer:
        lower = _cholesky(program)
        method = self.method
        if method == "auto":
            method = "active-set" if program.linear.device.type == "cpu" else "interior-point"
        answer = None
        if method == "active-set" and lower is not None:
            answer = _by_active_set(program, lower, start)
        if method == "interior-point" or (answer is None and method == "active-set" and lower is not None):
            answer = _polished(program, mehrotra(program), lower)
        if answer is None:
            return replace(_polished(program, conic(program), lower), lower=lower)
        left = answer.status == Status.MAX_STEPS
        if bool(left.any()):
            index = left.nonzero().squeeze(-1)
            part = program.take(index)
            answer = answer.put(index, _polished(part, conic(part), None if lower is None else lower[index]))
        return replace(answer, lower=lower)


def _nothing(program: QuadraticProgram) -> Answer:
    none = torch.zeros(program.samples, dtype=torch.int64, device=program.linear.device)
    return Answer(program.linear, program.high, none, none)


def _cholesky(program: QuadraticProgram) -> Tensor | None:
    """The factors of all Q, or None where one is singular; raises where one is not positive semidefinite."""
    shared = program.hessian.stride(0) == 0 and program.samples > 1
    lower, info = torch.linalg.cholesky_ex(program.hessian[:1] if shared else program.hessian)
    good = _well_conditioned(lower, info)
    if bool(good.all()):
        return lower.expand(program.samples, -1, -1)
    require_convex(program, ~good.expand(program.samples))
    return None


_FEW = 8  # samples up to which a loop is faster than operations on the batch


def _small(x: Any, y0: Any) -> Solution | None:
    """The solution of a few small programs on a CPU where nothing is out of the ordinary; else None."""
    saddle = x.get("saddle")
    if saddle is None or saddle.device.type != "cpu":
        return None
    high, low, (m, n) = x["high"], x["low"], x["counts"].shape
    batch = max((saddle.shape[:-2], high.shape[:-1], () if low is None else low.shape[:-1]), key=len)
    samples, size = math.prod(batch), saddle.shape[-1]
    if not 0 < samples <= _FEW:
        return None

    def array(leaf: Tensor, *core: int) -> Any:
        if leaf.ndim != 1 + len(core):
            leaf = leaf.expand(*batch, *core).reshape(samples, *core)
        return leaf.detach().double().numpy()

    below, start = (None if leaf is None else array(leaf, size) for leaf in (low, y0))
    above = array(high, size)
    if np.isneginf(above[:, n + m :]).any() or (below is not None and cannot_hold(below, above).any()):
        return None
    found = solve_small(array(saddle, size, size), above, below, start, m, n)
    inverse = None if found is None else freeze_small(torch.from_numpy(found.jacobian).to(saddle.dtype), n)
    if found is None or inverse is None:
        return None
    value, steps = torch.from_numpy(found.z).to(saddle.dtype), torch.from_numpy(found.steps)
    if len(batch) != 1:
        value, steps = value.reshape(*batch, size), steps.reshape(batch)
    aux = {"redundant": torch.zeros(batch, dtype=torch.bool)}
    return Solution(value, None, None, steps, aux, inverse)  # what the residual says is the status


def _blocks(x: Any) -> tuple[Any, ...]:
    """Q, q, C, low, high and the number of equations."""
    if "saddle" not in x:
        return (*(x[name] for name in ("Q", "q", "A, G", "b, l", "b, h")), x["equations"].shape[-1])
    saddle, high, low, (m, n) = x["saddle"], x["high"], x["low"], x["counts"].shape
    bounds = None if low is None else low[..., n:]
    return saddle[..., :n, :n], -high[..., :n], saddle[..., n:, :n], bounds, high[..., n:], m


def _read(x: Any) -> tuple[QuadraticProgram, tuple[int, ...]]:
    hessian, linear, rows, low, high, m = _blocks(x)
    cores = ((hessian, 2), (linear, 1), (rows, 2), (low, 1), (high, 1))
    batch = max((tuple(leaf.shape[: leaf.ndim - core]) for leaf, core in cores if leaf is not None), key=len)
    samples = math.prod(batch)
    if low is None:
        low = torch.cat([high[..., :m], torch.full_like(high[..., m:], -torch.inf)], -1)
    flat = []
    for leaf, core in ((hessian, 2), (linear, 1), (rows, 2), (low, 1), (high, 1)):
        leaf, shape = leaf.detach(), leaf.shape[leaf.ndim - core :]
        shared = leaf.ndim == core
        flat.append(leaf.expand(samples, *shape) if shared else leaf.reshape(samples, *shape))
    return QuadraticProgram(flat[0], flat[1], flat[2], flat[3], flat[4], m), batch


def _finite(program: QuadraticProgram) -> Tensor:
    """Samples without NaN, and without infinities save in the bounds."""
    total = program.hessian.sum((-2, -1)) + program.linear.sum(-1) + program.rows.sum((-2, -1))
    good = total.isfinite() & ~(program.low.isnan() | program.high.isnan()).any(-1)
    m = program.equations
    return good & program.high[:, :m].isfinite().all(-1) if m else good


def _harmless(program: QuadraticProgram, finite: Tensor) -> QuadraticProgram:
    column, block = finite.unsqueeze(-1), finite[:, None, None]
    identity = torch.eye(program.n, dtype=program.linear.dtype, device=program.linear.device)
    m = program.equations
    high = torch.where(column, program.high, torch.inf)
    low = torch.where(column, program.low, -torch.inf)
    if m:
        high[:, :m], low[:, :m] = high[:, :m].nan_to_num(0, 0, 0), low[:, :m].nan_to_num(0, 0, 0)
    return QuadraticProgram(
        torch.where(block, program.hessian, identity), torch.where(column, program.linear, 0),
        torch.where(block, program.rows, 0), low, high, m,
    )  # fmt: skip


def _by_active_set(program: QuadraticProgram, lower: Tensor, start: Tensor | None) -> Answer | None:
    scaled = Whitened.of(program, lower)
    guess = None if start is None else _guess(program, start)
    found = active_set(scaled, program.equations, guess)
    if found is None:
        return None
    y, mu = scaled.unscaled(found.y, found.mu)
    return Answer(y, mu, found.status, found.steps, weak=found.weak, whitened=scaled.whitened)


def _guess(program: QuadraticProgram, start: Tensor) -> Any:
    """(samples, k) 1 or -1 where a row may hold at its upper or lower bound, by (y, multipliers) of a warm start."""
    y, mu = start[:, : program.n], start[:, program.n :]
    value = times(program.rows, y)
    value, mu, low, high = (part.cpu().double().numpy() for part in (value, mu, program.low, program.high))
    return guessed(value, mu, low, high, program.equations)


def _well_conditioned(lower: Tensor, info: Tensor) -> Tensor:
    diagonal = lower.diagonal(dim1=-2, dim2=-1)
    if not diagonal.shape[-1]:
        return info == 0
    limit = (64 * lower.shape[-1] * torch.finfo(lower.dtype).eps) ** 0.5
    return (info == 0) & (diagonal.amin(-1) > limit * diagonal.amax(-1))


def active_rows(program: QuadraticProgram, mu: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of an exact answer that hold by the rule of the residual: at their upper bound, and at either."""
    up = mu > margin(program.high)
    up[:, : program.equations] = True
    return up, up | (mu < -margin(program.low))


def times(rows: Tensor, y: Tensor) -> Tensor:
    """C y for (samples, k, n) and (samples, n)."""
    if rows.stride(0) == 0 and len(y) > 1:
        return y @ rows[0].mT
    return (y.unsqueeze(-2) @ rows.mT).squeeze(-2)


def _polished(program: QuadraticProgram, answer: Answer, lower: Tensor | None) -> Answer:
    """The exact solution on the active set of an approximate one, with rows added and dropped until all signs are right."""
    y, mu, m = answer.y, answer.mu, program.equations
    norms = torch.linalg.vector_norm(program.rows, dim=-1).clamp(min=torch.finfo(y.dtype).tiny)
    size = 1 + torch.linalg.vector_norm(y, dim=-1, keepdim=True)
    force = (times(program.hessian, y).abs().amax(-1) + program.linear.abs().amax(-1)).unsqueeze(-1)
    force = torch.where(force > 0, force, 1)
    # A row counts as active where its scaled multiplier is larger than its scaled distance.
    value = times(program.rows, y)
    up = mu * norms / force > (program.high - value) / (norms * size)
    down = -mu * norms / force > (value - program.low) / (norms * size)
    up = up.clone()
    up[:, :m] = True
    done = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    best_y, best_mu = y, mu
    for _ in range(_REPAIRS):
        active = up | down
        bound = torch.where(up, program.high, torch.where(down, program.low, 0))
        inverse = freeze_kkt(program.hessian, program.rows, active, lower)
        z = inverse.apply(torch.cat([-program.linear, bound], -1))
        z = z + inverse.apply(torch.cat([-program.linear, bound], -1) - inverse.product(z))
        y, mu = z.split([program.n, program.k], -1)
        value, slack = times(program.rows, y), 1e-9 * norms * size
        wrong_up, wrong_down = up & (mu < -1e-9 * force / norms), down & (mu > 1e-9 * force / norms)
        wrong_up[:, :m] = False
        over, under = ~active & (value > program.high + slack), ~active & (value < program.low - slack)
        good = ~(wrong_up | wrong_down | over | under).any(-1) & z.isfinite().all(-1)
        new = good & ~done
        best_y, best_mu = torch.where(new.unsqueeze(-1), y, best_y), torch.where(new.unsqueeze(-1), mu, best_mu)
        done = done | good
        if bool(done.all()):
            break
        up, down = (up & ~wrong_up) | over, (down & ~wrong_down) | under
    keep = answer.status == Status.CONVERGED
    return replace(
        answer,
        y=torch.where(keep.unsqueeze(-1), best_y, answer.y),
        mu=torch.where(keep.unsqueeze(-1), best_mu, answer.mu),
    )


def _finished(program: QuadraticProgram, answer: Answer, finite: Tensor, batch: tuple[int, ...]) -> Solution:
    solved = answer.status == Status.CONVERGED
    weak = solved & (_weakly_active(program, answer.y, answer.mu) if answer.weak is None else answer.weak)
    if bool(weak.any()):
        answer = _least_multipliers(program, answer, weak)
    y, mu, status = answer.y, answer.mu, answer.status
    up, active = active_rows(program, mu)
    inverse = freeze_kkt(program.hessian, program.rows, active, answer.lower, answer.whitened)
    z = torch.cat([y, mu], -1)
    redundant = torch.zeros_like(solved) if inverse.redundant is None else inverse.redundant & solved
    if inverse.redundant is not None:  # multipliers of minimal norm
        bound = torch.where(up, program.high, torch.where(active, program.low, 0))
        least = inverse.apply(torch.cat([-program.linear, bound], -1))
        z = torch.where(redundant.unsqueeze(-1), least, z)
    status = torch.where(redundant | weak, int(Status.DEGENERATE), status)
    if not bool(finite.all()):
        status = torch.where(finite, status, int(Status.NONFINITE))
        z = torch.where(finite.unsqueeze(-1), z, torch.nan)
    shape = (*batch, z.shape[-1])
    aux = {"redundant": redundant.reshape(batch)}
    certificate = _certificate(program, answer.status)
    if certificate is not None:
        aux["certificate"] = certificate.reshape(shape)
    return Solution(z.reshape(shape), status.reshape(batch), None, answer.steps.reshape(batch), aux, inverse)


def _certificate(program: QuadraticProgram, status: Tensor) -> Tensor | None:
    """Proofs (y, mu), zero where there is nothing to prove, or None where no sample needs one.

    INFEASIBLE, by Farkas: C'mu = 0 while mu'C y <= mu'bound < 0 for every feasible y. UNBOUNDED: a feasible direction y
    with Q y = 0 and q'y < 0.
    """
    failed = ((status == Status.INFEASIBLE) | (status == Status.UNBOUNDED)).nonzero().squeeze(-1)
    if not len(failed):
        return None
    part, told = program.take(failed), status[failed].unsqueeze(-1)
    try:
        found, ray = conic(part), descent_ray(part)
    except ImportError:  # without Clarabel nobody has the proof
        return None
    mu = torch.where((told == Status.INFEASIBLE) & (found.status.unsqueeze(-1) == told), found.mu, 0)
    mu = mu / mu.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(mu.dtype).tiny) if program.k else mu
    proof = torch.cat([torch.where(told == Status.UNBOUNDED, ray, 0), mu], -1)
    return proof.new_zeros(len(status), proof.shape[-1]).index_copy(0, failed, proof)


def _least_multipliers(program: QuadraticProgram, answer: Answer, weak: Tensor) -> Answer:
    """Where more rows meet than have multipliers, those of minimal norm on all of them, if their signs are right.

    Then every row that meets is strictly active, and y has a derivative in spite of the choice of the solver.
    """
    index, m = weak.nonzero().squeeze(-1), program.equations
    part, y = program.take(index), answer.y[index]
    value, unit = times(part.rows, y), 1 + times(part.rows, y).abs()
    up, down = (part.high - value).abs() <= WEAK * unit, (value - part.low).abs() <= WEAK * unit
    bound = torch.where(up, part.high, torch.where(down, part.low, 0))
    inverse = freeze_kkt(part.hessian, part.rows, up | down)
    if inverse.redundant is None:
        return answer
    z = inverse.apply(torch.cat([-part.linear, bound], -1))
    mu = z[:, part.n :]
    signs = torch.where(up, mu, torch.where(down, -mu, 1))[:, m:] > WEAK
    use = inverse.redundant & signs.all(-1)
    best = torch.where(use.unsqueeze(-1), mu, answer.mu[index])
    return replace(answer, mu=answer.mu.index_copy(0, index, best))


def _weakly_active(program: QuadraticProgram, y: Tensor, mu: Tensor) -> Tensor:
    m = program.equations
    if program.k == m:
        return torch.zeros(len(y), dtype=torch.bool, device=y.device)
    value = times(program.rows, y)[:, m:]
    distance = torch.minimum(program.high[:, m:] - value, value - program.low[:, m:]).abs()
    unit = 1 + torch.maximum(value.abs(), torch.zeros_like(value))
    force = 1 + program.linear.abs().amax(-1, keepdim=True) if program.n else torch.ones_like(distance)
    return ((distance <= WEAK * unit) & (mu[:, m:].abs() <= WEAK * force)).any(-1)
