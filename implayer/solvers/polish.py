"""The last steps of a constrained minimisation: exact to rounding, and told what it is: minimum, saddle, degenerate."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..linear.base import AbstractLinearSolver
from ..linear.dense import AbstractMatrixInverse, matvec
from ..linear.lu import LU, LUInverse
from ..linear.minimal_norm import MinimalNorm
from ..operators import MatrixOperator
from ..problem import quasi_random
from ..solution import Solution, Status
from .program import Derivatives, Program, largest

_REDUNDANT = 1e-8  # relative singular value of the active constraints below which they depend on each other
_POLISHES, _PATIENCE = 20, 5  # Newton steps at the end, and how many of them may fail to halve the residual
_MARGIN = 0.6  # eps**0.6: as in the KKT residual, but of the scaled problem
_SOLVED = 0.7  # eps**0.7: of a residual that small, the first step that does not halve it is the last
_WEAK = 0.45  # eps**0.45: g and lam below this (relative to the largest) are both zero
_SMALL = 0.5  # eps**0.5: relative KKT residual above which it is no solution
_FLAT = 0.4  # eps**0.4: relative curvature that is zero, relative step that a good answer does not leave
_VAGUE = 1e-2  # relative change of J^-1 over one more Newton step from which on there is no derivative


@dataclass(frozen=True)
class Polished:
    """The answer after Newton steps on the KKT conditions with the active set frozen, in the scaling of the program.

    A step may enlarge the residual, for it changes the active set, and so finds the right one in a few steps.
    """

    program: Program
    z: Tensor
    at: Derivatives
    active: Tensor  # (samples, p)
    r: Tensor
    inverse: AbstractMatrixInverse

    @staticmethod
    def of(program: Program, z: Tensor, solved: Tensor, linear: AbstractLinearSolver | None = None) -> "Polished":
        """Polish the samples that are solved, and leave the others."""
        linear = LU() if linear is None else linear
        eps = torch.finfo(z.dtype).eps
        best = now = _evaluated(program, z, linear)
        least = torch.linalg.vector_norm(now.r, dim=-1)
        stale = torch.zeros_like(solved, dtype=torch.long)
        for _ in range(_POLISHES):
            size = 1 + best.z.abs().amax(-1)
            patience = torch.where(least <= eps**_SOLVED * size, 1, _PATIENCE)
            done = ~solved | (least <= 4 * eps) | (stale >= patience)
            if bool(done.all()):
                break
            z = torch.where(done.unsqueeze(-1), best.z, now.z - now.inverse.solve(now.r)[0])
            now = _evaluated(program, z, linear, now)
            norm = torch.linalg.vector_norm(now.r, dim=-1)
            stale = torch.where(norm < least / 2, 0, stale + 1)
            better = norm < least
            best, least = best._where(~better, now), torch.where(better, norm, least)
        return best

    def _where(self, kept: Tensor, other: "Polished") -> "Polished":
        if bool(kept.all()):
            return self
        if not bool(kept.any()):
            return other

        def mixed(a: Tensor, b: Tensor) -> Tensor:
            return torch.where(kept.reshape(-1, *[1] * (a.ndim - 1)), a, b)

        at = Derivatives(*(mixed(a, b) for a, b in zip(vars(self.at).values(), vars(other.at).values(), strict=True)))
        z, active, r = mixed(self.z, other.z), mixed(self.active, other.active), mixed(self.r, other.r)
        inverse = self.inverse
        if type(inverse) is type(other.inverse) and len(inverse.tensors) == len(other.inverse.tensors):
            pairs = zip(inverse.tensors, other.inverse.tensors, strict=True)
            inverse = inverse.with_tensors(tuple(mixed(a, b) for a, b in pairs))
        else:
            inverse = LU().freeze(MatrixOperator(kkt_matrix(at, active)))
        return Polished(self.program, z, at, active, r, inverse)

    # ------------------------------------------------------------------------------------------------- what it is
    def solves(self) -> Tensor:
        """(samples,) whether the KKT conditions hold."""
        at, (y, nu, lam) = self.at, self.program.split(self.z)
        slope, rows = self.r.split([self.program.n, self.r.shape[-1] - self.program.n], -1)
        terms = at.gradient.abs() + matvec(at.A.mT.abs(), nu.abs()) + matvec(at.G.mT.abs(), lam.abs())
        reach = 1 + matvec(torch.cat([at.A, at.G], 1).abs(), y.abs())
        reach = torch.maximum(reach, torch.cat([at.h, lam], -1).abs())
        small = torch.finfo(y.dtype).eps ** _SMALL
        return (largest(slope) <= small * (1 + largest(terms))) & (largest(rows / reach) <= small)

    def weak(self) -> Tensor:
        """(samples, p) constraints that are active without pushing."""
        lam, g = self.program.split(self.z)[2], self.at.g
        small = torch.finfo(g.dtype).eps ** _WEAK
        size = 1 + torch.maximum(largest(g), largest(lam)).unsqueeze(-1)
        return (g.abs() <= small * size) & (lam.abs() <= small * size)

    def redundant(self) -> Tensor:
        """(samples,) whether the active constraints have dependent gradients."""
        rows = torch.cat([self.at.A, torch.where(self.active.unsqueeze(-1), self.at.G, 0)], 1)
        norm = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        values = torch.linalg.svdvals(torch.where(norm > 0, rows / norm.clamp(min=1e-300), 0).nan_to_num(0.0))
        count = (norm.squeeze(-1) > 0).sum(-1)
        zero_row = ((norm.squeeze(-1) == 0)[:, : self.program.m]).any(-1)
        return ((values > _cutoff(rows)).sum(-1) < count) | zero_row

    def vague(self) -> Tensor:
        """(samples,) whether one more Newton step, too long for a good answer, finds another derivative.

        So it is where the curvature or the gradient of a constraint vanishes: Newton's method converges slowly there, and
        what is left of the residual, though rounding, is far from the solution.
        """
        y, n = self.program.split(self.z)[0], self.program.n
        step = self.inverse.apply(self.r)
        long = largest(step[:, :n]) > torch.finfo(y.dtype).eps ** _FLAT * (1 + largest(y))
        if not bool(long.any()):
            return long
        further = _evaluated(self.program, self.z - step, LU())
        v = quasi_random(self.z.shape, self.z)
        before, after = self.inverse.apply(v)[:, :n], further.inverse.apply(v)[:, :n]
        return long & ~(largest(before - after) <= _VAGUE * largest(before))

    def saddle(self) -> tuple[Tensor, Tensor]:
        """(samples,) whether the Lagrangian bends down along the active constraints, and (samples, n) where to.

        A weakly active constraint cannot hold back both a direction and its opposite; several may, so then they count.
        """
        weak = self.weak()
        several = (weak.sum(-1) > 1).unsqueeze(-1)
        held = torch.where(several, self.active | weak, self.active & ~weak)
        return _bends_down(self.at.hessian, torch.cat([self.at.A, torch.where(held.unsqueeze(-1), self.at.G, 0)], 1))

    def smallest_multipliers(self) -> Tensor:
        """z with least-squares multipliers of minimal norm; constraints that would push the wrong way get none."""
        program = self.program
        at = program.plain(self.at)
        rows = torch.cat([at.A, torch.where(self.active.unsqueeze(-1), at.G, 0)], 1)
        kept = (rows != 0).any(-1).to(rows.dtype)
        u = kept
        for _ in range(max(program.p, 1)):
            u = -matvec(torch.linalg.pinv((rows * kept.unsqueeze(-1)).mT, rtol=_cutoff(rows)), at.gradient) * kept
            wrong = (u < 0) & (torch.arange(u.shape[-1], device=u.device) >= program.m)
            if not bool(wrong.any()):
                break
            kept = torch.where(wrong, 0, kept)
        y, nu, lam = program.split(torch.cat([program.split(self.z)[0], u], -1))
        if program.scales is not None:
            f, h, g = program.scales
            nu, lam = nu * f.unsqueeze(-1) / h, lam * f.unsqueeze(-1) / g
        return torch.cat([y, nu, lam], -1)


def _evaluated(program: Program, z: Tensor, linear: AbstractLinearSolver, known: Polished | None = None) -> Polished:
    y, nu, lam = program.split(z)
    at = program.derivatives(y, nu, lam)
    active = lam + at.g > torch.finfo(z.dtype).eps ** _MARGIN
    r = torch.cat([at.slope(nu, lam), at.h, torch.where(active, at.g, -lam)], -1)
    if known is not None and at.hessian is known.at.hessian and torch.equal(active, known.active):
        return Polished(program, z, at, active, r, known.inverse)  # the derivatives of a quadratic program are constant
    inverse = linear.freeze(MatrixOperator(kkt_matrix(at, active)))
    assert isinstance(inverse, AbstractMatrixInverse)
    return Polished(program, z, at, active, r, inverse)


def kkt_matrix(at: Derivatives, active: Tensor) -> Tensor:
    """The Jacobian of the KKT residual in (y, nu, lam), (samples, n + m + p, n + m + p)."""
    samples, m, n = at.A.shape
    size = n + m + active.shape[-1]
    matrix = at.A.new_zeros(samples, size, size)
    matrix[:, :n, :n], matrix[:, :n, n : n + m], matrix[:, :n, n + m :] = at.hessian, at.A.mT, at.G.mT
    matrix[:, n : n + m, :n] = at.A
    matrix[:, n + m :, :n] = torch.where(active.unsqueeze(-1), at.G, 0)
    matrix.diagonal(dim1=-2, dim2=-1)[:, n + m :] = torch.where(active, 0.0, -1.0).to(matrix.dtype)
    return matrix


def _cutoff(rows: Tensor) -> float:
    return max(_REDUNDANT, 64 * torch.finfo(rows.dtype).eps)


def _bends_down(hessian: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Whether v'Hv < 0 for a v with rows v = 0, and the v where it is least."""
    size = hessian.abs().amax((-1, -2)).nan_to_num(0.0, 0.0)
    flat = torch.finfo(hessian.dtype).eps ** _FLAT * size
    eye = torch.eye(hessian.shape[-1], dtype=hessian.dtype, device=hessian.device)
    down = torch.linalg.cholesky_ex(hessian + flat[:, None, None] * eye)[1] != 0
    direction = torch.zeros_like(hessian[:, 0])
    index = (down & hessian.isfinite().all(-1).all(-1) & rows.isfinite().all(-1).all(-1)).nonzero().squeeze(-1)
    down = torch.zeros_like(down)
    if not len(index):
        return down, direction
    matrix, rows = hessian[index], rows[index]
    if rows.shape[1]:
        _, values, basis = torch.linalg.svd(rows, full_matrices=False)
        kept = values > _cutoff(rows) * values.amax(-1, keepdim=True)
        span = basis * kept.unsqueeze(-1)
        null = eye - span.mT @ span
        matrix = null @ matrix @ null
    values, vectors = torch.linalg.eigh(matrix)
    down[index] = values[:, 0] < -flat[index]
    direction[index] = vectors[:, :, 0]
    return down, direction


