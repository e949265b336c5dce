"""Cone programs: an interior-point or splitting method in C finds the solution, Newton steps make it exact."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import NotConvexError
from ..linear.base import AbstractInverse
from ..linear.sparse_lu import DenseInverse, SparseFactor, SparseInverse
from ..problem import Problem, quasi_random
from ..solution import Solution, Status

_ROUNDS = 8
_QUICK = 1e-6  # relative length of a Newton step after which a chord step reaches the rounding
_ROUNDING = 2e-14  # relative residual that no step would better
_KINK = 1e-7  # relative distance to where the projection has no derivative, below which a solution is degenerate


class Answer(NamedTuple):
    """Of one sample: primal, slack, multiplier, status and iterations."""

    x: Any
    s: Any
    y: Any
    status: Status
    steps: int


@dataclass(frozen=True)
class ConicSolver:
    """Solve min 1/2 x'Px + q'x over A x + s = b, s in K for every sample, to the rounding of float64.

    Newton's method on the optimality conditions polishes what the C solver found and leaves the factor of the Jacobian,
    which the derivative uses again.

    **Arguments**

    - `program`: the cone program, of which the data is x of the problem.
    - `method`: "Clarabel" (default; interior point) or "SCS" (splitting: rough, but cheap a step, for very large ones).
    - `atol`: tolerance of the C solver before the polish (default 1e-12: more steps in C save a factorisation here).
    - `max_steps`: iterations (default 200, plenty for Clarabel; SCS takes thousands).
    - `options`: further settings of the method by its own names.

    **Reference** Goulart and Chen, "Clarabel: an interior-point solver for conic programs with quadratic objectives", 2024;
    O'Donoghue et al., "Conic optimization via operator splitting and homogeneous self-dual embedding", 2016.
    """

    program: Any = field(repr=False)
    method: Literal["Clarabel", "SCS"] = "Clarabel"
    atol: float = 1e-12
    max_steps: int = 200
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, problem: Problem) -> Solution:
        """(x, v, rho) of every sample, with status and factor."""
        program = self.program
        batch, data = problem.x.samples()
        finite = torch.isfinite(torch.cat(data, -1).sum(-1))
        self._require_convex(data)
        z, status, steps = self._answers(data, finite, self.atol)
        good = (status == Status.CONVERGED).nonzero().reshape(-1)
        redundant, inverse = torch.zeros(len(z), dtype=torch.bool), None
        if len(good):
            chosen = data if len(good) == len(z) else type(data)(*(part[good] for part in data))
            polished = self._polished(chosen, z[good])
            z = z.index_copy(0, good, polished.z)
            degenerate = polished.unsure | (polished.margin <= _KINK)
            told = torch.where(polished.missed, int(Status.MAX_STEPS), int(Status.DEGENERATE))
            status[good] = torch.where(degenerate, told, status[good])
            redundant[good] = polished.redundant
            inverse = _whole(polished.inverse, good, len(z))
        parts = program.split(z)
        value = type(parts)(*(part.reshape(*batch, part.shape[-1]) for part in parts))
        aux = {"redundant": redundant.reshape(batch)}
        return Solution(value, status.reshape(batch), None, steps.reshape(batch), aux, inverse)

    def _answers(self, data: Any, finite: Tensor, atol: float) -> tuple[Tensor, Tensor, Tensor]:
        """z, status and steps of every sample as the solver in C has them."""
        n, m = self.program.n, self.program.cones.size
        rows = zip(*(part.numpy() for part in data), strict=True)
        nothing = Answer(np.zeros(n), np.zeros(m), np.zeros(m), Status.NONFINITE, 0)
        answers = [self._solve(row, atol) if ok else nothing for row, ok in zip(rows, finite.tolist(), strict=True)]
        x, s, y = (torch.from_numpy(np.stack([np.asarray(a[k], dtype=float) for a in answers])) for k in range(3))
        z = self.program.point(x, s, y)
        lost = ~torch.isfinite(z).all(-1)
        status = torch.tensor([int(a.status) for a in answers])
        status = torch.where(lost & (status == Status.CONVERGED), int(Status.MAX_STEPS), status)
        return torch.where(lost.unsqueeze(-1), 0.0, z), status, torch.tensor([a.steps for a in answers])

    def _polished(self, data: Any, z: Tensor) -> "_Polished":
        """Newton from the answers; once more from sharper answers where that did not reach the rounding."""
        polished = _polish(self.program, data, z)
        if not bool(polished.missed.any()) or self.atol <= 1e-11:
            return polished
        sharper, _, _ = self._answers(data, polished.missed, 1e-12)
        return _polish(self.program, data, torch.where(polished.missed.unsqueeze(-1), sharper, polished.z))

    def _require_convex(self, data: Any) -> None:
        """Raise for a sample whose P has a negative eigenvalue; a P that no parameter enters is looked at once."""
        P = data.P[:1] if data.P.stride(0) == 0 else data.P
        if not P.shape[-1] or not bool(torch.isfinite(P).all()):
            return
        pattern = self.program.P
        if bool((pattern.rows == pattern.columns).all()):
            least, largest = P.amin(-1), P.abs().amax(-1)
        else:
            matrix = pattern.dense(P)
            shift = 1e-10 * matrix.abs().sum(-1).amax(-1)
            shifted = matrix + (shift + 1e-300)[:, None, None] * torch.eye(matrix.shape[-1], dtype=P.dtype)
            if not bool((torch.linalg.cholesky_ex(shifted)[1] != 0).any()):
                return
            values = torch.linalg.eigvalsh(matrix)
            least, largest = values[:, 0], values.abs().amax(-1)
        bad = (least < -1e-9 * largest).nonzero().reshape(-1)
        if len(bad):
            raise NotConvexError(
                f"the quadratic form in the objective of sample {int(bad[0])} is not positive semidefinite (least eigenvalue "
                f"{float(least[bad[0]]):.3g}), so the problem is not convex. Pass a positive semidefinite matrix, such as "
                f"`L @ L.mT`."
            )

    # ------------------------------------------------------------------------------------------ the solvers in C
    def _solve(self, data: Any, atol: float) -> Answer:
        program, (P, q, A, b) = self.program, data
        solve = _clarabel if self.method == "Clarabel" else _scs
        return solve(program.P.upper(P), q, program.A.sparse(A), b, program.cones, self._settings(atol))

    def _settings(self, atol: float) -> dict[str, Any]:
        if self.method == "SCS":
            settings = {"eps_abs": atol, "eps_rel": atol, "max_iters": self.max_steps, "verbose": False}
            return {**settings, **self.options}
        tolerances = {f"tol_{name}": atol for name in ("gap_abs", "gap_rel", "feas")}
        return {**tolerances, "verbose": False, "max_iter": self.max_steps, **self.options}


def _clarabel(P: Any, q: Any, A: Any, b: Any, cones: Any, settings: dict[str, Any]) -> Answer:
    import clarabel as module

    clarabel: Any = module  # a compiled module without types
    chosen = clarabel.DefaultSettings()
    for name, value in settings.items():
        setattr(chosen, name, value)
    kinds = [clarabel.ZeroConeT(cones.zero)] if cones.zero else []
    kinds += [clarabel.NonnegativeConeT(cones.nonneg)] if cones.nonneg else []
    kinds += [clarabel.SecondOrderConeT(n) for n in cones.soc] + [clarabel.PSDTriangleConeT(n) for n in cones.psd]
    kinds += [clarabel.ExponentialConeT()] * cones.exp
    found = clarabel.DefaultSolver(P, q, A, b, kinds, chosen).solve()
    status = _CLARABEL.get(str(found.status), Status.CONVERGED)
    return Answer(found.x, found.s, found.z, status, int(found.iterations))


# An answer that fell short of the tolerance may still be polished: its residual is judged in the end.
_CLARABEL = {
    "PrimalInfeasible": Status.INFEASIBLE,
    "AlmostPrimalInfeasible": Status.INFEASIBLE,
    "DualInfeasible": Status.UNBOUNDED,
    "AlmostDualInfeasible": Status.UNBOUNDED,
}
_SCS = {-2: Status.INFEASIBLE, -7: Status.INFEASIBLE, -1: Status.UNBOUNDED, -6: Status.UNBOUNDED}


def _scs(P: Any, q: Any, A: Any, b: Any, cones: Any, settings: dict[str, Any]) -> Answer:
    import scs

    order = _scs_order(cones)
    kinds = {"z": cones.zero, "l": cones.nonneg, "q": list(cones.soc), "s": list(cones.psd), "ep": cones.exp}
    given = {"P": P, "A": A.tocsr()[order].tocsc(), "b": b[order], "c": q}
    found = scs.SCS(given, kinds, **settings).solve()
    s, y = np.empty_like(b), np.empty_like(b)
    s[order], y[order] = found["s"], found["y"]
    code = found["info"]["status_val"]
    return Answer(found["x"], s, y, _SCS.get(code, Status.CONVERGED), int(found["info"]["iter"]))


def _scs_order(cones: Any) -> Any:
    """SCS takes the lower triangle by columns, where Clarabel and this house take the upper one."""
    order = np.arange(cones.size)
    start = cones.zero + cones.nonneg + sum(cones.soc)
    for n in cones.psd:
        row, column = np.triu_indices(n)  # (0,0), (0,1), ...: the lower triangle by columns, transposed
        order[start : start + len(row)] = start + column * (column + 1) // 2 + row
        start += len(row)
    return order


# ------------------------------------------------------------------------------------------------------- the polish
class _Polished(NamedTuple):
    z: Tensor
    missed: Tensor  # (samples,) whether Newton's method did not arrive
    inverse: SparseInverse | DenseInverse
    margin: Tensor  # (samples,) relative distance to where the projection has no derivative
    redundant: Tensor  # (samples,) whether multipliers are not unique
    unsure: Tensor  # (samples,) whether what the user asked for, or its derivative, is not unique


def _polish(program: Any, data: Any, z: Tensor) -> _Polished:
    """Newton's method for F(data, z) = 0; with the factor of the last point."""
    r = program.residual(data, z)
    inverse, margin = _factorised(program, data, z), program.margin(z)
    step = inverse.solve(r)[0]
    length = step.abs().amax(-1) / (1 + z.abs().amax(-1))
    if bool((length <= torch.clamp(0.1 * margin, max=_QUICK)).all()):  # the next step is of the square of this one
        z, missed = z - step, torch.zeros_like(length, dtype=torch.bool)
        if bool((length > inverse.patience).any()):
            z = z - inverse.solve(program.residual(data, z))[0]
            inverse = _factorised(program, data, z)
    else:
        z, norm, inverse = _newton(program, data, z, r, inverse)
        margin, missed = program.margin(z), norm > 1e-9
        if bool(missed.any()):
            missed &= ~(norm <= 1e-9 * (1 + _size(program, data, z)))
    return _Polished(z, missed, inverse, margin, *_multiple(program, data, inverse, z))


