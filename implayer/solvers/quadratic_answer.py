"""The answer of a minimisation that has turned out to be a convex quadratic program."""

import torch
from torch import Tensor

from ..linear.dense import matvec
from ..solution import Status
from .program import Program, largest
from .quadratic import QuadraticProgram, Whitened, active_set, daqp

_CONDITION = 1e7  # ratio of the pivots of a Cholesky factor beyond which the interior point method is the surer one
_TRUE = 1e-6  # error of the true optimality conditions, relative to the unknowns, from which an answer is none


def quadratic_answer(program: Program) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor] | None:
    r"""(y, nu, lam, status, steps) by a dual active-set method, or None where the program is not convex and quadratic.

    With the derivatives at a point $y_0$, which are those everywhere,

    $$\min_y \tfrac12 y^\top H y + (\nabla f - H y_0)^\top y \quad\text{s.t.}\quad A y = A y_0 - h,\; G y \le G y_0 - g$$

    That they are is a hint of two second derivatives; a sample counts as solved (CONVERGED, else MAX_STEPS) where the true
    conditions hold at its answer.
    """
    at, y = program.memory.at, program.memory.y
    if at is None or y is None or not program.memory.quadratic or y.device.type != "cpu" or daqp() is None:
        return None
    lower, info = torch.linalg.cholesky_ex(at.hessian)
    diagonal = lower.diagonal(dim1=-2, dim2=-1)
    if not bool(((info == 0) & (diagonal.amin(-1) * _CONDITION > diagonal.amax(-1))).all()):
        return None
    equal, high = matvec(at.A, y) - at.h, matvec(at.G, y) - at.g
    if not bool((at.gradient.sum(-1) + equal.sum(-1) + high.sum(-1)).isfinite().all()):
        return None
    low = torch.full_like(high, -torch.inf)
    whole = QuadraticProgram(
        at.hessian, at.gradient - matvec(at.hessian, y), torch.cat([at.A, at.G], 1),
        torch.cat([equal, low], -1), torch.cat([equal, high], -1), program.m,
    )  # fmt: skip
    scaled = Whitened.of(whole, lower)
    found = active_set(scaled, program.m)
    assert found is not None and found.weak is not None
    y, mu = scaled.unscaled(found.y, found.mu)
    nu, lam = mu.split([program.m, program.p], -1)
    lam = lam.clamp(min=0)
    slope, h, g = program.slopes(y, nu, lam)
    error = largest(torch.cat([slope, h, torch.maximum(g, -lam)], -1))
    good = (found.status == Status.CONVERGED) & ~found.weak  # a vertex of the active set hides redundant constraints
    good = good & (error <= _TRUE * (1 + largest(y) + largest(mu)))
    status = torch.where(good, int(Status.CONVERGED), int(Status.MAX_STEPS))
    return y, nu, lam, status, found.steps
