"""The properties of a layer's value: each a short function from a `Trial` to a `Measure`."""

import copy
import gc
from typing import Any

import torch
from torch import Tensor

from .. import _tree
from ..layer import ImplicitLayer
from ..operators import JacobianOperator
from ..problem import Layout
from .report import same
from .trial import LeftOut, Measure, Tensors, Trial, flat, live, parameters, pull, relative, size

_WARM_UP, _CALLS = 3, 6


def solves_the_equation(trial: Trial) -> Measure:
    """F(x, y) = 0.

    The error is |J^+ F| / |y|, an estimate of how far y is from the solution relative to its size (J'F and its Jacobian
    where F has more rows than unknowns). A residual below ten times the default tolerance of a solver is fine in any
    case.
    """
    problem = trial.problem()
    layout = Layout.of(trial.full, trial.event_ndim, "y")
    y = layout.pack(trial.full)
    operator = trial.operator()
    r = operator.value
    if not r.numel():
        return Measure(0.0, 1.0)
    absolute = 1e-4 if trial.single else 1e-8
    far = torch.linalg.vector_norm(r, dim=-1) > absolute
    worst = f"largest |F| is {float(torch.linalg.vector_norm(r, dim=-1).max()):.1e}"
    if not bool(torch.isfinite(r).all()):
        return Measure(float("inf"), 1.0, "F(x, y) is not finite")
    origin = problem.vectors(layout.unpack(torch.zeros_like(y)))
    step, span = _newton(operator, r), _newton(operator, origin.residual(origin.y0)[:, : r.shape[1]])
    length = torch.linalg.vector_norm(y, dim=-1)
    scale = torch.maximum(torch.maximum(length, length.mean()), torch.nan_to_num(span, nan=0.0, posinf=0.0))
    error = torch.where(far, step / scale.clamp(min=1e-30), torch.zeros_like(step))
    return Measure(float(error.max()), 1e-3 if trial.single else 1e-6, worst)


def _newton(operator: JacobianOperator, r: Tensor) -> Tensor:
    """(samples,) |J^+ r|, or |r| / |J| where J is too large to be factorised."""
    if max(operator.rows, operator.columns) > 256 or r.shape[1] != operator.rows:
        generator = torch.Generator().manual_seed(0)
        v = torch.randn(operator.samples, operator.columns, generator=generator, dtype=torch.float64).to(r)
        gain = torch.linalg.vector_norm(operator.mv(v), dim=-1) / torch.linalg.vector_norm(v, dim=-1)
        return torch.linalg.vector_norm(r, dim=-1) / gain
    inverse = torch.linalg.pinv(torch.nan_to_num(operator.materialise()))
    return torch.linalg.vector_norm((inverse @ r.unsqueeze(-1)).squeeze(-1), dim=-1)


def keeps_dtype_and_device(trial: Trial) -> Measure:
    """y has the dtype and device of y0, or of x where there is no y0."""
    given = [leaf for leaf in _tree.leaves(trial.y0) if _tree.differentiable(leaf)] or trial.leaves
    kinds = {(leaf.dtype, leaf.device) for leaf in given}
    wrong = [y for y in trial.y if (y.dtype, y.device) not in kinds]
    if not wrong:
        return Measure(0.0, 0.0)
    expected = " or ".join(f"{dtype} on {device}" for dtype, device in sorted(kinds, key=str))
    return Measure(1.0, 0.0, f"y is {wrong[0].dtype} on {wrong[0].device}; expected {expected}")


def leaves_input_alone(trial: Trial) -> Measure:
    """x, y0 and the parameters hold the same numbers after a call and its backward."""
    note = "the layer changes x, y0 or a parameter in place"
    changed = False
    for graph in (False, True):
        x, y0 = (_tree.map_tensors(lambda t: t.detach().clone(), tree) for tree in (trial.x, trial.y0))
        watched = [t for t in [*_tree.leaves(x), *_tree.leaves(y0)] if isinstance(t, Tensor)]
        watched += parameters(trial.layer).values()
        before = [t.detach().clone() for t in watched]
        fresh = Trial(trial.layer, trial.F, x, y0, trial.seed)
        leaves = [t.requires_grad_() for t in _tree.leaves(x) if _tree.differentiable(t)]
        with torch.set_grad_enabled(graph):
            try:
                y = fresh.outputs(leaves)
            except RuntimeError as error:
                if "in-place" not in str(error):
                    raise
                return Measure(1.0, 0.0, note)
        if graph:
            pull(y, leaves, [torch.ones_like(t) for t in y])
        changed = changed or not all(same(a.detach(), b) for a, b in zip(watched, before, strict=True))
    return Measure(float(changed), 0.0, note if changed else "")


