"""Hypothesis strategies for the inputs of layers: tensors, nests, batches, systems of a known condition, contractions.

Every strategy shrinks: towards one sample, few unknowns, zeros and the identity. Large random arrays come from one
drawn seed, so that they cost Hypothesis a number and not thousands.

Containers are annotated as Any here: a run-time checker looks at random items of them, which Hypothesis forbids while
it draws.
"""

import math
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import torch
from hypothesis.extra import numpy as hnp
from torch import Tensor

from .. import _tree

Strategy = st.SearchStrategy

_FEW = 32  # entries that are drawn one by one
_NUMPY = {torch.float64: "float64", torch.float32: "float32", torch.float16: "float16"}

__all__ = [
    "around",
    "batches",
    "contractions",
    "fixed_points",
    "is_strategy",
    "linear_systems",
    "matrices",
    "nests",
    "spd_matrices",
    "tensors",
]


def is_strategy(value: Any) -> bool:
    """Whether something is a Hypothesis strategy."""
    return isinstance(value, Strategy)


def batches(max_dims: int = 1, max_side: int = 3, min_dims: int = 0) -> Strategy:
    """Batch shapes: tuples of `min_dims` to `max_dims` sizes from 1 to `max_side`.

    Raise `max_dims` to 2 for layers that should take several batch axes.
    """
    return hnp.array_shapes(min_dims=min_dims, max_dims=max(max_dims, 1), min_side=1, max_side=max_side).map(
        lambda shape: tuple(shape[:max_dims])
    ) if min_dims else st.lists(st.integers(1, max_side), max_size=max_dims).map(tuple)  # fmt: skip


@st.composite
def tensors(
    draw: Any,
    shape: Any,
    dtype: torch.dtype = torch.float64,
    *,
    min_value: float = -2.0,
    max_value: float = 2.0,
    device: str = "cpu",
) -> Tensor:
    """Tensors of a shape (a tuple, or a strategy of tuples), with entries between `min_value` and `max_value`.

    Never NaN, infinite or subnormal. Up to 32 entries are drawn one by one; more come from a seed.
    """
    size = tuple(draw(shape) if is_strategy(shape) else shape)
    if math.prod(size) <= _FEW:
        width = 64 if dtype == torch.float64 else 32 if dtype == torch.float32 else 16
        low, high = (float(torch.tensor(v, dtype=dtype)) for v in (min_value, max_value))
        elements = st.floats(low, high, allow_nan=False, allow_subnormal=False, width=width)
        array = draw(hnp.arrays(_NUMPY.get(dtype, "float64"), size, elements=elements))
        return torch.from_numpy(array.copy()).to(device, dtype)
    uniform = torch.rand(size, generator=_generator(draw), dtype=torch.float64)
    return (min_value + (max_value - min_value) * uniform).to(device, dtype)


@st.composite
def nests(draw: Any, leaf: Strategy, *, max_leaves: int = 4) -> Any:
    """Nests of dicts, lists and tuples with `leaf` at the leaves, at most about `max_leaves` of them.

    Draw the batch shape first, and make `leaf` from it, where all leaves have to share it.
    """
    keys = st.sampled_from(["a", "b", "c"])
    tree = st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.dictionaries(keys, inner, min_size=1, max_size=2),
            st.lists(inner, min_size=1, max_size=2),
            st.tuples(inner, inner),
        ),
        max_leaves=max_leaves,
    )
    return draw(tree)


# ------------------------------------------------------------------------------------------------- matrices
@st.composite
def matrices(
    draw: Any, n: Any = None, *, condition: float = 10.0, batch: Any = (), dtype: torch.dtype = torch.float64
) -> Tensor:
    """Square matrices (*batch, n, n) of norm one and of the given condition, not symmetric: U diag(s) V'.

    The singular values s fall from 1 to 1 / `condition` in equal ratios; U and V are random rotations. `n` is a number
    or a strategy (default 1 to 5). Take a condition of 1e8 and more for ill-conditioned ones.
    """
    size, shape = _size(draw, n), _shape(draw, batch)
    generator = _generator(draw)
    left, right = _rotations(shape, size, generator), _rotations(shape, size, generator)
    return ((left * _spectrum(size, condition)) @ right.mT).to(dtype)


@st.composite
def spd_matrices(
    draw: Any, n: Any = None, *, condition: float = 10.0, batch: Any = (), dtype: torch.dtype = torch.float64
) -> Tensor:
    """Symmetric positive definite matrices (*batch, n, n) with eigenvalues from 1 to 1 / `condition`."""
    size, shape = _size(draw, n), _shape(draw, batch)
    rotation = _rotations(shape, size, _generator(draw))
    matrix = (rotation * _spectrum(size, condition)) @ rotation.mT
    return ((matrix + matrix.mT) / 2).to(dtype)


@st.composite
def contractions(
    draw: Any, n: Any = None, *, q: float = 0.9, batch: Any = (), dtype: torch.dtype = torch.float64
) -> Tensor:
    """Matrices W (*batch, n, n) of spectral norm below `q`: y -> W y + b contracts at least by that factor."""
    size, shape = _size(draw, n), _shape(draw, batch)
    generator = _generator(draw)
    norm = q * draw(st.integers(0, 99)) / 100
    left, right = _rotations(shape, size, generator), _rotations(shape, size, generator)
    spectrum = torch.rand(*shape, 1, size, generator=generator, dtype=torch.float64)
    spectrum = spectrum / spectrum.amax(-1, keepdim=True).clamp(min=1e-3)
    return (norm * (left * spectrum) @ right.mT).to(dtype)


