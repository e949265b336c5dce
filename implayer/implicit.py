"""The theorem: y with F(x, y) = 0 moves by dy = -J^-1 F_x dx. In every mode and to every order, in one place.

After a solve without a graph, chord steps `y <- y - inverse(F(x, y))` with the inverse of J *frozen* at the solution give
y its derivatives: step k makes those of order k exact, because the error of a chord step is of one order higher than its
start. Only F is differentiated. The only autograd Functions of the library are here:

- `Below` runs something without derivative on plain tensors, below all transforms;
- `FrozenSolve` applies a matrix-free frozen inverse, a linear map whose derivative is itself;
- `Unheld` and `MapStep` attach the truncated gradient to an evaluation of the fixed-point map;
- `Earlier` spares a first derivative the chord steps before the last one, which only higher ones need;
- `Postponed` gives a solution its derivative only when that is asked for, and tapes nothing before;
- `Spoil` makes NaN of failed samples and of their derivatives;
- `Fence` refuses derivatives beyond the order that the chord steps make exact.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .errors import ImplayerError, OrderError
from .linear.base import AbstractDenseInverse, AbstractInverse, LinearReport
from .linear.call import LinearCall
from .modes import forward_mode, transform_counts, transforms, unhooked

_functorch = torch._C._functorch  # type: ignore[attr-defined]
_NO_LEGACY_BATCHES = (
    "`torch.autograd.grad(..., is_grads_batched=True)` does not work with a matrix-free adjoint: use `torch.func.vjp` with "
    "`torch.func.vmap`, or a dense `linear_solver` such as `LU()`."
)


# --------------------------------------------------------------------------------------------- below all transforms
@dataclass
class Descent:
    """What `Below` runs: `run(function, *tensors) -> tensors with the samples first`.

    `function(tensors, unknowns)` is the residual on lists of tensors; each vmap level that is left adds one batch axis in
    front and maps it once more. The first `count` tensors belong to it; the others have all axes of the batch.
    `levels` collects the vmap levels, innermost first.
    """

    run: Callable[..., tuple[Tensor, ...]]
    function: Callable[..., Any]
    count: int
    batch: tuple[int, ...] = ()
    levels: list[int] = field(default_factory=list)

    def under_vmap(self, size: int, in_dims: tuple[int | None, ...]) -> "Descent":
        """The same one transform further down: the residual of the inner problem, mapped over one more axis."""
        self.levels.append(len(transforms()) + 1)
        dims = tuple(None if d is None else 0 for d in in_dims[: self.count])
        mapped = torch.vmap(self.function, in_dims=(dims, 0), randomness="same")
        return replace(self, function=mapped, batch=(size, *self.batch))


class Below(torch.autograd.Function):
    """Run a `Descent` on the plain tensors below all transforms. Its outputs are constants."""

    @staticmethod
    def forward(descent: Descent, *tensors: Tensor) -> tuple[Tensor, ...]:
        return descent.run(descent, *tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(*output)
        ctx.count = len(output)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        return (None,) * len(ctx.needs_input_grad)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return (None,) * ctx.count

    @staticmethod
    def vmap(info: Any, in_dims: Any, descent: Descent, *tensors: Tensor) -> Any:
        moved = [t if d is None else t.movedim(d, 0) for t, d in zip(tensors, in_dims[1:], strict=True)]
        for i in range(descent.count, len(moved)):
            if in_dims[1 + i] is None:
                moved[i] = moved[i].expand(info.batch_size, *moved[i].shape)
        outputs = Below.apply(descent.under_vmap(info.batch_size, in_dims[1:]), *moved)
        return tuple(_split_first(out, info.batch_size) for out in outputs), (0,) * len(outputs)


def _split_first(t: Tensor, size: int) -> Tensor:
    """(size * samples, ...) -> (size, samples, ...), also where there is nothing to split.

    Contiguous, because `torch.linalg.lu_solve` (2.13) is silently wrong for column-major factors with a batch axis of one.
    """
    return t.reshape(size, t.shape[0] // max(size, 1), *t.shape[1:]).contiguous()


# ------------------------------------------------------------------------------------------- the frozen linear map
class FrozenSolve(torch.autograd.Function):
    """b -> J^-1 b with J frozen: linear, so its transpose is its backward and itself is its forward derivative.

    `anchor` (samples, n) is the solution; it tells a vmap rule over which levels the problem itself is batched.
    """

    @staticmethod
    def forward(b: Tensor, anchor: Tensor, call: LinearCall) -> Tensor:
        return torch.zeros_like(anchor) if call.skip else call.solve(b)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, anchor, ctx.call = inputs
        ctx.save_for_backward(anchor)
        ctx.save_for_forward(anchor)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        (g,) = cotangents
        if _functorch.is_legacy_batchedtensor(g):
            raise ImplayerError(_NO_LEGACY_BATCHES)
        return FrozenSolve.apply(g, *ctx.saved_tensors, ctx.call.turned()), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return FrozenSolve.apply(tangents[0], *ctx.saved_tensors, replace(ctx.call, skip=False))

    @staticmethod
    def vmap(info: Any, in_dims: Any, b: Tensor, anchor: Tensor, call: LinearCall) -> Any:
        size, level = info.batch_size, len(transforms()) + 1
        b = b.unsqueeze(0).expand(size, *b.shape) if in_dims[0] is None else b.movedim(in_dims[0], 0)
        if level not in call.levels:  # many right-hand sides of one problem
            return torch.stack([FrozenSolve.apply(b[i], anchor, call) for i in range(size)]), 0
        anchor = anchor.expand(size, *anchor.shape) if in_dims[1] is None else anchor.movedim(in_dims[1], 0)
        lower = replace(call, levels=tuple(other for other in call.levels if other != level))
        out = FrozenSolve.apply(b.flatten(0, 1), anchor.flatten(0, 1), lower)
        return _split_first(out, size), 0


# ------------------------------------------------------------------------------------------- the truncated gradient
gradient_edge = torch.autograd.graph.get_gradient_edge


class Unheld(torch.autograd.Function):
    """y as a point of the graph that does not keep y alive; `mark` is any scalar that requires grad."""

    @staticmethod
    def forward(y: Tensor, mark: Tensor) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        return None, None


class MapStep(torch.autograd.Function):
    """f(x, y) -> itself, whose cotangent c becomes the sum of (df/dy')^i c for i = 0 ... terms.

    `start` and `end` are the edges of the graph at y and at f(x, y): tensors there would keep their arrays alive.
    """

    @staticmethod
    def forward(image: Tensor, end: Any, start: Any, terms: int) -> Tensor:
        return image.view_as(image)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, ctx.end, ctx.start, ctx.terms = inputs

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        (total,) = cotangents
        if _functorch.is_legacy_batchedtensor(total):
            raise ImplayerError(_NO_LEGACY_BATCHES)
        term = total
        for _ in range(ctx.terms):
            (term,) = torch.autograd.grad(ctx.end, ctx.start, term, retain_graph=True, materialize_grads=True)
            total = total + term  # with a graph to the fence above, where derivatives of derivatives are refused
        return total, None, None, None


# ------------------------------------------------------------------------------------------------- earlier chord steps
class Earlier(torch.autograd.Function):
    """The identity on an iterate before the last: its cotangent, zero in exact arithmetic for a first derivative, is dropped.

    A chord step's cotangent for its own start is g - J' J^-T g = 0 where J is constant, as in a quadratic program (where
    it is not, it makes the gradient as accurate as the polished value). It then matters only to higher derivatives. Those
    begin with a derivative that has a graph, which passes here first and leaves the way open.
    """

    @staticmethod
    def forward(y: Tensor) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.open = False

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        ctx.open = ctx.open or torch.is_grad_enabled() or forward_mode() or bool(sum(transform_counts()))
        return cotangents[0] if ctx.open else None


# ------------------------------------------------------------------------------------------- derivatives on demand
@dataclass(frozen=True)
class Demand:
    """`pull(*g)`: cotangents of the tensors from those of the outputs, or None; `attached(*tensors)`: the outputs, taped.
    It gets all tensors but the last `live` ones, which it meets as they are, in closures and modules."""

    pull: Callable[..., Sequence[Any]]
    attached: Callable[..., tuple[Tensor, ...]]
    live: int = 0


class Postponed(torch.autograd.Function):
    """The first `count` leaves, functions of the others, for eager reverse mode; taped only for a derivative with a graph."""

    @staticmethod
    def forward(ctx: Any, demand: Demand, count: int, *leaves: Tensor) -> tuple[Tensor, ...]:
        carrier, ctx.count = torch.empty(0), count  # what hangs on a saved tensor is set free with the graph
        carrier.demand = demand  # type: ignore[attr-defined]
        ctx.save_for_backward(carrier, *leaves[count:])
        ctx.set_materialize_grads(False)
        return tuple(y.detach() for y in leaves[:count])

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        given, head = [g for g in cotangents if g is not None], (None,) * (2 + ctx.count)
        if not given:
            return (None,) * len(ctx.needs_input_grad)
        needed, again = ctx.needs_input_grad[len(head) :], torch.is_grad_enabled()
        carrier, *tensors = ctx.saved_tensors
        if not (again or transforms() or any(map(_functorch.is_legacy_batchedtensor, given))):
            pulled = zip(carrier.demand.pull(*cotangents), needed, strict=True)
            return *head, *(part if need else None for part, need in pulled)
        count = len(tensors) - carrier.demand.live
        with torch.enable_grad(), unhooked(tensors[count:]):  # hooks of a tensor are for the sum of all its cotangents
            tensors[:count] = (t.view_as(t) if need else t for t, need in zip(tensors[:count], needed, strict=False))
            ys = carrier.demand.attached(*tensors[:count])
            ys = [y for y, g in zip(ys, cotangents, strict=True) if g is not None]
            wanted = [tensor for tensor, need in zip(tensors, needed, strict=True) if need]
            found = iter(torch.autograd.grad(ys, wanted, given, create_graph=again, allow_unused=True))
        return *head, *(next(found) if need else None for need in needed)


# ------------------------------------------------------------------------------------------------- samples that failed
class Spoil(torch.autograd.Function):
    """NaN in the rows of y (*samples, n) where `failed` (*samples), and in their derivatives of every order, unless zero.

    `derived`: y is a cotangent or a tangent, of which a row of zeros says that the sample does not count, and stays.
    """

    @staticmethod
    @torch.compiler.disable  # Inductor (2.13) makes code of it that asks wrapped tensors of a transform for their data
    def forward(y: Tensor, failed: Tensor, derived: bool) -> Tensor:
        spoiled = failed & (y != 0).any(-1) if derived else failed
        return torch.where(spoiled.unsqueeze(-1), torch.nan, y)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        return Spoil.apply(*cotangents, *ctx.saved_tensors, True), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return Spoil.apply(tangents[0], *ctx.saved_tensors, True)

    @staticmethod
    def vmap(info: Any, in_dims: Any, y: Tensor, failed: Tensor, derived: bool) -> Any:
        pairs = zip((y, failed), in_dims[:2], strict=True)
        y, failed = (t.expand(info.batch_size, *t.shape) if d is None else t.movedim(d, 0) for t, d in pairs)
        return Spoil.apply(y, failed, derived), 0


# ------------------------------------------------------------------------------------------------------- the fence
@dataclass(frozen=True)
class Limit:
    """How many more derivatives are exact."""

    left: int
    order: int

    def spend(self) -> "Limit":
        """One derivative less."""
        if self.left <= 0:
            raise OrderError(
                f"a derivative of order {self.order + 1} was asked for, but this layer makes derivatives exact up to order "
                f"{self.order}. Pass `adjoint=ImplicitAdjoint(order={self.order + 1})`"
            )
        return Limit(self.left - 1, self.order)


class Fence(torch.autograd.Function):
    """The identity, which counts derivatives and raises when they are of too high an order.

    A cotangent that is itself differentiable leaves the fence through a new fence of one order less. `anchor`, which
    depends on all that y depends on, makes it count also where the cotangent is a constant: the derivative of a fenced
    cotangent is, formally, zero times a derivative of the anchor, fenced again.
    """

    @staticmethod
    def forward(y: Tensor, anchor: Tensor, limit: Limit) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, anchor, ctx.limit = inputs
        ctx.save_for_backward(anchor)
        ctx.save_for_forward(anchor)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        (g,), limit = cotangents, ctx.limit.spend()
        if not torch.is_grad_enabled():
            return g, None, None
        (anchor,) = ctx.saved_tensors
        taint = None
        if limit.left < limit.order - 1 and ctx.needs_input_grad[1]:
            taint = Fence.apply(torch.zeros_like(anchor), anchor, limit)
        return Fence.apply(g, anchor, limit), taint, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, y: Tensor, anchor: Tensor, limit: Limit) -> Any:
        y, anchor = (t if d is None else t.movedim(d, 0) for t, d in zip((y, anchor), in_dims[:2], strict=True))
        return Fence.apply(y, anchor, limit), None if in_dims[0] is None else 0

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        limit = ctx.limit.spend()
        (tangent, *_) = tangents
        if tangent is None or not (torch.is_grad_enabled() and tangent.requires_grad):
            return None if tangent is None else tangent.view_as(tangent)
        return Fence.apply(tangent, *ctx.saved_tensors, limit)


for _function in (Below, FrozenSolve, Unheld, MapStep, Earlier, Spoil, Fence):
    # `apply` asks for the signature in every call, which costs more than a product with a small Jacobian; it is kept here.
    _function.forward.__signature__ = inspect.signature(_function.forward)  # type: ignore[attr-defined]


# --------------------------------------------------------------------------------------------------- the derivative
@dataclass(frozen=True)
class Attachment:
    """y with its derivatives, and the residual at its value."""

    y: Tensor
    residual: Tensor
    polished: bool


def attach(
    residual: Callable[[Tensor], Tensor],
    y: Tensor,
    inverse: AbstractInverse,
    steps: int,
    *,
    first: Tensor | None = None,
    hold: Tensor | None = None,
    judge: Callable[[LinearReport], Tensor | None] = lambda report: None,
    levels: tuple[int, ...] = (),
) -> Attachment:
    """Give a solution its implicit derivatives up to order `steps`, by as many chord steps (see the module).

    **Arguments**

    - `residual`: (samples, n) -> (samples, n or m), live: everything that it uses is differentiated.
    - `y`: (samples, n) the solution, without a graph.
    - `inverse`: the frozen inverse of d residual / dy at y.
    - `first`: the residual at y where it is known already.
    - `hold`: (samples,) True for samples whose value must not be polished (they did not converge).
    - `judge`: receives the report of every matrix-free solve, and may return the samples whose derivative is NaN then.
    - `levels`: the vmap levels below which a matrix-free inverse lives.

    **Returns** the attached y. With a dense inverse all steps but the last also polish its value; the value of a
    matrix-free step is zero, because the residual is at tolerance anyway: it costs one adjoint solve and no more.
    """
    anchor, value = y, y
    spare = getattr(inverse, "constant", False) and not (forward_mode() or transforms())
    for step in range(steps):
        if step and spare:
            value = Earlier.apply(value)
        r = first if step == 0 and first is not None else residual(value)
        if isinstance(inverse, AbstractDenseInverse):
            s = inverse.apply(r)
            if step == steps - 1:
                s = s - s.detach()
            elif hold is not None:
                s = s - torch.where(hold.unsqueeze(-1), s.detach(), torch.zeros_like(s))
        else:
            s = FrozenSolve.apply(r, anchor, LinearCall(inverse, judge, levels, skip=True, last=step == steps - 1))
        value = value - s
    return Attachment(value, r.detach(), isinstance(inverse, AbstractDenseInverse))
