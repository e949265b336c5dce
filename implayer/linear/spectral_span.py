"""The Jacobian of an eigenproblem of which few pairs are known: closed form in their span, an iteration outside of it."""

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..failures import OnFailure
from ..solution import Status
from ..types import Vectors
from .base import AbstractInverse, LinearReport, default_tolerance
from .spectral import Gauge

Rows = Any  # numpy (rows, n), contiguous
Product = Callable[[Rows], Rows]


class AbstractComplement(abc.ABC):
    """Solves (A - l_j B) z_j = r_j for z_j that are B-orthogonal to the known pairs."""

    span: "Span"

    def solve(self, shifts: Any, rhs: Rows, target: Any) -> tuple[Rows, int]:
        """Solutions (k, n) whose true residuals are below `target` (k,), by refinement, and the number of steps."""
        z, steps = self.cycle(shifts, rhs, target)
        for _ in range(_ROUNDS):
            left = self.span.residual(shifts, z, rhs)
            if bool((_norms(left) <= target).all()):
                break
            more, count = self.cycle(shifts, left, target)
            z, steps = z + more, steps + count
        return z, steps

    @abc.abstractmethod
    def cycle(self, shifts: Any, rhs: Rows, target: Any) -> tuple[Rows, int]:
        """One run of the iteration from zero."""


_ROUNDS = 4


def _norms(rows: Rows) -> Any:
    return np.sqrt(np.einsum("ij,ij->i", rows, rows))


def _dots(a: Rows, b: Rows) -> Any:
    return np.einsum("ij,ij->i", a, b)


@dataclass(frozen=True)
class Span:
    """One pencil and vectors that are known of it: products A, B with rows, V (p, n) with V B V' = I, and V B."""

    A: Product
    B: Product | None
    vectors: Rows
    images: Rows

    def outside(self, z: Rows) -> Rows:
        """z without its part in the span, B-orthogonally; in place."""
        z -= (z @ self.images.T) @ self.vectors
        return z

    def right_side(self, r: Rows) -> Rows:
        """r without what only the span can answer; in place."""
        r -= (r @ self.vectors.T) @ self.images
        return r

    def weighted(self, z: Rows) -> Rows:
        """B z."""
        return z if self.B is None else self.B(z)

    def shifted(self, shifts: Any, z: Rows) -> Rows:
        """(A - l_j B) z_j outside the span."""
        return self.right_side(self.A(z) - shifts[:, None] * self.weighted(z))

    def residual(self, shifts: Any, z: Rows, r: Rows) -> Rows:
        """What is left of r."""
        return r - self.shifted(shifts, z)


@dataclass(frozen=True)
class ShiftedComplement(AbstractComplement):
    r"""Conjugate gradients with the factor of a shifted matrix, in the inner product of B.

    $$(A - \sigma B)^{-1} (A - \lambda_j B) = I - (\lambda_j - \sigma)(A - \sigma B)^{-1} B$$

    is self-adjoint in that product, and positive on the complement where the known pairs are those nearest to the shift: its
    eigenvalues are $(\lambda_i - \lambda_j)/(\lambda_i - \sigma)$. That holds inside the spectrum as well as at its ends.
    """

    span: Span
    inverse: Product  # (A - shift B)^-1
    shift: float
    max_steps: int = 500

    def cycle(self, shifts: Any, rhs: Rows, target: Any) -> tuple[Rows, int]:
        """See the class."""
        span, delta = self.span, (shifts - self.shift)[:, None]
        active = _norms(rhs) > target
        r = span.outside(self.inverse(rhs))
        p, image = r.copy(), span.weighted(r)
        x, rho = np.zeros_like(r), _dots(r, image)
        for step in range(self.max_steps):
            if not active.any():
                return x, step
            q = self.inverse(image)
            q *= -delta
            q += p
            span.outside(q)
            curvature = _dots(image, q)
            active &= curvature > 0
            alpha = np.where(active, rho / np.where(active, curvature, 1), 0)[:, None]
            x += alpha * p
            q *= alpha
            r -= q
            weighted = span.weighted(r)
            # The residual itself, by a product that costs little beside a solve: its norm is another than that of r.
            active &= _norms(span.right_side(span.A(r) - self.shift * weighted)) > 0.5 * target
            fresh = _dots(r, weighted)
            beta = np.where(active, fresh / np.where(active, rho, 1), 0)[:, None]
            p *= beta
            p += r
            rho, image = fresh, span.weighted(p)
        return x, self.max_steps


