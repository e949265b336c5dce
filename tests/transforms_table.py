"""The table "transform x adjoint -> exact | typed error" of `docs/transforms.md`: `python -m tests.transforms_table` writes it.

Every cell is an experiment: the transform is applied to a layer and to the same function written as an explicit iteration
that torch differentiates by itself. "exact" means a relative difference of at most 1e-7; an error is named by its type.
Anything else is a defect, and the test fails.
"""

import functools
import itertools
import pathlib
import threading
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._pytree import tree_leaves

import implayer

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "transforms.md"
Function = Callable[..., Tensor]

_generator = torch.Generator().manual_seed(1)


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=_generator, dtype=torch.float64)


W, ONE, BATCH, WS = _random(3, 3) / 3, _random(3), _random(4, 3), _random(5, 3, 3) / 3
COTANGENTS = _random(2, 4, 3)


def explicit(w: Tensor, x: Tensor) -> Tensor:
    """The equilibrium of y = tanh(W y + x), unrolled."""
    y = torch.zeros_like(x)
    for _ in range(80):
        y = torch.tanh(y @ w.mT + x)
    return y


def implicit(adjoint: Any) -> Function:
    """The same by a layer; W is a closed-over tensor, which is the harder way to pass it."""

    def call(w: Tensor, x: Tensor) -> Tensor:
        layer = implayer.FixedPointLayer(
            lambda x, y: torch.tanh(y @ w.mT + x),
            implayer.Picard(atol=1e-13, rtol=1e-13),
            initial=torch.zeros_like,
            adjoint=adjoint,
        )
        return layer(x)

    return call


ADJOINTS: dict[str, Any] = {
    "dense": implayer.ImplicitAdjoint(linear_solver=implayer.LU()),
    "dense, order 3": implayer.ImplicitAdjoint(linear_solver=implayer.LU(), order=3),
    "matrix-free": implayer.ImplicitAdjoint(linear_solver=implayer.GMRES(rtol=1e-12)),
    "matrix-free, order 2": implayer.ImplicitAdjoint(linear_solver=implayer.GMRES(rtol=1e-12), order=2),
    "unrolled": implayer.UnrolledAdjoint(),
}


def _loss(f: Function) -> Function:
    return lambda w, x: (f(w, x) ** 3).sum()


def _eager(order: int) -> Callable[[Function], Any]:
    def run(f: Function) -> Any:
        w, x = W.clone().requires_grad_(), BATCH.clone().requires_grad_()
        value = _loss(f)(w, x)
        for _ in range(order):
            gradients = torch.autograd.grad(value, (w, x), create_graph=True)
            value = torch.stack([(g**2).sum() for g in gradients]).sum()
        return gradients

    return run


def _dual(f: Function) -> Any:
    with forward_ad.dual_level():
        x = forward_ad.make_dual(BATCH, torch.ones_like(BATCH))
        return forward_ad.unpack_dual(f(W, x)).tangent


def _dual_of_gradient(f: Function) -> Any:
    x = BATCH.clone().requires_grad_()
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        (gradient,) = torch.autograd.grad(_loss(f)(W, dual), dual, create_graph=True)
        return forward_ad.unpack_dual(gradient).tangent


def _nest(*transforms: Callable[..., Any]) -> Callable[[Function], Any]:
    def run(f: Function) -> Any:
        composed = _loss(f)
        for transform in reversed(transforms):
            composed = transform(composed, argnums=1)
        return composed(W, ONE)

    return run


def _vmap(in_dims: tuple[int | None, int | None], inner: Callable[[Function], Function]) -> Callable[[Function], Any]:
    arguments = (W if in_dims[0] is None else WS, ONE if in_dims[1] is None else _FIVE)
    return lambda f: torch.func.vmap(inner(f), in_dims)(*arguments)


_FIVE = _random(5, 3)


def _eager_over(inner: Callable[[Function, Tensor], Tensor]) -> Callable[[Function], Any]:
    def run(f: Function) -> Any:
        w = W.clone().requires_grad_()
        return torch.autograd.grad(inner(f, w), w)

    return run


def _checkpointed(use_reentrant: bool) -> Callable[[Function], Any]:
    def run(f: Function) -> Any:
        w, x = W.clone().requires_grad_(), BATCH.clone().requires_grad_()
        y = torch.utils.checkpoint.checkpoint(f, w, x, use_reentrant=use_reentrant)
        return torch.autograd.grad((y**3).sum(), (w, x)) if not use_reentrant else _backward((y**3).sum(), w, x)

    return run


def _backward(value: Tensor, *leaves: Tensor) -> list[Tensor | None]:
    value.backward()
    return [leaf.grad for leaf in leaves]


def _compiled(transform: Callable[[Function], Function]) -> Callable[[Function], Any]:
    def run(f: Function) -> Any:
        torch._dynamo.reset()
        return torch.compile(transform(_loss(f)), backend="aot_eager")(W, BATCH)

    return run


def _compiled_eager(f: Function) -> Any:
    torch._dynamo.reset()
    w, x = W.clone().requires_grad_(), BATCH.clone().requires_grad_()
    return torch.autograd.grad(torch.compile(_loss(f), backend="aot_eager")(w, x), (w, x))


def _threads(f: Function) -> Any:
    results: list[Any] = [None] * 8

    def work(i: int) -> None:
        results[i] = _eager(1)(f)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return results


def _autocast(f: Function) -> Any:
    with torch.autocast("cpu", enabled=f is not explicit):
        return _eager(1)(f)


