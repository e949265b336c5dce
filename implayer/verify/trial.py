"""One input of a layer, with all that the properties ask of it."""

import functools
import itertools
import types
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .. import _tree
from ..layer import ImplicitLayer
from ..linear.base import AbstractDenseInverse
from ..linear.lu import LU
from ..operators import JacobianOperator
from ..problem import Layout, Problem
from ..residuals import equation, with_gauge
from ..types import Residual, Tree

Tensors = list[Tensor]


class LeftOut(Exception):
    """A property that cannot be asked of this layer; the message is the reason."""


@dataclass(frozen=True)
class Measure:
    """The error of a property at one input, and how large it may be; both relative to the size of what is compared."""

    error: float
    tolerance: float
    note: str = ""


@dataclass
class Trial:
    """A layer at one input.

    - `leaves`: the floating-point leaves of x, detached; everything is differentiated with respect to them.
    - `outputs(leaves)`: the floating-point leaves of y, with their graph.
    """

    layer: Callable[..., Tree]
    F: Residual | None
    x: Tree
    y0: Tree = None
    seed: int = 0
    known: list[bool] | None = None  # which leaves are batched, where that has been found out already
    _flat: list[Any] = field(init=False)
    _spec: Any = field(init=False)

    def __post_init__(self) -> None:
        self._flat, self._spec = _tree.flatten(self.x)

    # ------------------------------------------------------------------------------------------------ the function
    @property
    def leaves(self) -> Tensors:
        """The variables."""
        return [leaf.detach() for leaf in self._flat if _tree.differentiable(leaf)]

    def nest(self, leaves: Any) -> Tree:
        """x with other variables."""
        parts = iter(leaves)
        return _tree.unflatten([next(parts) if _tree.differentiable(leaf) else leaf for leaf in self._flat], self._spec)

    def outputs(self, leaves: Any, layer: Callable[..., Tree] | None = None) -> tuple[Tensor, ...]:
        """y at other variables."""
        x = self.nest(leaves)
        layer = layer or self.layer
        y = layer(x) if self.y0 is None else layer(x, self.y0)
        return tuple(leaf for leaf in _tree.leaves(y) if _tree.differentiable(leaf))

    def value(self, leaves: Any) -> Tensors:
        """y without its graph, yet evaluated as for a gradient: where a layer polishes its value, that one."""
        return [y.detach() for y in self.outputs(live(leaves))]

    @cached_property
    def full(self) -> Tree:
        """y as the nest that the layer returns, detached."""
        x = self.nest(live(self.leaves))
        y = self.layer(x) if self.y0 is None else self.layer(x, self.y0)
        return _tree.map_tensors(torch.Tensor.detach, y)

    @cached_property
    def y(self) -> Tensors:
        """The variables of y."""
        return [leaf for leaf in _tree.leaves(self.full) if _tree.differentiable(leaf)]

    def gradient(self, leaves: Tensors, v: Tensors, *, layer: Any = None, create_graph: bool = False) -> Tensors:
        """J' v by reverse mode; zeros where there is no graph."""
        return pull(self.outputs(leaves, layer), leaves, v, create_graph=create_graph)

    # ------------------------------------------------------------------------------------------------ directions
    def generator(self, name: str) -> torch.Generator:
        """A stream of random numbers that depends on the seed and the name alone."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + zlib.crc32(name.encode()))

    def cotangent(self, name: str) -> Tensors:
        """A random cotangent for y."""
        generator = self.generator(name)
        return [_normal(y, generator) for y in self.y]

    def direction(self, name: str) -> Tensors:
        """A random direction for the variables, of their own size."""
        return directions(self.leaves, self.generator(name))

    # ------------------------------------------------------------------------------------------------ batch and dtype
    @property
    def event_ndim(self) -> int:
        """How many last axes belong to a sample: the layer's own word, or 1."""
        return int(getattr(self.layer, "event_ndim", 1))

    @cached_property
    def batch(self) -> tuple[int, ...]:
        """The batch axes of y, or () where its leaves do not agree."""
        shapes = {tuple(y.shape[: max(y.ndim - self.event_ndim, 0)]) for y in self.y}
        return shapes.pop() if len(shapes) == 1 else ()

    @cached_property
    def batched(self) -> list[bool]:
        """For each leaf of x whether its first axis is that of the batch.

        Those whose leading axes are the batch axes of y; where F is known, the largest set of them with which F of one
        sample is a row of F of all, so that a shared leaf that happens to have the length of the batch is not cut.
        """
        if self.known is not None:
            return self.known
        n = len(self.batch)
        flags = [isinstance(t, Tensor) and n > 0 and tuple(t.shape[:n]) == self.batch for t in self._flat]
        places = [i for i, flag in enumerate(flags) if flag]
        if self.F is None or not 1 < len(places) <= 6 or not self.batch[0]:
            return flags
        for count in range(len(places), 0, -1):
            for chosen in itertools.combinations(places, count):
                subset = [i in chosen for i in range(len(flags))]
                if self._restricts(subset):
                    return subset
        return flags

    def _restricts(self, flags: list[bool]) -> bool:
        """Whether F of the first sample, cut out by these flags, is the first row of F."""
        assert self.F is not None
        x = _tree.unflatten([t[:1] if flag else t for t, flag in zip(self._flat, flags, strict=True)], self._spec)
        generator = self.generator("restrict")
        y = _tree.map_tensors(lambda t: t + _normal(t, generator) if _tree.differentiable(t) else t, self.full)
        first = _tree.map_tensors(lambda t: t[:1] if _tree.differentiable(t) else t, y)
        try:
            with torch.no_grad():
                whole, part = _tree.leaves(self.F(self.x, y)), _tree.leaves(self.F(x, first))
        except Exception:  # F refuses this cut: any reason is reason enough
            return False
        return all(
            b.shape == a[:1].shape and relative(a[:1], b) <= self.eps**0.5 for a, b in zip(whole, part, strict=True)
        )

    def rows(self, index: Any) -> "Trial":
        """The same with some samples alone."""
        leaves = [leaf[index] if flag else leaf for leaf, flag in zip(self._flat, self.batched, strict=True)]
        y0 = _tree.map_tensors(lambda t: t[index] if tuple(t.shape[: len(self.batch)]) == self.batch else t, self.y0)
        return Trial(self.layer, self.F, _tree.unflatten(leaves, self._spec), y0, self.seed, self.batched)

    @cached_property
    def single(self) -> bool:
        """Whether anything is in single precision."""
        return any(torch.finfo(t.dtype).bits <= 32 for t in [*self.leaves, *self.y])

    @property
    def eps(self) -> float:
        """Unit of rounding."""
        return 1.2e-7 if self.single else 2.3e-16

    # ------------------------------------------------------------------------------------------------ the equation
    def problem(self) -> Problem:
        """The equation at the answer; needs F."""
        if self.F is None:
            raise LeftOut("the layer does not know its equation: pass `F=`")
        return Problem(self.F, _tree.map_tensors(torch.Tensor.detach, self.x), self.full, self.event_ndim)

    @cached_property
    def condition(self) -> float:
        """Condition of dF/dy (largest over the samples), or 1 where it is not known or too large to factorise."""
        try:
            operator = self.operator()
        except LeftOut:
            return 1.0
        if operator.rows != operator.columns or operator.columns > 256 or not operator.samples:
            return 1.0
        found = LU().freeze(operator).condition
        return 1.0 if found is None else float(torch.nan_to_num(found, nan=1e16, posinf=1e16).max())

    def operator(self) -> JacobianOperator:
        """dF/dy at the answer (of J'F where there are more equations than unknowns)."""
        problem = self.problem()
        layout = Layout.of(self.full, self.event_ndim, "y")
        y = layout.pack(self.full)
        rows = equation(problem, layout, layout.n)(y).shape[1]
        return JacobianOperator(equation(problem, layout, rows), y)

    @cached_property
    def dense(self) -> bool:
        """Whether the layer's own adjoint is a factorisation: then identities hold to rounding."""
        linear_solver = getattr(getattr(self.layer, "adjoint", None), "linear_solver", None)
        if linear_solver is None or not isinstance(self.layer, ImplicitLayer):
            return False
        return isinstance(linear_solver.freeze(self.operator()), AbstractDenseInverse)

    @cached_property
    def identity_tolerance(self) -> float:
        """What two ways to one number may differ by: rounding, or the tolerance of an iterative adjoint."""
        base = (1e-3 if self.single else 1e-6) if not self.dense else (1e-4 if self.single else 1e-9)
        return base + 16 * self.eps * self.condition

    @cached_property
    def difference_tolerance(self) -> float:
        """What a derivative and a finite difference may differ by, beyond the error estimate of the latter."""
        return (5e-3 if self.single else 1e-6) + 16 * self.eps * self.condition


