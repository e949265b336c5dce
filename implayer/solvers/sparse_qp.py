"""Sparse quadratic programs: Clarabel, then the exact solution on its active rows by a sparse factorisation."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..errors import NotConvexError
from ..linear.sparse_lu import SparseFactor, SparseInverse
from ..solution import Solution, Status
from .quadratic import CONVEX, WEAK, cannot_hold, clarabel_solve

_REPAIRS = 10  # changes of the active set
_UNIT = 64 * float(np.finfo(np.float64).eps)


def solve_sparse(x: Any) -> Solution:
    """The solution for x with patterns ("Q at", "A, G at") instead of dense matrices, sample by sample."""
    linear, high, low, m = x["q"].detach(), x["b, h"].detach(), x["b, l"], x["equations"].shape[-1]
    batch = max((tuple(leaf.shape[:-1]) for leaf in (linear, high, low) if leaf is not None), key=len)
    n, k, samples = linear.shape[-1], high.shape[-1], math.prod(batch)
    if low is None:
        low = torch.cat([high[..., :m], torch.full_like(high[..., m:], -torch.inf)], -1)
    parts = [part.detach().expand(*batch, part.shape[-1]).reshape(samples, -1).cpu().double().numpy()
             for part in (linear, low, high)]  # fmt: skip
    matrices = [_matrix(x, name, shape) for name, shape in (("Q", (n, n)), ("A, G", (k, n)))]
    z, status, steps = np.zeros((samples, n + k)), np.zeros(samples, dtype=np.int64), np.zeros(samples, dtype=np.int64)
    _require_convex(matrices[0])
    factors = []
    for i in range(samples):
        z[i], status[i], steps[i], factor = _one(
            _Program(matrices[0], matrices[1], parts[0][i], parts[1][i], parts[2][i], m)
        )
        factors.append(factor)
    to = {"dtype": linear.dtype, "device": linear.device}
    singular = torch.tensor([factor.singular for factor in factors], device=linear.device)
    aux = {"redundant": torch.zeros(batch, dtype=torch.bool, device=linear.device)}
    return Solution(
        torch.as_tensor(z, **to).reshape(*batch, n + k), torch.as_tensor(status, device=linear.device).reshape(batch), None,
        torch.as_tensor(steps, device=linear.device).reshape(batch), aux, SparseInverse(factors, singular),
    )  # fmt: skip


def _matrix(x: Any, name: str, shape: tuple[int, int]) -> Any:
    import scipy.sparse as sparse

    values, at = x[name].detach().cpu().double().numpy(), x[f"{name} at"].cpu().numpy()
    return sparse.csc_array((values, (at[0], at[1])), shape=shape)


def _require_convex(hessian: Any) -> None:
    """Raise where Q has a negative eigenvalue: as many as there are negative pivots of Q shifted by its rounding."""
    import scipy.sparse as sparse
    from scipy.sparse.linalg import eigsh, splu

    largest = np.abs(hessian.data).max(initial=0)
    if not (largest > 0 and np.isfinite(largest)):
        return
    shift = CONVEX * largest * sparse.eye_array(hessian.shape[0], format="csc")
    try:
        lu = splu(hessian + shift, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
        if (lu.perm_r == lu.perm_c).all() and (lu.U.diagonal() > 0).all():
            return
    except RuntimeError:  # a pivot is zero
        pass
    least = float(eigsh(hessian, k=1, which="SA", return_eigenvectors=False)[0])
    if least < -CONVEX * largest:
        raise NotConvexError(
            f"`Q` is not positive semidefinite: its least eigenvalue is {least:.3g} (the largest entry {largest:.3g}), so "
            f"the problem is not convex. Add a multiple of the identity."
        )


@dataclass(frozen=True)
class _Program:
    """One sample: Q and C of `scipy.sparse`, q, the bounds of the rows, of which the first `equations` are equations."""

    q: Any
    c: Any
    linear: Any
    low: Any
    high: Any
    equations: int

    def finite(self) -> bool:
        """Without NaN, and without infinities save in the bounds of inequalities."""
        numbers = (self.q.data, self.c.data, self.linear, self.high[: self.equations])
        return all(np.isfinite(part).all() for part in numbers) and not np.isnan([self.low, self.high]).any()

    def factor(self, active: Any) -> SparseFactor:
        """J = [Q C'; D C, D - I] with D one on the active rows."""
        import scipy.sparse as sparse

        keep, loose = sparse.diags_array(active.astype(float)), sparse.diags_array(active - 1.0)
        return SparseFactor(sparse.block_array([[self.q, self.c.T], [keep @ self.c, loose]], format="csc"))


def _one(program: _Program) -> tuple[Any, int, int, SparseFactor]:
    """(y, multipliers), status, steps, and the factor of J at the active rows."""
    import scipy.sparse as sparse

    n, k = len(program.linear), len(program.high)
    none = np.arange(k) < program.equations
    if not program.finite():
        q, c = sparse.eye_array(n, format="csc"), sparse.csc_array((k, n))
        harmless = replace(program, q=q, c=c).factor(np.zeros(k, dtype=bool))
        return np.full(n + k, np.nan), int(Status.NONFINITE), 0, harmless
    if cannot_hold(program.low, program.high).any():
        return np.zeros(n + k), int(Status.INFEASIBLE), 0, program.factor(none)
    y, mu, status, steps = clarabel_solve(
        program.q, program.c, program.linear, program.low, program.high, program.equations
    )
    if status != Status.CONVERGED:
        return np.nan_to_num(np.concatenate([y, mu])), status, steps, program.factor(none)
    z, factor, weak = _polished(program, y, mu)
    return z, int(Status.DEGENERATE if weak else Status.CONVERGED), steps, factor


def _polished(program: _Program, y: Any, mu: Any) -> tuple[Any, SparseFactor, bool]:
    """The exact solution on the active rows of an approximate one, which are repaired until all signs are right.

    Returns also whether a row is active without multiplier.
    """
    m, n, high, low = program.equations, len(y), program.high, program.low
    norms = np.sqrt(np.asarray(program.c.power(2).sum(axis=1)).ravel()) + np.finfo(float).tiny
    size = 1 + np.linalg.norm(y)
    force = (np.abs(program.q @ y).max(initial=0) + np.abs(program.linear).max(initial=0)) or 1.0
    value = program.c @ y
    up = mu * norms / force > (high - value) / (norms * size)
    down = ~up & (-mu * norms / force > (value - low) / (norms * size))
    up[:m], down[:m] = True, False
    for _ in range(_REPAIRS):
        factor = program.factor(up | down)
        right = np.concatenate([-program.linear, np.where(up, high, np.where(down, low, 0))])
        z = factor.solve(right)
        z = z + factor.solve(right - factor.matrix @ z)
        value, mu = program.c @ z[:n], z[n:]
        wrong = np.where(up, mu, np.where(down, -mu, 0)) < -1e-9 * force / norms
        wrong |= (up | down) & (np.abs(mu) <= _UNIT * (1 + np.abs(value)))  # inactive, for the residual
        wrong[:m] = False
        idle, slack = ~(up | down), 1e-9 * norms * size
        over, under = idle & (value > high + slack), idle & (value < low - slack)
        if not (wrong | over | under).any():
            break
        up, down = (up & ~wrong) | over, (down & ~wrong) | under
    met = np.minimum(high - value, value - low) <= WEAK * (1 + np.abs(value))
    return z, factor, bool((met & idle).any())
