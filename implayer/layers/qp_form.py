"""The KKT system of a quadratic program as one matrix (small), as blocks, or by the entries of sparse matrices."""

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DeviceError, DtypeError, ShapeError
from ..linear.kkt import SMALL
from ..modes import transforms
from ..solvers.quadratic import margin
from ..types import Tree

NAMES = ("Q", "q", "A", "b", "G", "h", "l")
CORES = {  # axes of one sample
    "Q": 2, "q": 1, "A, G": 2, "b, l": 1, "b, h": 1, "above": 1, "below": 1, "saddle": 2, "high": 1, "low": 1,
}  # fmt: skip


def arranged(given: dict[str, Any], smoothing: float = 0.0) -> tuple[dict[str, Any], int, int]:
    """The checked arguments as x of the KKT system, and the numbers of unknowns and equations."""
    given = {name: None if value is None or _no_rows(name, value) else value for name, value in given.items()}
    if not _stays_sparse(given):
        given = {name: None if value is None else _dense(name, value) for name, value in given.items()}
    n, m, p = _check(given)
    if smoothing:
        given["Q"] = given["Q"] + _identity(n, given["Q"], smoothing)
    if given["Q"].layout != torch.strided:
        return _patterned(given, n, m), n, m
    x = _saddle(given, n, m, p) if n + m + p <= SMALL and m + p else _separate(given, n, m)
    return (_all_batched(x) if transforms() else x), n, m


def _identity(n: int, like: Tensor, size: float) -> Tensor:
    diagonal = torch.full((n,), size, dtype=like.dtype, device=like.device)
    if like.layout == torch.strided:
        return torch.diag_embed(diagonal)
    return torch.sparse_coo_tensor(
        torch.arange(n, device=like.device).expand(2, n), diagonal, (n, n), is_coalesced=True
    )


def _separate(given: dict[str, Any], n: int, m: int) -> dict[str, Any]:
    """Q, q, C, low, high and `equations`: C stacks A and G, and the bounds of equations are b and b.

    `equations` is a tensor of as many zeros (integers, so that it is no variable). `above` and `below` are the limits
    of activity.
    """
    hessian, linear, A, b, G, h, low = (given.get(name) for name in NAMES)
    assert hessian is not None and linear is not None
    hessian = (hessian + hessian.mT) / 2
    if A is None and G is None:
        rows, high = linear.new_zeros(0, n), linear.new_zeros(0)
    else:
        rows, high = _stacked(A, G, 2), _stacked(b, h, 1)
    if low is not None:
        low = _stacked(b, low, 1)
    kind = torch.zeros(m, dtype=torch.int8, device=linear.device)
    x = {"Q": hessian, "q": linear, "A, G": rows, "b, l": low, "b, h": high, "equations": kind}
    return x | {"above": high.detach() + margin(high), "below": None if low is None else low.detach() - margin(low)}


_SPARSE_FROM = 200  # unknowns and rows; smaller sparse problems are solved as dense ones


def _stays_sparse(given: dict[str, Any]) -> bool:
    """Whether a matrix is sparse, and none has batch axes or is under a transform; Q, A and G are COO then."""
    matrices = {name: given[name] for name in ("Q", "A", "G") if isinstance(given.get(name), Tensor)}
    if transforms() or all(matrix.layout == torch.strided for matrix in matrices.values()):
        return False
    if any(matrix.ndim != 2 for matrix in matrices.values()):
        return False
    if sum(matrix.shape[0] for matrix in matrices.values()) < _SPARSE_FROM:
        return False
    given |= {name: matrix.to_sparse_coo().coalesce() for name, matrix in matrices.items()}
    return True


def _patterned(given: dict[str, Any], n: int, m: int) -> dict[str, Any]:
    """As `_separate`, with the entries of Q and C alone, and their places in "Q at" and "A, G at" (2, entries)."""
    Q, q, A, b, G, h, low = (given.get(name) for name in NAMES)
    assert Q is not None and q is not None
    Q = Q.coalesce()
    at, shift = Q.indices(), torch.tensor([[m], [0]], device=q.device)
    values = [matrix.values() for matrix in (A, G) if matrix is not None] or [q.new_zeros(0)]
    places = [part for part in (None if A is None else A.indices(), None if G is None else G.indices() + shift)
              if part is not None] or [at[:, :0]]  # fmt: skip
    high = _stacked(b, h, 1) if m or G is not None else q.new_zeros(0)
    low = None if low is None else _stacked(b, low, 1)
    x = {"Q": Q.values().repeat(2) / 2, "q": q, "A, G": torch.cat(values), "b, l": low, "b, h": high}
    x |= {"equations": torch.zeros(m, dtype=torch.int8, device=q.device), "above": high.detach() + margin(high)}
    x |= {"below": None if low is None else low.detach() - margin(low)}
    return x | {"Q at": torch.cat([at, at.flip(0)], 1), "A, G at": torch.cat(places, 1)}


