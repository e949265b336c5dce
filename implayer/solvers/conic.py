"""Cone programs: an interior-point or splitting method in C finds the solution, Newton steps make it exact."""

from dataclasses import dataclass, field, replace
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
    - `strict`: whether unknowns that the user asked for and that are not unique make the Jacobian count as singular (default);
      otherwise their derivative is that of minimal norm.

    **Reference** Goulart and Chen, "Clarabel: an interior-point solver for conic programs with quadratic objectives", 2024;
    O'Donoghue et al., "Conic optimization via operator splitting and homogeneous self-dual embedding", 2016.
    """

    program: Any = field(repr=False)
    method: Literal["Clarabel", "SCS"] = "Clarabel"
    atol: float = 1e-12
    max_steps: int = 200
    options: dict[str, Any] = field(default_factory=dict)
    strict: bool = True

    def __call__(self, problem: Problem) -> Solution:
        """(x, v, rho) of every sample, with status and factor."""
        batch, data = problem.x.samples()
        found = self.solved(data)
        parts = self.program.split(found.z)
        value = type(parts)(*(part.reshape(*batch, part.shape[-1]) for part in parts))
        aux = {"redundant": found.redundant.reshape(batch)}
        return Solution(value, found.status.reshape(batch), None, found.steps.reshape(batch), aux, found.inverse)

    def solved(self, data: Any) -> "Solved":
        """The same for data with one axis of samples."""
        self._require_convex(data)
        frozen = self.program.frozen(data)
        finite = np.logical_and.reduce([np.isfinite(part).all(-1) for part in frozen.data])
        z, status, steps = self._answers(frozen, finite, self.atol)
        good = np.flatnonzero(status == Status.CONVERGED)
        redundant, inverse, point = np.zeros(len(z), dtype=bool), None, None
        if len(good):
            whole = len(good) == len(z)
            polished = self._polished(frozen if whole else frozen.chosen(good), z[good])
            point = polished.point
            degenerate = polished.unsure | (point.margin <= _KINK)
            status[good] = np.where(degenerate, np.where(polished.missed, Status.MAX_STEPS, Status.DEGENERATE), 0)
            z[good], redundant[good] = point.z, polished.redundant
            inverse = polished.inverse
            if self.strict and polished.several.any():
                inverse = replace(inverse, singular=torch.from_numpy(polished.several))
            inverse, point = _whole(inverse, good, len(z)), point if whole else None
        told = [torch.from_numpy(part) for part in (status, steps, redundant)]
        return Solved(torch.from_numpy(z), told[0], told[1], told[2], inverse, point)

    def _answers(self, frozen: Any, wanted: Any, atol: float) -> tuple[Any, Any, Any]:
        """z, status and steps of every sample as the solver in C has them."""
        n, m = self.program.n, self.program.cones.size
        nothing = Answer(np.zeros(n), np.zeros(m), np.zeros(m), Status.NONFINITE, 0)
        rows = zip(*frozen.data, strict=True)
        answers = [self._solve(row, atol) if ok else nothing for row, ok in zip(rows, wanted, strict=True)]
        x, s, y = (np.array([a[k] for a in answers], dtype=float) for k in range(3))
        z = frozen.start(x.reshape(len(answers), n), s.reshape(len(answers), m), y.reshape(len(answers), m))
        status, lost = np.array([int(a.status) for a in answers]), ~np.isfinite(z).all(-1)
        z[lost], status[lost & (status == Status.CONVERGED)] = 0.0, Status.MAX_STEPS
        return z, status, np.array([a.steps for a in answers])

    def _polished(self, frozen: Any, z: Any) -> "_Polished":
        """Newton from the answers; once more from sharper answers where that did not reach the rounding."""
        polished = _polish(frozen, z)
        if not polished.missed.any() or self.atol <= 1e-11:
            return polished
        sharper, _, _ = self._answers(frozen, polished.missed, 1e-12)
        return _polish(frozen, np.where(polished.missed[:, None], sharper, polished.point.z))

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
class Solved(NamedTuple):
    """Tensors (samples, ...) that say what was found, the inverse of dF/dz there, and F there if no sample failed."""

    z: Tensor
    status: Tensor
    steps: Tensor
    redundant: Tensor
    inverse: AbstractInverse | None
    point: Any


class _Polished(NamedTuple):
    point: Any  # where Newton's method ended
    missed: Any  # (samples,) whether it did not arrive
    inverse: SparseInverse | DenseInverse
    redundant: Any  # (samples,) whether multipliers are not unique
    unsure: Any  # (samples,) whether what the user asked for, or its derivative, is not unique
    several: Any  # (samples,) whether unknowns that the user asked for are not unique


def _polish(frozen: Any, z: Any) -> _Polished:
    """Newton's method for F(data, z) = 0, as long as steps halve the residual of a sample; with the factor at its end."""
    point = frozen.at(z)
    inverse = _factorised(point)
    size = np.linalg.norm(np.concatenate([z, frozen.data[1], frozen.data[3]], -1), axis=-1)
    for _ in range(_ROUNDS):
        step = _solved(inverse, point.r)
        step[~np.isfinite(step).all(-1)] = 0.0
        trial = frozen.at(point.z - step)
        better = trial.norm < 0.5 * point.norm
        if not better.any():
            break
        length = np.abs(step).max(-1) * better / (1 + np.abs(point.z).max(-1))
        point = trial if better.all() else frozen.at(np.where(better[:, None], trial.z, point.z))
        if (length > inverse.patience).any():
            inverse = _factorised(point)
        if (point.norm <= _ROUNDING * size).all():
            break
    missed = point.norm > 1e-9
    if missed.any():
        missed &= ~(point.norm <= 1e-9 * (1 + point.size()))
    return _Polished(point, missed, inverse, *_multiple(point, inverse))


