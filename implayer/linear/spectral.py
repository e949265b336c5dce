"""The Jacobian of an eigenproblem, inverted in closed form by eigenpairs that are known."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..causes import warn
from ..errors import DegenerateEigenvalueError, DegenerateWarning
from ..failures import OnFailure
from ..problem import quasi_random
from ..solution import Solution, Status
from ..types import Bool, Float, Vectors
from .base import AbstractInverse, LinearReport
from .dense import AbstractMatrixInverse


def cluster_labels(values: Float[Tensor, "*batch p"], tolerance: float) -> Tensor:
    """(*batch, p) equal numbers for eigenvalues that are linked by steps of at most `tolerance`."""
    order = values.argsort(-1)
    steps = values.gather(-1, order).diff(dim=-1) > tolerance
    labels = torch.cat([torch.zeros_like(order[..., :1]), steps.cumsum(-1)], -1)
    return torch.zeros_like(order).scatter(-1, order, labels)


def same(coarse: bool) -> float:
    """Relative distance up to which eigenvalues are one to rounding, so that their vectors may be mixed."""
    return 1e-6 if coarse else 1e-10


def turn_clusters(vectors: Tensor, images: Tensor, labels: Tensor) -> None:
    r"""Give the clusters among the first k vectors (rows) a basis that follows from their subspace alone, in place.

    $V_S \to U^\top V_S$ with the orthogonal factor U of $V_S G = U H$, and G a fixed matrix without any pattern. LAPACK's
    vectors of a diagonal matrix are unit vectors, where a loss may be stationary as the basis turns: here it is not.

    `vectors` and `images` are (samples, p, n), `labels` (samples, k).
    """
    for sample in (labels.sort(-1).values.diff(dim=-1) == 0).any(-1).nonzero().squeeze(-1).tolist():
        marks, counts = labels[sample].unique(return_counts=True)
        for mark in marks[counts > 1]:
            places = (labels[sample] == mark).nonzero().squeeze(-1)
            turn = _orthogonal_factor(vectors[sample, places])
            for rows in (vectors,) if images is vectors else (vectors, images):
                rows[sample, places] = turn.mT @ rows[sample, places]


def _orthogonal_factor(rows: Tensor) -> Tensor:
    """U of rows @ G = U H."""
    left, _, right = torch.linalg.svd(rows @ quasi_random(rows.shape, rows).mT)
    return left @ right


@dataclass(frozen=True)
class Gauge:
    r"""Which pairs of a sample form clusters, and what a loss that depends on the basis inside one of them gets.

    A loss of the vectors $V_S$ of a cluster has a derivative only if it does not change as they rotate among themselves:
    $V_S^\top \partial L/\partial V_S$ is symmetric, and $\partial L/\partial\lambda_i$ is the same for all of them. A
    cluster of which some pairs were not asked for admits no loss at all.
    """

    values: Tensor  # (samples, p), in the units of the caller
    mask: Bool[Tensor, "samples k p"]  # True where pair i of all known ones is another one of the cluster of pair j
    tolerance: float  # relative size of a dependence that counts as rounding
    on_failure: OnFailure

    def dependence(self, vectors: Tensor, c: Tensor) -> Tensor:
        """(samples, k) how much a cotangent c (samples, k, n + 1) depends on the gauge, relative to its own size."""
        k = self.mask.shape[-2]
        g, slope = c[..., :-1], c[..., -1]
        turned = g @ vectors.mT  # (samples, k, p), entry (j, i) is v_i' g_j
        inner = turned[..., :k]
        skew = torch.cat([inner - inner.mT, turned[..., k:]], -1)
        skew = torch.where(self.mask, skew, 0).abs().amax(-1)
        uneven = slope.unsqueeze(-1) - slope.unsqueeze(-2)
        uneven = torch.where(self.mask[..., :k], uneven, 0).abs().amax(-1)
        parted = self.mask[..., k:].any(-1)  # also where a cotangent happens not to turn v_j: it has no derivative
        size = torch.linalg.vector_norm(g, dim=-1) * torch.linalg.vector_norm(vectors[:, :k], dim=-1)
        skew, cut = torch.maximum(skew, torch.where(parted, size, 0)), torch.where(parted, slope.abs(), 0)
        spread = slope.abs().amax(-1, keepdim=True)
        tiny = torch.finfo(c.dtype).tiny
        return torch.maximum(skew / (size.amax(-1, keepdim=True) + tiny), torch.maximum(uneven, cut) / (spread + tiny))

    def judge(self, vectors: Tensor, c: Tensor, first_order: bool = True) -> Tensor | None:
        """Raise or warn where a cotangent depends on the gauge; for "nan" the mask (samples,) of those samples.

        Cotangents of higher orders need not have a symmetric part in the vectors, but in the eigenvalues they are equal.
        """
        if self.on_failure == "ignore":
            return None
        if not first_order:
            c = torch.cat([torch.zeros_like(c[..., :-1]), c[..., -1:]], -1)
        dependence = self.dependence(vectors, c)
        wrong = dependence > self.tolerance
        if not bool(wrong.any()):
            return None
        if self.on_failure == "nan":
            return wrong.any(-1)
        message = self._explain(dependence, wrong)
        if self.on_failure == "raise":
            status = torch.where(wrong.any(-1), int(Status.DEGENERATE), int(Status.CONVERGED))
            value = (self.values[:, : wrong.shape[-1]], vectors[:, : wrong.shape[-1]].mT)
            raise DegenerateEigenvalueError(message, Solution(value, status, aux={"gauge_dependence": dependence}))
        warn(message, DegenerateWarning)
        return None

    def _explain(self, dependence: Tensor, wrong: Tensor) -> str:
        sample, j = (int(i) for i in wrong.nonzero()[0])
        others = self.mask[sample, j].nonzero().reshape(-1)
        value = self.values[sample, j]
        gaps = (self.values[sample][others] - value).abs()
        worst = -1 if int(others[-1]) >= wrong.shape[-1] else int(gaps.argmax())  # one that was not asked for says most
        i, gap = int(others[worst]), float(gaps[worst])
        kept = "" if i < wrong.shape[-1] else ", which was not asked for"
        return (
            f"the loss depends on the basis that was chosen inside a cluster of eigenvalues: in sample {sample}, pair {j} "
            f"(eigenvalue {float(value):.6g}) and pair {i}{kept} are {gap:.1e} apart, so their vectors are not unique and the "
            f"derivative does not exist (dependence {float(dependence[sample, j]):.1e} of the cotangent; "
            f"{int(wrong.any(-1).sum())} of {len(wrong)} samples). Likely remedies: (a) ask for whole clusters and use what "
            f"does not change inside them: the projector V V' or the sum of the eigenvalues, (b) perturb the matrix so that "
            f'the eigenvalues separate, (c) `Clusters(broadening=...)`, a biased derivative, (d) `on_failure="warn"`, "nan" '
            f'or "ignore", which leave out the rotation inside the cluster.'
        )


@dataclass(frozen=True)
class SpectralInverse(AbstractMatrixInverse):
    r"""Inverse of the Jacobian of $F = [s\,(A v_j - \lambda_j B v_j);\ (1 - v_j^\top B v_j)/2]$, all pairs being known.

    $$J_j = \begin{pmatrix} s\,(A - \lambda_j B) & -s\,B v_j \\ -(B v_j)^\top & 0 \end{pmatrix},\qquad
      J_j^{-1} \begin{pmatrix} s\,a \\ \beta \end{pmatrix} =
      \begin{pmatrix} \sum_{i \ne j} v_i \frac{v_i^\top a}{\lambda_i - \lambda_j} - \beta v_j \\ -v_j^\top a \end{pmatrix}$$

    Save for s it is symmetric. Inside a cluster the size of A stands for the gap, as in the rows of `EigenResidual`.
    """

    vectors: Tensor  # (samples, n, n) in rows, the k wanted ones first
    images: Tensor  # (samples, n, n), B v
    weights: Tensor  # (samples, k, n), 1 / (l_i - l_j), zero for i = j
    values: Tensor  # (samples, n)
    mask: Tensor  # (samples, k, n), other pairs of the same cluster
    scale: Tensor  # (samples,), s
    condition: Tensor | None = None
    tolerance: float = 0.0  # that of the gauge
    on_failure: OnFailure = "raise"

    trusted: ClassVar[bool] = True  # made of the residual's own parts: nothing to probe
    travels: ClassVar[bool] = True
    constant: ClassVar[bool] = True  # an eigenvalue solver leaves a chord step nothing but rounding to correct
    singular: ClassVar[None] = None

    @property
    def gauge(self) -> Gauge | None:
        """The judge of cotangents, where there are clusters."""
        return Gauge(self.values, self.mask, self.tolerance, self.on_failure) if bool(self.mask.any()) else None

    def _apply(self, b: Tensor) -> Tensor:
        b = b.unflatten(-1, (self.weights.shape[-2], -1))
        return self._symmetric(b[..., :-1] / self.scale[:, None, None], b[..., -1:]).flatten(-2)

    def _apply_transposed(self, c: Tensor) -> Tensor:
        c = c.unflatten(-1, (self.weights.shape[-2], -1))
        u = self._symmetric(c[..., :-1], c[..., -1:])
        return torch.cat([u[..., :-1] / self.scale[:, None, None], u[..., -1:]], -1).flatten(-2)

    def _symmetric(self, a: Tensor, beta: Tensor) -> Tensor:
        k = self.weights.shape[-2]
        c = a @ self.vectors.mT  # (samples, k, n)
        p = (c * self.weights) @ self.vectors - beta * self.vectors[..., :k, :]
        return torch.cat([p, -c.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)], -1)

    def _product(self, x: Tensor) -> Tensor:
        x = x.unflatten(-1, (self.weights.shape[-2], -1))
        r = self._symmetric_product(x[..., :-1], x[..., -1:])
        return torch.cat([r[..., :-1] * self.scale[:, None, None], r[..., -1:]], -1).flatten(-2)

    def _product_transposed(self, u: Tensor) -> Tensor:
        u = u.unflatten(-1, (self.weights.shape[-2], -1))
        return self._symmetric_product(u[..., :-1] * self.scale[:, None, None], u[..., -1:]).flatten(-2)

    def _symmetric_product(self, p: Tensor, m: Tensor) -> Tensor:
        k = self.weights.shape[-2]
        c = p @ self.images.mT
        gaps = torch.where(self.weights == 0, 0, 1 / self.weights)
        top = (c * gaps) @ self.images - m * self.images[..., :k, :]
        return torch.cat([top, -c.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)], -1)

    def arrived(self, tensors: tuple[Tensor, ...]) -> AbstractInverse:
        """The same inverse below the transforms: with clusters it sees the cotangents itself, for no hook can."""
        moved = replace(self, **dict(zip(self._names(), tensors, strict=True)))
        gauge = moved.gauge
        return moved if gauge is None else GuardedInverse(moved, gauge)


class GuardedInverse(AbstractInverse):
    """A dense inverse that judges the cotangents of the pairs by the gauge of their clusters."""

    trusted = True

    def __init__(self, dense: SpectralInverse, gauge: Gauge):
        self.dense, self.gauge = dense, gauge
        self.condition = dense.condition
        self._first_order = True

    def watch(self, c: Vectors) -> Tensor | None:
        """Judge a cotangent of the pairs themselves; all after the first belong to higher orders."""
        first_order, self._first_order = self._first_order, False
        return self.gauge.judge(self.dense.vectors, c.unflatten(-1, (self.gauge.mask.shape[-2], -1)), first_order)

    def solve(self, b: Vectors) -> tuple[Tensor, LinearReport]:
        """J^-1 b."""
        return self.dense.solve(b)

    def rsolve(self, c: Vectors) -> tuple[Tensor, LinearReport]:
        """J^-T c."""
        return self.dense.rsolve(c)