def repeats_itself(trial: Trial) -> Measure:
    """Value and gradient at x do not depend on what was called before: neither a cache nor a state decides them."""
    v = trial.cotangent("again")
    before = _value_and_gradient(trial.layer, trial, v)
    other = [leaf + 0.05 * d for leaf, d in zip(trial.leaves, trial.direction("elsewhere"), strict=True)]
    try:
        trial.gradient(live(other), v)
    except Exception as error:  # the other input need not be legal; any reason will do
        raise LeftOut(f"no other input nearby: {type(error).__name__}") from error
    return Measure(
        _either(before, _value_and_gradient(trial.layer, trial, v)), trial.identity_tolerance,
        "value or gradient at x changes once the layer was called elsewhere (a stale factor or cache)",
    )  # fmt: skip


def batch_equals_loop(trial: Trial) -> Measure:
    """Each sample has the value and the gradient that it has alone."""
    count = min(_require_batch(trial), 6)  # the first samples stand for the others
    require_other_sizes(trial)
    v = trial.cotangent("loop")
    whole = trial.gradient(live(trial.leaves), v)
    error = 0.0
    for i in range(count):
        part = trial.rows(slice(i, i + 1))
        error = max(error, relative([y[i : i + 1] for y in trial.y], part.y, 1e-3 * size(trial.y)))
        alone = part.gradient(live(part.leaves), [c[i : i + 1] for c in v])
        error = max(error, _row_error(trial, whole, alone, i))
    note = "a sample has another value or gradient in a batch than alone (wrong batch axis, or samples are mixed)"
    return Measure(error, _batch_tolerance(trial), note)


def _row_error(trial: Trial, whole: Tensors, alone: Tensors, i: int) -> float:
    flags = [flag for flag, leaf in zip(trial.batched, trial._flat, strict=True) if _tree.differentiable(leaf)]
    pairs = [(w[i : i + 1], a) for w, a, flag in zip(whole, alone, flags, strict=True) if flag]
    return max((relative(w, a, 1e-3 * size(whole)) for w, a in pairs), default=0.0)


def permutes_with_the_batch(trial: Trial) -> Measure:
    """layer(P x) = P layer(x) for a permutation P of the samples."""
    count = _require_batch(trial)
    if count < 2:
        raise LeftOut("one sample")
    order = torch.roll(torch.arange(count), 1)
    shuffled = trial.rows(order)
    return Measure(
        relative([y[order] for y in trial.y], shuffled.y), _batch_tolerance(trial), "samples depend on their place"
    )


def require_other_sizes(trial: Trial) -> None:
    """Raise where the first sample alone is refused: LeftOut if F refuses it too or is not known, else the error."""
    part = trial.rows(slice(0, 1))
    try:
        part.y  # noqa: B018
    except Exception as error:
        if trial.F is not None:
            y = _tree.map_tensors(lambda t: t[:1] if _tree.differentiable(t) else t, trial.full)
            try:
                trial.F(part.x, y)
            except Exception as reason:
                raise LeftOut(f"F takes no other batch size ({type(reason).__name__}: {reason})") from error
            raise
        raise LeftOut(f"the layer takes no other batch size ({type(error).__name__}: {error})") from error


def _require_batch(trial: Trial) -> int:
    if not trial.batch or not any(trial.batched):
        raise LeftOut("no batch axis common to x and y (scalar unknowns: give the layer `event_ndim = 0`)")
    if trial.batch[0] == 0:
        raise LeftOut("an empty batch")
    return trial.batch[0]


def _batch_tolerance(trial: Trial) -> float:
    return (1e-3 if trial.single else 1e-7) + 16 * trial.eps * trial.condition


# ----------------------------------------------------------------------------------------------- the solver in a cage
def _plain_answer(answer: Any) -> Any:
    """A solver's answer that has been through NumPy: no graph can survive that."""

    def through(t: Tensor) -> Tensor:
        return torch.from_numpy(t.detach().cpu().numpy().copy()).to(t.device)

    return _tree.map_tensors(through, getattr(answer, "value", answer))


