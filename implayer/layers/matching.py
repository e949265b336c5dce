"""Spectral matching as layers: an affinity matrix M -> soft assignment X of the nodes of two graphs."""

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..causes import warn
from ..errors import DegenerateWarning, ImplayerError, ShapeError, SolveError, SolveWarning
from ..failures import OnFailure, enforce
from ..implicit import Spoil
from ..modes import transforms
from ..problem import Problem
from ..solution import Solution, Status
from ..solvers.eigen_leading import Lanczos
from ..types import Float
from .affinity import Affinity
from .eigen import EigenLayer
from .matching_bounded import Face, Maximum, face_of, maximise

Constraint = Literal["norm", "one-to-one"]
_DENSE = 256  # unknowns up to which a factorised M is made dense, so that a batch is one call and all modes work
_NO_SUM = 1e-9  # of a vector that cannot be scaled to given sums, relative to the sum of its moduli


class SpectralMatchingLayer(torch.nn.Module):
    r"""The layer M -> X, the assignment of n1 nodes to n2 nodes that a quadratic score likes best.

    $$\max_y \frac{y^\top M y}{y^\top y}\quad\text{subject to}\quad |y| = 1 \;\text{ or }\; C y = b \;\text{ (and } y \ge
      0\text{)},\qquad y = \operatorname{vec} X$$

    With "norm" y is the leading eigenvector of M (spectral matching, SM), which has no negative entry where M has none. With
    "one-to-one" rows of X sum to 1 and columns to n1 / n2 (SMAC). The quotient does not feel a factor, so Cy = b asks for
    equal row sums and equal column sums: y is the leading eigenvector of PMP, scaled, where P takes the deviations of row and
    column means off X. One of the n1 + n2 constraints follows from the others, which P does not mind. With `nonnegative` the
    layer looks whether that has negative entries, and if so for a local maximum with y >= 0; on the entries that are not zero
    there it is again a leading eigenvector, whose derivative is that of the layer; the others do not move.

    **Arguments**

    - `constraint`: "norm" (default), or "one-to-one", which finds better assignments as a rule.
    - `nonnegative` (default False): y >= 0, for "one-to-one". Needed where M has negative entries; otherwise rarely active.
    - `dense_up_to` (default 256): unknowns n1 * n2 up to which an `Affinity` is made dense. That is exact to second order
      and works under every transform; beyond, one pair of graphs at a time by products, first order, eager.
    - `on_failure`: what samples that failed do: "raise" (default), "warn", "nan" or "ignore".

    **Call**: `layer(M, shape=None) -> X`. M is an `Affinity`, or a symmetric tensor (*batch, n, n) with n = n1 * n2 and
    `shape` = (n1, n2); None means n1 = n2. Unknown i * n2 + a assigns node i to node a.

    **Returns** X (*batch, n1, n2). From `solve` the `Solution`, with aux, all (*batch): `score` (the quotient,
    differentiable), `gap` to the next eigenvalue, to which the derivative is inverse, `residual`; and for `nonnegative`
    `free` (*batch, n1, n2), the entries that may move, and `vertex`, True where none can: X is then locally constant, and its
    gradient zero.

    **Raises** `ShapeError`, and what `EigenLayer` raises: `DegenerateEigenvalueError` at backward where the leading
    eigenvalue is repeated, as for an association graph in several parts; `SolveError` for NaN, and where the leading vector
    has sums of zero, so that no factor gives it those asked for. `DegenerateWarning` where an entry is zero and its
    multiplier too: the derivative is then one-sided.

    **Reference** Leordeanu and Hebert, "A spectral technique for correspondence problems using pairwise constraints", 2005
    (SM); Cour, Srinivasan and Shi, "Balanced graph matching", 2006 (SMAC); Zhang et al., "Implicitly Defined Layers in Neural
    Networks", equations (18) to (23).

    **Example**: two graphs with one edge of weight 2 each

    ```python
    edge = torch.tensor([[0, 1]])
    M = implayer.Affinity(torch.eye(2), torch.full((1, 1), 2.0), edge, edge)
    implayer.SpectralMatchingLayer("one-to-one")(M)     # [[1, 0], [0, 1]]
    ```
    """

    def __init__(
        self,
        constraint: Constraint = "norm",
        *,
        nonnegative: bool = False,
        dense_up_to: int = _DENSE,
        on_failure: OnFailure = "raise",
    ):
        super().__init__()
        if constraint not in get_args(Constraint):
            raise ValueError(f"`constraint` is {constraint!r}; expected 'norm' (SM) or 'one-to-one' (SMAC).")
        if nonnegative and constraint == "norm":
            raise ValueError('`nonnegative` needs `constraint="one-to-one"`.')
        self.constraint: Constraint = constraint
        self.nonnegative, self.dense_up_to = nonnegative, dense_up_to
        self.on_failure: OnFailure = on_failure
        self.eigen = EigenLayer(1, "largest", on_failure=on_failure)

    def forward(self, M: Affinity | Tensor, shape: tuple[int, int] | None = None) -> Float[Tensor, "*batch n1 n2"]:
        """The assignment."""
        return self.solve(M, shape).value

    def solve(self, M: Affinity | Tensor, shape: tuple[int, int] | None = None) -> Solution:
        """The assignment with its story."""
        shape = _shape_of(M, shape)
        if self.nonnegative and transforms():
            raise ImplayerError("`nonnegative` looks at values and has no torch.func transforms; use `torch.autograd`.")
        if isinstance(M, Affinity):
            if math.prod(shape) <= self.dense_up_to:
                return self._dense(M.dense(), shape)
            if not M.batch:
                return self._factorised(M, shape)
            samples = [self._factorised(M.sample(i), shape) for i in range(math.prod(M.batch))]
            return _stacked(samples, M.batch)
        return self._dense(M, shape)

    def _dense(self, M: Tensor, shape: tuple[int, int]) -> Solution:
        if self.constraint == "norm":
            return self._finished(self.eigen.solve(M), shape, None)
        found = self._maxima(M, shape)
        n = M.shape[-1]
        if found is None:
            P = _kept(torch.eye(n, dtype=M.dtype, device=M.device).unflatten(-1, shape)).flatten(-2)
        else:
            P = torch.stack([_matrix(each.face, M) for each in found]).reshape(*M.shape[:-2], n, n)
        bound = M.detach().abs().sum(-1).amax(-1)[..., None, None]
        A = P @ M @ P - bound * (torch.eye(n, dtype=M.dtype, device=M.device) - P)
        return self._finished(self.eigen.solve((A + A.mT) / 2), shape, found)

    def _factorised(self, M: Affinity, shape: tuple[int, int]) -> Solution:
        bound = float(M.bound()) * (1 + 1e-6)
        if not math.isfinite(bound):
            return self._not_finite(M)
        like, M = M.nodes, M.double()
        found = self._maxima(M, shape)
        face = None if found is None or found[0].face.free.all() else _Frozen(found[0].face, M.nodes)

        def project(X: Tensor) -> Tensor:
            if self.constraint == "norm":
                return X
            return _kept(X) if face is None else face(X)

        def product(columns: Tensor) -> Tensor:
            X = columns.mT.unflatten(-1, shape)
            kept = project(X)
            image = project(M.product(kept)) - (bound * (X - kept) if self.constraint != "norm" else 0)
            return image.flatten(-2).mT

        n = math.prod(shape)
        start = like.new_ones(n, 1) if found is None else torch.from_numpy(found[0].y).to(like)[:, None]
        eigen = EigenLayer(1, "largest", solver=Lanczos(bound), on_failure=self.on_failure)
        return self._finished(eigen.solve(product, start=start), shape, found)

    def _not_finite(self, M: Affinity) -> Solution:
        X = torch.full_like(M.nodes.detach(), torch.nan)
        zero = X.new_zeros(())
        aux = {"score": zero + torch.nan, "gap": zero, "residual": zero + torch.nan}
        if self.nonnegative:
            aux |= {"free": torch.ones_like(X, dtype=torch.bool), "vertex": zero.bool()}
        solution = Solution(X, (zero + Status.NONFINITE).long(), zero + torch.nan, zero.long(), aux)
        factors = {"nodes": M.nodes.detach(), "edges": M.edges.detach(), "turned": M.turned}
        enforce(solution, self.on_failure, type(self).__name__, Problem(lambda x, y: y, factors))
        return solution

    def _maxima(self, M: Any, shape: tuple[int, int]) -> list[Maximum] | None:
        """The faces of all samples, where bounds are asked for."""
        if not self.nonnegative:
            return None
        with torch.no_grad():
            if isinstance(M, Tensor):
                plain = M.detach().double().reshape(-1, *M.shape[-2:])
                plain = (plain + plain.mT) / 2
                products = [lambda z, m=m: z @ m for m in plain.cpu().numpy()]
                bounds = [float(bound) for bound in plain.abs().sum(-1).amax(-1)]
            else:
                products, bounds = [_numpy_product(M, shape)], [float(M.bound())]
            return [_maximum(product, shape, bound) for product, bound in zip(products, bounds, strict=True)]

    def _finished(self, pair: Solution, shape: tuple[int, int], found: list[Maximum] | None) -> Solution:
        """X, scaled, and what is known of it."""
        values, vectors = pair.value
        X, status = vectors.squeeze(-1).unflatten(-1, shape), pair.status
        aux = {key: (pair.aux or {})[key].squeeze(-1) for key in ("gap", "residual") if key in (pair.aux or {})}
        aux["score"] = values.squeeze(-1)
        if self.constraint == "one-to-one":
            total = X.sum((-2, -1), keepdim=True)
            X = X * (shape[0] / total)
            if not transforms():
                lost = total.detach().abs() <= _NO_SUM * vectors.detach().abs().sum(-2, keepdim=True)
                X, status = self._judged(X, status, lost.reshape(status.shape), pair)
        if found is not None:
            status = _with_bounds(aux, status, found, X.shape)
            X = torch.where(aux["free"], X, 0)
            if self.on_failure != "ignore" and bool((status == Status.DEGENERATE).any()):
                text = "entries of X are zero and so are their multipliers: the derivative there is one-sided."
                warn(f"`SpectralMatchingLayer`: {text}", DegenerateWarning)
        return pair.replace(value=X, status=status, aux=aux)

    def _judged(self, X: Tensor, status: Tensor, lost: Tensor, pair: Solution) -> tuple[Tensor, Tensor]:
        if not bool(lost.any()):
            return X, status
        status = torch.where(lost, int(Status.SINGULAR), status)
        message = (
            f"`SpectralMatchingLayer`: the leading vector of {int(lost.sum())} of {lost.numel()} samples has row and column "
            f"sums of zero, so no factor makes them 1: the quotient has no maximum there. Use affinities without negative "
            f'entries, or `nonnegative=True`; or pass `on_failure="warn"`, "nan" or "ignore".'
        )
        if self.on_failure == "raise":
            raise SolveError(message, pair.replace(value=X, status=status))
        if self.on_failure == "warn":
            warn(message, SolveWarning)
        if self.on_failure == "nan":
            X = Spoil.apply(X.flatten(-2), lost, False).unflatten(-1, X.shape[-2:])
        return X, status

    def extra_repr(self) -> str:
        """What is chosen."""
        return f"{self.constraint!r}, nonnegative={self.nonnegative}"


