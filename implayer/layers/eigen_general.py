"""Relatives of `EigenLayer`: simple pairs of any square matrix, singular vectors, pairs on a subspace."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..adjoints import AbstractAdjoint
from ..causes import called_with
from ..errors import DegenerateEigenvalueError, DtypeError, ImplayerError, ShapeError
from ..failures import OnFailure
from ..implicit import Spoil
from ..layer import ImplicitLayer
from ..modes import transforms
from ..problem import Problem
from ..solution import Solution
from ..types import Float, Tree
from .eigen import EigenLayer
from .eigen_dense import Clusters

By = Literal["largest modulus", "smallest modulus", "largest real part"]


def simple_pair_residual(x: Tree, y: Tensor) -> Tensor:
    """F for y = (v, l, w, m), (*batch, k, 2 n + 2): [A v - l v; (1 - v'v) / 2; A'w - l w + m v; 1 - w'v], m = 0."""
    A = x["A"]
    n = A.shape[-1]
    v, value, w, m = y.split([n, 1, n, 1], -1)
    right = (A @ v.unsqueeze(-1)).squeeze(-1) - value * v
    left = (w.unsqueeze(-2) @ A).squeeze(-2) - value * w + m * v
    size, overlap = (v * v).sum(-1, keepdim=True), (w * v).sum(-1, keepdim=True)
    return torch.cat([right, (1 - size) / 2, left, 1 - overlap], -1)


@dataclass(frozen=True)
class FindSimplePairs:
    """LAPACK's right and left vectors of the k wanted eigenvalues, which have to be real."""

    k: int
    by: By

    def __call__(self, problem: Problem) -> Solution:
        """Value (*batch, k, 2 n + 2)."""
        A = problem.x["A"][..., 0, :, :]
        n, clean = A.shape[-1], torch.where(torch.isfinite(A).all(-1, keepdim=True).all(-2, keepdim=True), A, 0)
        values, vectors = torch.linalg.eig(clean)
        key = {"largest modulus": -values.abs(), "smallest modulus": values.abs(), "largest real part": -values.real}[
            self.by
        ]
        order = key.argsort(-1)[..., : self.k]
        values = values.gather(-1, order)
        size = values.abs().amax(-1, keepdim=True)
        if bool((values.imag.abs() > 1e-9 * size + 1e-300).any()):
            found = values.reshape(-1)[int(values.imag.abs().reshape(-1).argmax())]
            raise ImplayerError(
                f"a wanted eigenvalue is complex ({complex(found):.4g}); expected real ones, which a real matrix does not need "
                f"to have. Choose another `by`, or use the matrix [[A, 0], [0, A]] rotated to real 2 x 2 blocks."
            )
        v = vectors.gather(-1, order.unsqueeze(-2).expand(*order.shape[:-1], n, self.k)).real.mT  # (*batch, k, n)
        v = v / torch.linalg.vector_norm(v, dim=-1, keepdim=True)
        w = _left(clean, values.real, v)
        place = (v.abs() >= (1 - 1e-6) * v.abs().amax(-1, keepdim=True)).to(torch.uint8).argmax(-1, keepdim=True)
        sign = v.gather(-1, place).sign()
        v, w = v * sign, w * sign
        y = torch.cat([v, values.real.unsqueeze(-1), w, torch.zeros_like(v[..., :1])], -1)
        bad = ~torch.isfinite(A).all(-1).all(-1)
        return Solution(torch.where(bad[..., None, None], torch.nan, y))


def _left(A: Tensor, values: Tensor, v: Tensor) -> Tensor:
    """Left vectors with w'v = 1 from the bordered system [[A' - l, v], [v', 0]] [w; m] = [0; 1]."""
    n, k = A.shape[-1], values.shape[-1]
    shifted = A.mT.unsqueeze(-3) - values[..., None, None] * torch.eye(n, dtype=A.dtype, device=A.device)
    column = v.unsqueeze(-1)
    low = torch.cat([column.mT, torch.zeros_like(values)[..., None, None]], -1)
    matrix = torch.cat([torch.cat([shifted, column], -1), low], -2)
    rhs = torch.zeros(*A.shape[:-2], k, n + 1, 1, dtype=A.dtype, device=A.device)
    rhs[..., -1, :] = 1
    lu, pivots, _ = torch.linalg.lu_factor_ex(matrix)
    return torch.linalg.lu_solve(lu, pivots, rhs)[..., :-1, 0].nan_to_num(0.0, 0.0, 0.0)


class NonsymmetricEigenLayer(torch.nn.Module):
    r"""The layer A -> k simple real eigenvalues of any square matrix, with right and left vectors:

    $$A v = \lambda v,\qquad w^\top A = \lambda w^\top,\qquad v^\top v = 1,\qquad w^\top v = 1$$

    Markov chains (the stationary vector is a left one), PageRank, companion matrices. The derivative of an eigenvalue is
    $w v^\top$, and its condition is $|w|$, which is infinite where the eigenvalue is repeated.

    **Arguments**

    - `k` (default 1): how many pairs.
    - `by`: the order: "largest modulus" (default), "smallest modulus" or "largest real part".
    - `adjoint`: how the layer is differentiated; `ImplicitAdjoint()` is exact to second order.
    - `on_failure`: what failed samples do: "raise" (default), "warn", "nan" or "ignore".

    **Call**: `layer(A) -> (values, right, left)` for A (*batch, n, n).

    **Returns** values (*batch, k), right and left vectors (*batch, n, k), the entry of largest modulus of each right vector
    positive.

    **Raises** `ImplayerError` for complex eigenvalues, `SingularJacobianError` for repeated ones, `ShapeError`, `DtypeError`.

    **Reference** Magnus, "On differentiating eigenvalues and eigenvectors", Econometric Theory 1, 1985.

    **Example**

    ```python
    layer = implayer.NonsymmetricEigenLayer()
    P = torch.tensor([[0.9, 0.1], [0.5, 0.5]], requires_grad=True)   # a Markov chain
    values, right, left = layer(P)                                   # tensor([1.])
    stationary = left[:, 0] / left[:, 0].sum()                       # tensor([5/6, 1/6])
    ```
    """

    def __init__(
        self,
        k: int = 1,
        by: By = "largest modulus",
        *,
        adjoint: AbstractAdjoint | None = None,
        on_failure: OnFailure = "raise",
    ):
        super().__init__()
        if k < 1 or by not in get_args(By):
            raise ValueError(
                f"`k` is {k} and `by` {by!r}; expected k >= 1 and one of {', '.join(map(repr, get_args(By)))}."
            )
        self.k = k
        self.pairs = ImplicitLayer(simple_pair_residual, FindSimplePairs(k, by), adjoint=adjoint, on_failure=on_failure)

    def forward(self, A: Float[Tensor, "*batch n n"]) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenvalues, right and left vectors."""
        return self.solve(A).value

    def solve(self, A: Float[Tensor, "*batch n n"]) -> Solution:
        """The same value and gradient; status, residual_norm and steps have the shape (*batch, k)."""
        _require_square(A, self.k)
        n = A.shape[-1]
        every = A.unsqueeze(-3).expand(*A.shape[:-2], self.k, n, n)
        solution = self.pairs.solve({"A": every})
        v, value, w, _ = solution.value.split([n, 1, n, 1], -1)
        return solution.replace(value=(value.squeeze(-1), v.mT, w.mT))


class SingularLayer(torch.nn.Module):
    r"""The layer M -> k largest singular values with their vectors, $M v = \sigma u$, $M^\top u = \sigma v$.

    They are the largest eigenpairs of the symmetric pencil [[0, M], [M', 0]], with the vectors (u; v) / sqrt(2).

    **Arguments**

    - `k` (default 1): how many, at most min(m, n).
    - `clusters`, `on_failure`: as in `EigenLayer`.

    **Call**: `layer(M) -> (values, left, right)` for M (*batch, m, n).

    **Returns** values (*batch, k) descending, u (*batch, m, k) and v (*batch, n, k).

    **Raises** `DegenerateEigenvalueError` at backward where a loss depends on the basis of a repeated singular value, and at
    once for a singular value that is zero, of which the vectors are NaN where `on_failure` is another; `ShapeError`,
    `DtypeError`.

    **Reference** Golub and Van Loan, Matrix Computations (4th ed.), 8.6.

    **Example**

    ```python
    values, u, v = implayer.SingularLayer()(torch.tensor([[3.0, 0.0], [0.0, 2.0]]))   # tensor([3.])
    ```
    """

    def __init__(self, k: int = 1, *, clusters: Clusters | None = None, on_failure: OnFailure = "raise"):
        super().__init__()
        self.eigen = EigenLayer(k, "largest", clusters=clusters, on_failure=on_failure)

    def forward(self, M: Float[Tensor, "*batch m n"]) -> tuple[Tensor, Tensor, Tensor]:
        """Singular values, left and right vectors."""
        if not isinstance(M, Tensor) or not M.is_floating_point():
            found = M.dtype if isinstance(M, Tensor) else type(M).__name__
            raise DtypeError(f"`M` is {found}; expected a real floating-point tensor.")
        if M.ndim < 2:
            raise ShapeError(f"`M` has shape {tuple(M.shape)}; expected (*batch, m, n).")
        m, n = M.shape[-2:]
        if self.eigen.k > min(m, n):
            raise ShapeError(f"`k` is {self.eigen.k}, but `M` is {m} x {n}; there are {min(m, n)} singular values.")
        top = torch.cat([M.new_zeros(*M.shape[:-2], m, m), M], -1)
        low = torch.cat([M.mT, M.new_zeros(*M.shape[:-2], n, n)], -1)
        with called_with({"M": M}):
            values, vectors = self.eigen(torch.cat([top, low], -2))
        zero = (values <= (1e-10 if M.dtype == torch.float64 else 1e-5) * values[..., :1]).detach()
        if self.eigen.on_failure == "raise" and not transforms() and bool(zero.any()):
            sample, pair = zero.reshape(-1, zero.shape[-1]).nonzero()[0].tolist()
            raise DegenerateEigenvalueError(
                f"singular value {pair} of sample {sample} is zero within rounding, so its vectors are not unique and it has "
                f'no derivative. Take a smaller `k` (it is {self.eigen.k}), or pass `on_failure="nan"` for vectors of NaN.'
            )
        vectors = Spoil.apply((vectors * 2**0.5).mT, zero, False).mT
        return values, vectors[..., :m, :], vectors[..., m:, :]


class ProjectedEigenLayer(torch.nn.Module):
    r"""The layer (A, C) -> k eigenpairs of A on the subspace C v = 0: those of P A P, P the projector onto it.

    The stationary points of v'Av / v'v with C v = 0. Redundant rows of C do no harm.

    **Arguments**

    - `k`, `which`, `clusters`, `on_failure`: as in `EigenLayer`.

    **Call**: `layer(A, C) -> (values, vectors)` for A (*batch, n, n) and C (m, n).

    **Returns** values (*batch, k) and vectors (*batch, n, k), with C v = 0 and v'v = 1.

    **Raises** `ShapeError` where the subspace has fewer than k dimensions.

    **Reference** Golub, "Some modified matrix eigenvalue problems", SIAM Review 15, 1973.

    **Example**

    ```python
    layer = implayer.ProjectedEigenLayer(which="largest")
    values, v = layer(torch.diag(torch.tensor([1.0, 2.0, 3.0])), torch.ones(1, 3))   # entries of v sum to zero
    ```
    """

    def __init__(
        self,
        k: int = 1,
        which: Literal["smallest", "largest"] = "largest",
        *,
        clusters: Clusters | None = None,
        on_failure: OnFailure = "raise",
    ):
        super().__init__()
        self.eigen = EigenLayer(k, which, clusters=clusters, on_failure=on_failure)

    def forward(self, A: Float[Tensor, "*batch n n"], C: Float[Tensor, "m n"]) -> tuple[Tensor, Tensor]:
        """The eigenvalues and vectors on the subspace."""
        if not isinstance(C, Tensor) or C.ndim != 2 or C.shape[-1:] != A.shape[-1:] or C.dtype != A.dtype:
            found = f"{C.dtype} {tuple(C.shape)}" if isinstance(C, Tensor) else type(C).__name__
            raise ShapeError(
                f"`C` is {found}; expected {A.dtype} (m, {A.shape[-1]}), as `A` is {A.dtype} {tuple(A.shape)}."
            )
        if not transforms() and not bool(C.isfinite().all()):
            raise ImplayerError("`C` holds NaN or infinity; expected the finite rows of C v = 0.")
        P = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device) - torch.linalg.pinv(C) @ C
        _, sizes, rows = torch.linalg.svd(C.detach(), full_matrices=False)
        rank = int((sizes > 1e-10 * sizes.amax()).sum()) if sizes.numel() else 0
        return self.eigen(P @ A @ P, deflate=rows[:rank].mT if rank else None)


def _require_square(A: Any, k: int) -> None:
    if A.shape[-1] != A.shape[-2]:
        raise ShapeError(f"`A` has shape {tuple(A.shape)}; expected square matrices (*batch, n, n).")
    if A.dtype not in (torch.float32, torch.float64):
        raise DtypeError(f"`A` is {A.dtype}; expected float32 or float64.")
    if k > A.shape[-1]:
        raise ShapeError(
            f"`k` is {k}, but `A` has only {A.shape[-1]} rows; there are no more than that many eigenpairs."
        )
