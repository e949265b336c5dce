"""A constrained minimisation on vectors, as forward solvers see it, and what they do with an answer."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..linear.base import AbstractLinearSolver
from ..linear.dense import matvec
from ..linear.lu import LU
from ..linear.minimal_norm import MinimalNormMultipliers
from ..operators import JacobianOperator
from ..problem import Problem, VectorProblem
from ..solution import Solution, Status

_REDUNDANT = 1e-8  # relative singular value of the active constraints below which they depend on each other
_POLISHES, _PATIENCE = 20, 5  # Newton steps at the end, and how many of them may fail to halve the residual
_BATCHED = 2**14  # entries of all Jacobians up to which batched products make them
_SOLVED = 0.7  # eps**0.7: of a residual that small, the first step that does not halve it is the last
_WEAK = 0.45  # eps**0.45: g and lam below this (relative to the largest) are both zero


class HiddenParts(ValueError):
    """F gives the KKT residual but not what it is made of."""


@dataclass(frozen=True)
class Derivatives:
    """f (samples), its gradient and the Hessian of the Lagrangian; h and g with their Jacobians A and G."""

    f: Tensor
    h: Tensor
    g: Tensor
    gradient: Tensor
    hessian: Tensor
    A: Tensor
    G: Tensor

    def finite(self) -> Tensor:
        """(samples,) whether all is finite."""
        total = self.f + self.gradient.sum(-1) + self.hessian.sum((-2, -1))
        return (total + sum(t.flatten(1).sum(-1) for t in (self.h, self.g, self.A, self.G))).isfinite()

    def slope(self, nu: Tensor, lam: Tensor) -> Tensor:
        """The gradient of the Lagrangian, (samples, n)."""
        return self.gradient + matvec(self.A.mT, nu) + matvec(self.G.mT, lam)


@dataclass(frozen=True)
class Program:
    """min f(y) subject to h(y) = 0 and g(y) <= 0, scaled sample by sample: the solver works with scale * (f, h, g).

    Made of the problem of an `ArgminLayer`, whose unknowns are z = (y, nu, lam) and whose F gives (f, h, g) too.
    """

    vectors: VectorProblem
    n: int
    m: int
    p: int
    scales: tuple[Tensor, Tensor, Tensor] | None = None

    @staticmethod
    def of(problem: Problem, who: str) -> "Program":
        """Read sizes off the start (y0, nu0, lam0)."""
        vectors = problem.vectors()
        start = problem.y0
        events = vectors.layout.events
        if not isinstance(start, tuple) or len(start) != 3 or not all(isinstance(t, Tensor) for t in start[1:]):
            raise TypeError(
                f"`{who}` solves the problem of an `ArgminLayer`, whose unknowns are (y, multipliers of equalities, "
                f"multipliers of inequalities). For an equation F(x, y) = 0 use `Newton()`."
            )
        m, p = (events[k][-1] for k in (-2, -1))  # type: ignore[index]
        return Program(vectors, vectors.n - m - p, m, p)

    def split(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z as (y, nu, lam)."""
        y, nu, lam = z.split([self.n, self.m, self.p], dim=-1)
        return y, nu, lam

    def parts(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """f (samples,), h (samples, m), g (samples, p), scaled."""
        tree, nu, lam = self.vectors.layout.unpack(torch.cat([y, y.new_zeros(len(y), self.m + self.p)], -1))
        answer = self.vectors.problem.F(self.vectors.problem.x, (tree, nu.unsqueeze(-1), lam))
        sizes = [len(y), len(y) * self.m, len(y) * self.p]
        if not isinstance(answer, tuple) or [t.numel() if isinstance(t, Tensor) else None for t in answer] != sizes:
            raise HiddenParts("F is wrapped in a function that does not pass questions for (f, h, g) on.")
        f, h, g = answer
        f, h, g = f.reshape(len(y)), h.reshape(len(y), self.m), g.reshape(len(y), self.p)
        if self.scales is None:
            return f, h, g
        return f * self.scales[0], h * self.scales[1], g * self.scales[2]

    def derivatives(self, y: Tensor, nu: Tensor, lam: Tensor) -> Derivatives:
        """All that a Newton step needs, from one evaluation and n + m + p vector products for the whole batch."""
        with torch.enable_grad():
            leaf = y.detach().requires_grad_()
            f, h, g = self.parts(leaf)
            slope = _gradient(f.sum() + (nu * h).sum() + (lam * g).sum(), leaf)
            rows = torch.cat([slope, h, g], -1)
        jacobian = _jacobian(rows, leaf)
        hessian, A, G = jacobian.split([self.n, self.m, self.p], dim=1)
        gradient = slope.detach() - matvec(A.mT, nu) - matvec(G.mT, lam)
        return Derivatives(f.detach(), h.detach(), g.detach(), gradient, (hessian + hessian.mT) / 2, A, G)

    def slopes(self, y: Tensor, nu: Tensor, lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient of the Lagrangian, h and g: one vector product."""
        with torch.enable_grad():
            leaf = y.detach().requires_grad_()
            f, h, g = self.parts(leaf)
            total = f.sum() + (nu * h).sum() + (lam * g).sum()
            slope = torch.autograd.grad(total, leaf, materialize_grads=True)[0] if total.requires_grad else 0 * y
        return slope, h.detach(), g.detach()

    def scaled(self, y: Tensor, largest: float) -> "Program":
        """The same with gradients of at most `largest` at y, where they are longer."""
        zero = y.new_zeros(len(y), 1)
        at = self.derivatives(y, zero.expand(-1, self.m), zero.expand(-1, self.p))
        sizes = (at.gradient.abs().amax(-1), *(_widest(t) for t in (at.A, at.G)))
        scales = tuple((largest / s.nan_to_num(1.0, 1.0)).clamp(1e-8, 1.0) for s in sizes)
        return replace(self, scales=scales)

    def unscaled(self, y: Tensor, nu: Tensor, lam: Tensor) -> Tensor:
        """z of the problem as it was given."""
        if self.scales is None:
            return torch.cat([y, nu, lam], -1)
        f, h, g = self.scales
        return torch.cat([y, nu * h / f.unsqueeze(-1), lam * g / f.unsqueeze(-1)], -1)

    def restricted(self, index: Tensor) -> "Program | None":
        """Some samples alone, where F can be restricted."""
        vectors = self.vectors.restrict(index)
        if vectors is None:
            return None
        scales = None if self.scales is None else tuple(t[index] for t in self.scales)
        return replace(self, vectors=vectors, scales=scales)


def _jacobian(rows: Tensor, y: Tensor) -> Tensor:
    """d rows / dy, (samples, rows, n).

    Batched products copy every matrix inside F once for each row, where it meets y as matrix @ column: for 16 samples of
    50 unknowns and 110 rows 300 ms instead of 190, and 70 MB. So they serve small problems alone.
    """
    if rows.shape[-1] * y.numel() <= _BATCHED or not rows.requires_grad:
        return JacobianOperator.from_tape(rows, y).materialise()
    with torch.enable_grad():
        columns = rows.sum(0).unbind()  # the samples are independent
    found = [
        torch.autograd.grad(row, y, retain_graph=True, materialize_grads=True)[0]
        if row.requires_grad
        else torch.zeros_like(y)
        for row in columns
    ]
    return torch.stack(found, 1)


def largest(t: Tensor) -> Tensor:
    """(samples,) the largest entry by size; zero where there is none."""
    return t.abs().amax(-1) if t.shape[-1] else t.new_zeros(len(t))


def _gradient(total: Tensor, y: Tensor) -> Tensor:
    if not total.requires_grad:
        return torch.zeros_like(y)
    return torch.autograd.grad(total, y, create_graph=True, materialize_grads=True)[0]


def _widest(jacobian: Tensor) -> Tensor:
    return jacobian.abs().amax(-1) if jacobian.shape[-1] else jacobian.sum(-1)


def settle(program: Program, z: Tensor, status: Tensor, steps: Tensor) -> Solution:
    """Polish an answer by Newton steps on the KKT conditions, and say where it is degenerate.

    - where active constraints depend on each other: multipliers of minimal norm, `aux["redundant"]`, DEGENERATE;
    - where a constraint is weakly active (g = 0 and lam = 0): DEGENERATE.

    The factor of the last Newton step is handed over as `Solution.inverse`, unless some sample cannot use it.
    """
    vectors = program.vectors
    solved = status == Status.CONVERGED
    z, r, inverse = _polished(vectors, z, solved, LU())
    redundant = torch.zeros_like(solved)
    useful = not bool((status == Status.NONFINITE).any())  # the adjoint moves those samples elsewhere
    if inverse.singular is not None and bool(inverse.singular.any()):
        useful, redundant = False, inverse.singular & solved & _dependent(program, z)
        if bool(redundant.any()):
            z = torch.where(redundant.unsqueeze(-1), _smallest_multipliers(program, z), z)
            polish = MinimalNormMultipliers(LU(), program.m + program.p)
            z, r, _ = _polished(vectors, z, redundant, polish)
    weak = _weak(program, z) & solved
    status = torch.where(solved & (redundant | weak), int(Status.DEGENERATE), status)
    norm = torch.linalg.vector_norm(r, dim=-1)
    return vectors.solution(
        z, status=status, residual_norm=norm, steps=steps, aux={"redundant": redundant},
        inverse=inverse if useful else None,
    )  # fmt: skip


def _polished(
    vectors: VectorProblem, z: Tensor, solved: Tensor, linear: AbstractLinearSolver
) -> tuple[Tensor, Tensor, Any]:
    """The best of some Newton steps, its residual and its frozen inverse.

    A step may enlarge the residual, for it changes the active set, and so finds the right one in a few steps.
    """
    eps = torch.finfo(z.dtype).eps
    operator = _tape(vectors, z)
    inverse = linear.freeze(operator)
    best, least = z, torch.linalg.vector_norm(operator.value, dim=-1)
    stale = torch.zeros_like(solved, dtype=torch.long)
    for _ in range(_POLISHES):
        size = 1 + best.abs().amax(-1)
        patience = torch.where(least <= eps**_SOLVED * size, 1, _PATIENCE)
        done = ~solved | (least <= 4 * eps * size) | (stale >= patience)
        if bool(done.all()):
            break
        z = torch.where(done.unsqueeze(-1), best, z - inverse.solve(operator.value)[0])
        operator = _tape(vectors, z)
        inverse = linear.freeze(operator)
        norm = torch.linalg.vector_norm(operator.value, dim=-1)
        stale = torch.where(norm < least / 2, 0, stale + 1)
        better = norm < least
        best, least = torch.where(better.unsqueeze(-1), z, best), torch.where(better, norm, least)
    if not bool(((z == best) | ~solved.unsqueeze(-1)).all()):
        operator = _tape(vectors, best)
        inverse = linear.freeze(operator)
    return best, operator.value, inverse


def _tape(vectors: VectorProblem, z: Tensor) -> JacobianOperator:
    return JacobianOperator(vectors.residual, z, sign=vectors.sign)


def _active(program: Program, z: Tensor) -> tuple[Derivatives, Tensor]:
    """The derivatives at z, and the Jacobian of the constraints with zero rows for inactive ones."""
    y, nu, lam = program.split(z)
    at = replace(program, scales=None).derivatives(y, nu, lam)
    active = (lam + at.g > torch.finfo(z.dtype).eps ** _MARGIN).unsqueeze(-1)
    return at, torch.cat([at.A, torch.where(active, at.G, 0)], 1)


_MARGIN = 0.6  # as in the KKT residual


def _dependent(program: Program, z: Tensor) -> Tensor:
    """(samples,) whether the active constraints have dependent gradients."""
    rows = _active(program, z)[1]
    norm = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    values = torch.linalg.svdvals(torch.where(norm > 0, rows / norm.clamp(min=1e-300), 0).nan_to_num(0.0))
    count = (norm.squeeze(-1) > 0).sum(-1)
    zero_row = ((norm.squeeze(-1) == 0)[:, : program.m]).any(-1)
    return ((values > max(_REDUNDANT, 64 * torch.finfo(z.dtype).eps)).sum(-1) < count) | zero_row


def _smallest_multipliers(program: Program, z: Tensor) -> Tensor:
    """z with the least-squares multipliers of minimal norm; constraints that would push the wrong way get none."""
    at, rows = _active(program, z)
    cutoff = max(_REDUNDANT, 64 * torch.finfo(z.dtype).eps)
    kept = (rows != 0).any(-1).to(rows.dtype)
    for _ in range(max(program.p, 1)):
        u = -matvec(torch.linalg.pinv((rows * kept.unsqueeze(-1)).mT, rtol=cutoff), at.gradient) * kept
        wrong = (u < 0) & (torch.arange(u.shape[-1], device=u.device) >= program.m)
        if not bool(wrong.any()):
            break
        kept = torch.where(wrong, 0, kept)
    return torch.cat([program.split(z)[0], u], -1)


def _weak(program: Program, z: Tensor) -> Tensor:
    """(samples,) whether some constraint is active without pushing."""
    if not program.p:
        return torch.zeros(len(z), dtype=torch.bool, device=z.device)
    y, _, lam = program.split(z)
    g = replace(program, scales=None).parts(y)[2]
    small = torch.finfo(z.dtype).eps ** _WEAK
    size = 1 + torch.maximum(g.abs(), lam.abs()).amax(-1, keepdim=True)
    return ((g.abs() <= small * size) & (lam.abs() <= small * size)).any(-1)
