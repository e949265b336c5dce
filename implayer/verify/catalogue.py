r"""Problems with exact values and derivatives: a benchmark of gradient correctness for any implicit layer.

Each `Entry` is an equation F(x, y) = 0 with its solution y(x), the directional derivative y'[u] and, where simple, the
second one y''[u, w], all from formulas and none by automatic differentiation. `run` measures a layer against them.

>>> import implayer
>>> from implayer.verify import catalogue
>>> def factory(e):
...     return implayer.ImplicitLayer(e.F, implayer.Newton(), initial=e.initial, event_ndim=e.event_ndim)
>>> table = catalogue.run(factory, only=("square root",))
>>> table.rows[0].gradient_error < 1e-12
True
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .. import _tree
from ..errors import ImplayerError
from ..problem import Layout
from ..types import Residual, Tree
from . import closed_forms as forms

Directional = Callable[..., Tree]


@dataclass(frozen=True)
class Entry:
    """One problem. All leaves of x and y have the batch axis first, and samples are independent.

    **Attributes**

    - `name`, `F`, `event_ndim`: the equation; `initial`: callable x -> y0, from which Newton's method reaches the
      solution.
    - `example`: callable dtype -> x, a batch of legal inputs.
    - `value`: x -> y.
    - `tangent`: (x, y, u) -> y'[u], the derivative along u, a nest like x.
    - `curvature`: (x, y, u, w) -> y''[u, w], or None.
    - `kinds`: what may be assumed, out of "root", "scalar" (one unknown, with `bracket`), "fixed point" (y + F
      contracts), "symmetric" (J is symmetric), "definite" (and positive definite), "tall", "wide".
    - `bracket`: (lower, upper) around the unknown of a scalar problem.
    """

    name: str
    F: Residual
    initial: Callable[[Tree], Tree]
    example: Callable[[torch.dtype], Tree]
    value: Callable[[Tree], Tree]
    tangent: Directional
    curvature: Directional | None = None
    event_ndim: int = 1
    kinds: frozenset[str] = frozenset({"root"})
    bracket: tuple[float, float] | None = None

    def jacobian(self, x: Tree) -> Tensor:
        """dy/dx (samples, n, p), with n unknowns and p numbers of x a sample."""
        y = self.value(x)
        return torch.stack([self._pack(self.tangent(x, y, u)) for u in _basis(x)], dim=-1)

    def hessian(self, x: Tree) -> Tensor:
        """d2y/dx2 (samples, n, p, p); ValueError where the entry has no `curvature`."""
        if self.curvature is None:
            raise ValueError(f"the entry {self.name!r} has no second derivative.")
        y, basis = self.value(x), list(_basis(x))
        rows = [torch.stack([self._pack(self.curvature(x, y, u, w)) for w in basis], dim=-1) for u in basis]
        return torch.stack(rows, dim=-2)

    def _pack(self, y: Tree) -> Tensor:
        return Layout.of(y, self.event_ndim, "y").pack(y)


def _basis(x: Tree) -> Iterable[Tree]:
    """One nest for each number of a sample: 1 there in all samples, 0 elsewhere."""
    leaves, spec = _tree.flatten(x)
    for k, leaf in enumerate(leaves):
        for index in itertools.product(*(range(size) for size in leaf.shape[1:])):
            one = torch.zeros_like(leaf)
            one[(slice(None), *index)] = 1
            yield _tree.unflatten([one if i == k else torch.zeros_like(t) for i, t in enumerate(leaves)], spec)


def _kinds(*names: str) -> frozenset[str]:
    return frozenset(names)


ENTRIES: tuple[Entry, ...] = (
    Entry(
        "curve", forms.curve_F, torch.zeros_like, forms.column(-1.2, -0.4, 0.3, 0.9, 1.5), forms.curve_value,
        forms.curve_tangent, forms.curve_curvature, 0, _kinds("root", "scalar", "symmetric", "definite"), (-10.0, 10.0),
    ),
    Entry(
        "circle and hyperbola", forms.circle_F, forms.circle_initial, forms.matrix([[1.0], [0.8], [1.3]]),
        forms.circle_value, forms.circle_tangent, forms.circle_curvature,
    ),
    Entry(
        "square root", forms.root_F, forms.root_initial, forms.column(0.25, 2.0, 9.0), forms.root_value,
        forms.root_tangent, forms.root_curvature, 0, _kinds("root", "scalar", "symmetric", "definite"), (0.0, 20.0),
    ),
    Entry(
        "Kepler", forms.kepler_F, forms.kepler_initial, forms.kepler_example, forms.kepler_value, forms.kepler_tangent,
        forms.kepler_curvature, 0, _kinds("root", "scalar", "symmetric", "definite"), (-10.0, 10.0),
    ),
    Entry(
        "tanh equilibrium", forms.tanh_F, forms.tanh_initial, forms.tanh_example, forms.tanh_value, forms.tanh_tangent,
        forms.tanh_curvature, 0, _kinds("root", "scalar", "fixed point", "symmetric"), (-1.0, 1.0),
    ),
    Entry(
        "linear system", forms.linear_F, forms.linear_initial, forms.linear_example(False), forms.linear_value,
        forms.linear_tangent, forms.linear_curvature,
    ),
    Entry(
        "symmetric linear system", forms.linear_F, forms.linear_initial, forms.linear_example(True), forms.linear_value,
        forms.linear_tangent, forms.linear_curvature, 1, _kinds("root", "symmetric", "definite"),
    ),
    Entry(
        "affine contraction", forms.affine_F, forms.affine_initial, forms.affine_example, forms.affine_value,
        forms.affine_tangent, forms.affine_curvature, 1, _kinds("root", "fixed point"),
    ),
    Entry(
        "polar coordinates", forms.polar_F, forms.polar_initial, forms.polar_example, forms.polar_value,
        forms.polar_tangent, forms.polar_curvature, 0,
    ),
    Entry(
        "least squares", forms.squares_F, forms.squares_initial, forms.squares_example, forms.squares_value,
        forms.squares_tangent, forms.squares_curvature, 1, _kinds("tall"),
    ),
    Entry(
        "projection onto a circle", forms.sphere_F, forms.sphere_initial, forms.sphere_example, forms.sphere_value,
        forms.sphere_tangent, forms.sphere_curvature, 1, _kinds("wide"),
    ),
)  # fmt: skip


# ------------------------------------------------------------------------------------------------------- measuring
@dataclass(frozen=True)
class Row:
    """Relative errors of one layer on one entry; NaN where not measured, with the reason in `note`."""

    name: str
    value_error: float = float("nan")
    gradient_error: float = float("nan")
    second_error: float = float("nan")
    note: str = ""


@dataclass(frozen=True)
class Table:
    """The rows of a run; print it."""

    rows: list[Row] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{'problem':<28}{'value':>10}{'gradient':>10}{'second':>10}"]
        lines += [
            f"{r.name:<28}{r.value_error:>10.1e}{r.gradient_error:>10.1e}{r.second_error:>10.1e}  {r.note}".rstrip()
            for r in self.rows
        ]
        return "\n".join(lines)


def entries(*kinds: str) -> list[Entry]:
    """The entries that have all these kinds."""
    return [entry for entry in ENTRIES if set(kinds) <= entry.kinds]


def run(
    layer_factory: Callable[[Entry], Any],
    *,
    only: Iterable[str] | None = None,
    dtype: torch.dtype = torch.float64,
    second: bool = True,
) -> Table:
    """Relative errors of value, gradient and second derivative on every entry.

        |a - b| / |b|, Euclidean over all derivatives of a sample, the largest of the samples

    **Arguments**

    - `layer_factory`: entry -> layer, any callable x -> y with a graph; None for entries that it is not for.
    - `only`: names of entries; default all.
    - `dtype`: of x; formulas are evaluated in float64.
    - `second`: whether second derivatives are measured; turn it off for layers of first order.

    **Returns** a `Table`. An entry on which the layer raises an `ImplayerError` has a row with NaN and the error.
    """
    chosen = [entry for entry in ENTRIES if only is None or entry.name in set(only)]
    table = Table()
    for entry in chosen:
        layer = layer_factory(entry)
        if layer is not None:
            table.rows.append(_row(entry, layer, dtype, second))
    return table


def _row(entry: Entry, layer: Callable[[Tree], Tree], dtype: torch.dtype, second: bool) -> Row:
    x = entry.example(dtype)
    exact = _tree.map_tensors(lambda t: t.double().clone(), x)
    try:
        value = entry._pack(_tree.map_tensors(torch.Tensor.detach, layer(x)))
        jacobian = _jacobian(entry, layer, x)
        hessian = _hessian(entry, layer, x) if second and entry.curvature else None
    except ImplayerError as error:
        return Row(entry.name, note=f"{type(error).__name__}: {error}"[:120])
    return Row(
        entry.name,
        _error(value, entry._pack(entry.value(exact))),
        _error(jacobian, entry.jacobian(exact)),
        float("nan") if hessian is None else _error(hessian, entry.hessian(exact)),
    )


def _error(found: Tensor, exact: Tensor) -> float:
    gap, size = (t.double().reshape(len(t), -1) for t in (found.double() - exact, exact))
    norms = torch.linalg.vector_norm(size, dim=-1)
    # where the exact answer is zero the error is absolute
    return float((torch.linalg.vector_norm(gap, dim=-1) / torch.where(norms > 0, norms, 1)).max())


def _jacobian(entry: Entry, layer: Callable[[Tree], Tree], x: Tree, create_graph: bool = False) -> Tensor:
    """(samples, n, p) by reverse mode: one product an unknown, samples together."""
    leaves = [t.requires_grad_() for t in _tree.leaves(x)]
    y = entry._pack(layer(x))
    rows = []
    for k in range(y.shape[1]):
        g = torch.autograd.grad(
            y[:, k].sum(),
            leaves,
            create_graph=create_graph,
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        rows.append(torch.cat([t.reshape(len(y), -1) for t in g], dim=-1))
    return torch.stack(rows, dim=1) if create_graph else torch.stack(rows, dim=1).detach()


def _hessian(entry: Entry, layer: Callable[[Tree], Tree], x: Tree) -> Tensor:
    """(samples, n, p, p) by reverse mode twice."""
    jacobian = _jacobian(entry, layer, x, create_graph=True)
    leaves, planes = _tree.leaves(x), []
    for k, j in itertools.product(range(jacobian.shape[1]), range(jacobian.shape[2])):
        total = jacobian[:, k, j].sum()
        g = [torch.zeros_like(t) for t in leaves]
        if total.requires_grad:
            g = torch.autograd.grad(total, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
        planes.append(torch.cat([t.reshape(len(jacobian), -1) for t in g], dim=-1).detach())
    return torch.stack(planes, dim=1).reshape(*jacobian.shape, jacobian.shape[-1])