def settle(polished: Polished, start: Tensor, status: Tensor, steps: Tensor) -> Solution:
    """The answer as a `Solution`, with all that has to be said about it.

    - where the KKT conditions do not hold, or the point is a saddle or a maximum: MAX_STEPS;
    - where active constraints depend on each other: multipliers of minimal norm, `aux["redundant"]`, DEGENERATE;
    - where a constraint is weakly active (g = 0 and lam = 0), or curvature vanishes: DEGENERATE.

    The factor of the last Newton step is handed over as `Solution.inverse`, unless some sample cannot use it. `start` are
    the z of samples whose answer makes no sense.
    """
    program, solved = polished.program, status == Status.CONVERGED
    redundant = torch.zeros_like(solved)
    singular = polished.inverse.singular
    useful = not bool((status == Status.NONFINITE).any())  # the adjoint moves those samples elsewhere
    if singular is not None and bool(singular.any()):
        useful, redundant = False, singular & solved & polished.redundant()
        if bool(redundant.any()):
            z = torch.where(redundant.unsqueeze(-1), polished.smallest_multipliers(), polished.z)
            linear = MinimalNorm(LU(), program.m + program.p)
            again = Polished.of(program, z, redundant, linear)
            polished = replace(polished, z=again.z, at=again.at, active=again.active, r=again.r)
    weak = polished.weak().any(-1)
    wrong = solved & (~polished.solves() | polished.saddle()[0])
    vague = weak if not useful else weak | polished.vague()
    status = torch.where(solved & (redundant | vague), int(Status.DEGENERATE), status)
    status = torch.where(wrong, int(Status.MAX_STEPS), status)
    return _unscaled(polished, start, status, steps, redundant & ~wrong, useful)