class PowerIterationLayer(torch.nn.Module):
    r"""The baseline: `steps` power iterations v <- M v / |M v| from equal entries, differentiated step by step.

    $$v_{k+1} = M v_k / |M v_k|,\qquad v_0 = n^{-1/2} (1, \dots, 1)$$

    Value and gradient are those of an eigenvector only as far as (l2 / l1)^steps is small; the gradient has memory of every
    step. It is here to be compared with `SpectralMatchingLayer`.

    **Arguments**

    - `steps`: how many iterations (the usual choices are 1 to 50).

    **Returns** from `layer(M, shape=None)`: X (*batch, n1, n2) with |X| = 1; M as for `SpectralMatchingLayer`.

    **Raises** `ValueError` for no step, `ShapeError` for a matrix that does not fit.

    **Reference** Zanfir and Sminchisescu, "Deep learning of graph matching", 2018.

    **Example**

    ```python
    M = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    implayer.PowerIterationLayer(5)(M, (1, 2))      # [[0.7071, 0.7071]]
    ```
    """

    def __init__(self, steps: int):
        super().__init__()
        if steps < 1:
            raise ValueError(f"`steps` is {steps}; expected at least 1.")
        self.steps = steps

    def forward(self, M: Affinity | Tensor, shape: tuple[int, int] | None = None) -> Float[Tensor, "*batch n1 n2"]:
        """The last iterate."""
        shape = _shape_of(M, shape)
        n, batch = math.prod(shape), M.batch if isinstance(M, Affinity) else tuple(M.shape[:-2])
        like = M.nodes if isinstance(M, Affinity) else M
        X = torch.full((*batch, *shape), n**-0.5, dtype=like.dtype, device=like.device)
        for _ in range(self.steps):
            X = M.product(X) if isinstance(M, Affinity) else (M @ X.flatten(-2).unsqueeze(-1)).reshape(X.shape)
            X = X / torch.linalg.vector_norm(X, dim=(-2, -1), keepdim=True)
        return X

    def extra_repr(self) -> str:
        """What is chosen."""
        return f"steps={self.steps}"


