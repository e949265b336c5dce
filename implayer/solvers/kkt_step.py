"""The Newton step of a primal-dual interior point method, on the reduced KKT system."""

import torch
from torch import Tensor

from ..linear.dense import matvec
from .program import Derivatives, largest


def least_squares_multipliers(at: Derivatives, lam: Tensor) -> Tensor:
    """Least-squares multipliers of the equalities; zero where they are large and say nothing."""
    if not at.A.shape[1]:
        return at.A.new_zeros(len(at.A), 0)
    slope = at.gradient + matvec(at.G.mT, lam)
    gram = at.A @ at.A.mT + 1e-10 * torch.eye(at.A.shape[1], dtype=at.A.dtype, device=at.A.device)
    nu = -torch.linalg.solve_ex(gram, matvec(at.A, slope).unsqueeze(-1))[0].squeeze(-1)
    keep = (largest(nu) <= 1e3) & nu.isfinite().all(-1)
    return torch.where(keep.unsqueeze(-1), nu, 0)


def newton_step(
    at: Derivatives, s: Tensor, nu: Tensor, lam: Tensor, mu: Tensor, learned: Tensor, floor: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(dy, ds, dnu, dlam) of the Newton step, and where the Hessian was not shifted."""
    n, m = at.A.shape[2], at.A.shape[1]
    weight = lam / s
    c = at.g + s
    target = mu.unsqueeze(-1) / s
    matrix = at.hessian + at.G.mT @ (weight.unsqueeze(-1) * at.G)
    shift = _shift(matrix, at.A, learned, floor)
    matrix = matrix + torch.diag_embed(shift.unsqueeze(-1).expand(-1, n))
    slope = at.gradient + matvec(at.A.mT, nu) + matvec(at.G.mT, target + weight * c)
    if m:
        eps = torch.finfo(matrix.dtype).eps ** 0.5
        block = -eps * torch.eye(m, dtype=matrix.dtype, device=matrix.device).expand(len(matrix), m, m)
        block = block * _dependent(at.A)[:, None, None]
        matrix = torch.cat([torch.cat([matrix, at.A.mT], 2), torch.cat([at.A, block], 2)], 1)
        slope = torch.cat([slope, at.h], -1)
    step = torch.linalg.solve_ex(matrix, -slope.unsqueeze(-1))[0].squeeze(-1)
    dy, dnu = step.split([n, m], -1)
    change = matvec(at.G, dy)
    return dy, -c - change, dnu, target - lam + weight * (c + change), shift == 0


def _dependent(A: Tensor) -> Tensor:
    """(samples,) one where the gradients of the equalities depend on each other."""
    if A.shape[1] > A.shape[2]:
        return torch.ones_like(A[:, 0, 0])
    size = torch.linalg.qr(A.mT, mode="r")[1].diagonal(dim1=-2, dim2=-1).abs()
    return (~(size.amin(-1) > torch.finfo(A.dtype).eps ** 0.5 * size.amax(-1))).to(A.dtype)


def _shift(matrix: Tensor, A: Tensor, learned: Tensor, floor: Tensor) -> Tensor:
    """(samples,) what has to be added to the diagonal so that the matrix is positive definite where A dy = 0."""
    n, m = matrix.shape[-1], A.shape[1]
    if m >= n or (m and not bool(_bends(matrix, learned).any())):
        return learned
    if m:
        basis = torch.linalg.qr(A.mT, mode="complete")[0][..., m:]
        matrix = basis.mT @ matrix @ basis
    finite = matrix.isfinite().all(-1).all(-1)
    index = (_bends(matrix, learned) & finite).nonzero().squeeze(-1)
    if not len(index):
        return learned
    lowest = torch.linalg.eigvalsh(matrix[index])[:, 0]
    enough = (-1.5 * lowest).clamp(min=0) + torch.maximum(learned, floor * (1e-3 * _size(matrix) + 1e-4))[index]
    return learned.index_copy(0, index, enough)


def _size(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1).abs().amax(-1)


def _bends(matrix: Tensor, learned: Tensor) -> Tensor:
    """(samples,) whether the matrix, with what was learned on its diagonal, is not positive definite."""
    shift = learned - 1e3 * torch.finfo(matrix.dtype).eps * _size(matrix)
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return torch.linalg.cholesky_ex(matrix + shift[:, None, None] * eye)[1] != 0