def _product(x: dict[str, Any], name: str, v: Tensor, size: int, transposed: bool = False) -> Tensor:
    """M v or M' v (*batch, size) for the matrix of that name, dense or by its entries."""
    if f"{name} at" not in x:
        return times(v, x[name] if transposed else x[name].mT)
    row, column = x[f"{name} at"].flip(0) if transposed else x[f"{name} at"]
    return v.new_zeros(*v.shape[:-1], size).index_add(-1, row, x[name] * v[..., column])


def _saddle(given: dict[str, Any], n: int, m: int, p: int) -> dict[str, Any]:
    r"""The matrix $K = \begin{pmatrix} Q & C' \\ C & 0 \end{pmatrix}$ and (-q, b, h), for small problems: fewer operations.

    `low` is (-q, b, l); rows that are always active have infinite limits; the shape of `counts` is (m, n).
    """
    Q, q, A, b, G, h, low = (given.get(name) for name in NAMES)
    assert Q is not None and q is not None
    half = _joined([Q / 2, A, G], -2)
    wide = torch.nn.functional.pad(half, (0, m + p))
    minus, size = -q, m + n
    high = _joined([minus, b, h], -1)
    x = {"saddle": wide + wide.mT, "high": high, "low": None if low is None else _joined([minus, b, low], -1)}
    above, below = _limit(high, size, 1), None if low is None else _limit(x["low"], size, -1)
    return x | {"above": above, "below": below, "counts": torch.empty(m, n, dtype=torch.int8, device=q.device)}


def _joined(parts: list[Tensor | None], axis: int) -> Tensor:
    """Blocks of which some may be absent, and some without batch axes, in one tensor."""
    there = [part for part in parts if part is not None]
    if any(part.ndim != there[0].ndim for part in there):
        batch = max((part.shape[:axis] for part in there), key=len)
        there = [part.expand(*batch, *part.shape[axis:]) for part in there]
    return torch.cat(there, axis)


def _limit(bound: Tensor, fixed: int, side: int) -> Tensor:
    """Where activity begins, `margin` beyond the bound; nowhere for the first rows, which always hold."""
    bound, size = bound.detach(), bound.shape[-1]
    unit = 64 * torch.finfo(bound.dtype).eps
    offset = torch.from_numpy(_offsets(fixed, size, side * unit)).to(bound.device, bound.dtype)
    return torch.add(bound, bound.abs(), alpha=side * unit).add_(offset)


@cache
def _offsets(fixed: int, size: int, unit: float) -> Any:
    return np.concatenate([np.full(fixed, -np.inf), np.full(size - fixed, unit)])


def kkt_residual(x: Tree, z: Tensor) -> Tensor:
    """F for z = (y, multipliers) of shape (*batch, n + rows)."""
    if "saddle" not in x:
        return _separate_residual(x, z)
    saddle, high, low, above, below, _ = x.values()
    value = times(z, saddle)
    shifted = value + z
    other = -z
    if low is not None:
        other = torch.where(shifted < below, value - low, other)
    return torch.where(shifted > above, value - high, other)


def _separate_residual(x: Tree, z: Tensor) -> Tensor:
    low, high, above, below = x["b, l"], x["b, h"], x["above"], x["below"]
    n, m, k = x["q"].shape[-1], x["equations"].shape[-1], high.shape[-1]
    y, mu = z.split([n, k], -1)
    first = _product(x, "Q", y, n, transposed=True) + x["q"]  # Q is symmetric
    if not k:
        return first
    first = first + _product(x, "A, G", mu, n, transposed=True)
    value = _product(x, "A, G", y, k)
    shifted = value + mu
    second = torch.where(shifted > above, value - high, -mu)
    if low is not None:
        second = torch.where(shifted < below, value - low, second)
    if m:
        second = torch.cat([(value - high)[..., :m], second[..., m:]], -1)
    return torch.cat([first, second], -1)


def times(v: Tensor, matrix: Tensor) -> Tensor:
    """v' M for v (*batch, i) and M (*batch, i, j) or (i, j)."""
    return v @ matrix if matrix.ndim == 2 else (v.unsqueeze(-2) @ matrix).squeeze(-2)


def _no_rows(name: str, value: Any) -> bool:
    axis = {"A": -2, "G": -2, "b": -1, "h": -1, "l": -1}.get(name)
    return axis is not None and isinstance(value, Tensor) and value.ndim >= -axis and value.shape[axis] == 0


