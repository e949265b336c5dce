"""Eigenpairs as a layer: (A, B) -> k eigenvalues and vectors of A v = l B v, exactly differentiated."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..adjoints import AbstractAdjoint, ImplicitAdjoint
from ..causes import called_with
from ..errors import SolveError
from ..failures import OnFailure
from ..layer import ImplicitLayer
from ..linear.spectral import Gauge
from ..modes import transforms
from ..solution import Solution, Status
from ..solvers.eigen import AbstractEigenSolver, Lapack, Spectrum, Which
from ..solvers.eigen_sparse import LOBPCG, AbstractSparseEigenSolver, ShiftInvert
from ..types import Tree
from .eigen_dense import Clusters, FindPairs, arranged, check_matrices
from .eigen_direct import pairs_directly
from .eigen_residual import EigenResidual, Operator
from .eigen_sparse import FindSparsePairs, arranged_sparse, check_sparse, is_sparse, no_transforms

Matrix = Tensor | Operator


def report(F: Any, x: Tree, values: Tensor, vectors: Tensor, pairs: Any) -> dict[str, Tensor]:
    """(*batch, k) gap, residual and multiplicity of each pair."""
    k = values.shape[-1]
    own = torch.eye(k, pairs.values.shape[-1], dtype=torch.bool, device=values.device)
    away = (pairs.values.unsqueeze(-2) - pairs.values[:, :k].unsqueeze(-1)).abs()
    gap = torch.where(own | pairs.mask, torch.inf, away).amin(-1)
    multiplicity = pairs.mask.sum(-1) + 1
    residual = residuals(F, x, torch.cat([vectors.mT, values.unsqueeze(-1)], -1))
    return {"gap": gap.reshape(values.shape), "residual": residual, "multiplicity": multiplicity.reshape(values.shape)}


def residuals(F: Any, x: Tree, y: Tensor) -> Tensor:
    """(*batch, k) |A v - l B v| / |A| |v|, or in units of |B|^(1/2) for a pencil."""
    with torch.no_grad():
        return torch.linalg.vector_norm(EigenResidual(-1.0, F.A, F.B)(x, y)[..., :-1], dim=-1)


def worst_pair(F: Any, x: Tree, solution: Solution) -> str:
    """The end of a message: which pair of a sample that did not converge is the worst, and its gap."""
    y, pairs = solution.value, (solution.aux or {}).get("pairs")
    stuck = (solution.status == Status.MAX_STEPS).reshape(-1)
    if transforms() or pairs is None or not bool(stuck.any()):
        return ""
    left = residuals(F, x, y.detach()).reshape(len(stuck), -1).nan_to_num(torch.inf)
    sample = int(stuck.nonzero()[0])
    j = int(left[sample].argmax())
    values = pairs.values[sample]
    gap = float(
        (values - values[j])[torch.arange(len(values), device=values.device) != j].abs().nan_to_num(torch.inf).min()
    )
    return (
        f" The worst is pair {j} of sample {sample} (eigenvalue {float(values[j]):.6g}, gap {gap:.1e}), whose residual is "
        f"{float(left[sample, j]):.1e} of the size of A."
    )


class EigenLayer(torch.nn.Module):
    r"""The layer (A, B) -> k eigenpairs of a symmetric matrix, or of a symmetric pencil with B positive definite:

    $$A v_j = \lambda_j B v_j,\qquad v_i^\top B v_j = \delta_{ij}$$

    Its residual is $F = [A v_j - \lambda_j B v_j;\ (1 - v_j^\top B v_j)/2]$, whose Jacobian is inverted in closed form by
    the pairs that are known.

    **Arguments**

    - `k` (default 1): how many pairs.
    - `which`: "smallest" (default, values ascending), "largest" (descending), or "nearest" to `shift`, the nearest first.
    - `shift`: a number or a tensor of the batch shape, for "nearest".
    - `normalisation`: "B" (default) for v'Bv = 1, "unit" for v'v = 1.
    - `clusters`: `Clusters(tolerance=None, broadening=0.0)`, what counts as a repeated eigenvalue.
    - `solver`: what finds the pairs. None (default) takes `Lapack()` for a dense A, `ShiftInvert()` for a sparse one, and
      `LOBPCG()` for a callable; pass `LOBPCG(preconditioner=...)` where a factor takes too much memory.
    - `adjoint`: how the layer is differentiated. None is exact to second order for a dense A (in every mode and under every
      transform), and to first order, eagerly, for a sparse one or a callable; `OrderError` or `ImplayerError` beyond.
    - `on_failure`: what failed samples do, and losses that depend on the basis inside a cluster: "raise" (default), "warn",
      "nan" or "ignore".

    **Call**: `layer(A, B=None, *, deflate=None, start=None) -> (values, vectors)`.

    - `A`, `B` (*batch, n, n), each with the batch axes or without. Their symmetric parts are used, and their gradients are
      symmetric; asymmetry beyond 1e-4 of their size raises.
    - A sparse A is COO (n, n) or CSR ((n, n), or (batch, n, n) with one pattern); its gradient lies on the stored pattern, and
      nothing of size n x n is made. B is sparse too, or its diagonal (*batch, n).
    - A callable A is the product with a symmetric matrix, columns (n, j) to columns; it needs `start`. Whatever it closes
      over gets its gradient. B may be one too.
    - `start` (*batch, n, j): vectors to begin with, such as those of the step before; for iterative solvers.
    - `deflate` (*batch, n, d): known eigenvectors that are left out; only their span counts, and no gradient goes there.

    **Returns** values (*batch, k) and vectors (*batch, n, k), the entry of largest modulus of each vector positive, in the
    dtype of A; float32 is computed in float64. `solve(...)` the `Solution`, whose `aux` holds, all (*batch, k),

    - `gap`: distance to the nearest eigenvalue outside the pair's cluster, to which the derivative of a vector is inverse; for
      a sparse A among the k wanted ones, the known ones and the next one, which is known to a few digits,
    - `multiplicity`: number of known pairs in the cluster, 1 where the pair is simple,
    - `residual`: |A v - l B v| in units of |A| |v|, where sizes are root mean squares.

    **Raises** `NotSymmetricError`, `NotDefiniteError`, `ShapeError`, `DtypeError`, `DeviceError`, `DeflationError` for input
    that does not fit; `DegenerateEigenvalueError` at backward for a loss that depends on the basis inside a cluster, by
    `on_failure`; `SolveError` for NaN and for pairs that did not converge.

    **Reference** Zhang et al., "Implicitly Defined Layers in Neural Networks", equations (24) and (25); Kasim,
    "Derivatives of partial eigendecomposition of a real symmetric matrix for degenerate cases", arXiv 2011.04366.

    **Example**

    ```python
    layer = implayer.EigenLayer(k=2)
    A = torch.tensor([[2.0, 1.0], [1.0, 2.0]], requires_grad=True)
    values, vectors = layer(A)      # tensor([1., 3.])
    values[0].backward()            # A.grad = v v' = [[0.5, -0.5], [-0.5, 0.5]]
    ```
    """

    def __init__(
        self,
        k: int = 1,
        which: Which = "smallest",
        *,
        shift: float | Tensor | None = None,
        normalisation: Literal["B", "unit"] = "B",
        clusters: Clusters | None = None,
        solver: AbstractEigenSolver | AbstractSparseEigenSolver | None = None,
        adjoint: AbstractAdjoint | None = None,
        on_failure: OnFailure = "raise",
    ):
        super().__init__()
        _check_choice(k, which, shift, normalisation)
        self.k, self.shift, self.normalisation = k, shift, normalisation
        self.which: Which = which
        self.clusters = Clusters() if clusters is None else clusters
        self.solver, self.adjoint = solver, adjoint
        self.on_failure: OnFailure = on_failure
        self._inner: dict[torch.dtype, ImplicitLayer] = {}

    def forward(
        self, A: Matrix, B: Matrix | None = None, *, deflate: Tensor | None = None, start: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The eigenvalues and vectors."""
        found = None
        if isinstance(A, Tensor) and B is None and deflate is None and self.adjoint is None and _is_dense(A):
            check_matrices(A, None, None, self.k)
            pairs, found = pairs_directly(A, self._finder())
            if pairs is not None:
                return pairs[0].to(A.dtype), pairs[1].mT.to(A.dtype)
        return self._solved(A, B, deflate, start, found)[0].value

    def solve(
        self, A: Matrix, B: Matrix | None = None, *, deflate: Tensor | None = None, start: Tensor | None = None
    ) -> Solution:
        """The same value and gradient, with status, gap, multiplicity and residual of every pair."""
        solution, x, inner, pairs = self._solved(A, B, deflate, start)
        if pairs is None or transforms():
            return solution
        with torch.no_grad():
            values, vectors = (part.detach().double() for part in solution.value)
            aux = report(inner.F, x, values, vectors, pairs)
        return solution.replace(aux={**(solution.aux or {}), **aux})

    def _solved(
        self, A: Any, B: Any, deflate: Any, start: Any, found: Spectrum | None = None
    ) -> tuple[Solution, Tree, ImplicitLayer, Any]:
        dense = _is_dense(A)
        if dense:
            check_matrices(A, B, deflate, self.k)
            x = arranged(A, B, deflate, self.shift)  # type: ignore[arg-type]  # it is a tensor
        else:
            if transforms():
                no_transforms()
            check_sparse(A, B, deflate, start, self.k)
            x = arranged_sparse(A, B, deflate, start, self.shift)
        dtype = A.dtype if isinstance(A, Tensor) else start.dtype
        inner = self._dense(dtype, found) if dense else self._sparse(dtype, A, B)
        try:
            with called_with({"A": A, "B": B, "deflate": deflate, "start": start}):
                solution = inner.solve(x)
        except SolveError as error:
            worst = worst_pair(inner.F, x, error.solution)
            solution = self._finished(error.solution, B is not None, dtype)[0]
            raise type(error)(str(error) + worst, solution) from None
        solution, pairs = self._finished(solution, B is not None, dtype)
        return solution, x, inner, pairs

    def _finder(self, found: Spectrum | None = None) -> FindPairs:
        method = Lapack() if self.solver is None else self.solver
        if not isinstance(method, AbstractEigenSolver):
            raise TypeError(f"`solver` is {method!r}, which is for sparse matrices and callables; expected `Lapack()`.")
        return FindPairs(method, self.k, self.which, self.clusters, self.on_failure, found)

    def _dense(self, dtype: torch.dtype, found: Spectrum | None) -> ImplicitLayer:
        order, F = 1 if self.clusters.broadening else 2, EigenResidual(self.clusters.limit(dtype))
        if found is not None:
            return self._around(F, self._finder(found), order)
        if dtype not in self._inner:
            self._inner[dtype] = self._around(F, self._finder(), order)
        return self._inner[dtype]

    def _sparse(self, dtype: torch.dtype, A: Any, B: Any) -> ImplicitLayer:
        products: list[Any] = [None if isinstance(part, Tensor) else part for part in (A, B)]
        limit = self.clusters.limit(dtype)
        method = self.solver or (ShiftInvert() if isinstance(A, Tensor) else LOBPCG())
        if not isinstance(method, AbstractSparseEigenSolver) or (isinstance(method, ShiftInvert) and any(products)):
            fit = "`LOBPCG()`" if any(products) else "`ShiftInvert()` or `LOBPCG()`"
            raise TypeError(f"`solver` is {method!r}; expected {fit} for this kind of A.")
        finder = FindSparsePairs(
            method, self.k, self.which, limit, self.clusters.broadening, self.on_failure, *products
        )
        return self._around(EigenResidual(limit, *products), finder, 1)

    def _around(self, F: EigenResidual, finder: Any, order: int) -> ImplicitLayer:
        adjoint = ImplicitAdjoint(order=order) if self.adjoint is None else self.adjoint
        return ImplicitLayer(F, finder, adjoint=adjoint, on_failure=self.on_failure, event_ndim=2)

    def _finished(self, solution: Solution, pencil: bool, dtype: torch.dtype) -> tuple[Solution, Any]:
        """The pairs as the caller wants them, and what is known of the spectrum."""
        aux, y = dict(solution.aux or {}), solution.value
        pairs = aux.pop("pairs", None)
        gauge = None if pairs is None else pairs.gauge
        if pairs is not None and gauge is not None and y.requires_grad and not transforms():
            y.register_hook(_Watch(gauge, pairs.vectors, y.shape))
        values, rows = y[..., -1], y[..., :-1]
        if pencil and self.normalisation == "unit":
            rows = rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        return solution.replace(value=(values.to(dtype), rows.mT.to(dtype)), aux=aux), pairs

    def extra_repr(self) -> str:
        """What is chosen."""
        return f"k={self.k}, which={self.which!r}, normalisation={self.normalisation!r}, clusters={self.clusters!r}"


