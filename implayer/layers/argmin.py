"""The constrained argmin as a layer: its KKT conditions are the equation."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from .. import _tree
from ..adjoints import AbstractAdjoint, ImplicitAdjoint
from ..errors import DtypeError, NotPicklableError, ShapeError, SolveError
from ..failures import OnFailure
from ..layer import ImplicitLayer
from ..linear.auto import Auto
from ..linear.lu import LU
from ..linear.minimal_norm import MinimalNorm
from ..linearise import Request
from ..modes import forward_mode, no_autocast, saving_is_hooked, transforms
from ..problem import Layout, Problem
from ..solution import Solution, Status
from ..solvers.interior_point import InteriorPoint
from ..types import Tree

_Method = TypeVar("_Method", bound=Callable[..., Any])
_MARGIN = 0.6  # theta = eps**0.6: above rounding, below any multiplier that matters
_LEAST = 0.85  # eps**0.85: multipliers that are all smaller than that are rounding


def _never_compiled(method: _Method) -> _Method:
    return torch.compiler.disable(method)  # type: ignore[return-value]  # the type of the method is kept


class KKT(torch.nn.Module):
    r"""The Karush-Kuhn-Tucker conditions as a residual F(x, z) with z = (y, nu, lam).

    $$F = \big(\nabla_y L,\; h,\; \text{where}(\lambda / \sigma + g > \theta,\; g,\; -\lambda)\big),\qquad
      L = f + \nu^\top h + \lambda^\top g$$

    The last rows are the active set, frozen by the sign of lam + g: F is zero exactly at the KKT points (g <= 0,
    lam >= 0), square, and scaled like the constraints themselves, unlike the products lam * g. theta is a little above
    rounding, so that a constraint whose g and lam both vanish counts as inactive however they were rounded; sigma is the
    largest multiplier of the sample, or one if that is larger than one: small objectives have small multipliers.

    A z whose nu has one axis more than lam asks for (f, h, g) at y instead: what forward solvers work with.
    """

    def __init__(self, objective: Any, equality: Any, inequality: Any, event_ndim: int):
        super().__init__()
        self.objective, self.equality, self.inequality = objective, equality, inequality
        self.event_ndim = event_ndim

    def forward(self, x: Tree, z: Tree) -> Tree:
        """The residual, its leaves shaped like the differentiable ones of z; or the parts."""
        y, nu, lam = z
        batch = tuple(lam.shape[: lam.ndim - max(self.event_ndim, 1)])
        if nu.ndim != lam.ndim:
            return self.parts(x, y, batch)
        leaves, spec = _tree.flatten(y)
        places = [k for k, leaf in enumerate(leaves) if _tree.differentiable(leaf)]
        flat_nu, flat_lam = (t.reshape(*batch, t.shape[-1]) for t in (nu, lam))

        def lagrangian(values: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            filled = list(leaves)
            for place, value in zip(places, values, strict=True):
                filled[place] = value
            f, h, g = self.parts(x, _tree.unflatten(filled, spec), batch)
            total = f.sum()  # the samples are independent, so one gradient of the sum is that of each
            total = total + (flat_nu * h).sum() if h.shape[-1] else total
            return (total + (flat_lam * g).sum() if g.shape[-1] else total), (h, g)

        gradient, (h, g) = _gradient(lagrangian, tuple(leaves[k] for k in places))
        rows = torch.where(_active(flat_lam, g), g, -flat_lam)
        return list(gradient), h.reshape(nu.shape), rows.reshape(lam.shape)

    def parts(self, x: Tree, y: Tree, batch: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """(f, h, g) of shapes (*batch), (*batch, m), (*batch, p); checked."""
        if self.event_ndim == 0:  # scalar unknowns have an axis of their own inside
            y = _without_axis(y)
        f = self.objective(x, y)
        if not isinstance(f, Tensor) or tuple(f.shape) != batch:
            found = f"shape {tuple(f.shape)}" if isinstance(f, Tensor) else f"type {type(f).__name__}"
            raise ShapeError(
                f"`objective(x, y)` has {found}; expected one scalar a sample, shape {batch}. Sum over the last axes in "
                f"`objective` (`.sum(-1)`), or set `event_ndim`."
            )
        return f, self.constraint("equality", x, y, f, batch), self.constraint("inequality", x, y, f, batch)

    def constraint(self, name: str, x: Tree, y: Tree, like: Tensor, batch: tuple[int, ...]) -> Tensor:
        """The values of one kind of constraints, (*batch, m); m is 0 without them."""
        function = getattr(self, name)
        if function is None:
            return like.new_zeros(*batch, 0)
        c = function(x, y)
        if not isinstance(c, Tensor) or c.ndim != len(batch) + 1 or tuple(c.shape[:-1]) != batch:
            found = f"shape {tuple(c.shape)}" if isinstance(c, Tensor) else f"type {type(c).__name__}"
            raise ShapeError(
                f"`{name}(x, y)` has {found}; expected the batch axes {batch} and one axis of constraints. A single "
                f"constraint keeps its axis: `.unsqueeze(-1)`, or `.sum(-1, keepdim=True)`."
            )
        if c.dtype != like.dtype:
            raise DtypeError(f"`{name}(x, y)` is {c.dtype} but y is {like.dtype}; convert x or y so that both agree.")
        return c

    def __getstate__(self) -> dict[str, Any]:
        """For pickle, which finds functions by their names."""
        for name in ("objective", "equality", "inequality"):
            if "<" in getattr(getattr(self, name), "__qualname__", ""):
                raise NotPicklableError(
                    f"`{name}` is `{getattr(self, name).__qualname__}`, which pickle cannot find by its name. Use a named "
                    f"function at the top level of a module, or an `nn.Module`; or save `layer.state_dict()`."
                )
        return self.__dict__

    def __deepcopy__(self, memo: dict[int, Any]) -> "KKT":
        twin = memo[id(self)] = type(self).__new__(type(self))
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin


def _active(lam: Tensor, g: Tensor) -> Tensor:
    """(*batch, p) which constraints count as active: lam, relative to the largest where all are small, exceeds -g."""
    if not g.shape[-1]:
        return g > 0
    eps = torch.finfo(g.dtype).eps
    size = lam.detach().abs().amax(-1, keepdim=True).clamp(eps**_LEAST, 1.0)
    return lam / size + g > eps**_MARGIN


def _gradient(function: Any, values: tuple[Tensor, ...]) -> Any:
    """The gradient of function(values)[0], differentiable again, and function(values)[1].

    torch.func.grad is right everywhere but under hooks on saved tensors. In eager mode autograd itself is three times
    faster, where a fresh leaf cannot make the result seem to require grad: when no graph is wanted, or all values are
    on the tape already.
    """
    keep = torch.is_grad_enabled()
    taped = not keep or all(value.requires_grad for value in values) or saving_is_hooked()
    if transforms() or forward_mode() or not taped:
        return torch.func.grad(function, has_aux=True)(values)
    with torch.enable_grad():
        values = tuple(value if keep and value.requires_grad else value.detach().requires_grad_() for value in values)
        total, aux = function(values)
        if not total.requires_grad:
            return tuple(torch.zeros_like(value) for value in values), aux
        gradient = torch.autograd.grad(total, values, create_graph=keep, materialize_grads=True)
    return gradient, aux if keep else tuple(t.detach() for t in aux)


@dataclass(frozen=True)
class _KKTAdjoint(AbstractAdjoint):
    """The adjoint of the user, whose linear solver is told how many unknowns are multipliers."""

    adjoint: ImplicitAdjoint

    def apply(self, request: Request) -> Solution:
        """Solve, and attach the derivative to the value."""
        _, nu, lam = request.problem.y0
        linear_solver = MinimalNorm(self.adjoint.linear_solver, nu.shape[-1] + lam.shape[-1])
        return replace(self.adjoint, linear_solver=linear_solver).apply(request)


class ArgminLayer(torch.nn.Module):
    r"""The layer x -> y that solves a smooth constrained minimisation, sample by sample.

    $$y(x) = \arg\min_y f(x, y) \quad \text{s.t.} \quad h(x, y) = 0,\; g(x, y) \le 0$$

    The derivative is that of the KKT conditions grad f + A'nu + G'lam = 0, h = 0, g_i = 0 or lam_i = 0 (A, G the
    Jacobians of h and g) by the implicit function theorem: whatever found the minimiser, it is exact in reverse and
    forward mode, to the order of the adjoint, under all torch.func transforms, for y, nu and lam.

    **Arguments**

    - `objective`: f(x, y) -> (*batch), one scalar a sample; twice differentiable in y. A function or an `nn.Module`, as
      the next two (their parameters become parameters of the layer).
    - `equality`: h(x, y) -> (*batch, m), zero at the solution. Default None: no equalities.
    - `inequality`: g(x, y) -> (*batch, p), at most zero at the solution. Default None: no inequalities.
    - `forward_solver`: `InteriorPoint()` by default; `ScipyMinimize()` for SciPy's trust-constr or SLSQP; `Newton()` where
      the start is near and the active set known. Or any callable `problem -> Solution` whose value is (y, nu, lam).
    - `adjoint`: how the layer is differentiated; `ImplicitAdjoint()` (default) is exact.
    - `initial`: callable x -> y0, used where `y0` is not passed. Nonconvex problems return a local minimiser near it.
    - `event_ndim`: how many last axes of each leaf of y belong to one sample. 0 for scalar unknowns.
    - `on_failure`: what failed samples do: "raise" (default), "warn", "nan" or "ignore".

    **Returns** from `layer(x, y0)`: y, a nest like y0. From `layer.solve(x, y0)`: a `Solution` with that `value` and, all
    differentiable, `aux["equality_multipliers"]` nu (*batch, m), `aux["inequality_multipliers"]` lam (*batch, p) and
    `aux["objective"]` (*batch), whose gradient is the partial derivative of the Lagrangian (envelope theorem);
    `aux["redundant"]` (*batch) says where active constraints depend on each other, `aux["condition"]` is that of the KKT
    matrix where a derivative was asked for.

    **Raises** `SolveError` where a sample fails and `on_failure="raise"`: INFEASIBLE (no feasible point was found),
    UNBOUNDED, NONFINITE, SINGULAR (the minimiser is not isolated), MAX_STEPS. `ShapeError` for constraints or objectives
    of another shape. DEGENERATE samples count as solved and issue a `DegenerateWarning`: with redundant active
    constraints the derivative of y is exact and the multipliers are the smallest ones; with weakly active ones (g = 0 and
    lam = 0) the derivative is one-sided, that of the problem without them.

    **Reference** Fiacco, "Sensitivity analysis for nonlinear programming using penalty methods", 1976; Zhang et al.,
    "Implicitly Defined Layers in Neural Networks", equation (17).

    **Example**: projection on the unit ball

    ```python
    layer = implayer.ArgminLayer(
        lambda x, y: ((y - x) ** 2).sum(-1) / 2,
        inequality=lambda x, y: (y**2).sum(-1, keepdim=True) - 1,
        initial=torch.zeros_like,
    )
    x = torch.tensor([[3.0, 4.0]], requires_grad=True)
    y = layer(x)                    # tensor([[0.6, 0.8]])
    y[0, 0].backward()              # x.grad = [[0.128, -0.096]]
    ```
    """

    def __init__(
        self,
        objective: Callable[[Tree, Tree], Tensor],
        *,
        equality: Callable[[Tree, Tree], Tensor] | None = None,
        inequality: Callable[[Tree, Tree], Tensor] | None = None,
        forward_solver: Callable[[Problem], Any] | None = None,
        adjoint: AbstractAdjoint | None = None,
        initial: Callable[[Tree], Tree] | None = None,
        event_ndim: int = 1,
        on_failure: OnFailure = "raise",
    ):
        super().__init__()
        for name, function in (("objective", objective), ("equality", equality), ("inequality", inequality)):
            if not callable(function) and (function is not None or name == "objective"):
                raise TypeError(f"`{name}` is {function!r}; expected a callable: {name}(x, y) -> tensor.")
        if event_ndim < 0:
            raise ValueError(f"`event_ndim` is {event_ndim}; expected 0 or more.")
        adjoint = ImplicitAdjoint() if adjoint is None else adjoint
        if isinstance(adjoint, ImplicitAdjoint) and isinstance(adjoint.linear_solver, Auto | LU):
            adjoint = _KKTAdjoint(adjoint)
        self.kkt = ImplicitLayer(
            KKT(objective, equality, inequality, event_ndim), forward_solver or InteriorPoint(), adjoint=adjoint,
            event_ndim=max(event_ndim, 1), on_failure=on_failure,
        )  # fmt: skip
        self.initial, self.event_ndim = initial, event_ndim

    @_never_compiled
    def forward(self, x: Tree, y0: Tree = None) -> Tree:
        """The minimiser y."""
        return self._minimiser(x, y0).value

    @_never_compiled
    def solve(self, x: Tree, y0: Tree = None) -> Solution:
        """The minimiser with its story, the multipliers and the optimal value."""
        solution = self._minimiser(x, y0)
        with no_autocast(solution.status.device):
            aux = {**solution.aux, "objective": self.objective(x, solution.value)}
        return solution.replace(aux=aux)

    def start(self, x: Tree, y0: Tree = None) -> tuple[Tree, Tensor, Tensor]:
        """(y0, 0, 0): the start of `layer.kkt`, whose unknowns are (y, nu, lam)."""
        y0 = self.initial(x) if y0 is None and self.initial is not None else y0
        if y0 is None:
            Problem(self.kkt.F, x).vectors()  # raises, with the words of every layer
        y0 = _tree.map_tensors(Tensor.detach, y0)
        layout = Layout.of(y0, self.event_ndim)
        like = torch.zeros(layout.batch, dtype=layout.dtype, device=layout.device)
        with torch.no_grad(), no_autocast(layout.device):
            rows = [self.kkt.F.constraint(name, x, y0, like, layout.batch) for name in ("equality", "inequality")]
        inside = max(self.event_ndim, 1)
        nu, lam = (like.new_zeros(*layout.batch, *[1] * (inside - 1), t.shape[-1]) for t in rows)
        if self.event_ndim == 0:
            y0 = _tree.map_tensors(lambda leaf: leaf.unsqueeze(-1) if _tree.differentiable(leaf) else leaf, y0)
        return y0, nu, lam

    def _minimiser(self, x: Tree, y0: Tree) -> Solution:
        try:
            return self._named(self.kkt.solve(x, self.start(x, y0)))
        except SolveError as error:
            if error.solution is not None and isinstance(error.solution.value, tuple):
                error.solution = self._named(error.solution)
            raise

    def _named(self, solution: Solution) -> Solution:
        """The solution with y as its value and the multipliers in aux."""
        y, nu, lam = solution.value
        batch = tuple(solution.status.shape)
        nu, lam = (t.reshape(*batch, t.shape[-1]) for t in (nu, lam))
        if self.event_ndim == 0:
            y = _without_axis(y)
        if self.on_failure == "ignore":
            hopeless = (solution.status == Status.INFEASIBLE) | (solution.status == Status.UNBOUNDED)
            y, nu, lam = _tree.tree_map(lambda leaf: _held(leaf, hopeless), (y, nu, lam))
        aux = {"redundant": torch.zeros(batch, dtype=torch.bool, device=lam.device), **(solution.aux or {})}
        aux.update(equality_multipliers=nu, inequality_multipliers=lam)
        return solution.replace(value=y, aux=aux)

    @property
    def objective(self) -> Any:
        """f(x, y)."""
        return self.kkt.F.objective

    @property
    def on_failure(self) -> OnFailure:
        """What failed samples do."""
        return self.kkt.on_failure

    def extra_repr(self) -> str:
        """What is not a submodule."""
        return f"event_ndim={self.event_ndim}"


def _without_axis(y: Tree) -> Tree:
    return _tree.map_tensors(lambda leaf: leaf.squeeze(-1) if _tree.differentiable(leaf) else leaf, y)


def _held(leaf: Any, hopeless: Tensor) -> Any:
    """The value alone where there is no minimiser that could have a derivative."""
    if not _tree.differentiable(leaf):
        return leaf
    return torch.where(hopeless.reshape(*hopeless.shape, *[1] * (leaf.ndim - hopeless.ndim)), leaf.detach(), leaf)