# ------------------------------------------------------------------------------------------------------ small algebra
def live(leaves: Any) -> Tensors:
    """The same numbers as leaves of a new graph."""
    return [leaf.detach().clone().requires_grad_() for leaf in leaves]


def pull(y: Any, leaves: Tensors, v: Any, *, create_graph: bool = False) -> Tensors:
    """Vector-Jacobian product; zeros where y does not depend on a leaf."""
    pairs = [(a, b) for a, b in zip(y, v, strict=True) if a.requires_grad]
    if not pairs or not leaves:
        return [torch.zeros_like(leaf) for leaf in leaves]
    roots, cotangents = [a for a, _ in pairs], [b for _, b in pairs]
    found = torch.autograd.grad(roots, leaves, cotangents, create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(a) if g is None else g for a, g in zip(leaves, found, strict=True)]


def directions(leaves: Tensors, generator: torch.Generator) -> Tensors:
    """Random directions, entry by entry about as large as the leaves."""
    found = []
    for leaf in leaves:
        rms = float(leaf.abs().square().mean().sqrt()) if leaf.numel() else 1.0
        size = torch.clamp(leaf.abs(), min=0.1 * rms) if rms > 0 else torch.ones_like(leaf.abs())
        found.append(_normal(leaf, generator) * size)
    return found


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)


