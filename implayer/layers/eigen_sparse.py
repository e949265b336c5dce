"""The sparse and matrix-free sides of `EigenLayer`: residuals on a stored pattern, and samples solved one by one."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DeviceError, DtypeError, ImplayerError, NotSymmetricError, ShapeError
from ..failures import OnFailure
from ..linear.spectral import cluster_labels, same, turn_clusters
from ..linear.spectral_span import Span, SpanInverse, SpanSample
from ..problem import Problem
from ..solution import Solution, Status
from ..solvers.eigen import Which
from ..solvers.eigen_sparse import AbstractSparseEigenSolver, Pairs, SparsePencil
from ..types import Tree
from .eigen_residual import Operator, others

_ASYMMETRY = 1e-4  # of the size of a matrix; below it the symmetric part is taken, as a difference quotient needs it
LAYOUTS = (torch.sparse_coo, torch.sparse_csr)


def is_sparse(value: Any) -> bool:
    """Whether a matrix comes in COO or CSR form."""
    return isinstance(value, Tensor) and value.layout in LAYOUTS


@dataclass(frozen=True)
class Pattern:
    """Where the entries of a symmetric matrix lie, row by row, and where the mirror image of each one is."""

    rows: Tensor  # (nnz,)
    columns: Tensor  # (nnz,)
    mirror: Tensor  # (nnz,)
    n: int

    @staticmethod
    def of(matrix: Tensor, name: str) -> tuple["Pattern", Tensor]:
        """The pattern of a COO or CSR tensor, and its values (*batch, nnz) as they depend on it."""
        n = matrix.shape[-1]
        if matrix.layout == torch.sparse_coo:
            matrix = matrix.coalesce()
            rows, columns, values = *matrix.indices(), matrix.values()
        else:
            heads, columns = matrix.crow_indices(), matrix.col_indices()
            if heads.ndim > 1:
                if bool((heads != heads[:1]).any()) or bool((columns != columns[:1]).any()):
                    raise ShapeError(f"the samples of `{name}` have different patterns; give all of them one pattern.")
                heads, columns = heads[0], columns[0]
            rows, values = (
                torch.repeat_interleave(torch.arange(n, device=columns.device), heads.diff()),
                matrix.values(),
            )
        return Pattern(rows, columns, _mirror(rows, columns, n, name), n), values


def _mirror(rows: Tensor, columns: Tensor, n: int, name: str) -> Tensor:
    """Position of entry (j, i) for every entry (i, j); raises where there is none."""
    import scipy.sparse as sparse

    place = np.arange(len(rows))
    pairs = (rows.cpu().numpy(), columns.cpu().numpy())
    turned = sparse.csr_array((place, pairs[::-1]), shape=(n, n))
    turned.sort_indices()
    mirror = torch.from_numpy(turned.data.astype(np.int64)).to(rows.device)
    same = len(mirror) == len(rows) and bool((columns[mirror] == rows).all()) and bool((rows[mirror] == columns).all())
    if not same:
        raise NotSymmetricError(
            f"the pattern of `{name}` is not symmetric: some entry (i, j) is stored without (j, i). Store both triangles, or "
            f"pass {name} + {name}' where only one is stored."
        )
    return mirror


def require_symmetric(name: str, skew: Tensor) -> None:
    """Refuse a matrix whose largest |A - A'|, relative to its size, is more than rounding and difference quotients."""
    if bool((skew > _ASYMMETRY).any()):
        sample, size = int(skew.reshape(-1).argmax()), float(skew.nan_to_num(0.0).max())
        raise NotSymmetricError(
            f"`{name}` of sample {sample} is not symmetric: |{name} - {name}'| is {size:.2e} of |{name}|; expected "
            f"at most {_ASYMMETRY:g}. Pass ({name} + {name}') / 2 if that is meant, or `NonsymmetricEigenLayer` for simple "
            f"pairs of a matrix that is not symmetric."
        )


