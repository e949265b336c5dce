"""The properties of a layer's derivatives: each a short function from a `Trial` to a `Measure`."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .. import _tree
from ..adjoints import UnrolledAdjoint
from ..layer import ImplicitLayer
from ..solvers.base import AbstractIterativeSolver
from .differences import derivative
from .trial import (
    LeftOut,
    Measure,
    Tensors,
    Trial,
    directions,
    flat,
    inner,
    live,
    moved,
    parameters,
    pull,
    relative,
    size,
)

_UNROLLED = 24  # steps


def _needs_variables(trial: Trial) -> Tensors:
    if not trial.leaves:
        raise LeftOut("x holds no floating-point tensor")
    return trial.leaves


def _against(trial: Trial, value: Any, reference: Any, error: float, floor: float, note: str = "") -> Measure:
    """How far a derivative is from a finite difference, which knows its own error."""
    scale = max(size(value), size(reference), floor)
    if scale == 0:
        return Measure(0.0, trial.difference_tolerance)
    allowed = trial.difference_tolerance + 10 * error / scale
    gap = size(torch.as_tensor(value) - reference) / scale
    return Measure(gap if gap == gap else float("inf"), allowed, note)


# -------------------------------------------------------------------------------------------------------- first order
def gradient_equals_differences(trial: Trial) -> Measure:
    """<J'v, u> = <v, (y(x + h u) - y(x - h u)) / 2h>, extrapolated to h = 0, for two v."""
    leaves = _needs_variables(trial)
    u = trial.direction("first")
    slope, error = derivative(lambda t: flat(trial.value(moved(leaves, t, u))))
    worst = Measure(0.0, trial.difference_tolerance)
    for name in ("first", "second"):
        v = trial.cotangent(name)
        g, w = trial.gradient(live(leaves), v), flat(v)
        value, reference = inner(g, u), inner([w], [slope])
        floor = 0.05 * size(w) * size(slope) / max(len(w), 1) ** 0.5 + 1e-3 * size(trial.y)
        measure = _against(trial, value, reference, error * size(w), floor, "reverse mode is wrong")
        worst = max(worst, measure, key=lambda m: m.error / m.tolerance)
    return worst


def parameters_receive_gradients(trial: Trial) -> Measure:
    """The gradient in the parameters equals finite differences in them."""
    table = parameters(trial.layer)
    if not table:
        raise LeftOut("the layer has no trainable parameter")
    measure = _parameter_measure(trial, list(table.values()))
    if measure.error <= measure.tolerance or len(table) == 1:
        return replace(measure, note=f"the gradient of `{next(iter(table))}` is wrong or missing")
    alone = {name: _parameter_measure(trial, [p]) for name, p in table.items()}
    wrong = [f"`{name}`" for name, m in alone.items() if m.error > m.tolerance]
    return replace(measure, note=f"the gradient of {', '.join(wrong) or 'the parameters'} is wrong or missing")


def _parameter_measure(trial: Trial, weights: list[Tensor]) -> Measure:
    u, v = directions([p.detach() for p in weights], trial.generator("weights")), trial.cotangent("weights")
    start = [p.detach().clone() for p in weights]

    def value(t: float) -> Tensor:
        with torch.no_grad():
            for p, s, d in zip(weights, start, u, strict=True):
                p.copy_(s + t * d)
        return flat(trial.value(trial.leaves))

    try:
        slope, error = derivative(value)
    finally:
        with torch.no_grad():
            for p, s in zip(weights, start, strict=True):
                p.copy_(s)
    g = pull(trial.outputs(trial.leaves), weights, v)
    w = flat(v)
    floor = 0.05 * size(w) * size(slope) / max(len(w), 1) ** 0.5 + 1e-3 * size(trial.y)
    return _against(trial, float(inner(g, u)), inner([w], [slope]), error * size(w), floor)


