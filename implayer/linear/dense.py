"""What the dense inverses share: matrices with the samples first, and the true residual of every answer."""

import abc
from dataclasses import fields, replace

import torch
from torch import Tensor

from ..errors import ShapeError
from ..operators import AbstractOperator
from ..solution import Status
from ..types import Vectors
from .base import AbstractDenseInverse, LinearReport


class AbstractMatrixInverse(AbstractDenseInverse):
    """A dense inverse whose dataclass fields are its tensors. Works in float32 for half precision.

    Leaves have the fields `singular`, and `matrix` or products of their own, and give `_apply` and `_apply_transposed`.
    """

    matrix: Tensor | None = None

    @abc.abstractmethod
    def _apply(self, b: Tensor) -> Tensor:
        """J^-1 b in the dtype of the factors."""

    @abc.abstractmethod
    def _apply_transposed(self, c: Tensor) -> Tensor:
        """J^-T c in the dtype of the factors."""

    def _product(self, x: Tensor) -> Tensor:
        assert self.matrix is not None
        return matvec(self.matrix, x)

    def _product_transposed(self, u: Tensor) -> Tensor:
        assert self.matrix is not None
        return matvec(self.matrix.mT, u)

    @property
    def _dtype(self) -> torch.dtype:
        return getattr(self, next(iter(self.__dataclass_fields__))).dtype  # type: ignore[attr-defined]

    def apply(self, b: Tensor) -> Tensor:
        """J^-1 b by torch operations that autograd, forward mode and vmap understand."""
        return self._apply(b) if b.dtype == self._dtype else self._apply(b.to(self._dtype)).to(b.dtype)

    def apply_transposed(self, c: Tensor) -> Tensor:
        """J^-T c, likewise."""
        if c.dtype == self._dtype:
            return self._apply_transposed(c)
        return self._apply_transposed(c.to(self._dtype)).to(c.dtype)

    def product(self, x: Tensor) -> Tensor:
        """J x."""
        return self._product(x)

    def solve(self, b: Vectors) -> tuple[Tensor, LinearReport]:
        """J^-1 b: (samples, m) -> (samples, n), with the residual of that answer."""
        x = self.apply(b)
        r = b.to(self._dtype) - self._product(x.to(self._dtype))
        return x, self._report(x, r, self._product_transposed)

    def rsolve(self, c: Vectors) -> tuple[Tensor, LinearReport]:
        """J^-T c: (samples, n) -> (samples, m), with the residual of that answer."""
        u = self.apply_transposed(c)
        r = c.to(self._dtype) - self._product_transposed(u.to(self._dtype))
        return u, self._report(u, r, self._product)

    def _report(self, x: Tensor, r: Tensor, normal) -> LinearReport:
        if r.shape[-1] > x.shape[-1]:  # more equations than unknowns: the residual of least squares is A' r
            r = normal(r)
        norm = torch.linalg.vector_norm(r, dim=-1)
        status = torch.where(torch.isfinite(norm), int(Status.CONVERGED), int(Status.NONFINITE))
        if self.singular is not None:
            status = torch.where(self.singular, int(Status.SINGULAR), status)
        return LinearReport(status, norm.to(x.dtype), torch.ones_like(status))

    def _names(self) -> list[str]:
        return [field.name for field in fields(self) if isinstance(getattr(self, field.name), Tensor)]  # type: ignore[arg-type]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors of the inverse; every one has the samples as first axis, the first one the dtype of the work."""
        return tuple(getattr(self, name) for name in self._names())

    def with_tensors(self, tensors: tuple[Tensor, ...]) -> "AbstractMatrixInverse":
        """The same inverse with other tensors."""
        return replace(self, **dict(zip(self._names(), tensors, strict=True)))  # type: ignore[type-var]


def matvec(matrix: Tensor, x: Tensor) -> Tensor:
    """(..., m, n) times (..., n); a row times the transpose, which a CPU does up to seven times faster in batches."""
    return (x.unsqueeze(-2) @ matrix.mT).squeeze(-2)


def materialised(operator: AbstractOperator) -> Tensor:
    """J as (samples, m, n), in float32 where it comes in half precision, for which LAPACK has no factorisation."""
    matrix = operator.materialise()
    return matrix.float() if matrix.dtype in (torch.float16, torch.bfloat16) else matrix


def require_square(operator: AbstractOperator, name: str, instead: str) -> None:
    """Refuse a rectangular J by name."""
    if operator.rows != operator.columns:
        raise ShapeError(
            f"`{name}` needs as many equations as unknowns, but F has {operator.rows} rows for {operator.columns} "
            f"unknowns per sample. Use {instead}, or give the missing rows by `gauge=`."
        )


def harmless(factor: Tensor, singular: Tensor) -> Tensor:
    """The factor with those of singular samples replaced by the identity."""
    identity = torch.eye(*factor.shape[-2:], dtype=factor.dtype, device=factor.device)
    return torch.where(singular[:, None, None], identity, factor)
