"""The direct way from dense matrices to the ends of their spectra and back, on numbers, for eager reverse mode."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..implicit import Demand, Fence, Limit, Postponed, attach
from ..linear.base import default_tolerance
from ..modes import is_plain, plain
from ..solvers.eigen import DensePencil, Lapack, Spectrum, Wanted
from .eigen_dense import FindPairs, arranged, inverted, signed, signs, symmetric_part
from .eigen_residual import EigenResidual

_SINGLE = 1e-12  # of the size of A: a smaller gap is ill conditioned


def pairs_directly(A: Tensor, finder: FindPairs) -> tuple[tuple[Tensor, Tensor] | None, Spectrum | None]:
    """Values (*batch, k) and rows (*batch, k, n) in float64, or None where there is more to say; then what was found so far."""
    if (
        torch.compiler.is_compiling()
        or finder.which == "nearest"
        or finder.clusters.broadening
        or not A.numel()
        or not is_plain(A.device.type)
    ):
        return None, None
    n, k, batch = A.shape[-1], finder.k, A.shape[:-2]
    with plain(A.device):
        matrix = A.detach().double().reshape(-1, n, n)
        half, size = _halved(matrix)
        if half is None:
            return None, None
        try:
            found = finder.method.find(DensePencil(half), Wanted(k, finder.which))
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # numbers that are not finite, or too large
            return None, None
        size = torch.linalg.vector_norm(found.values, dim=-1) if size is None else size
        gaps = (found.values[:, 1 : k + 1] - found.values[:, : min(k, n - 1)]).abs_() / size.unsqueeze(-1)
        limit = max(_SINGLE, finder.clusters.limit(A.dtype)) / n**0.5
        distinct = n == 1 or float(gaps.amin()) > limit
        if not distinct or not (isinstance(finder.method, Lapack) or _is_right(half, found, k, size)):
            return None, found
        sign, wanted = signs(found.vectors[:, :k]), found.vectors[:, :k]
        values, rows = found.values[:, :k].clone(), wanted * sign  # copies, for they may be changed in place
        values, rows = values.reshape(*batch, k), rows.reshape(*batch, k, n)
    if torch.is_grad_enabled() and A.requires_grad:
        gradient = _Gradient(found, sign, finder, A.dtype, batch)
        values, rows = Postponed.apply(Demand(gradient.pull, gradient.attached), 2, values, rows, A)
    return (values, rows), found


def _halved(matrix: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The symmetric part, None where the layer has to say more (asymmetric, NaN), and its Frobenius norm if known by now."""
    if torch.equal(matrix, matrix.mT):  # which NaN is not
        return matrix, None
    half, size, share = symmetric_part(matrix)
    good = bool((share >= 1 - 1e-9 / matrix.shape[-1]).all())  # the asymmetry is below 1e-4
    return (half if good else None), size


def _is_right(matrix: Tensor, found: Spectrum, k: int, size: Tensor) -> bool:
    """Whether A v = l v to tolerance, where a solver is not LAPACK's, which is stable or raises."""
    values, rows = found.values[:, :k].unsqueeze(-1), found.vectors[:, :k]
    left = torch.linalg.vector_norm((rows @ matrix).addcmul_(rows, values, value=-1), dim=-1)
    unit = size.unsqueeze(-1) / matrix.shape[-1] ** 0.5
    return bool((left <= default_tolerance(None, matrix.dtype) * unit).all())


@dataclass(frozen=True, eq=False)
class _Gradient:
    """From cotangents of values and rows to those of A; the rows of the layer are those found, times `sign`."""

    found: Spectrum
    sign: Tensor  # (samples, k, 1)
    finder: FindPairs
    dtype: torch.dtype
    batch: torch.Size

    def pull(self, slope: Tensor | None, g: Tensor | None) -> list[Tensor]:
        r"""The symmetric part of $\sum_j (\partial L/\partial\lambda_j\,v_j - p_j) v_j^\top$, see `SpectralInverse`.

        $$p_j = \sum_{i \ne j} v_i \frac{v_i^\top \partial L/\partial v_j}{\lambda_i - \lambda_j}$$
        """
        every, k = self.found.vectors, self.finder.k
        wanted, n = every[:, :k], every.shape[-1]
        if g is None:
            assert slope is not None
            p = (slope.reshape(-1, k, 1) * wanted).mT @ wanted
            return [p.reshape(*self.batch, n, n).to(self.dtype)]
        c = g.reshape(-1, k, n) @ every.mT
        values = self.found.values
        gaps = torch.addcmul(values[:, :k].unsqueeze(-1) * self.sign, self.sign, values.unsqueeze(-2), value=-1)
        own = c.diagonal(dim1=-2, dim2=-1)
        c /= gaps
        own.copy_(torch.zeros((), dtype=c.dtype, device=c.device) if slope is None else slope.reshape(-1, k))
        p = torch.matmul(c, every, out=gaps)  # into arrays that are done with: new ones cost as much as half a product
        whole = torch.matmul(p.mT, wanted, out=c if k == n else None)
        half = torch.lerp(whole, whole.mT, 0.5, out=p if k == n else None)
        return [half.reshape(*self.batch, n, n).to(self.dtype)]

    def attached(self, A: Tensor) -> tuple[Tensor, Tensor]:
        """Values and rows with derivatives of both orders."""
        finder, k, n = self.finder, self.finder.k, A.shape[-1]
        x, shape = arranged(A, None, None, None), (*self.batch, k, n + 1)
        unit, scale = x["unit"].reshape(-1), x["scale"].reshape(-1)
        found = signed(replace(self.found, vectors=(rows := self.found.vectors.clone()), images=rows), k)
        inverse = inverted(found, k, finder.clusters, unit, scale, x["coarse"], finder.on_failure)
        F = EigenResidual(-1.0)
        y = torch.cat([found.vectors[:, :k], found.values[:, :k].unsqueeze(-1)], -1).flatten(1)
        y = attach(lambda y: F(x, y.reshape(shape)).reshape(-1, k * (n + 1)), y, inverse, 2).y
        y = Fence.apply(y, y, Limit(2, 2)).reshape(shape)
        return y[..., -1], y[..., :-1]
