"""What is asked: F, x and a start, as trees for the user's solvers and as vectors for ours."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from . import _tree
from .errors import DeviceError, DtypeError, ShapeError
from .solution import Solution
from .types import Residual, Tree, Vectors


@dataclass(frozen=True)
class Layout:
    """How a nest of (*batch, *event) tensors lies in vectors (samples, n)."""

    spec: _tree.TreeSpec
    leaves: tuple[Any, ...]  # the constants of the nest, and None where a variable stands
    events: tuple[tuple[int, ...] | None, ...]  # event shape of each variable, None for a constant
    batch: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @staticmethod
    def of(tree: Tree, event_ndim: int, name: str = "y0") -> "Layout":
        """Read the layout off a nest of unknowns; raises where its leaves do not agree."""
        if isinstance(tree, Tensor) and tree.ndim >= event_ndim and _tree.differentiable(tree):
            return _layout_of_tensor(tuple(tree.shape), event_ndim, tree.dtype, tree.device)
        leaves, spec = _tree.flatten(tree)
        first = next((leaf for leaf in leaves if _tree.differentiable(leaf)), None)
        if first is None:
            found = ", ".join(str(leaf.dtype) if isinstance(leaf, Tensor) else type(leaf).__name__ for leaf in leaves)
            raise DtypeError(
                f"`{name}` holds no floating-point tensor (found: {found or 'nothing'}); unknowns must be floating "
                f"point. Convert with `.float()` or `.double()`."
            )
        batch = tuple(first.shape[: max(first.ndim - event_ndim, 0)])
        for label, leaf in _tree.named_leaves(tree, name):
            if _tree.differentiable(leaf):
                _check_leaf(label, leaf, first, batch, event_ndim)
        events = tuple(tuple(leaf.shape[len(batch) :]) if _tree.differentiable(leaf) else None for leaf in leaves)
        constants = tuple(None if event is not None else leaf for leaf, event in zip(leaves, events, strict=True))
        return Layout(spec, constants, events, batch, first.dtype, first.device)

    @cached_property
    def samples(self) -> int:
        """Number of samples: the product of the batch axes."""
        return math.prod(self.batch)

    @cached_property
    def n(self) -> int:
        """Number of unknowns of one sample."""
        return sum(math.prod(event) for event in self.events if event is not None)

    @cached_property
    def flat(self) -> bool:
        """Whether the nest is one tensor (samples, n) already; a reshape is as dear as other small operations."""
        return len(self.batch) == 1 and len(self.events) == 1 and len(self.events[0] or ()) == 1 and self.spec.is_leaf()

    def pack(self, tree: Tree) -> Vectors:
        """A nest of this layout as (samples, n)."""
        if isinstance(tree, Tensor):
            return tree if self.flat else tree.reshape(self.samples, self.n)
        parts = [
            leaf.reshape(self.samples, math.prod(event))
            for leaf, event in zip(_tree.leaves(tree), self.events, strict=True)
            if event is not None
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def unpack(self, vectors: Tensor) -> Tree:
        """(samples, n) as a nest of this layout."""
        if self.flat:
            return vectors
        if len(self.events) == 1:
            return _tree.unflatten([vectors.reshape(self.batch + (self.events[0] or ()))], self.spec)
        parts = iter(vectors.split([math.prod(event) for event in self.events if event is not None], dim=-1))
        filled = [
            constant if event is None else next(parts).reshape(self.batch + event)
            for constant, event in zip(self.leaves, self.events, strict=True)
        ]
        return _tree.unflatten(filled, self.spec)

    def with_batch(self, batch: Sequence[int]) -> "Layout":
        """The same nest with other batch axes."""
        return replace(self, batch=tuple(batch))


@lru_cache(maxsize=64)
def _layout_of_tensor(shape: tuple[int, ...], event_ndim: int, dtype: torch.dtype, device: torch.device) -> Layout:
    cut = len(shape) - event_ndim
    return Layout(_tree.BARE, (None,), (shape[cut:],), shape[:cut], dtype, device)


def _check_leaf(label: str, leaf: Tensor, first: Tensor, batch: tuple[int, ...], event_ndim: int) -> None:
    if leaf.ndim < event_ndim or tuple(leaf.shape[: leaf.ndim - event_ndim]) != batch:
        raise ShapeError(
            f"`{label}` has shape {tuple(leaf.shape)}; expected the batch axes {batch} and then `event_ndim={event_ndim}` "
            f"axes of unknowns. Scalar unknowns need `event_ndim=0`."
        )
    if leaf.dtype != first.dtype:
        raise DtypeError(
            f"`{label}` is {leaf.dtype} but other unknowns are {first.dtype}; give all leaves of y one dtype."
        )
    if leaf.device != first.device:
        raise DeviceError(f"`{label}` is on {leaf.device} but other unknowns are on {first.device}; use one device.")


@dataclass(frozen=True)
class Problem:
    """Find y with F(x, y) = 0, sample by sample. This is what a forward solver receives.

    **Attributes**

    - `F`: the residual, called as F(x, y).
    - `x`: the nest of inputs, with all its batch axes.
    - `y0`: the start, a nest of tensors (*batch, *event), or None where the layer was given none.
    - `event_ndim`: how many last axes of each leaf of y belong to one sample.
    - `sign`: the fixed-point map that belongs to F is y + sign * F(x, y).
    """

    F: Residual
    x: Tree
    y0: Tree = None
    event_ndim: int = 1
    sign: int = 1

    def residual(self, y: Tree) -> Tree:
        """F(x, y)."""
        return self.F(self.x, y)

    def norm(self, r: Tree) -> Tensor:
        """(*batch) Euclidean norm of each sample over all leaves and event axes."""
        return residual_norm(r, self.event_ndim)

    def vectors(self, y: Tree = None) -> "VectorProblem":
        """The same problem on vectors (samples, n), with the layout of `y` (default `y0`)."""
        start = self.y0 if y is None else y
        if start is None:
            raise ValueError(
                "this solver needs a start, but there is none: pass `layer(x, y0=...)`, or construct the layer with "
                "`initial=...`, a callable x -> y0 (for example `initial=torch.zeros_like`)."
            )
        layout = Layout.of(start, self.event_ndim)
        return VectorProblem(self, layout, layout.pack(start))


@dataclass(frozen=True)
class VectorProblem:
    """F(x, y) = 0 on vectors: unknowns (samples, n), residuals (samples, m)."""

    problem: Problem
    layout: Layout
    y0: Vectors

    @property
    def samples(self) -> int:
        """Number of samples."""
        return self.layout.samples

    @property
    def n(self) -> int:
        """Number of unknowns of one sample."""
        return self.layout.n

    @property
    def sign(self) -> int:
        """The fixed-point map is y + sign * F."""
        return self.problem.sign

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of unknowns and residuals."""
        return self.layout.dtype

    @property
    def device(self) -> torch.device:
        """Device of unknowns and residuals."""
        return self.layout.device

    def residual(self, y: Vectors) -> Tensor:
        """F as (samples, m); checks shape, dtype and device of what F returns."""
        return pack_residual(self.problem.residual(self.layout.unpack(y)), self.layout, self.problem.event_ndim)

    def restrict(self, index: Tensor) -> "VectorProblem | None":
        """The problem of some samples alone, or None where F cannot be restricted.

        Leaves of x whose first axis has the length of the batch are taken to belong to the samples. Whether that is
        what F means is tested: at a random point the restricted F must give the rows of the whole F.
        """
        if len(self.layout.batch) != 1:
            return None
        x = _tree.map_tensors(
            lambda leaf: leaf[index] if leaf.ndim and leaf.shape[0] == self.samples else leaf, self.problem.x
        )
        small = VectorProblem(
            replace(self.problem, x=x, y0=None), self.layout.with_batch((len(index),)), self.y0[index]
        )
        noise = quasi_random(self.y0.shape, self.y0)
        probe = self.y0 + noise * (1 + self.y0.abs())
        try:
            whole, part = self.residual(probe)[index], small.residual(probe[index])
        except Exception:  # F refuses the smaller batch: any reason is reason enough not to restrict it
            return None
        close = torch.finfo(self.dtype).eps ** 0.5
        same = whole.shape == part.shape and bool((whole - part).abs().max() <= close * whole.abs().max())
        return small if same else None

    def solution(self, y: Vectors, *, status: Any = None, residual_norm: Tensor | None = None, steps: Tensor | None = None,
                 aux: dict[str, Any] | None = None, inverse: Any = None) -> Solution:  # fmt: skip
        """Vectors and per-sample tensors as a `Solution` with nests and batch axes restored."""
        batch = self.layout.batch

        def restore(value: Any) -> Any:
            if len(batch) == 1 or not isinstance(value, Tensor):
                return value
            return value.reshape(batch + tuple(value.shape[1:]))

        extra = None if aux is None else {name: restore(value) for name, value in aux.items()}
        return Solution(self.layout.unpack(y), restore(status), restore(residual_norm), restore(steps), extra, inverse)