def _grads_batched(f: Function) -> Any:
    x = BATCH.clone().requires_grad_()
    return torch.autograd.grad(f(W, x), x, COTANGENTS, is_grads_batched=True)


def _linearize(f: Function) -> Any:
    value, push = torch.func.linearize(lambda x: f(W, x), BATCH)
    return value, push(torch.ones_like(BATCH))


def _identity(f: Function) -> Function:
    return f


def _rows() -> dict[str, Callable[[Function], Any]]:
    rev, fwd, func = torch.func.jacrev, torch.func.jacfwd, torch.func
    letters = {"jacrev": rev, "jacfwd": fwd}
    rows: dict[str, Callable[[Function], Any]] = {
        "`autograd.grad`": _eager(1),
        "`autograd.grad`, twice": _eager(2),
        "`autograd.grad`, three times": _eager(3),
        "`forward_ad`": _dual,
        "`forward_ad` of `autograd.grad`": _dual_of_gradient,
        "`func.grad`": lambda f: func.grad(_loss(f), argnums=(0, 1))(W, BATCH),
        "`func.vjp`": lambda f: func.vjp(f, W, BATCH)[1](BATCH),
        "`func.jvp`": lambda f: func.jvp(f, (W, BATCH), (W, BATCH)),
        "`func.linearize`": _linearize,
        "`func.jacrev`": lambda f: rev(f, argnums=(0, 1))(W, ONE),
        "`func.jacfwd`": lambda f: fwd(f, argnums=(0, 1))(W, ONE),
        "`func.hessian`": lambda f: func.hessian(_loss(f), argnums=(0, 1))(W, ONE),
    }
    for names in [*itertools.product(letters, repeat=2), *itertools.product(letters, repeat=3)]:
        rows[" of ".join(f"`{name}`" for name in names)] = _nest(*(letters[name] for name in names))
    for dims in ((None, 0), (0, None), (0, 0)):
        rows[f"`vmap`, in_dims {dims}"] = _vmap(dims, _identity)
        rows[f"`vmap` of `grad`, in_dims {dims}"] = _vmap(dims, lambda f: func.grad(_loss(f), argnums=(0, 1)))
        rows[f"`vmap` of `jacfwd`, in_dims {dims}"] = _vmap(dims, lambda f: fwd(f, argnums=1))
        rows[f"`vmap` of `hessian`, in_dims {dims}"] = _vmap(dims, lambda f: func.hessian(_loss(f), argnums=1))
    rows |= {
        "`vmap` of `vmap` of `grad`": lambda f: func.vmap(
            lambda w: func.vmap(lambda x: func.grad(_loss(f))(w, x))(BATCH)
        )(WS),
        "`grad` of `vmap`": lambda f: func.grad(lambda w: func.vmap(_loss(f), (None, 0))(w, _FIVE).sum())(W),
        "`autograd.grad` over `vmap`": _eager_over(lambda f, w: func.vmap(_loss(f), (None, 0))(w, _FIVE).sum()),
        "`autograd.grad` over `func.grad`": _eager_over(lambda f, w: (func.grad(_loss(f))(w, BATCH) ** 2).sum()),
        "`autograd.grad` over `func.jvp`": _eager_over(
            lambda f, w: (func.jvp(lambda x: f(w, x), (BATCH,), (BATCH,))[1] ** 2).sum()
        ),
        "`autograd.grad(is_grads_batched=True)`": _grads_batched,
        "`checkpoint(use_reentrant=False)`": _checkpointed(False),
        "`checkpoint(use_reentrant=True)`": _checkpointed(True),
        "`compile` of the layer, `autograd.grad`": _compiled_eager,
        "`compile` of `func.grad`": _compiled(lambda loss: func.grad(loss, argnums=(0, 1))),
        "`compile` of `func.jvp`": _compiled(lambda loss: lambda w, x: func.jvp(loss, (w, x), (w, x))),
        "eight threads": _threads,
        "`autocast`": _autocast,
    }
    return rows


ROWS = _rows()


@functools.cache
def reference(row: str) -> list[Tensor]:
    """The derivative of the explicit iteration, uncompiled."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [t.detach() for t in tree_leaves(ROWS[row](explicit))]


def outcome(row: str, column: str) -> str:
    """One experiment: "exact", the name of a typed error, or what went wrong."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = [t.detach() for t in tree_leaves(ROWS[row](implicit(ADJOINTS[column])))]
    except implayer.ImplayerError as error:
        return f"`{type(error).__name__}`"
    expected = reference(row)
    worst = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True))
    return "exact" if worst <= 1e-7 else f"WRONG by {worst:.1e}"


def page() -> str:
    """The page as Markdown."""
    lines = [
        "# Which transforms work",
        "",
        "Every cell is an experiment of the test suite (`python -m tests.transforms_table` writes this page): the transform",
        "is applied to an equilibrium layer whose weight is a closed-over tensor, and to the same iteration unrolled.",
        "*exact* means a relative difference of at most 1e-7; otherwise the error that is raised. Nothing is silently wrong.",
        "",
        "| transform | " + " | ".join(ADJOINTS) + " |",
        "|---|" + "---|" * len(ADJOINTS),
    ]
    lines += [f"| {row} | " + " | ".join(outcome(row, column) for column in ADJOINTS) + " |" for row in ROWS]
    lines += [
        "",
        "`OrderError`: pass `adjoint=ImplicitAdjoint(order=...)`. Under torch.func the order follows the nesting by itself.",
        "The layer itself is never compiled: `torch.compile` breaks its graph around it, which costs speed, not exactness.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
