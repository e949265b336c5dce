"""What the Krylov solvers share: cycles from the true residual, a stop for each sample, and honest reports."""

import abc
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import DtypeError
from ..operators import AbstractOperator
from ..solution import Status
from ..types import Vectors
from .base import AbstractInverse, AbstractLinearSolver, LinearReport, default_tolerance
from .dense import require_square

Linear = Callable[[Tensor], Tensor]
Preconditioner = Callable[[AbstractOperator], Linear]

_PROGRESS = 0.99  # a cycle that leaves more of the residual than this has stalled


@dataclass(frozen=True)
class System:
    """One linear system for a cycle: v -> A v, v -> M^-1 v, where to stop, and how many steps are left."""

    product: Linear
    precondition: Linear
    target: Tensor  # (samples,)
    budget: int


@dataclass(frozen=True)
class Cycle:
    """What a cycle found: the correction, the steps of each sample, and the samples for which going on is useless."""

    correction: Tensor
    steps: Tensor
    hopeless: Tensor
    singular: Tensor


@dataclass(frozen=True)
class AbstractKrylovSolver(AbstractLinearSolver):
    """Matrix-free solvers of square systems: J x = b by products with J, J' u = c by products with J' only.

    The stop is normwise and per sample: |b - A x| <= max(rtol |b|, atol min(1, |b|)), so that a right-hand side scaled
    by 1e-12 gets an answer that is as exact, relatively, as one of size one. The residual is recomputed from its
    definition at the end of each cycle; where it is not yet small, another cycle corrects the answer. At the rounding
    floor (16 eps |A| |x|, with |A| measured by two products) a stalled sample counts as converged, as an LU solve
    would.
    """

    atol: float | None = None
    rtol: float | None = None
    max_steps: int | None = None
    preconditioner: Preconditioner | None = None
    initial: Callable[[Vectors], Vectors] | None = None

    @abc.abstractmethod
    def cycle(self, system: System, r: Vectors, active: Tensor) -> Cycle:
        """Approximate A^-1 r for the active samples; the others get zero."""

    def freeze(self, operator: AbstractOperator) -> "KrylovInverse":
        """Keep the operator; the work is done for each right-hand side."""
        require_square(operator, type(self).__name__, "`LSMR()` or `PseudoInverse()`")
        require_real(operator, type(self).__name__)
        return KrylovInverse(self, operator)

    def run(self, operator: AbstractOperator, b: Vectors) -> tuple[Vectors, LinearReport]:
        """The solve with any operator; the transposed solve is that of `operator.T`."""
        with torch.no_grad():
            work = torch.float32 if b.dtype in (torch.float16, torch.bfloat16) else b.dtype
            budget = default_steps(operator.columns) if self.max_steps is None else self.max_steps
            precondition = _identity if self.preconditioner is None else self.preconditioner(operator)
            right = b.detach().to(work)
            size = sizes(right)  # squares of a tiny right-hand side would underflow
            system = System(
                _in_dtype(operator.mv, operator.dtype, work),
                _in_dtype(precondition, operator.dtype, work),
                stopping_norm(right, self.atol, self.rtol) / size.squeeze(-1),
                budget,
            )
            start = None if self.initial is None else self.initial(b).detach().to(work) / size
            x, report = _cycles(self.cycle, system, right / size, start)
            norm = (report.residual_norm * size.squeeze(-1)).to(b.dtype)
            return (x * size).to(b.dtype), LinearReport(report.status, norm, report.steps)


@dataclass(frozen=True)
class KrylovInverse(AbstractInverse):
    """An operator and the iteration that inverts it."""

    solver: AbstractKrylovSolver
    operator: AbstractOperator

    def solve(self, b: Vectors) -> tuple[Vectors, LinearReport]:
        """J^-1 b by products J v."""
        return self.solver.run(self.operator, b)

    def rsolve(self, c: Vectors) -> tuple[Vectors, LinearReport]:
        """J^-T c by products J' u: one vector-Jacobian product each."""
        return self.solver.run(self.operator.T, c)


def default_steps(n: int) -> int:
    """`max_steps=None`: four times the unknowns, at least 50 and at most 1000."""
    return min(max(4 * n, 50), 1000)


def stopping_norm(b: Tensor, atol: float | None, rtol: float | None) -> Tensor:
    """max(rtol |b|, atol min(1, |b|)), per sample; an `atol` that is not given adds nothing."""
    size = sizes(b)
    norm = torch.linalg.vector_norm(b / size, dim=-1) * size.squeeze(-1)
    target = default_tolerance(rtol, b.dtype) * norm
    return target if atol is None else torch.maximum(target, atol * norm.clamp(max=1))