def quasi_random(shape: Sequence[int], like: Tensor) -> Tensor:
    """Numbers in (-1, 1) without pattern, for probes: the same each time, and no generator is touched."""
    count = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64, device=like.device)
    return (torch.frac(torch.sin(count * 12.9898) * 43758.5453).reshape(tuple(shape))).to(like.dtype)


def pack_residual(r: Tree, layout: Layout, event_ndim: int) -> Tensor:
    """What F returned as (samples, m), once it has been found to fit the unknowns."""
    batch = layout.batch
    if (
        isinstance(r, Tensor)
        and r.ndim == len(batch) + event_ndim
        and r.shape[: len(batch)] == batch
        and r.dtype == layout.dtype
    ):
        return r if r.ndim == 2 and len(batch) == 1 else r.reshape(layout.samples, math.prod(r.shape[len(batch) :]))
    parts = []
    for label, leaf in _tree.named_leaves(r, "F(x, y)"):
        if not isinstance(leaf, Tensor):
            continue
        if leaf.ndim != len(batch) + event_ndim or tuple(leaf.shape[: len(batch)]) != batch:
            raise ShapeError(
                f"`{label}` has shape {tuple(leaf.shape)}; expected the batch axes {batch} of y and then "
                f"`event_ndim={event_ndim}` axes. Reduce or keep axes in F accordingly, or set `event_ndim`."
            )
        if leaf.dtype != layout.dtype:
            raise DtypeError(f"`{label}` is {leaf.dtype} but y is {layout.dtype}; convert x or y so that both agree.")
        if leaf.device != layout.device:
            raise DeviceError(f"`{label}` is on {leaf.device} but y is on {layout.device}; move x or y.")
        parts.append(leaf.reshape(layout.samples, math.prod(leaf.shape[len(batch) :])))
    if not parts:
        raise ShapeError(f"F(x, y) returned {type(r).__name__} without any tensor; expected the residual.")
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def residual_norm(r: Tree, event_ndim: int) -> Tensor:
    """(*batch) Euclidean norm over all leaves and the last `event_ndim` axes."""
    total: Any = 0
    for leaf in _tree.leaves(r):
        if isinstance(leaf, Tensor):
            flat = (
                leaf.reshape(*leaf.shape[: leaf.ndim - event_ndim], -1) if leaf.numel() else leaf.sum(-1, keepdim=True)
            )
            total = total + (flat.abs() ** 2).sum(-1)
    return total.sqrt()
