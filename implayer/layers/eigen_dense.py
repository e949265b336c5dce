"""The dense side of `EigenLayer`: the scaled pencil, LAPACK's pairs, and the inverse that they make."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import DeviceError, DtypeError, ShapeError
from ..failures import OnFailure
from ..linear.spectral import SpectralInverse, cluster_labels, same, turn_clusters
from ..modes import transforms
from ..problem import Problem
from ..solution import Solution, Status
from ..solvers.eigen import AbstractEigenSolver, DensePencil, Spectrum, Wanted, Which
from ..types import Tree
from .eigen_residual import others
from .eigen_sparse import require_symmetric


@dataclass(frozen=True)
class Clusters:
    """What counts as a repeated eigenvalue, and whether its derivative is to be smoothed.

    **Arguments**

    - `tolerance`: eigenvalues that differ by at most this much, relative to the size of A (and over that of B), are one
      cluster. None means 1e-10, and 1e-5 for float32 input. Raise it where vectors of nearly equal eigenvalues make
      gradients too large to be of use; a loss that depends on the basis inside a cluster raises.
    - `broadening`: opt-in epsilon (same units) that replaces 1 / gap by gap / (gap^2 + epsilon^2). The derivative is then
      bounded and biased, by a factor 1 / (1 + (epsilon / gap)^2) for each pair; first order only, and no cluster raises.
    """

    tolerance: float | None = None
    broadening: float = 0.0

    def __post_init__(self) -> None:
        if self.broadening < 0 or (self.tolerance is not None and self.tolerance < 0):
            raise ValueError(
                f"`tolerance` is {self.tolerance} and `broadening` {self.broadening}; expected numbers that are not negative."
            )

    def limit(self, dtype: torch.dtype) -> float:
        """The tolerance for input of this dtype; zero with broadening, which needs no clusters."""
        if self.broadening:
            return -1.0
        if self.tolerance is not None:
            return self.tolerance
        return 1e-10 if dtype == torch.float64 else 1e-5


@dataclass(frozen=True)
class FindPairs:
    """The forward solver of the layer: finds the pairs, fixes their signs, and inverts the Jacobian by what it found."""

    method: AbstractEigenSolver
    k: int
    which: Which
    clusters: Clusters
    on_failure: OnFailure
    found: Spectrum | None = None  # what was found before, of this very pencil

    @property
    def __name__(self) -> str:
        return type(self.method).__name__

    def __call__(self, problem: Problem) -> Solution:
        """Value (*batch, k, n + 1), report in `aux`, and the frozen inverse."""
        x = problem.x
        pencil, finite, batch = _read(x)
        shift, k = x["shift"], self.k
        wanted = Wanted(k, self.which, None if shift is None else shift.reshape(-1).expand(pencil.samples))
        found = self.method.find(pencil, wanted) if self.found is None else self.found
        unit, scale = (x[name].reshape(-1).expand(pencil.samples) for name in ("unit", "scale"))
        inverse = inverted(found, k, self.clusters, unit, scale, x["coarse"], self.on_failure)
        signed(found, k)  # in place: the inverse has the same vectors
        y = torch.cat([found.vectors[:, :k], found.values[:, :k].unsqueeze(-1)], -1)
        status = torch.zeros(pencil.samples, dtype=torch.int64, device=y.device)
        if not bool(finite.all()):
            status[~finite] = int(Status.NONFINITE)
            y[~finite] = torch.nan
        y = y.reshape(*batch, *y.shape[1:])
        return Solution(y, status.reshape(batch), None, found.steps.reshape(batch), {"pairs": inverse}, inverse)


def _read(x: Any) -> tuple[DensePencil, Tensor, tuple[int, ...]]:
    A, B, known = x["A"], x["B"], x["known"]
    batch = tuple(x["unit"].shape)
    A = A.expand(*batch, *A.shape[-2:]).flatten(0, len(batch) - 1) if batch else A.unsqueeze(0)
    require_symmetric("A", x["skew_A"])
    finite = A.sum((-2, -1)).isfinite()
    if B is not None:
        B = B.expand(*batch, *B.shape[-2:]).reshape(-1, *B.shape[-2:])
        require_symmetric("B", x["skew_B"])
        finite = finite & B.sum((-2, -1)).isfinite()
    if known is not None:
        known = known.expand(*batch, *known.shape[-2:]).reshape(-1, *known.shape[-2:])
    if not bool(finite.all()):
        n = A.shape[-1]
        ramp = torch.diag(torch.arange(n, dtype=A.dtype, device=A.device) / n)
        A = torch.where(finite[:, None, None], A, ramp)
        B = None if B is None else torch.where(finite[:, None, None], B, torch.eye(n, dtype=A.dtype, device=A.device))
    return DensePencil(A, B, known), finite, batch


def signed(found: Spectrum, k: int) -> Spectrum:
    """The entry of largest modulus of each wanted vector made positive, in place."""
    sign = signs(found.vectors[:, :k])
    found.vectors[:, :k] *= sign
    if found.images is not found.vectors:
        found.images[:, :k] *= sign
    return found


def signs(wanted: Tensor) -> Tensor:
    """(samples, k, 1) the sign of the entry of largest modulus of each row, of the first of those equal to 1e-6."""
    high, low = wanted.amax(-1, keepdim=True), wanted.amin(-1, keepdim=True)
    sign = high + low  # twice the mean of the extreme entries has the sign of the larger one
    if sign.numel() and not float((sign / (high - low)).abs_().amin()) > 1e-6:
        size = wanted.abs()
        place = (size >= (1 - 1e-6) * size.amax(-1, keepdim=True)).to(torch.uint8).argmax(-1, keepdim=True)
        sign = wanted.gather(-1, place)
    return sign.sign()


def inverted(
    found: Spectrum, k: int, clusters: Clusters, unit: Tensor, scale: Tensor, coarse: bool, on_failure: OnFailure
) -> SpectralInverse:
    """The frozen inverse; `unit` (samples,) is the size of an eigenvalue. Turns the vectors of clusters, in place."""
    values, tolerance = found.values, clusters.limit(torch.float32 if coarse else torch.float64)
    weights = values.unsqueeze(-2) - values[:, :k].unsqueeze(-1)
    weights.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
    mask = torch.zeros((), dtype=torch.bool, device=values.device).expand(weights.shape)
    if clusters.broadening:
        weights = 1 / (weights + (clusters.broadening * unit)[:, None, None].square() / weights)
        weights.diagonal(dim1=-2, dim2=-1).fill_(0)
    else:
        weights.reciprocal_()
    strength = weights.abs().amax((-2, -1)) * unit
    if not clusters.broadening and not bool((strength * tolerance < 1).all()):
        relative = values / unit.unsqueeze(-1)
        labels = cluster_labels(relative, tolerance)
        mask = others(labels[:, :k], labels)
        turn_clusters(found.vectors, found.images, cluster_labels(relative[:, :k], min(tolerance, same(coarse))))
        inside = torch.where(torch.arange(values.shape[-1], device=values.device) < k, 1 / unit.unsqueeze(-1), 0)
        weights = torch.where(mask, inside.unsqueeze(-2), weights)
        strength = weights.abs().amax((-2, -1)) * unit
    noise = 1e-4 if coarse else 1e-7
    return SpectralInverse(
        found.vectors, found.images, weights, values, mask, scale, strength.clamp(min=1), noise, on_failure
    )


def arranged(A: Tensor, B: Tensor | None, known: Tensor | None, shift: Any) -> Tree:
    """x of the layer inside, in float64: the symmetric parts, their sizes and their asymmetry."""
    coarse = A.dtype != torch.float64
    A_, unit, skew = _symmetric(A)
    B_, skew_B, scale = None, None, 1 / unit
    if B is not None:
        B_, size, skew_B = _symmetric(B)
        unit, scale = unit / size, size.sqrt() / unit
    if known is not None:
        known = known.detach().double()
        unit = unit + torch.zeros_like(known[..., 0, 0])
    if shift is not None:
        shift = torch.as_tensor(shift, dtype=torch.float64, device=A.device).detach()
        unit = unit + torch.zeros_like(shift)
        shift = shift.expand(unit.shape)
    x = {
        "A": A_,
        "B": B_,
        "known": known,
        "shift": shift,
        "unit": unit,
        "scale": scale,
        "skew_A": skew,
        "skew_B": skew_B,
    }
    x["coarse"] = coarse
    return _all_batched(x) if transforms() else x


def _symmetric(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The symmetric part, the size of an eigenvalue, 1 where there is none, and the asymmetry relative to that."""
    half, whole, share = symmetric_part(matrix)
    root = max(matrix.shape[-1], 1) ** 0.5
    size = torch.where((whole > 0) & whole.isfinite(), whole / root, 1)
    return half, size, torch.where(whole > 0, 2 * root * ((1 - share) * (1 + share)).clamp(min=0).sqrt(), 0)