@dataclass(frozen=True)
class FindSparsePairs:
    """The forward solver: every sample by itself, in SciPy; hands over the inverse that its pairs make."""

    method: AbstractSparseEigenSolver
    k: int
    which: Which
    tolerance: float
    broadening: float
    on_failure: OnFailure
    A: Operator | None = None
    B: Operator | None = None

    @property
    def __name__(self) -> str:
        return type(self.method).__name__

    def __call__(self, problem: Problem) -> Solution:
        """Value (*batch, k, n + 1) and the frozen inverse."""
        x = problem.x
        batch, n, k = tuple(x["unit"].shape), x["n"], self.k
        for name in ("A", "B"):
            if x[f"skew_{name}"] is not None:
                require_symmetric(name, x[f"skew_{name}"])
        units, scales = x["unit"].reshape(-1), x["scale"].reshape(-1).expand(x["unit"].numel())
        like = x["unit"]
        found, status = [], []
        for i in range(len(units)):
            pencil = self._pencil(x, i)
            if pencil is None:
                pencil, pairs = SparsePencil(_Identity(n)), Pairs(np.arange(k + 1.0), np.eye(k + 1, n), 0, k)
                status.append(int(Status.NONFINITE))
            else:
                pencil, pairs = self._pairs(pencil, x, i)
                status.append(int(Status.CONVERGED if pairs.converged else Status.MAX_STEPS))
            found.append((pencil, pairs))
        steps = torch.tensor([pairs.steps for _, pairs in found], device=like.device).reshape(batch)
        inverse = self._inverse(found, units, scales, x["coarse"])
        y = torch.cat([inverse.vectors[:, :k], inverse.values[:, :k].unsqueeze(-1)], -1)
        codes = torch.tensor(status, dtype=torch.int64, device=like.device)
        y[codes == int(Status.NONFINITE)] = torch.nan
        y = y.reshape(*batch, k, n + 1)
        return Solution(y, codes.reshape(batch), None, steps, {"pairs": inverse}, inverse)

    def _pencil(self, x: Any, i: int) -> SparsePencil | None:
        """Sample i for SciPy, or None where it is not finite."""
        A, B = (_for_scipy(x[name], call, x["n"], i, x["unit"]) for name, call in (("A", self.A), ("B", self.B)))
        if A is None or (B is None and (x["B"] is not None or self.B is not None)):
            return None
        start = x["start"]
        return SparsePencil(
            A, B, None, None if start is None else np.ascontiguousarray(_sample(start, 2, i).double().cpu().numpy().T)
        )

    def _pairs(self, pencil: SparsePencil, x: Any, i: int) -> tuple[SparsePencil, Pairs]:
        known, shift = x["known"], x["shift"]
        if known is not None:
            pencil = pencil.with_known(_rows(known, i), 1 / float(_sample(x["scale"], 0, i)))
        pairs = self.method.find(pencil, (self.k, self.which, None if shift is None else float(_sample(shift, 0, i))))
        return pencil, _with_known(pairs, pencil)

    def _inverse(self, found: list[Any], units: Tensor, scales: Tensor, coarse: bool) -> SpanInverse:
        k, device = self.k, units.device
        values = torch.from_numpy(np.stack([pairs.values for _, pairs in found])).to(device)
        vectors, relative = np.stack([pairs.vectors for _, pairs in found]), values / units.unsqueeze(-1)
        if self.tolerance >= 0:
            close = min(self.tolerance, same(coarse))
            turn_clusters(rows := torch.from_numpy(vectors), rows, cluster_labels(relative[:, :k], close).cpu())
        vectors = torch.from_numpy(np.stack([_signed(one, k) for one in vectors])).to(device)
        labels = cluster_labels(relative, self.tolerance)
        own = torch.eye(k, values.shape[-1], dtype=torch.bool, device=device)
        mask = others(labels[:, :k], labels) & (self.broadening == 0)
        gaps = values.unsqueeze(-2) - values[:, :k].unsqueeze(-1)
        gaps = torch.where(own, torch.inf, gaps)
        weights = 1 / (gaps + (self.broadening * units)[:, None, None].square() / gaps)
        inside = torch.where(torch.arange(values.shape[-1], device=device) < k, 1 / units.unsqueeze(-1), 0).unsqueeze(
            -2
        )
        weights = torch.where(mask, inside, torch.where(own, 0, weights))
        samples = []
        for i, (pencil, pairs) in enumerate(found):
            exact = [
                *range(min(pairs.exact, len(pairs.values))),
                *range(len(pairs.values) - pairs.known, len(pairs.values)),
            ]
            v = np.ascontiguousarray(vectors[i].cpu().numpy()[exact])
            span = Span(pencil.product, None if pencil.B is None else pencil.weighted, v, pencil.weighted(v))
            rest = None if pairs.complement is None else pairs.complement(span)
            part = weights[i][:, exact].cpu().numpy()
            samples.append(SpanSample(span, pairs.values[:k], part, float(scales[i]), rest))
        condition = (weights.abs().amax((-2, -1)) * units).clamp(min=1)
        return SpanInverse(samples, mask, values, vectors, 1e-4 if coarse else 1e-6, self.on_failure, condition)