def _newton(program: Any, data: Any, z: Tensor, r: Tensor, inverse: Any) -> tuple[Tensor, Tensor, Any]:
    """Steps as long as they halve the residual, each sample for itself."""
    norm = torch.linalg.vector_norm(r, dim=-1)
    size = torch.linalg.vector_norm(torch.cat([z, data.q, data.b], -1), dim=-1)
    for _ in range(_ROUNDS):
        step = inverse.solve(r)[0]
        trial = z - step
        r_trial = program.residual(data, trial)
        norm_trial = torch.linalg.vector_norm(r_trial, dim=-1)
        better = norm_trial < 0.5 * norm
        if not bool(better.any()):
            break
        kept = better.unsqueeze(-1)
        z, r, norm = torch.where(kept, trial, z), torch.where(kept, r_trial, r), torch.where(better, norm_trial, norm)
        length = (step * kept).abs().amax(-1) / (1 + z.abs().amax(-1))
        if bool((length > inverse.patience).any()):
            inverse = _factorised(program, data, z)
        if bool((norm <= _ROUNDING * size).all()):
            break
    return z, norm, inverse


def _size(program: Any, data: Any, z: Tensor) -> Tensor:
    """(samples,) size of the terms whose sum is the residual."""
    x, v, _ = program.split(z.abs())
    P, q, A, b = (part.abs() for part in data)
    terms = [program.P.times(P, x) + q + program.A.transposed_times(A, v), program.A.times(A, x) + b + v]
    return torch.linalg.vector_norm(torch.cat(terms, -1), dim=-1)


