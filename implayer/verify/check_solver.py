"""The contract of a forward solver, as a test for ours and for a user's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import VerificationError
from ..linear.base import default_tolerance
from ..problem import Problem
from ..solution import Solution, Status

Solver = Callable[[Problem], Any]

_CLOSE = 1e-12  # batch and loop may differ by rounding alone
_LOOSE = 1e-6  # in units of the size of y: what a residual at tolerance allows on these well-conditioned problems


@dataclass(frozen=True)
class _Case:
    """A contraction y = 0.5 tanh(y W') + x, for which every kind of solver has its chance, or the user's problem."""

    F: Callable[[Any, Any], Any]
    x: Any
    y0: Any
    event_ndim: int = 1

    def problem(self) -> Problem:
        return Problem(self.F, self.x, self.y0, self.event_ndim)


def check_solver(
    solver: Solver,
    *,
    unknowns: Sequence[int] = (1, 3, 8),
    samples: Sequence[int] = (1, 5),
    dtypes: Sequence[torch.dtype] = (torch.float64, torch.float32),
    seed: int = 0,
) -> list[str]:
    r"""Test that a forward solver keeps its contract: `problem -> y | Solution`, sample by sample.

    $$F(x, y) = \tfrac12 \tanh(y W^\top) + x - y,\qquad \|W\|_2 = 1$$

    is a contraction that every method solves. On it, and on variations that no method solves, these properties are
    tested: the residual is within the tolerance where the status says CONVERGED; structure, shape and dtype of y are
    those of y0; a batch equals the loop over its samples; permuting the samples permutes the result; y0 and x are not
    written to; two calls give identical bytes; a sample with NaN neither converges nor disturbs the others; y^2 + 1 =
    0 never converges; an empty batch comes back empty; no graph is kept.

    **Arguments**

    - `solver`: any callable from a `Problem` to y or a `Solution`.
    - `unknowns` (default 1, 3, 8): sizes of a sample. Pass `(1,)` for a solver of scalar equations.
    - `samples` (default 1, 5): sizes of the batch. Raise them for a solver that treats large batches in another way.
    - `dtypes` (default float64 and float32).
    - `seed` (default 0): of W and x.

    **Returns** the names of the properties that were tested.

    **Raises** VerificationError with the name of the property that fails, what was found and what was expected.

        >>> import implayer
        >>> len(check_solver(implayer.Picard()))
        9
    """
    names = []
    for check in _CHECKS:
        for dtype in dtypes:
            for n in unknowns:
                for count in samples:
                    with torch.no_grad():
                        check(solver, _contraction(count, n, dtype, seed))
        names.append(check.__name__.lstrip("_"))
    return names


def _contraction(samples: int, n: int, dtype: torch.dtype, seed: int) -> _Case:
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(n, n, generator=generator, dtype=torch.float64)
    W = (W / torch.linalg.matrix_norm(W, 2)).to(dtype)
    x = torch.randn(samples, n, generator=generator, dtype=torch.float64).to(dtype)
    return _Case(lambda x, y: 0.5 * torch.tanh(y @ W.mT) + x - y, x, torch.zeros_like(x))


def _solve(solver: Solver, problem: Problem) -> Solution:
    answer = solver(problem)
    return answer if isinstance(answer, Solution) else Solution(answer)


def _fail(name: str, found: str, expected: str) -> None:
    raise VerificationError(f"`check_solver`, property `{name}`: found {found}; expected {expected}.")


def _residual_at_tolerance(solver: Solver, case: _Case) -> None:
    solution = _solve(solver, case.problem())
    norm, start = (torch.linalg.vector_norm(case.F(case.x, y), dim=-1) for y in (solution.value, case.y0))
    atol = getattr(solver, "atol", None)
    rtol = getattr(solver, "rtol", None)
    bound = default_tolerance(atol, start.dtype) + default_tolerance(rtol, start.dtype) * start
    floor = 64 * torch.finfo(start.dtype).eps * (1 + torch.linalg.vector_norm(solution.value, dim=-1))
    if not bool((norm <= bound.maximum(floor)).all()):
        _fail(
            "residual_at_tolerance",
            f"a residual of {float(norm.max()):.1e}",
            f"at most {float(bound.min()):.1e} on a contraction",
        )
    if solution.status is not None and not bool(solution.converged.all()):
        _fail(
            "residual_at_tolerance", f"status {solution.message()}", "CONVERGED, for the residual is at its tolerance"
        )
    if solution.residual_norm is not None and not torch.allclose(
        solution.residual_norm, norm, rtol=1e-3, atol=float(floor.max())
    ):
        _fail(
            "residual_at_tolerance",
            f"`residual_norm` {solution.residual_norm.tolist()}",
            f"that of the value, {norm.tolist()}",
        )


def _shape_and_dtype(solver: Solver, case: _Case) -> None:
    solution = _solve(solver, case.problem())
    if solution.value.shape != case.y0.shape or solution.value.dtype != case.y0.dtype:
        found = f"y of shape {tuple(solution.value.shape)} and {solution.value.dtype}"
        _fail("shape_and_dtype", found, f"{tuple(case.y0.shape)} and {case.y0.dtype}, as y0")
    for name in ("status", "residual_norm", "steps"):
        entry = getattr(solution, name)
        if isinstance(entry, Tensor) and entry.shape != case.y0.shape[:-1]:
            _fail(
                "shape_and_dtype",
                f"`{name}` of shape {tuple(entry.shape)}",
                f"the batch shape {tuple(case.y0.shape[:-1])}",
            )


def _batch_equals_loop(solver: Solver, case: _Case) -> None:
    whole = _solve(solver, case.problem()).value
    for b in range(len(case.x)):
        part = slice(b, b + 1)
        alone = _solve(solver, Problem(case.F, case.x[part], case.y0[part])).value
        _same("batch_equals_loop", whole[part], alone, f"sample {b} alone gives another value than in the batch")


def _permutation(solver: Solver, case: _Case) -> None:
    order = torch.arange(len(case.x) - 1, -1, -1)
    whole = _solve(solver, case.problem()).value
    permuted = _solve(solver, Problem(case.F, case.x[order], case.y0[order])).value
    _same("permutation", permuted, whole[order], "permuting the samples changes their values")


def _same(name: str, found: Tensor, expected: Tensor, what: str) -> None:
    # Matrix products of other sizes round in another order; a contraction does not enlarge that.
    bound = _CLOSE * (1 if found.dtype == torch.float64 else 1e7) * (1 + float(expected.abs().max()))
    error = float((found - expected).abs().max())
    if not error <= bound:
        _fail(name, f"a difference of {error:.1e}: {what}", f"at most {bound:.1e}")


def _inputs_untouched(solver: Solver, case: _Case) -> None:
    x, y0 = case.x.clone(), case.y0.clone()
    value = _solve(solver, case.problem()).value
    value.add_(1.0)
    if not torch.equal(x, case.x) or not torch.equal(y0, case.y0):
        _fail("inputs_untouched", "x or y0 changed by the solve, or the value shares its memory", "both as they were")


def _deterministic(solver: Solver, case: _Case) -> None:
    first, second = (_solve(solver, case.problem()).value for _ in range(2))
    if not torch.equal(first, second):
        _fail("deterministic", "two calls that differ", "identical bytes")


def _bad_sample_alone(solver: Solver, case: _Case) -> None:
    good = _solve(solver, case.problem()).value
    x = torch.cat([case.x, torch.full_like(case.x[:1], torch.nan)])
    y0 = torch.cat([case.y0, case.y0[:1]])
    solution = _solve(solver, Problem(case.F, x, y0))
    _same("bad_sample_alone", solution.value[:-1], good, "a sample with NaN disturbs the others")
    if solution.status is not None:
        status = torch.as_tensor(solution.status)
        if int(status[-1]) != Status.NONFINITE or not bool(solution.converged[:-1].all()):
            _fail("bad_sample_alone", f"status {status.tolist()}", "NONFINITE for the last sample alone")


def _no_root(solver: Solver, case: _Case) -> None:
    y0 = torch.full_like(case.y0, 0.7)
    solution = _solve(solver, Problem(lambda x, y: y**2 + 1, case.x, y0))
    if solution.status is not None and bool(solution.converged.any()):
        _fail("no_root", "CONVERGED for y^2 + 1 = 0", "a failure, for there is no root")


def _empty_batch(solver: Solver, case: _Case) -> None:
    solution = _solve(solver, Problem(case.F, case.x[:0], case.y0[:0]))
    if solution.value.shape != case.y0[:0].shape:
        _fail("empty_batch", f"shape {tuple(solution.value.shape)}", f"{tuple(case.y0[:0].shape)}")


_CHECKS = (
    _shape_and_dtype,
    _residual_at_tolerance,
    _batch_equals_loop,
    _permutation,
    _inputs_untouched,
    _deterministic,
    _bad_sample_alone,
    _no_root,
    _empty_batch,
)