@st.composite
def linear_systems(
    draw: Any,
    n: Any = None,
    *,
    condition: float = 10.0,
    symmetric: bool = False,
    batch: Any = None,
    dtype: torch.dtype = torch.float64,
) -> Any:
    """Inputs {'A': (*batch, n, n), 'b': (*batch, n)} of the layer A y - b = 0, with a given condition of A.

    `symmetric`: A is symmetric positive definite. Use 10 for well-conditioned systems and 1e8 or more for
    ill-conditioned ones; a derivative loses as many digits as the condition has.
    """
    size = _size(draw, n)
    shape = draw(batches(1, min_dims=1)) if batch is None else _shape(draw, batch)
    family: Callable[..., Any] = spd_matrices if symmetric else matrices
    matrix = draw(family(size, condition=condition, batch=shape, dtype=dtype))
    return {"A": matrix, "b": draw(tensors((*shape, size), dtype))}


@st.composite
def fixed_points(
    draw: Any, n: Any = None, *, q: float = 0.9, batch: Any = None, dtype: torch.dtype = torch.float64
) -> Any:
    """Inputs {'W': (*batch, n, n), 'b': (*batch, n)} of a contraction y = W y + b, or of y = tanh(W y + b)."""
    size = _size(draw, n)
    shape = draw(batches(1, min_dims=1)) if batch is None else _shape(draw, batch)
    matrix = draw(contractions(size, q=q, batch=shape, dtype=dtype))
    return {"W": matrix, "b": draw(tensors((*shape, size), dtype))}


def _size(draw: Any, n: Any) -> int:
    return draw(st.integers(1, 5)) if n is None else draw(n) if is_strategy(n) else int(n)


def _shape(draw: Any, batch: Any) -> Any:
    return tuple(draw(batch) if is_strategy(batch) else batch)


def _generator(draw: Any) -> torch.Generator:
    return torch.Generator().manual_seed(draw(st.integers(0, 2**16)))


def _spectrum(n: int, condition: float) -> Tensor:
    return torch.logspace(0, -math.log10(condition), n, dtype=torch.float64) if n > 1 else torch.ones(1).double()


def _rotations(batch: Any, n: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(*batch, n, n, generator=generator, dtype=torch.float64))[0]


# ------------------------------------------------------------------------------------------------- around an example
@st.composite
def around(draw: Any, example: Any, *, batched: Any = None, companion: Any = None, spread: float = 0.3) -> Any:
    """Pairs (x, companion): inputs near an example, with the same structure, dtypes and devices.

    Every floating entry moves by at most `spread` of its size and keeps its sign; zeros move only in leaves that have
    both signs or nothing else; symmetric matrices stay symmetric. Integers stay. `batched` says for each leaf whether
    its first axis is the batch: then samples are picked, repeated or left out, in the `companion` (such as y0)
    likewise.
    """
    leaves, spec = _tree.flatten(example)
    flags = [False] * len(leaves) if batched is None else batched
    lengths = [leaf.shape[0] for leaf, flag in zip(leaves, flags, strict=True) if flag]
    if lengths:
        count = draw(st.integers(1, min(max(lengths[0], 3), 4)))
        rows = torch.tensor(draw(st.lists(st.integers(0, lengths[0] - 1), min_size=count, max_size=count)))
        leaves = [leaf[rows.to(leaf.device)] if flag else leaf for leaf, flag in zip(leaves, flags, strict=True)]
        length = lengths[0]
        companion = _tree.map_tensors(
            lambda t: t[rows.to(t.device)] if t.ndim and t.shape[0] == length else t, companion
        )
    moved = [_near(draw, leaf, spread) if _tree.differentiable(leaf) else leaf for leaf in leaves]
    return _tree.unflatten(moved, spec), companion


def _near(draw: Any, leaf: Tensor, spread: float) -> Tensor:
    if not leaf.numel():
        return leaf
    real = leaf.real if leaf.is_complex() else leaf
    size = leaf.abs()
    if not bool(size.any()):
        size = torch.ones_like(size)
    elif bool((real > 0).any() and (real < 0).any()):
        size = torch.where(size == 0, size.square().mean().sqrt(), size)
    noise = _noise(draw, leaf.shape).to(size)
    if leaf.ndim >= 2 and leaf.shape[-1] == leaf.shape[-2] and leaf.shape[-1] > 1 and torch.equal(leaf, leaf.mT):
        noise = (noise + noise.mT) / 2
    return leaf + spread * noise * size


def _noise(draw: Any, shape: Any) -> Tensor:
    """Numbers between -1 and 1 that shrink to zero."""
    count = math.prod(shape)
    if count <= _FEW:
        numbers = draw(st.lists(st.integers(-16, 16), min_size=count, max_size=count))
        return torch.tensor(numbers, dtype=torch.float64).reshape(tuple(shape)) / 16
    amplitude = draw(st.integers(0, 16)) / 16
    return amplitude * (2 * torch.rand(tuple(shape), generator=_generator(draw), dtype=torch.float64) - 1)
