"""Reuse of a factor: the inverse of J from that of a Jacobian nearby."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..operators import AbstractOperator
from ..solution import Status
from ..types import Vectors
from .base import AbstractDenseInverse, AbstractInverse, AbstractLinearSolver, LinearReport
from .dense import require_square
from .krylov import Linear, norm_of, sizes
from .lu import LU

_CONTRACTS = 0.25  # a product that leaves more of the residual than this is worth less than a fresh factor


@dataclass(frozen=True)
class Refined(AbstractLinearSolver):
    """Iterative refinement of a stale dense factor M of a Jacobian nearby, with products of the live J.

        x <- x + M^-1 (b - J x)

    Newton's last factor belongs to the iterate before the answer, so that |I - J M^-1| is about as small as its last
    step: two or three products give all digits, against n products and a factorisation for a fresh one. Where a sample
    does not contract by `1/4` a product, the fallback factorises the live J, once for all right-hand sides, and those
    samples take its answer.

    **Arguments**

    - `stale`: a dense inverse M of a nearby Jacobian, of the same samples.
    - `rtol`: stop at |b - J x| <= rtol |b|, or where the residual is at its rounding floor; None means eps^(3/4), 2e-12
      in float64.
    - `max_steps`: products before the fallback.
    - `fallback`: the linear solver for samples that do not contract.

    **Returns** from `freeze`: an inverse whose reports hold the true residual.

    **Raises** ShapeError where J is not square.

    Reference: Higham, Accuracy and Stability of Numerical Algorithms (2nd ed.), chapter 12.

    >>> import torch
    >>> from implayer.linear import LU
    >>> from implayer.operators import MatrixOperator
    >>> stale = LU().freeze(MatrixOperator(torch.tensor([[[2.0]]])))
    >>> inverse = Refined(stale).freeze(MatrixOperator(torch.tensor([[[2.1]]])))
    >>> inverse.solve(torch.tensor([[4.2]]))[0].round(decimals=3)
    tensor([[2.]])
    """

    stale: AbstractDenseInverse
    rtol: float | None = None
    max_steps: int = 10
    fallback: AbstractLinearSolver = field(default_factory=LU)

    def freeze(self, operator: AbstractOperator) -> "RefinedInverse":
        """Keep the operator beside the factor."""
        require_square(operator, "Refined", "`PseudoInverse()` or `LSMR()`")
        return RefinedInverse(self, operator)


class RefinedInverse(AbstractInverse):
    """A stale factor, the live operator and, once it was needed, a fresh inverse."""

    def __init__(self, solver: Refined, operator: AbstractOperator):
        self.solver, self.operator = solver, operator
        self.condition = solver.stale.condition
        self._fresh: AbstractInverse | None = None

    @property
    def fresh(self) -> AbstractInverse | None:
        """The inverse of the live J if the fallback was needed."""
        return self._fresh

    def solve(self, b: Vectors) -> tuple[Vectors, LinearReport]:
        """J^-1 b."""
        if self._fresh is None:
            x, report, failed = self._refine(b, self.operator.mv, self.solver.stale.apply)
            if not bool(failed.any()):
                return x, report
        else:
            x, report, failed = b, None, None
        return _merge(x, report, failed, *self._factorise().solve(b))

    def rsolve(self, c: Vectors) -> tuple[Vectors, LinearReport]:
        """J^-T c, by products with J' only."""
        if self._fresh is None:
            u, report, failed = self._refine(c, self.operator.rmv, self.solver.stale.apply_transposed)
            if not bool(failed.any()):
                return u, report
        else:
            u, report, failed = c, None, None
        return _merge(u, report, failed, *self._factorise().rsolve(c))

    def _factorise(self) -> AbstractInverse:
        if self._fresh is None:
            self._fresh = self.solver.fallback.freeze(self.operator)
            self.condition = self._fresh.condition
            self.singular = self._fresh.singular
        return self._fresh

    def _refine(self, b: Tensor, product: Linear, approximate: Linear) -> tuple[Tensor, LinearReport, Tensor]:
        with torch.no_grad():
            size = sizes(b.detach())
            b = b.detach() / size
            norm = torch.linalg.vector_norm(b, dim=-1)
            rtol = torch.finfo(b.dtype).eps ** 0.75 if self.solver.rtol is None else self.solver.rtol
            target = rtol * norm
            x, r = torch.zeros_like(b), b
            steps = torch.zeros(len(b), dtype=torch.int64, device=b.device)
            active = norm > target
            for _ in range(self.solver.max_steps):
                if not bool(active.any()):
                    break
                candidate = x + torch.where(active.unsqueeze(-1), approximate(r), 0)
                residual = b - product(candidate)
                found = torch.linalg.vector_norm(residual, dim=-1)
                won = active & (found < norm)
                x, r = torch.where(won.unsqueeze(-1), candidate, x), torch.where(won.unsqueeze(-1), residual, r)
                steps += active
                active = won & (found > target) & (found < _CONTRACTS * norm)
                norm = torch.where(won, found, norm)
            good = norm <= target
            if not bool(good.all()):
                floor = 16 * torch.finfo(b.dtype).eps * norm_of(product, x) * torch.linalg.vector_norm(x, dim=-1)
                good |= norm <= floor
            status = torch.where(good, int(Status.CONVERGED), int(Status.MAX_STEPS))
            return x * size, LinearReport(status, norm * size[:, 0], steps), ~good


def _merge(x: Tensor, report: LinearReport | None, failed: Tensor | None, fresh: Tensor,
           other: LinearReport) -> tuple[Tensor, LinearReport]:  # fmt: skip
    """The refined answers where they are good, those of the fresh factor elsewhere."""
    if report is None or failed is None:
        return fresh, other
    return torch.where(failed.unsqueeze(-1), fresh, x), LinearReport(
        torch.where(failed, other.status, report.status),
        torch.where(failed, other.residual_norm, report.residual_norm),
        report.steps + torch.where(failed, other.steps, 0),
    )