def adjoint_identity(trial: Trial) -> Measure:
    """<v, J u> = <J'v, u>, with J u as the derivative of the linear map v -> J'v."""
    leaves, u, v = live(_needs_variables(trial)), trial.direction("adjoint"), trial.cotangent("adjoint")
    probe = live(v)
    product = pull(trial.outputs(leaves), leaves, probe, create_graph=True)
    if not any(p.requires_grad for p in product):
        raise LeftOut("the backward has no graph, so its transpose cannot be taken")
    image = pull(product, probe, u)
    left, right = inner(v, image), inner(product, u).detach()
    return Measure(
        relative(left, right, 0.05 * size(v) * size(image)), trial.identity_tolerance, "the backward is not linear in v"
    )


def forward_equals_reverse(trial: Trial) -> Measure:
    """<v, J u> with J u by `torch.func.jvp` equals <J'v, u> with J'v by `torch.autograd.grad`."""
    leaves, u, v = _needs_variables(trial), trial.direction("modes"), trial.cotangent("modes")
    image = torch.func.jvp(lambda *a: trial.outputs(a), tuple(leaves), tuple(u))[1]
    left, right = inner(v, image), inner(trial.gradient(live(leaves), v), u)
    floor = 0.05 * size(v) * size(image)
    return Measure(relative(left, right, floor), trial.identity_tolerance, "forward and reverse mode differ")


def eager_forward_equals_reverse(trial: Trial) -> Measure:
    """The same with J u by dual numbers, `torch.autograd.forward_ad`."""
    leaves, u, v = _needs_variables(trial), trial.direction("dual"), trial.cotangent("dual")
    with forward_ad.dual_level():
        y = trial.outputs([forward_ad.make_dual(a, d) for a, d in zip(leaves, u, strict=True)])
        found = [forward_ad.unpack_dual(t).tangent for t in y]
    image = [torch.zeros_like(t) if d is None else d.detach() for t, d in zip(trial.y, found, strict=True)]
    left, right = inner(v, image), inner(trial.gradient(live(leaves), v), u)
    floor = 0.05 * size(v) * size(image)
    return Measure(relative(left, right, floor), trial.identity_tolerance, "dual numbers and reverse mode differ")


def vmap_of_grad_equals_loop(trial: Trial) -> Measure:
    """vmap(grad(<v_i, y_i>)) over the samples equals a Python loop."""
    if not trial.batch or not any(trial.batched) or not trial.batch[0]:
        raise LeftOut("no batch axis common to x and y")
    count = min(trial.batch[0], 6)
    part = trial.rows(slice(0, count))
    flags = [f for f, leaf in zip(part.batched, part._flat, strict=True) if _tree.differentiable(leaf)]
    constants = [f for f, leaf in zip(part.batched, part._flat, strict=True) if not _tree.differentiable(leaf)]
    if any(constants) or part.y0 is not None:
        raise LeftOut("integer leaves or y0 with a batch axis")
    v = [c[:count] for c in trial.cotangent("vmap")]

    def loss(*tensors: Tensor) -> Tensor:
        return inner(part.outputs(tensors[: len(flags)]), tensors[len(flags) :])

    stacked = [leaf.unsqueeze(1) if flag else leaf for leaf, flag in zip(part.leaves, flags, strict=True)]
    weights = [c.unsqueeze(1) for c in v]
    slope = torch.func.grad(loss, argnums=tuple(range(len(flags))))
    mapped = torch.func.vmap(slope, in_dims=(*[0 if f else None for f in flags], *[0 for _ in v]))(*stacked, *weights)
    rows = [[t[i] if f else t for t, f in zip(stacked, flags, strict=True)] for i in range(count)]
    loop = [part.gradient(live(row), [w[i] for w in weights]) for i, row in enumerate(rows)]
    expected = [torch.stack([one[k] for one in loop]) for k in range(len(flags))]
    return Measure(relative(mapped, expected), trial.identity_tolerance, "vmap(grad) and the loop differ")