def needs_no_graph_of_the_solver(trial: Trial) -> Measure:
    """The derivative is there although the solver's answer cannot carry a graph, and the same although it carries a
    wrong one.

    The solver runs once more in a wrapper that fails when it is given tensors with a graph, and whose answer has been
    through NumPy; then in a wrapper that hangs a false graph onto its answer. Both must give the same derivatives.
    """
    if not isinstance(trial.layer, ImplicitLayer):
        raise LeftOut("not an ImplicitLayer, so its solver cannot be replaced")
    layer, told = trial.layer, []
    generator_state = torch.get_rng_state()

    def caged(problem: Any) -> Any:
        leaves = [t for t in [*_tree.leaves(problem.x), *_tree.leaves(problem.y0)] if isinstance(t, Tensor)]
        if any(t.requires_grad for t in leaves) or torch.is_grad_enabled():
            told.append("the solver is given tensors that carry a graph")
        return _plain_answer(layer.forward_solver(problem))

    def leaking(problem: Any) -> Any:
        value = _plain_answer(layer.forward_solver(problem))
        with torch.enable_grad():
            return _tree.map_tensors(
                lambda t: t * torch.ones_like(t).requires_grad_() if t.is_floating_point() else t, value
            )

    v, found = trial.cotangent("solver"), []
    for solver in (layer.forward_solver, caged, leaking):
        torch.set_rng_state(generator_state)
        leaves = live(trial.leaves)
        try:
            y = trial.outputs(leaves, with_solver(layer, solver))
        except TypeError as error:
            raise LeftOut(f"the layer needs its own solver ({error})") from error
        weights = list(parameters(layer).values())
        found.append(pull(y, [*leaves, *weights], v))
    error = max(relative(found[0], found[1]), relative(found[0], found[2]))
    note = told[0] if told else "the gradient depends on the graph of the solver"
    return Measure(float("inf") if told else error, _batch_tolerance(trial), note)


def with_solver(layer: ImplicitLayer, solver: Any) -> ImplicitLayer:
    """The same layer, sharing all its parameters, with another forward solver."""
    clone = copy.copy(layer)
    clone.__dict__["_modules"] = dict(layer._modules)
    clone.__dict__["_modules"].pop("forward_solver", None)
    clone.__dict__["forward_solver"] = solver
    return clone


# ----------------------------------------------------------------------------------------------------- life of a module
def survives_copies(trial: Trial) -> Measure:
    """deepcopy, and a state_dict that is loaded into a spoiled copy, give the same value and gradient."""
    if not isinstance(trial.layer, torch.nn.Module):
        raise LeftOut("not an nn.Module")
    v = trial.cotangent("copy")
    expected = _value_and_gradient(trial.layer, trial, v)
    twin = copy.deepcopy(trial.layer)
    error = _either(expected, _value_and_gradient(twin, trial, v))
    with torch.no_grad():
        for t in [*twin.parameters(), *twin.buffers()]:
            if t.is_floating_point():
                t.add_(torch.ones_like(t))
    twin.load_state_dict(trial.layer.state_dict())
    error = max(error, _either(expected, _value_and_gradient(twin, trial, v)))
    return Measure(error, trial.identity_tolerance, "a copy gives another value or gradient")


def _value_and_gradient(layer: Any, trial: Trial, v: Tensors) -> tuple[Tensor, Tensor]:
    leaves = live(trial.leaves)
    y = trial.outputs(leaves, layer)
    return flat([t.detach() for t in y]), flat(pull(y, leaves, v))


def _either(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> float:
    """The larger of the errors of value and gradient."""
    return max(relative(a[0], b[0]), relative(a[1], b[1]))


def keeps_no_memory(trial: Trial) -> Measure:
    """No tensor stays alive after a call and its backward, over repeated calls."""
    v = trial.cotangent("memory")
    for _ in range(_WARM_UP):
        trial.gradient(live(trial.leaves), v)
    before = _living()
    for _ in range(_CALLS):
        trial.gradient(live(trial.leaves), v)
    growth = (_living() - before) / _CALLS
    return Measure(max(growth, 0.0), 0.5, f"{growth:.1f} more tensors alive after each call")


def _living() -> int:
    gc.collect()
    return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())
