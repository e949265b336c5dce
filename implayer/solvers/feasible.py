"""The nearest feasible point: least violation of constraints by Levenberg-Marquardt."""

import torch
from torch import Tensor

from ..linear.dense import matvec
from .program import Program

_STEPS = 100
_FIRST_DAMPING = 1e-3


def nearest_feasible(program: Program, y: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    r"""A minimiser of the violation near y, and the violation there.

    $$\min_y \tfrac12 \|h(y)\|^2 + \tfrac12 \|\max(g(y), 0)\|^2$$

    **Returns** y (samples, n), and (samples,) the largest |h_i| or g_i > 0.

    Reference: Nocedal and Wright, "Numerical Optimization", chapter 10.3.
    """
    zero = y.new_zeros(len(y), 1)
    nu, lam = zero.expand(-1, program.m), zero.expand(-1, program.p)
    damping = torch.full_like(y[:, 0], _FIRST_DAMPING)
    eye = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
    r = _rows(program, y)
    if not r.shape[-1]:
        return y, zero.squeeze(-1)
    for _ in range(_STEPS):
        at = program.derivatives(y, nu, lam)
        J = torch.cat([at.A, torch.where((at.g > 0).unsqueeze(-1), at.G, 0)], 1)
        slope = matvec(J.mT, r)
        size = torch.linalg.vector_norm(r, dim=-1)
        flat = torch.linalg.vector_norm(slope, dim=-1) <= tolerance * size
        pending = ~flat & (r.abs().amax(-1) > tolerance / 10) & (damping < 1e12)
        if not bool(pending.any()):
            break
        normal = J.mT @ J
        scale = normal.diagonal(dim1=-2, dim2=-1).amax(-1).clamp(min=1e-30)
        step = -torch.linalg.solve_ex(normal + (damping * scale)[:, None, None] * eye, slope.unsqueeze(-1))[0]
        trial = y + step.squeeze(-1)
        r_trial = _rows(program, trial)
        better = pending & (torch.linalg.vector_norm(r_trial, dim=-1) < size)
        y = torch.where(better.unsqueeze(-1), trial, y)
        r = torch.where(better.unsqueeze(-1), r_trial, r)
        damping = torch.where(better, (damping / 10).clamp(min=1e-12), damping * 10)
    return y, r.abs().amax(-1)


def _rows(program: Program, y: Tensor) -> Tensor:
    _, h, g = program.parts(y)
    return torch.cat([h, g.clamp(min=0)], -1)