def _is_dense(A: Any) -> bool:
    return not is_sparse(A) and (isinstance(A, Tensor) or not callable(A))


class _Watch:
    """A hook at the pairs that judges a cotangent; after one that is itself differentiated the next belong to higher orders."""

    def __init__(self, gauge: Gauge, vectors: Tensor, shape: torch.Size):
        self.gauge, self.vectors, self.shape, self.open = gauge, vectors, shape, False

    def __call__(self, cotangent: Tensor) -> Tensor | None:
        first_order, self.open = not self.open, self.open or torch.is_grad_enabled()
        with torch.no_grad():
            spoiled = self.gauge.judge(self.vectors, cotangent.detach().reshape(-1, *self.shape[-2:]), first_order)
        if spoiled is None:
            return None
        return torch.where(spoiled.reshape(*self.shape[:-2], 1, 1), torch.nan, cotangent)


def _check_choice(k: int, which: str, shift: Any, normalisation: str) -> None:
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"`k` is {k!r}; expected a number of pairs, 1 or more.")
    if which not in get_args(Which):
        raise ValueError(f"`which` is {which!r}; expected one of {', '.join(map(repr, get_args(Which)))}.")
    if (which == "nearest") != (shift is not None):
        raise ValueError(
            f'`which` is {which!r} and `shift` {shift!r}; expected a shift for "nearest", and none otherwise.'
        )
    if shift is not None and not bool(torch.as_tensor(shift).isfinite().all()):
        raise ValueError(f"`shift` is {shift!r}; expected a finite number.")
    if normalisation not in ("B", "unit"):
        raise ValueError(f"`normalisation` is {normalisation!r}; expected 'B' (v'Bv = 1) or 'unit' (v'v = 1).")