class _Frozen:
    """The projector of a face on assignments (*axes, n1, n2)."""

    def __init__(self, face: Face, like: Tensor):
        self.free, self.rows = (torch.from_numpy(part).to(like) for part in (face.free, face.rows))

    def __call__(self, X: Tensor) -> Tensor:
        flat = X.flatten(-2) * self.free
        return (flat - (flat @ self.rows.mT) @ self.rows).reshape(X.shape)


def _kept(X: Tensor) -> Tensor:
    """The part of X with equal row sums and equal column sums."""
    mean = X.mean((-2, -1), keepdim=True)
    return X - (X.mean(-1, keepdim=True) - mean) - (X.mean(-2, keepdim=True) - mean)


def _matrix(face: Face, like: Tensor) -> Tensor:
    rows = torch.from_numpy(face.rows).to(like)
    return torch.diag(torch.from_numpy(face.free).to(like)) - rows.mT @ rows


def _maximum(product: Any, shape: tuple[int, int], bound: float) -> Maximum:
    """Stands in with the whole polytope where M is not finite: the eigenvalue solver names that."""
    if not math.isfinite(bound):
        n = math.prod(shape)
        whole = torch.ones(n, dtype=torch.bool).numpy()
        return Maximum(whole / shape[1], face_of(whole, shape), 0, True, True)
    return maximise(product, shape, bound * (1 + 1e-6))