class _Identity:
    """Stands in for a matrix that is not finite."""

    def __init__(self, n: int):
        self.shape = (n, n)

    def __matmul__(self, z: Any) -> Any:
        return z


def _with_known(pairs: Pairs, pencil: SparsePencil) -> Pairs:
    """The known pairs after the others: they belong to the span in which everything is closed form."""
    if pencil.known is None or pairs.complement is None:
        return pairs
    values, turn = np.linalg.eigh(pencil.known @ pencil.product(pencil.known).T)
    vectors = np.concatenate([pairs.vectors, turn.T @ pencil.known])
    return replace(pairs, values=np.concatenate([pairs.values, values]), vectors=vectors, known=len(values))


def _signed(rows: Any, k: int) -> Any:
    """The entry of largest modulus of each of k rows positive, the first of those that are equal to 1e-6."""
    for row in rows[:k]:
        size = np.abs(row)
        if row[np.argmax(size >= (1 - 1e-6) * size.max())] < 0:
            row *= -1
    return rows


def _rows(leaf: Tensor, i: int) -> Any:
    """Columns (n, j) of sample i as rows for SciPy."""
    return np.ascontiguousarray(_sample(leaf, 2, i).double().cpu().numpy().T)


def _sample(leaf: Tensor, core: int, i: int) -> Tensor:
    """Sample i of a leaf that may be shared."""
    return leaf if leaf.ndim == core else leaf.reshape(-1, *leaf.shape[leaf.ndim - core :])[i]


def _for_scipy(matrix: Any, call: Operator | None, n: int, i: int, like: Tensor) -> Any:
    import scipy.sparse as sparse
    from scipy.sparse.linalg import LinearOperator

    if call is not None:

        def apply(z: Any) -> Any:
            columns = torch.from_numpy(np.ascontiguousarray(z.reshape(n, -1))).to(like)
            return _checked(call(columns), columns).double().cpu().numpy().reshape(z.shape)

        return LinearOperator((n, n), matvec=apply, matmat=apply, dtype=np.float64)  # type: ignore[call-arg]  # its stub is of a subclass
    if matrix is None:
        return None
    if "diagonal" in matrix:
        values = _sample(matrix["diagonal"], 1, i).double().cpu().numpy()
        return values if np.isfinite(values).all() else None
    values = _sample(matrix["values"], 1, i).double().cpu().numpy()
    if not np.isfinite(values).all():
        return None
    columns, heads = matrix["columns"].cpu().numpy(), matrix["heads"].cpu().numpy()
    return sparse.csr_array((values, columns, heads), shape=(n, n))


def _checked(image: Any, columns: Tensor) -> Tensor:
    """What a callable made of columns (n, j)."""
    if not isinstance(image, Tensor) or image.shape != columns.shape:
        found = f"shape {tuple(image.shape)}" if isinstance(image, Tensor) else f"type {type(image).__name__}"
        raise ShapeError(f"the callable returned {found} for columns {tuple(columns.shape)}; expected the same shape.")
    if not bool(image.isfinite().all()):
        raise ImplayerError(
            "the callable returned NaN or infinity for finite columns, so it has no eigenpairs to find."
        )
    return image


def arranged_sparse(A: Any, B: Any, known: Tensor | None, start: Tensor | None, shift: Any) -> Tree:
    """x of the layer inside, in float64."""
    if callable(A) and not isinstance(A, Tensor):
        return _arranged_operator(known, start, shift)
    if A.ndim > 2 + (A.layout == torch.sparse_csr):
        raise ShapeError(f"`A` has shape {tuple(A.shape)}; expected (n, n), or CSR (batch, n, n) with one pattern.")
    A_, size, n, skew = _matrix(A, "A")
    B_, unit, skew_B, scale = None, size, None, 1 / size
    if B is not None:
        if not is_sparse(B) and B.shape[-1:] == (n,) and B.shape[-2:] != (n, n):
            B_, weight = {"diagonal": B.double()}, B.detach().double().square().mean(-1).sqrt()
        elif is_sparse(B):
            B_, weight, _, skew_B = _matrix(B, "B")
        else:
            raise ShapeError(
                f"`B` has shape {tuple(B.shape)}; beside a sparse A it is sparse, or its diagonal (*batch, {n})."
            )
        unit, scale = size / weight, weight.sqrt() / size
    x = {"A": A_, "B": B_, "unit": unit, "scale": scale, "n": n, "skew_A": skew, "skew_B": skew_B}
    return x | _common(known, start, shift, unit.device) | {"coarse": A.dtype != torch.float64}


