"""Forward solvers of symmetric eigenproblems: which pairs are wanted, what is known of them, and LAPACK."""

import abc
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import DeflationError, NotDefiniteError
from ..types import Float

Which = Literal["smallest", "largest", "nearest"]
_KNOWN = 1e-5


@dataclass(frozen=True)
class DensePencil:
    """A v = l B v with A and B (samples, n, n) symmetric, B None for the identity; `known` (samples, n, d) are left out."""

    A: Float[Tensor, "samples n n"]
    B: Float[Tensor, "samples n n"] | None = None
    known: Float[Tensor, "samples n d"] | None = None

    @property
    def samples(self) -> int:
        """Number of pencils."""
        return self.A.shape[0]

    @property
    def n(self) -> int:
        """Number of entries of a vector."""
        return self.A.shape[-1]

    def images(self, vectors: Tensor) -> Tensor:
        """B v for rows v, (samples, p, n)."""
        return vectors if self.B is None else vectors @ self.B


@dataclass(frozen=True)
class Wanted:
    """The k pairs at one end of the spectrum, or nearest to `shift` (samples,)."""

    k: int
    which: Which
    shift: Tensor | None = None

    def order(self, values: Tensor) -> Tensor:
        """Positions (samples, p) of the pairs, the most wanted one first; values come in ascending order."""
        if self.which == "nearest":
            assert self.shift is not None
            return (values - self.shift.unsqueeze(-1)).abs().argsort(-1)
        return values.argsort(-1, descending=self.which == "largest")


@dataclass(frozen=True)
class Spectrum:
    """Eigenpairs that are known, the wanted ones first, v'Bv = 1; vectors are rows."""

    values: Float[Tensor, "samples p"]
    vectors: Float[Tensor, "samples p n"]
    images: Float[Tensor, "samples p n"]  # B v
    steps: Tensor  # (samples,)
    complement: Any = None  # how to solve outside their span, None where they are all

    def reversed(self) -> "Spectrum":
        """The pairs the other way round."""
        vectors = self.vectors.flip(1)
        images = vectors if self.images is self.vectors else self.images.flip(1)
        return Spectrum(self.values.flip(1), vectors, images, self.steps, self.complement)

    def chosen(self, order: Tensor) -> "Spectrum":
        """The pairs in another order."""
        place = order.unsqueeze(-1).expand(*order.shape, self.vectors.shape[-1])
        vectors = self.vectors.gather(1, place)
        images = vectors if self.images is self.vectors else self.images.gather(1, place)
        return Spectrum(self.values.gather(1, order), vectors, images, self.steps, self.complement)


class AbstractEigenSolver(abc.ABC):
    """Finds the wanted pairs of a pencil."""

    @abc.abstractmethod
    def find(self, pencil: Any, wanted: Wanted) -> Spectrum:
        """At least the wanted pairs, first."""


@dataclass(frozen=True)
class Lapack(AbstractEigenSolver):
    """All pairs of a batch of dense matrices, by `torch.linalg.eigh`; B by its Cholesky factor.

        A v = l B v,   B = L L',   (L^-1 A L^-T) u = l u,   v = L^-T u

    Exact for any k and any end of the spectrum; n^3 work and the pairs that were not asked for serve the derivative.

    **Raises** `NotDefiniteError` where B has no Cholesky factor.
    """

    def find(self, pencil: DensePencil, wanted: Wanted) -> Spectrum:
        """All pairs; the wanted ones first, those known beforehand last."""
        lower = None if pencil.B is None else definite(pencil.B)
        inner = pencil.A if lower is None else _whitened(pencil.A, lower)
        known = None if pencil.known is None else _inner_known(pencil, inner, lower)
        if known is None:
            values, columns = torch.linalg.eigh(inner.mT, "U")  # rows as LAPACK has columns: a plain copy
            order = wanted.order(values) if wanted.which == "nearest" else values
        else:
            far = 4 * torch.linalg.matrix_norm(inner)[:, None, None]
            _, columns = torch.linalg.eigh(inner + far * (known.mT @ known))
            values = ((inner @ columns) * columns).sum(-2)
            share = (known @ columns).square().sum(-2)
            order = wanted.order(values)
            order = order.gather(-1, (share.gather(-1, order) > 0.5).to(torch.int8).argsort(dim=-1, stable=True))
        vectors = images = columns.mT
        if lower is not None and pencil.B is not None:
            vectors = torch.linalg.solve_triangular(lower.mT, columns, upper=True).mT
            images = vectors @ pencil.B
        steps = torch.ones(len(values), dtype=torch.int64, device=values.device)
        found = Spectrum(values, vectors, images, steps)
        if known is None and wanted.which != "nearest":
            return found if wanted.which == "smallest" else found.reversed()
        return found.chosen(order)


def _whitened(matrix: Tensor, lower: Tensor) -> Tensor:
    """L^-1 A L^-T."""
    half = torch.linalg.solve_triangular(lower, matrix, upper=False)
    inner = torch.linalg.solve_triangular(lower, half.mT, upper=False)
    return (inner + inner.mT) / 2


def definite(matrix: Tensor) -> Tensor:
    """The Cholesky factors of B, each of which has to exist."""
    lower, info = torch.linalg.cholesky_ex(matrix)
    if bool(info.any()):
        sample = int(info.nonzero()[0])
        smallest = float(torch.linalg.eigvalsh(matrix[sample])[0])
        largest = float(torch.linalg.eigvalsh(matrix[sample])[-1])
        raise NotDefiniteError(
            f"`B` of sample {sample} is not positive definite: its eigenvalues reach from {smallest:.2e} to {largest:.2e} of "
            f"its size. Add a small multiple of the identity to B, or exchange A and B if A is the definite one."
        )
    return lower


def _inner_known(pencil: DensePencil, inner: Tensor, lower: Tensor | None) -> Tensor:
    """The known vectors as orthonormal rows in the coordinates L'v, where they have to be eigenvectors."""
    assert pencil.known is not None
    rows = pencil.known.mT if lower is None else pencil.known.mT @ lower
    factor, info = torch.linalg.cholesky_ex(rows @ rows.mT)
    diagonal = factor.diagonal(dim1=-2, dim2=-1)
    if bool(info.any()) or not bool((diagonal.amin(-1) > 1e-6 * diagonal.amax(-1)).all()):
        raise DeflationError(
            f"`deflate` holds {rows.shape[-2]} vectors that depend on one another; pass each known vector once."
        )
    rows = torch.linalg.solve_triangular(factor, rows, upper=False)
    image = rows @ inner
    rest = torch.linalg.matrix_norm(image - (image @ rows.mT) @ rows) / torch.linalg.matrix_norm(inner)
    require_known(float(rest.max()) if rest.numel() else 0.0)
    return rows


def require_known(residual: float) -> None:
    """Refuse `deflate` if its span is not one of eigenvectors, to rounding of what the caller can know."""
    if residual > _KNOWN:
        raise DeflationError(
            f"`deflate` does not span eigenvectors of (A, B): A u - B u theta is {residual:.1e} of the size of A; "
            f"expected less than {_KNOWN:g}. Pass eigenvectors of this very pencil."
        )
