"""Norms, condition and contraction of the Jacobians of a batch: exact where they are small, else estimated."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..linear.condition import scales
from ..linear.lsmr import LSMR
from ..operators import AbstractOperator
from ..types import Samples

_POWER_STEPS = 30


@dataclass(frozen=True)
class Spectrum:
    """What the bounds need of J; each tensor is (samples,).

    - `norm`, `inverse_norm`: |J| and |J^+| in the 2-norm, infinity where J has not full rank.
    - `condition`: of J with rows and columns scaled to norm one.
    - `contraction`: spectral radius of I + sign * J, NaN where J is not square.
    - `solve`, `rsolve`: J^+ and its transpose.
    """

    norm: Samples
    inverse_norm: Samples
    condition: Samples
    contraction: Samples
    solve: Callable[[Tensor], Tensor]
    rsolve: Callable[[Tensor], Tensor]

    @staticmethod
    def of(operator: AbstractOperator, matrix: Tensor | None, generator: torch.Generator) -> "Spectrum":
        """From the matrices (samples, m, n), or from products alone where they are None."""
        return _dense(matrix, operator.sign) if matrix is not None else _estimated(operator, generator)


def _dense(matrix: Tensor, sign: int) -> Spectrum:
    values = torch.linalg.svdvals(matrix)
    tiny = max(matrix.shape[-2:]) * torch.finfo(matrix.dtype).eps * values[:, 0]
    smallest = values[:, -1]
    inverse_norm = torch.where(
        smallest > tiny, 1 / smallest.clamp(min=1e-300 if tiny.dtype == torch.float64 else 1e-38), torch.inf
    )
    row, column = scales(matrix)
    scaled = matrix / _safe(row).unsqueeze(-1) / _safe(column).unsqueeze(-2)
    fair = torch.linalg.svdvals(scaled)
    condition = torch.where(fair[:, -1] > 0, fair[:, 0] / fair[:, -1], torch.inf)
    pseudo = torch.linalg.pinv(matrix)
    radius = torch.full_like(smallest, torch.nan)
    if matrix.shape[-1] == matrix.shape[-2]:
        eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        radius = torch.linalg.eigvals(eye + sign * matrix).abs().amax(-1)
    return Spectrum(
        values[:, 0], inverse_norm, condition, radius,
        lambda b: (pseudo @ b.unsqueeze(-1)).squeeze(-1), lambda c: (pseudo.mT @ c.unsqueeze(-1)).squeeze(-1),
    )  # fmt: skip


def _safe(scale: Tensor) -> Tensor:
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def _estimated(operator: AbstractOperator, generator: torch.Generator) -> Spectrum:
    """Power steps on J'J, J^+ J^+' and I + sign * J; J^+ by LSMR."""
    inverse = LSMR().freeze(operator)
    start = torch.randn(operator.samples, operator.columns, generator=generator, dtype=torch.float64)
    start = start.to(operator.device, operator.dtype)

    def solve(b: Tensor) -> Tensor:
        return inverse.solve(b)[0]

    def rsolve(c: Tensor) -> Tensor:
        return inverse.rsolve(c)[0]

    norm = _growth(lambda v: operator.rmv(operator.mv(v)), start, _POWER_STEPS).sqrt()
    inverse_norm = _growth(lambda v: solve(rsolve(v)), start, 3).sqrt()
    radius = torch.full_like(norm, torch.nan)
    if operator.rows == operator.columns:
        radius = _growth(lambda v: v + operator.sign * operator.mv(v), start, _POWER_STEPS)
    return Spectrum(norm, inverse_norm, norm * inverse_norm, radius, solve, rsolve)


def _growth(apply: Callable[[Tensor], Tensor], v: Tensor, steps: int) -> Tensor:
    """Geometric mean of the growth over the second half of some power steps: close to the spectral radius."""
    logs = []
    for _ in range(steps):
        v = v / torch.linalg.vector_norm(v, dim=-1, keepdim=True).clamp(min=1e-30)
        v = apply(v)
        logs.append(torch.linalg.vector_norm(v, dim=-1).clamp(min=1e-30).log())
    return torch.stack(logs[steps // 2 :]).mean(0).exp()