def _numpy_product(M: Affinity, shape: tuple[int, int]) -> Any:
    def product(z: Any) -> Any:
        return M.product(torch.from_numpy(z).to(M.nodes).unflatten(-1, shape)).flatten(-2).double().cpu().numpy()

    return product


def _with_bounds(aux: dict[str, Tensor], status: Tensor, found: list[Maximum], shape: Any) -> Tensor:
    """What the search for the face has to say."""
    like = status
    aux["free"] = torch.stack([torch.from_numpy(each.face.free) for each in found]).reshape(shape).to(like.device)
    flags = [(each.face.dimension <= 1, each.strict, each.converged) for each in found]
    vertex, strict, converged = (
        torch.tensor(flag, device=like.device).reshape(like.shape) for flag in zip(*flags, strict=True)
    )
    aux["vertex"] = vertex
    status = torch.where(~strict & (status == Status.CONVERGED), int(Status.DEGENERATE), status)
    return torch.where(~converged & (status == Status.CONVERGED), int(Status.MAX_STEPS), status)


def _shape_of(M: Affinity | Tensor, shape: tuple[int, int] | None) -> tuple[int, int]:
    if isinstance(M, Affinity):
        if shape not in (None, M.shape):
            raise ShapeError(f"`shape` is {shape}, but the affinity is of {M.shape}.")
        return M.shape
    if not isinstance(M, Tensor) or M.ndim < 2 or M.shape[-1] != M.shape[-2]:
        found = f"shape {tuple(M.shape)}" if isinstance(M, Tensor) else f"type {type(M).__name__}"
        raise ShapeError(f"`M` has {found}; expected an `Affinity` or matrices (*batch, n, n).")
    n = M.shape[-1]
    if shape is None:
        shape = (math.isqrt(n), math.isqrt(n))
    if len(shape) != 2 or min(shape) < 1 or shape[0] * shape[1] != n:
        raise ShapeError(f"`M` has {n} rows, but `shape` is {tuple(shape)}; expected (n1, n2) with n1 * n2 = {n}.")
    return shape


def _stacked(samples: list[Solution], batch: tuple[int, ...]) -> Solution:
    """One solution of many."""

    def joined(parts: list[Any]) -> Any:
        stacked = torch.stack([torch.as_tensor(part) for part in parts])
        return stacked.reshape(*batch, *stacked.shape[1:])

    first = samples[0]
    aux = {key: joined([sample.aux[key] for sample in samples]) for key in first.aux}
    fields = {name: joined([getattr(sample, name) for sample in samples]) for name in ("value", "status", "steps")}
    return Solution(**fields, residual_norm=joined([sample.residual_norm for sample in samples]), aux=aux)
