"""The Jacobian of a taped F from its own graph, where that is made of elementwise functions and products with matrices.

The k-th row of J is what reverse mode makes of the k-th unit vector. As long as it passes elementwise functions it keeps a
single entry, so one pass with vectors serves all rows; the first product with a matrix fills it. For y + tanh(W y) / 2 - x
all of J thus costs one multiplication of arrays of its size, and n vector products would cost n times more than F.
"""

from typing import Any

import torch
from torch import Tensor

_NODES = 64  # of the graph; a larger one is no small formula
_NUMBERS, _WIDE = 2**22, 4  # rows of so many numbers, or of so many times those of J, are allowed for on the way
_ELEMENTWISE = {
    *(
        "AddBackward0",
        "SubBackward0",
        "RsubBackward1",
        "MulBackward0",
        "DivBackward0",
        "NegBackward0",
        "WhereBackward0",
    ),
    *("TanhBackward0", "SigmoidBackward0", "ReluBackward0", "SoftplusBackward0", "GeluBackward0", "SiluBackward0"),
    *("EluBackward0", "LeakyReluBackward0", "MishBackward0", "LogSigmoidBackward0", "HardtanhBackward0"),
    *("SinBackward0", "CosBackward0", "ExpBackward0", "LogBackward0", "Log1PBackward0", "Expm1Backward0"),
    *("SqrtBackward0", "RsqrtBackward0", "ReciprocalBackward0", "PowBackward0", "PowBackward1", "AbsBackward0"),
    *("SinhBackward0", "CoshBackward0", "AtanBackward0", "ErfBackward0", "ClampBackward1", "ClampMinBackward0"),
    *("ClampMaxBackward0", "CloneBackward0"),
}
_PRODUCTS = {"MmBackward0": 0, "AddmmBackward0": 1}  # which input is the matrix on the left

_trusted: dict[tuple[Any, ...], bool] = {}  # kinds of graphs that were compared with vector products: did they agree


def jacobian_of_graph(r: Tensor, y: Tensor) -> tuple[Tensor | None, tuple[Any, ...]]:
    """dr/dy (samples, m, n) of r (samples, m) and the leaf y (samples, n), or None for other graphs; and the kind of graph."""
    nodes = _nodes(r, y)
    if nodes is None:
        return None, ()
    kind = (r.shape[1], y.shape[1], r.dtype, *(type(node).__name__ for node, _ in nodes))
    if _trusted.get(kind) is False:
        return None, kind
    with torch.no_grad():
        return _propagated(r, y, nodes), kind


def is_trusted(kind: tuple[Any, ...]) -> bool:
    """Whether a graph of this kind has been compared with vector products before, and agreed."""
    return _trusted.get(kind, False)


def trust(kind: tuple[Any, ...], found: Tensor, expected: Tensor) -> bool:
    """Compare once for each kind of graph, and remember the outcome. Samples that are not finite say nothing."""
    finite = expected.isfinite().all(-1).all(-1)
    if found.shape != expected.shape or not bool(finite.any()):
        return False
    found, expected = found[finite], expected[finite]
    close = torch.finfo(expected.dtype).eps ** 0.75 * expected.abs().amax()
    _trusted[kind] = bool(((found - expected).abs() <= close).all())
    return _trusted[kind]


def _nodes(r: Tensor, y: Tensor) -> list[tuple[Any, list[tuple[int, Any]]]] | None:
    """The nodes from r to y, last one first, each with the places and nodes of those inputs that depend on y."""
    if r.grad_fn is None or r.ndim != 2 or r.dtype != y.dtype or not r.dtype.is_floating_point:
        return None
    before: dict[Any, Any] = {}
    seen: set[Any] = set()
    leaf: Any = None
    stack: list[Any] = [r.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        inputs = node.next_functions
        if inputs:
            before[node] = inputs
            stack.extend([after for after, _ in inputs])
        elif getattr(node, "variable", None) is y:
            leaf = node
        if len(seen) > _NODES:
            return None
    if leaf is None:
        return None
    depends, ordered = {leaf}, []
    for node in sorted(before, key=lambda node: node._sequence_nr()):
        inputs = [(place, after) for place, (after, _) in enumerate(before[node]) if after in depends]
        if inputs:
            name = type(node).__name__
            if name not in _ELEMENTWISE and [place for place, _ in inputs] != [_PRODUCTS.get(name)]:
                return None
            depends.add(node)
            ordered.append((node, inputs))
    return ordered[::-1]


def _propagated(r: Tensor, y: Tensor, nodes: list[tuple[Any, list[tuple[int, Any]]]]) -> Tensor | None:
    """Rows of J through the graph: (samples, m) while they have one entry each, then (samples, m, width)."""
    single: dict[Any, Tensor] = {r.grad_fn: torch.ones_like(r)}
    full: dict[Any, Tensor] = {}
    for node, inputs in nodes:
        one, rows = single.pop(node, None), full.pop(node, None)
        if type(node).__name__ in _ELEMENTWISE:
            narrow = None if one is None else _listed(node(one))
            wide = None if rows is None else _listed(node(rows.new_ones(rows.shape[0], rows.shape[2])))
            for place, after in inputs:
                if narrow is not None and (part := narrow[place]) is not None:
                    if part.shape != r.shape:  # it was broadcast
                        return None
                    single[after] = single[after] + part if after in single else part
                if rows is not None and wide is not None and (part := wide[place]) is not None:
                    if part.shape != (rows.shape[0], rows.shape[2]):
                        return None
                    _add(full, after, rows * part.unsqueeze(1))
        elif getattr(node, "_saved_alpha", 1) != 1:
            return None
        else:
            ((_, after),) = inputs
            matrix = node._saved_mat2.detach().mT
            if r.numel() * matrix.shape[1] > max(_NUMBERS, _WIDE * r.numel() * y.shape[1]):
                return None
            if one is not None:
                _add(full, after, one.unsqueeze(-1) * matrix)
            if rows is not None:
                _add(full, after, rows @ matrix)
    (leaf,) = {*single, *full} or (None,)
    one, rows = single.get(leaf), full.get(leaf)
    if rows is None:
        return None if one is None or one.shape != y.shape else torch.diag_embed(one)
    if one is not None:
        rows.diagonal(dim1=-2, dim2=-1).add_(one)
    return rows


def _listed(found: Any) -> tuple[Any, ...]:
    return found if isinstance(found, tuple) else (found,)


def _add(full: dict[Any, Tensor], node: Any, rows: Tensor) -> None:
    full[node] = full[node].add_(rows) if node in full else rows