def _arranged_operator(known: Tensor | None, start: Tensor | None, shift: Any) -> Tree:
    if start is None:
        raise ValueError("`A` is a callable, so its size has to come from a start: pass `start=` of shape (n, k).")
    one = torch.ones((), dtype=torch.float64, device=start.device)
    x = {"A": None, "B": None, "unit": one, "scale": one, "n": start.shape[-2], "skew_A": None, "skew_B": None}
    return x | _common(known, start, shift, start.device) | {"coarse": start.dtype != torch.float64}


def _common(known: Tensor | None, start: Tensor | None, shift: Any, device: torch.device) -> dict[str, Any]:
    return {
        "known": None if known is None else known.detach().double(),
        "start": None if start is None else start.detach().double(),
        "shift": None if shift is None else torch.as_tensor(shift, dtype=torch.float64, device=device).detach(),
    }


def _matrix(matrix: Tensor, name: str) -> tuple[dict[str, Tensor], Tensor, int, Tensor]:
    """Symmetrised values on their pattern, the size of the matrix, n, and the relative asymmetry."""
    pattern, values = Pattern.of(matrix, name)
    values, plain = values.double(), values.detach().double()
    size = (plain.square().sum(-1) / max(pattern.n, 1)).sqrt()
    size = torch.where((size > 0) & size.isfinite(), size, 1)
    mirrored = plain[..., pattern.mirror]
    skew = torch.linalg.vector_norm(plain - mirrored, dim=-1) / size
    values = (values + values[..., pattern.mirror]) / 2
    heads = torch.zeros(pattern.n + 1, dtype=torch.int64, device=plain.device)
    heads[1:] = torch.bincount(pattern.rows, minlength=pattern.n).cumsum(0)
    return {"values": values, "rows": pattern.rows, "columns": pattern.columns, "heads": heads}, size, pattern.n, skew


def check_sparse(A: Any, B: Any, known: Any, start: Any, k: int) -> None:
    """Shapes, dtypes and devices, each with the name of the argument."""
    first = A if isinstance(A, Tensor) else start
    for name, value in (("A", A), ("B", B), ("deflate", known), ("start", start)):
        if value is None or (callable(value) and not isinstance(value, Tensor)):
            continue
        if not isinstance(value, Tensor) or not value.is_floating_point():
            found = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
            raise DtypeError(f"`{name}` is {found}; expected a real floating-point tensor.")
        if value.dtype != first.dtype:
            raise DtypeError(f"`{name}` is {value.dtype} but expected {first.dtype}; give all arguments one dtype.")
        if value.device != first.device:
            raise DeviceError(f"`{name}` is on {value.device} but expected {first.device}; move them to one device.")
    if isinstance(A, Tensor):
        n = A.shape[-1]
        if A.shape[-2] != n:
            raise ShapeError(f"`A` has shape {tuple(A.shape)}; expected a square matrix.")
        if k > n:
            raise ShapeError(f"`k` is {k}, but `A` has only {n} rows; there are no more than {n} eigenpairs.")
        for name, value in (("deflate", known), ("start", start)):
            if value is not None and (value.ndim < 2 or value.shape[-2] != n):
                raise ShapeError(f"`{name}` has shape {tuple(value.shape)}; expected {n} rows, as `A` has.")
    elif start is not None and start.ndim < 2:
        raise ShapeError(f"`start` has shape {tuple(start.shape)}; expected columns (n, k): `.unsqueeze(-1)`.")


def no_transforms() -> None:
    """Sparse tensors and SciPy know nothing of torch.func."""
    raise ImplayerError(
        "sparse and matrix-free eigenpairs have no torch.func transforms: use `torch.autograd` on them, with the batch "
        "inside the layer, or pass a dense A (`A.to_dense()`)."
    )