@dataclass(frozen=True)
class PreconditionedComplement(AbstractComplement):
    """Conjugate gradients on A - l_j B, which is definite outside the pairs at one end of the spectrum.

    `preconditioner` is a positive definite map near |A - l B|^-1; `sign` is +1 at the lower end, -1 at the upper one.
    """

    span: Span
    preconditioner: Product | None
    sign: float
    max_steps: int = 5000

    def _precondition(self, r: Rows) -> Rows:
        return self.span.outside(r.copy() if self.preconditioner is None else self.preconditioner(r))

    def cycle(self, shifts: Any, rhs: Rows, target: Any) -> tuple[Rows, int]:
        """See the class."""
        r = rhs * self.sign
        x, z = np.zeros_like(r), self._precondition(r)
        p, rho = z, _dots(r, z)
        for step in range(self.max_steps):
            q = self.span.shifted(shifts, p) * self.sign
            curvature = _dots(p, q)
            active = (_norms(r) > 0.5 * target) & (curvature > 0)
            if not active.any():
                return x, step
            alpha = np.where(active, rho / np.where(active, curvature, 1), 0)[:, None]
            x, r = x + alpha * p, r - alpha * q
            z = self._precondition(r)
            fresh = _dots(r, z)
            p = z + np.where(active, fresh / np.where(active, rho, 1), 0)[:, None] * p
            rho = fresh
        return x, self.max_steps


@dataclass(frozen=True)
class SpanSample:
    """What is known of one pencil: its span, the wanted pairs first, and what solves outside of it."""

    span: Span
    values: Any  # (k,), the wanted ones
    weights: Any  # (k, p), 1 / (l_i - l_j), zero for i = j
    scale: float
    complement: AbstractComplement | None  # None where all pairs are known

    def solve(self, a: Rows, beta: Any, rtol: float) -> tuple[Rows, Any, float, int]:
        """K^-1 (a, beta) for a (k, n) and beta (k,): p, m, the residual norm outside the span, and steps."""
        span, k = self.span, a.shape[0]
        c = a @ span.vectors.T  # (k, p)
        p = (c * self.weights) @ span.vectors - beta[:, None] * span.vectors[:k]
        m, norm, steps = -c[np.arange(k), np.arange(k)], 0.0, 0
        if self.complement is None or not c.shape[0] or not a.any():
            return p, m, norm, steps
        rhs = a - c @ span.images
        z, steps = self.complement.solve(self.values, rhs, rtol * _norms(a))
        z = span.outside(z)
        norm = float(np.linalg.norm(span.residual(self.values, z, rhs)))
        return p + z, m, norm, steps


@dataclass(frozen=True, eq=False)
class SpanInverse(AbstractInverse):
    """The inverse of `SpectralInverse` for samples of which few pairs are known. Values alone cost no solve."""

    samples: Sequence[SpanSample]
    mask: Tensor  # (samples, k, p)
    values: Tensor  # (samples, p)
    vectors: Tensor  # (samples, p, n)
    tolerance: float
    on_failure: OnFailure
    condition: Tensor | None = None
    trusted = True

    @property
    def gauge(self) -> Gauge | None:
        """The judge of cotangents, where there are clusters."""
        return Gauge(self.values, self.mask, self.tolerance, self.on_failure) if bool(self.mask.any()) else None

    def solve(self, b: Vectors) -> tuple[Tensor, LinearReport]:
        """J^-1 b."""
        return self._each(b, before=True)

    def rsolve(self, c: Vectors) -> tuple[Tensor, LinearReport]:
        """J^-T c."""
        return self._each(c, before=False)

    def _each(self, b: Tensor, before: bool) -> tuple[Tensor, LinearReport]:
        """The symmetric inverse, with division by s before or after it."""
        k, rtol = self.mask.shape[-2], default_tolerance(None, torch.float64)
        given = b.detach().reshape(len(self.samples), k, -1).double().cpu().numpy()
        out, norms, steps, good = np.empty_like(given), [], [], []
        for i, sample in enumerate(self.samples):
            factor = 1 / sample.scale
            a = given[i, :, :-1] * (factor if before else 1.0)
            p, m, norm, count = sample.solve(a, given[i, :, -1], 0.1 * rtol)
            out[i, :, :-1], out[i, :, -1] = p * (1.0 if before else factor), m
            good.append(norm <= rtol * max(float(np.linalg.norm(a)), 1e-300) or norm == 0)
            norms.append(norm)
            steps.append(count)
        value = torch.from_numpy(out).to(b).reshape(b.shape)
        status = torch.where(torch.tensor(good), int(Status.CONVERGED), int(Status.MAX_STEPS))
        return value, LinearReport(status.to(b.device), torch.tensor(norms).to(b), torch.tensor(steps))