def _solved(inverse: Any, r: Any) -> Any:
    if isinstance(inverse, DenseInverse):
        return inverse.apply(torch.from_numpy(r)).numpy()
    return inverse.solve(torch.from_numpy(r))[0].numpy()


def _factorised(point: Any) -> "SparseInverse | DenseInverse":
    """A frozen inverse of dF/dz."""
    if point.frozen.program.is_sparse:
        return SparseInverse([SparseFactor(matrix) for matrix in point.sparse_jacobians()])
    return DenseInverse.of(torch.from_numpy(point.jacobian()))


def _multiple(point: Any, inverse: "SparseInverse | DenseInverse") -> tuple[Any, Any, Any]:
    """Whether multipliers are not unique, whether that or the like touches what was asked for, and whether that is unknowns.

    By random vectors of the kernels of J = dF/dz and J': along the first z can move without leaving F = 0, and parameters that
    move F along the second leave no solution nearby to first order.
    """
    lacking, program = inverse.deficient, point.frozen.program
    if not bool(lacking.any()):
        return lacking.numpy(), lacking.numpy(), lacking.numpy()
    w = torch.where(lacking.unsqueeze(-1), quasi_random(point.z.shape, torch.from_numpy(point.z)), 0.0)
    small = 1e-6 * torch.linalg.vector_norm(w, dim=-1)
    kernel = w - inverse.solve(inverse.product(w))[0]
    slack = inverse.product(torch.cat([torch.zeros_like(kernel[:, : program.n]), kernel[:, program.n :]], -1))
    rows = slice(program.n, program.n + program.cones.size)
    multiplier = slack[:, rows] - kernel[:, rows]
    cokernel = w - inverse.rsolve(inverse.product(w, transposed=True))[0]
    several, duals, redundant = [
        (torch.linalg.vector_norm(part, dim=-1) > small).numpy()
        for part in (kernel[:, program.watched], multiplier[:, program.watched_duals], multiplier)
    ]
    return redundant, several | duals | (point.pull(cokernel.numpy()) > small.numpy()), several


def _whole(inverse: "SparseInverse | DenseInverse", good: Any, samples: int) -> AbstractInverse:
    """The inverse for all samples, where failed ones have the factor of another, which does nothing."""
    if len(good) == samples:
        return inverse
    source, lost = np.zeros(samples, dtype=np.int64), torch.ones(samples, dtype=torch.bool)
    source[good] = np.arange(len(good))
    lost[torch.from_numpy(good)] = False if inverse.singular is None else inverse.singular
    if isinstance(inverse, SparseInverse):
        return SparseInverse([inverse.factors[i] for i in source.tolist()], lost)
    place = torch.from_numpy(source)
    moved = inverse.with_tensors(tuple(part[place] for part in inverse.tensors))
    assert isinstance(moved, DenseInverse)
    return replace(moved, singular=lost)