def equals_unrolled(trial: Trial) -> Measure:
    """The implicit gradient equals that of the solver's own steps, taken on the tape from the solution on.

    Started there, k steps leave the value where it is, and their derivative tends to the implicit one, if it converges:
    the change from the first half of the steps to all of them is its error.
    """
    layer = trial.layer
    if not isinstance(layer, ImplicitLayer) or not isinstance(layer.forward_solver, AbstractIterativeSolver):
        raise LeftOut("no solver with steps that could be unrolled")
    if isinstance(layer.adjoint, UnrolledAdjoint):
        raise LeftOut("the layer is unrolled itself")
    problem = trial.problem()
    if problem.vectors().residual(problem.vectors().y0).shape[1] > problem.vectors().n:
        raise LeftOut("least squares: the Jacobian is a constant of the tape, but its derivative matters")
    v = trial.cotangent("unrolled")
    half, whole = (_unrolled(trial, layer.forward_solver, steps, v) for steps in (_UNROLLED // 2, _UNROLLED))
    gap = relative(half, whole)
    if not gap <= 1e-3:
        raise LeftOut("the derivative of the iterations has not converged")
    error = relative(trial.gradient(live(trial.leaves), v), whole)
    return Measure(error, trial.difference_tolerance + 10 * gap, "the implicit and the unrolled gradient differ")


def _unrolled(trial: Trial, solver: AbstractIterativeSolver, steps: int, v: Tensors) -> Tensors:
    leaves = live(trial.leaves)
    problem = replace(trial.problem(), x=trial.nest(leaves), sign=getattr(trial.layer, "sign", 1)).vectors()
    y = problem.y0
    r = problem.residual(y)
    state = solver.init(problem, y, r)
    for _ in range(steps):
        y, found, state = solver.step(problem, y, r, state)
        r = problem.residual(y) if found is None or not found.requires_grad else found
    return pull([y], leaves, [problem.layout.pack(_refilled(trial.full, v))])


def _refilled(tree: Any, parts: Tensors) -> Any:
    """A nest with other floating-point leaves."""
    rest = iter(parts)
    return _tree.map_tensors(lambda t: next(rest) if _tree.differentiable(t) else t, tree)


# ------------------------------------------------------------------------------------------------------- second order
def _slope(trial: Trial, v: Tensors) -> Callable[..., Any]:
    """The gradient of <v, y> as a function for torch.func."""
    return torch.func.grad(lambda a: inner(v, trial.outputs(a)))


def _second_reference(trial: Trial, u: Tensors, v: Tensors) -> tuple[Tensor, float]:
    """H u by differences of the gradient, weighted by the size of the variables, and its error; once a trial."""
    known = trial.__dict__.setdefault("_second", {})
    if not known:
        slope, error = derivative(lambda t: _weighted(trial, trial.gradient(live(moved(trial.leaves, t, u)), v)))
        known["hessian"] = (slope, error)
    return known["hessian"]


def _sizes(trial: Trial) -> list[float]:
    """The size of each variable."""
    return [max(float(leaf.abs().max()), 1e-3) if leaf.numel() else 1.0 for leaf in trial.leaves]


def _weighted(trial: Trial, g: Any) -> Tensor:
    """A gradient in units of the variables' own size."""
    return flat([a.detach() * s for a, s in zip(g, _sizes(trial), strict=True)])


def _second(trial: Trial, product: Callable[[Tensors, Tensors], Any], mode: str) -> Measure:
    u, v = trial.direction("second order"), trial.cotangent("second order")
    _needs_variables(trial)
    found = _weighted(trial, product(u, v))
    reference, error = _second_reference(trial, u, v)
    floor = 1e-3 * size(_weighted(trial, trial.gradient(live(trial.leaves), v)))
    return _against(trial, found, reference, error, floor, f"second derivatives are wrong, {mode}")


def second_reverse_reverse(trial: Trial) -> Measure:
    """H u by differentiating <grad, u> eagerly once more, equals differences of the gradient."""

    def product(u: Tensors, v: Tensors) -> Tensors:
        leaves = live(trial.leaves)
        g = trial.gradient(leaves, v, create_graph=True)
        return pull(g, leaves, u)

    return _second(trial, product, "reverse over reverse")


def second_forward_reverse(trial: Trial) -> Measure:
    """H u by `torch.func.jvp` of the gradient."""
    return _second(
        trial,
        lambda u, v: torch.func.jvp(_slope(trial, v), (trial.leaves,), (u,))[1],
        "forward over reverse",
    )


def second_reverse_forward(trial: Trial) -> Measure:
    """H u as the gradient of <v, J u>."""

    def product(u: Tensors, v: Tensors) -> Any:
        def along(a: Tensors) -> Tensor:
            return inner(v, torch.func.jvp(lambda *b: trial.outputs(b), tuple(a), tuple(u))[1])

        return torch.func.grad(along)(trial.leaves)

    return _second(trial, product, "reverse over forward")


def second_forward_forward(trial: Trial) -> Measure:
    """<v, D^2 y [u, u]> by two nested `torch.func.jvp`."""
    u, v = trial.direction("second order"), trial.cotangent("second order")
    leaves = tuple(_needs_variables(trial))

    def along(*a: Tensor) -> Tensor:
        return inner(v, torch.func.jvp(lambda *b: trial.outputs(b), a, tuple(u))[1])

    found = torch.func.jvp(along, leaves, tuple(u))[1]
    reference, error = _second_reference(trial, u, v)
    scaled = flat([a / s for a, s in zip(u, _sizes(trial), strict=True)])
    floor = 1e-3 * size(v) * size(trial.y) + 0.05 * size(scaled) * size(reference) / len(scaled) ** 0.5
    slope, error = inner([scaled], [reference]), error * size(scaled)
    return _against(trial, found, slope, error, floor, "second derivatives are wrong, forward over forward")


# -------------------------------------------------------------------------------------------------------- third order
def _third(trial: Trial, found: Tensor, name: str) -> Measure:
    u, v = trial.direction("third order"), trial.cotangent("third order")

    def curvature(t: float) -> Tensor:
        leaves = live(moved(trial.leaves, t, u))
        g = inner(pull(trial.outputs(leaves), leaves, v, create_graph=True), u)
        return inner(pull([g], leaves, [torch.ones_like(g)]), u)

    slope, error = derivative(curvature)
    floor = 1e-2 * float(curvature(0.0).abs()) + 1e-3 * size(v) * size(trial.y)
    return _against(trial, found, slope, error, floor, f"third derivatives are wrong, {name}")


def third_reverse(trial: Trial) -> Measure:
    """<v, D^3 y [u, u, u]> by three reverse passes equals differences of the second derivative."""
    u, v, leaves = trial.direction("third order"), trial.cotangent("third order"), live(_needs_variables(trial))
    g = inner(trial.gradient(leaves, v, create_graph=True), u)
    h = inner(pull([g], leaves, [torch.ones_like(g)], create_graph=True), u)
    return _third(trial, inner(pull([h], leaves, [torch.ones_like(h)]), u), "reverse three times")


def third_forward(trial: Trial) -> Measure:
    """The same by three nested `torch.func.jvp`."""
    u, v, leaves = trial.direction("third order"), trial.cotangent("third order"), tuple(_needs_variables(trial))

    def nested(depth: int) -> Callable[..., Tensor]:
        if depth == 0:
            return lambda *a: inner(v, trial.outputs(a))
        below = nested(depth - 1)
        return lambda *a: torch.func.jvp(below, a, tuple(u))[1]

    return _third(trial, nested(3)(*leaves), "forward three times")