def sizes(b: Tensor) -> Tensor:
    """(samples, 1) largest entry of each right-hand side, one where that is zero or not finite."""
    if not b.shape[-1]:
        return b.new_ones(len(b), 1)
    size = b.abs().amax(-1, keepdim=True)
    return torch.where((size > 0) & (size < torch.inf), size, 1)


def above(norm: Tensor, target: Tensor) -> Tensor:
    """Samples to go on with: residual above the target, neither NaN nor infinite."""
    return (norm > target) & (norm < torch.inf)


def safe_divide(a: Tensor, b: Tensor, where: Tensor) -> Tensor:
    """a / b on some samples, zero on the others."""
    return torch.where(where, a / torch.where(where, b, 1), 0)


def _cycles(method: Callable[[System, Tensor, Tensor], Cycle], system: System, b: Tensor,
            start: Tensor | None) -> tuple[Tensor, LinearReport]:  # fmt: skip
    norm = torch.linalg.vector_norm(b, dim=-1)
    x, r = torch.zeros_like(b), b
    finite = torch.isfinite(norm)
    if start is not None:
        x, r, norm = _better(x, r, norm, start, b - system.product(start))
    steps = torch.zeros(len(b), dtype=torch.int64, device=b.device)
    singular = torch.zeros_like(finite)
    active, left = above(norm, system.target), system.budget
    while left > 0 and bool(active.any()):
        found = method(System(system.product, system.precondition, system.target, left), _masked(r, active), active)
        steps, left = steps + found.steps, left - max(int(found.steps.max()), 1)
        candidate = x + _masked(found.correction, active)
        residual = b - system.product(candidate)
        before = norm
        finite &= ~active | torch.isfinite(residual).all(-1)
        singular |= found.singular & active
        x, r, norm = _better(x, r, norm, candidate, residual)
        active = active & (norm < _PROGRESS * before) & ~found.hopeless & ~found.singular & above(norm, system.target)
    return x, LinearReport(_status(system, x, norm, finite, singular), norm, steps)


def _better(x: Tensor, r: Tensor, norm: Tensor, other: Tensor, residual: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The answer with the smaller residual, sample by sample; NaN never wins."""
    other_norm = torch.linalg.vector_norm(residual, dim=-1)
    won = other_norm < norm
    mask = won.unsqueeze(-1)
    return torch.where(mask, other, x), torch.where(mask, residual, r), torch.where(won, other_norm, norm)


def _status(system: System, x: Tensor, norm: Tensor, finite: Tensor, singular: Tensor) -> Tensor:
    status = torch.where(norm <= system.target, int(Status.CONVERGED), int(Status.MAX_STEPS))
    if bool((status != Status.CONVERGED).any()):
        floor = 16 * torch.finfo(x.dtype).eps * norm_of(system.product, x) * torch.linalg.vector_norm(x, dim=-1)
        failed = torch.where(singular, int(Status.SINGULAR), status)
        status = torch.where((norm <= system.target) | (norm <= floor), int(Status.CONVERGED), failed)
    return torch.where(finite, status, int(Status.NONFINITE))


def require_real(operator: AbstractOperator, who: str) -> None:
    """The batched iterations are written for real numbers."""
    if operator.dtype.is_complex:
        raise DtypeError(f"`{who}` solves real systems only, but the unknowns are {operator.dtype}; use `LU()`.")


def norm_of(product: Linear, like: Tensor) -> Tensor:
    """|A| from below, by two products from a fixed start."""
    index = torch.arange(like.shape[-1], dtype=like.dtype, device=like.device)
    v = torch.cos(1.7 * index).expand_as(like)
    growth = torch.zeros(len(like), dtype=like.dtype, device=like.device)
    for _ in range(2):
        v = v / torch.linalg.vector_norm(v, dim=-1, keepdim=True).clamp(min=torch.finfo(v.dtype).tiny)
        v = product(v)
        growth = torch.maximum(growth, torch.linalg.vector_norm(v, dim=-1))
    return torch.nan_to_num(growth, 0.0, 0.0)


def _masked(v: Tensor, keep: Tensor) -> Tensor:
    return torch.where(keep.unsqueeze(-1), v, 0)


def _identity(v: Tensor) -> Tensor:
    return v


def _in_dtype(function: Linear, dtype: torch.dtype, work: torch.dtype) -> Linear:
    if dtype == work or function is _identity:
        return function
    return lambda v: function(v.to(dtype)).to(work)