def _unscaled(
    polished: Polished, start: Tensor, status: Tensor, steps: Tensor, redundant: Tensor, useful: bool
) -> Solution:
    """The answer of the problem as it was given; failed where the KKT residual there is not that of the scaled one."""
    program, vectors = polished.program, polished.program.vectors
    z = program.unscaled(*program.split(polished.z))
    r = vectors.residual(z)
    lost = ~torch.isfinite(torch.linalg.vector_norm(r, dim=-1)) & (status != Status.NONFINITE)
    at, lam = program.plain(polished.at), program.split(z)[2]
    rows = r[:, program.n + program.m :]
    frozen = (rows - at.g).abs() <= (rows + lam).abs()
    other = ((frozen != polished.active) & (at.g + lam != 0) & ~polished.weak()).any(-1)
    solved = (status == Status.CONVERGED) | (status == Status.DEGENERATE)
    status = torch.where(lost | (other & solved), int(Status.MAX_STEPS), status)
    if bool(lost.any()):
        z = torch.where(lost.unsqueeze(-1), start, z)
        r = vectors.residual(z)
    inverse = None
    if useful and not bool((lost | other).any()):
        inverse = polished.inverse
        if not program.is_plain or not isinstance(inverse, LUInverse):
            inverse = LU().freeze(MatrixOperator(kkt_matrix(at, polished.active), sign=vectors.sign))
    norm = torch.linalg.vector_norm(r, dim=-1)
    return vectors.solution(
        z, status=status, residual_norm=norm, steps=steps, aux={"redundant": redundant}, inverse=inverse
    )