def symmetric_part(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(A + A') / 2 in float64, the Frobenius norm of A, and which share of it is left."""
    matrix = matrix.double()
    half = torch.lerp(matrix, matrix.mT, 0.5)
    whole, kept = (torch.linalg.vector_norm(part.detach(), dim=(-2, -1)) for part in (matrix, half))
    return half, whole, kept / whole


def _all_batched(x: dict[str, Any]) -> dict[str, Any]:
    """Every tensor with all batch axes, and under every transform that any of them is under: the solver gets them below."""
    cores = {"A": 2, "B": 2, "known": 2, "shift": 0, "unit": 0, "scale": 0, "skew_A": 0, "skew_B": 0}
    pairs = {name: (x[name], core) for name, core in cores.items() if x[name] is not None}
    batch = tuple(x["unit"].shape)
    nothing = sum(torch.zeros_like(leaf.reshape(-1)[:1]).sum() for leaf, _ in pairs.values())
    filled = {
        name: leaf.expand((*batch, *leaf.shape[leaf.ndim - core :])) + nothing for name, (leaf, core) in pairs.items()
    }
    return {**x, **filled}


def check_matrices(A: Any, B: Any, known: Any, k: int) -> None:
    """Shapes, dtypes and devices, each with the name of the argument."""
    for name, value in (("A", A), ("B", B), ("deflate", known)):
        if value is None and name != "A":
            continue
        if not isinstance(value, Tensor) or not value.is_floating_point():
            found = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
            raise DtypeError(f"`{name}` is {found}; expected a real floating-point tensor.")
        if value.dtype != A.dtype:
            raise DtypeError(f"`{name}` is {value.dtype} but `A` is {A.dtype}; give both one dtype.")
        if value.device != A.device:
            raise DeviceError(f"`{name}` is on {value.device} but `A` is on {A.device}; move them to one device.")
        if value.ndim < 2 or (name != "deflate" and value.shape[-1] != value.shape[-2]):
            raise ShapeError(f"`{name}` has shape {tuple(value.shape)}; expected square matrices (*batch, n, n).")
        if value.shape[-2] != A.shape[-1]:
            raise ShapeError(f"`{name}` has shape {tuple(value.shape)}; expected {A.shape[-1]} rows, as `A` has.")
    n, d = A.shape[-1], 0 if known is None else known.shape[-1]
    if k + d > n:
        known_too = f" beside {d} known ones" if d else ""
        raise ShapeError(f"`k` is {k}{known_too}, but `A` has only {n} rows; there are no more than {n} eigenpairs.")