def _factorised(program: Any, data: Any, z: Tensor) -> "SparseInverse | DenseInverse":
    """A frozen inverse of dF/dz."""
    if program.is_sparse:
        return SparseInverse([SparseFactor(matrix) for matrix in program.sparse_jacobians(data, z)])
    return DenseInverse.of(program.dense_jacobian(data, z))


def _multiple(program: Any, data: Any, inverse: "SparseInverse | DenseInverse", z: Tensor) -> tuple[Tensor, Tensor]:
    """Whether multipliers are not unique, and whether that or the like touches what the user asked for.

    By random vectors of the kernels of J = dF/dz and J': along the first z can move without leaving F = 0, and parameters that
    move F along the second leave no solution nearby to first order.
    """
    lacking = inverse.deficient
    if not bool(lacking.any()):
        return lacking, lacking
    w = torch.where(lacking.unsqueeze(-1), quasi_random(z.shape, z), 0.0)
    small = 1e-6 * torch.linalg.vector_norm(w, dim=-1)
    kernel = w - inverse.solve(inverse.product(w))[0]
    slack = inverse.product(torch.cat([torch.zeros_like(kernel[:, : program.n]), kernel[:, program.n :]], -1))
    rows = slice(program.n, program.n + program.cones.size)
    multiplier = slack[:, rows] - kernel[:, rows]
    cokernel = w - inverse.rsolve(inverse.product(w, transposed=True))[0]
    watched = torch.cat([kernel[:, program.watched], multiplier[:, program.watched_duals]], -1)
    redundant = torch.linalg.vector_norm(multiplier, dim=-1) > small
    return redundant, (torch.linalg.vector_norm(watched, dim=-1) > small) | (program.pull(data, z, cokernel) > small)


def _whole(inverse: "SparseInverse | DenseInverse", good: Tensor, samples: int) -> AbstractInverse | None:
    """The inverse for all samples, where the factors of failed ones do nothing; None for a dense one that lacks some."""
    if len(good) == samples:
        return inverse
    if isinstance(inverse, DenseInverse):
        return None
    factors = dict(zip(good.tolist(), inverse.factors, strict=True))
    lost = torch.ones(samples, dtype=torch.bool).index_fill(0, good, False)
    return SparseInverse([factors.get(i, inverse.factors[0]) for i in range(samples)], lost)