def _dense(name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise DtypeError(
            f"`{name}` is {type(value).__name__}; expected a floating-point tensor, or None to leave it out."
        )
    return value if value.layout == torch.strided else value.to_dense()


def _check(given: dict[str, Tensor | None]) -> tuple[int, int, int]:
    """Shapes, dtypes and devices, each with the name of the argument; returns n, the rows of A and those of G."""
    q = given["q"]
    if q is None or given["Q"] is None:
        raise ShapeError("`Q` and `q` are needed; pass zeros for a problem without quadratic or linear term.")
    if q.ndim < 1:
        raise ShapeError("`q` has shape (); expected (*batch, n).")
    n = q.shape[-1]
    for matrix, *vectors in (("A", "b"), ("G", "h", "l")):
        if given[matrix] is None and any(given[name] is not None for name in vectors):
            there = next(name for name in vectors if given[name] is not None)
            raise ShapeError(f"`{there}` is given without `{matrix}`; pass both or neither.")
    if given["A"] is not None and given["b"] is None:
        raise ShapeError("`A` is given without `b`; pass both or neither.")
    if given["G"] is not None and given["h"] is None:
        if given["l"] is None:
            raise ShapeError("`G` is given without `h` and `l`; pass at least one bound.")
        given["h"] = torch.full_like(given["l"].detach(), torch.inf)
    for name, value in given.items():
        if value is not None:
            _check_kind(name, value, q)
    sizes = {"A": _rows("A", given, n), "G": _rows("G", given, n)}
    cores = {"Q": (n, n), "q": (n,), **{name: (sizes["A" if name in "Ab" else "G"],) for name in ("b", "h", "l")}}
    cores |= {name: (rows, n) for name, rows in sizes.items()}
    _check_shapes(given, cores)
    return n, sizes["A"], sizes["G"]


def _rows(name: str, given: dict[str, Tensor | None], n: int) -> int:
    matrix = given[name]
    if matrix is None:
        return 0
    if matrix.ndim < 2:
        raise ShapeError(f"`{name}` has shape {tuple(matrix.shape)}; expected (*batch, rows, {n}).")
    return matrix.shape[-2]


def _check_shapes(given: dict[str, Tensor | None], cores: dict[str, tuple[int, ...]]) -> None:
    batches = {}
    for name, value in given.items():
        if value is None:
            continue
        shape, core = tuple(value.shape), cores[name]
        cut = len(shape) - len(core)
        if cut < 0 or shape[cut:] != core:
            shown = ", ".join(str(size) for size in core)
            raise ShapeError(f"`{name}` has shape {shape}; expected (*batch, {shown}).")
        batches[name] = shape[:cut]
    batch = max(batches.values(), key=len)
    for name, found in batches.items():
        if found not in ((), batch):
            longest = next(other for other, axes in batches.items() if axes == batch)
            raise ShapeError(
                f"`{name}` has batch axes {found} but `{longest}` has {batch}; expected the same, or none for an argument "
                f"that all samples share."
            )


def _check_kind(name: str, value: Tensor, q: Tensor) -> None:
    if not value.is_floating_point() or value.dtype != q.dtype:
        raise DtypeError(
            f"`{name}` is {value.dtype} but `q` is {q.dtype}; give all arguments one floating-point dtype."
        )
    if value.device != q.device:
        raise DeviceError(f"`{name}` is on {value.device} but `q` is on {q.device}; move them to one device.")


def _stacked(top: Tensor | None, bottom: Tensor | None, core: int) -> Tensor:
    if top is None or bottom is None:
        only = bottom if top is None else top
        assert only is not None
        return only
    batch = max(top.shape[:-core], bottom.shape[:-core], key=len)
    parts = [part.expand(*batch, *part.shape[-core:]) for part in (top, bottom)]
    return torch.cat(parts, -core)


def _all_batched(x: dict[str, Any]) -> dict[str, Any]:
    """Every leaf with all batch axes and under every transform that any of them is under: the solver gets them below."""
    pairs = {name: (x[name], core) for name, core in CORES.items() if x.get(name) is not None}
    batch = max((leaf.shape[: leaf.ndim - core] for leaf, core in pairs.values()), key=len)
    nothing = sum(torch.zeros_like(leaf.reshape(-1)[:1]).sum() for leaf, _ in pairs.values())
    filled = {
        name: leaf.expand(*batch, *leaf.shape[leaf.ndim - core :]) + nothing for name, (leaf, core) in pairs.items()
    }
    return {**x, **filled}
