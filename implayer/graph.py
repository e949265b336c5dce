"""The Jacobian of a taped F from its own graph, where that is made of elementwise functions and products with matrices.

The k-th row of J is what reverse mode makes of the k-th unit vector. As long as it passes elementwise functions it keeps a
single entry, so one pass with vectors serves all rows; the first product with a matrix fills it. For y + tanh(W y) / 2 - x
all of J thus costs one multiplication of arrays of its size, and n vector products would cost n times more than F.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

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
_plans: dict[tuple[Any, ...], "Plan"] = {}  # the last one of a kind of r: the next graph is most likely alike
_KEPT = 64


class Step(NamedTuple):
    """A node on the way to y: its name, places and numbers of its inputs that depend on y, and the places of the others."""

    name: str
    inputs: tuple[tuple[int, int], ...]
    others: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """The nodes from r (number 0) down to y (the last number), each before those that it leads to."""

    steps: tuple[Step, ...]  # of each node but y's
    kind: tuple[Any, ...]  # what graphs have in common that are trusted or not

    def nodes(self, r: Tensor, y: Tensor) -> list[Any] | None:
        """Those of another graph, if it is alike: the same on the way to y, and no other way."""
        found: list[Any] = [r.grad_fn] + [None] * len(self.steps)
        beside = []
        for number, (name, inputs, others) in enumerate(self.steps):
            node = found[number]
            if type(node).__name__ != name:
                return None
            before = node.next_functions
            if len(before) != len(inputs) + len(others):
                return None
            for place, after in inputs:
                (reached, _) = before[place]
                if found[after] is not None and found[after] is not reached:
                    return None
                found[after] = reached
            beside.extend([before[place][0] for place in others])
        if getattr(found[-1], "variable", None) is not y:
            return None
        own, seen = set(found), 0
        while beside:
            node = beside.pop()
            seen += 1
            if node in own or seen > _NODES:
                return None
            if node is not None:
                beside.extend([after for after, _ in node.next_functions])
        return found


def jacobian_of_graph(r: Tensor, y: Tensor) -> tuple[Tensor | None, tuple[Any, ...]]:
    """dr/dy (samples, m, n) of r (samples, m) and the leaf y (samples, n), or None for other graphs; and the kind of graph.

    None in a backward pass, too, where a node that the pass does not need gives nothing when it is called.
    """
    if r.grad_fn is None or r.ndim != 2 or r.dtype != y.dtype or not r.dtype.is_floating_point:
        return None, ()
    key = (type(r.grad_fn).__name__, r.shape[1], y.shape[1], r.dtype)
    plan = _plans.get(key)
    nodes = None if plan is None else plan.nodes(r, y)
    if plan is None or nodes is None:
        made = _planned(r, y)
        if made is None:
            return None, ()
        plan, nodes = made
        if len(_plans) >= _KEPT:
            _plans.clear()
        _plans[key] = plan
    if _trusted.get(plan.kind) is False:
        return None, plan.kind
    with torch.no_grad():
        return _propagated(r, y, plan, nodes), plan.kind


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


def _planned(r: Tensor, y: Tensor) -> tuple[Plan, list[Any]] | None:
    """The way from r (samples, m) to the leaf y (samples, n) and its nodes, or None for graphs with other operations."""
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
    depends, ordered, names = {leaf}, [leaf], []
    for node in sorted(before, key=_sequence_number):
        if any(after in depends for after, _ in before[node]):
            depends.add(node)
            ordered.append(node)
            names.append(type(node).__name__)
    ordered.reverse()
    names.reverse()
    numbers = {node: number for number, node in enumerate(ordered)}
    steps = []
    for node, name in zip(ordered, names, strict=False):
        inputs = tuple((place, numbers[after]) for place, (after, _) in enumerate(before[node]) if after in numbers)
        if name not in _ELEMENTWISE and [place for place, _ in inputs] != [_PRODUCTS.get(name)]:
            return None
        known = {place for place, _ in inputs}
        steps.append(Step(name, inputs, tuple(place for place in range(len(before[node])) if place not in known)))
    return Plan(tuple(steps), (r.shape[1], y.shape[1], r.dtype, *names)), ordered


def _sequence_number(node: Any) -> int:
    return node._sequence_nr()


def _propagated(r: Tensor, y: Tensor, plan: Plan, nodes: list[Any]) -> Tensor | None:
    """Rows of J through the graph: (samples, m) while they have one entry each, then (samples, m, width)."""
    singles: list[Tensor | None] = [torch.ones_like(r)] + [None] * len(plan.steps)
    fulls: list[Tensor | None] = [None] * len(nodes)
    for number, (name, inputs, _) in enumerate(plan.steps):
        node, one, rows = nodes[number], singles[number], fulls[number]
        singles[number] = fulls[number] = None
        if name in _ELEMENTWISE:
            narrow = None if one is None else _pulled(node, name, one, inputs)
            wide = None if rows is None else _pulled(node, name, rows.new_ones(rows.shape[0], rows.shape[2]), inputs)
            for place, after in inputs:
                if narrow is not None:
                    part = narrow[place]
                    if part is None or part.shape != r.shape:  # asked for in a backward pass, or broadcast
                        return None
                    known = singles[after]
                    singles[after] = part if known is None else known + part
                if rows is not None and wide is not None:
                    part = wide[place]
                    if part is None or part.shape != (rows.shape[0], rows.shape[2]):
                        return None
                    _add(fulls, after, rows * part.unsqueeze(1))
        elif getattr(node, "_saved_alpha", 1) != 1:
            return None
        else:
            ((_, after),) = inputs
            matrix = node._saved_mat2.detach().mT
            if r.numel() * matrix.shape[1] > max(_NUMBERS, _WIDE * r.numel() * y.shape[1]):
                return None
            if one is not None:
                _add(fulls, after, one.unsqueeze(-1) * matrix)
            if rows is not None:
                _add(fulls, after, rows @ matrix)
    one, rows = singles[-1], fulls[-1]
    if rows is None:
        return None if one is None or one.shape != y.shape else torch.diag_embed(one)
    if one is not None:
        rows.diagonal(dim1=-2, dim2=-1).add_(one)
    return rows


def _pulled(node: Any, name: str, g: Tensor, inputs: tuple[tuple[int, int], ...]) -> tuple[Any, ...]:
    """The cotangents of the inputs; a first summand has that of the sum, and no operation is called for it."""
    if name in ("AddBackward0", "SubBackward0"):
        if len(inputs) == 1 and inputs[0][0] == 0:
            return (g,)
        if name == "AddBackward0" and node._saved_alpha == 1:
            return g, g
    found = node(g)
    return found if isinstance(found, tuple) else (found,)


def _add(fulls: list[Tensor | None], number: int, rows: Tensor) -> None:
    known = fulls[number]
    fulls[number] = rows if known is None else known.add_(rows)