def moved(leaves: Tensors, t: float, direction: Tensors) -> Tensors:
    """leaves + t * direction."""
    return [leaf + t * d for leaf, d in zip(leaves, direction, strict=True)]


def inner(a: Any, b: Any) -> Tensor:
    """Euclidean inner product of two lists, real part."""
    return sum((p.conj() * q).real.sum() for p, q in zip(a, b, strict=True)) + torch.zeros(())


def flat(tensors: Any) -> Tensor:
    """All entries in one vector."""
    return torch.cat([t.reshape(-1) for t in tensors]) if len(tensors) else torch.zeros(0)


def size(*parts: Any) -> float:
    """Largest Euclidean norm of some tensors, lists or numbers."""
    norms = [
        float(torch.linalg.vector_norm(flat(p) if isinstance(p, list | tuple) else torch.as_tensor(p))) for p in parts
    ]
    return max(norms, default=0.0)


def relative(a: Any, b: Any, floor: float = 0.0) -> float:
    """|a - b| / max(|a|, |b|, floor), zero where all are."""
    a, b = (flat(p) if isinstance(p, list | tuple) else p.reshape(-1) for p in (a, b))
    gap, scale = size(a - b), max(size(a), size(b), floor)
    return 0.0 if gap == 0 else gap / scale if scale else float("inf")


def parameters(layer: Any) -> dict[str, Tensor]:
    """Trainable tensors of a module, or of the modules and tensors that a function is bound to or closes over."""
    found: dict[str, Tensor] = {}
    for name, thing in _reachable(layer):
        if isinstance(thing, torch.nn.Module):
            found.update({f"{name}{key}": p for key, p in thing.named_parameters() if p.requires_grad})
        elif isinstance(thing, Tensor) and thing.requires_grad and thing.is_leaf:
            found[name.rstrip(".")] = thing
    unique = {id(p): (name, p) for name, p in found.items() if _tree.differentiable(p)}
    return dict(unique.values())


def _reachable(layer: Any) -> Iterator[tuple[str, Any]]:
    yield "", layer
    if isinstance(layer, functools.partial):
        yield from (("", part) for part in [layer.func, *layer.args, *layer.keywords.values()])
    if isinstance(layer, types.MethodType):
        yield "", layer.__self__
    if isinstance(layer, types.FunctionType) and layer.__closure__:
        for name, cell in zip(layer.__code__.co_freevars, layer.__closure__, strict=True):
            try:
                yield f"{name}.", cell.cell_contents
            except ValueError:  # a cell that is not filled yet
                continue


def equation_of(layer: Any, F: Residual | None) -> Residual | None:
    """F as given, or the layer's own with its gauge."""
    if F is None and isinstance(layer, ImplicitLayer):
        return with_gauge(layer.F, layer.gauge)
    return F
