"""Who is timed: ours, what one would write by hand, and the peers. Each system is a function (work, W) -> callable x -> y.

Work "root": F(x, y) = y + tanh(W y) / 2 - x.  Work "deq": y = tanh(W y + x).  Rows of x and y are samples.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import implayer

TOLERANCE = 1e-9
Layer = Callable[[Tensor], Tensor]
System = Callable[[str, Tensor], Layer]


def residual(work: str, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """F for both works; for "deq" it is f - y."""
    return y + 0.5 * torch.tanh(y @ w.mT) - x if work == "root" else torch.tanh(y @ w.mT + x) - y


def _ours(solver: Any, adjoint: Any) -> System:
    def make(work: str, w: Tensor) -> Layer:
        return implayer.ImplicitLayer(
            lambda x, y: residual(work, w, x, y),
            solver,
            initial=torch.zeros_like,
            adjoint=adjoint,
            sign=-1 if work == "root" else 1,
        )

    return make


def _krylov(solver: Any) -> implayer.ImplicitAdjoint:
    return implayer.ImplicitAdjoint(linear_solver=solver)


newton = _ours(implayer.Newton(), implayer.ImplicitAdjoint())
matrix_free = _ours(implayer.Picard(rtol=0.0), _krylov(implayer.BiCGSTAB(rtol=1e-10)))
anderson = _ours(implayer.Anderson(rtol=0.0), _krylov(implayer.GMRES(rtol=1e-10)))
normal_equations = _ours(implayer.Picard(rtol=0.0), _krylov(implayer.LSMR(rtol=1e-5)))


def handwritten(work: str, w: Tensor) -> Layer:
    """A closed-form Jacobian, a loop and a dense adjoint: nothing general in it."""

    def derivative(w: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        slope = 0.5 * (1 - torch.tanh(y @ w.mT) ** 2) if work == "root" else y**2 - 1
        return slope, torch.eye(len(w), dtype=w.dtype) + slope.unsqueeze(-1) * w

    class Equation(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:  # type: ignore[override]
            y = torch.zeros_like(x)
            for _ in range(200):
                r = residual(work, w, x, y)
                if r.abs().max() < TOLERANCE:
                    break
                y = (
                    y + r
                    if work == "deq"
                    else y - torch.linalg.solve(derivative(w, x, y)[1], r.unsqueeze(-1)).squeeze(-1)
                )
            ctx.save_for_backward(x, y, w)
            return y

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
            x, y, w = ctx.saved_tensors
            slope, jacobian = derivative(w, x, y)
            u = torch.linalg.solve(jacobian.mT, g.unsqueeze(-1)).squeeze(-1)
            return (u if work == "root" else -slope * u), -(slope * u).mT @ y

    return lambda x: Equation.apply(x, w)


def handwritten_autograd(work: str, w: Tensor) -> Layer:
    """The same loop and adjoint with the Jacobian by autograd: what any general layer has to pay."""

    def jacobian(w: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            r = residual(work, w, x, y)
            rows = torch.eye(y.shape[-1], dtype=y.dtype).unsqueeze(1).expand(-1, len(y), -1)
            return r.detach(), torch.autograd.grad(r, y, rows, is_grads_batched=True)[0].movedim(0, 1)

    class Equation(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:  # type: ignore[override]
            y = torch.zeros_like(x)
            for _ in range(200):
                r, j = (residual(work, w, x, y), None) if work == "deq" else jacobian(w, x, y)
                if r.abs().max() < TOLERANCE:
                    break
                y = y + r if j is None else y - torch.linalg.solve(j, r.unsqueeze(-1)).squeeze(-1)
            ctx.save_for_backward(x, y, w)
            return y

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
            x, y, w = ctx.saved_tensors
            u = -torch.linalg.solve(jacobian(w, x, y)[1].mT, g.unsqueeze(-1)).squeeze(-1)
            with torch.enable_grad():
                x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
                return torch.autograd.grad(residual(work, w, x, y), (x, w), u)

    return lambda x: Equation.apply(x, w)


def torchdeq(work: str, w: Tensor) -> Layer:
    """TorchDEQ with its exact (implicit) gradient and Anderson both ways."""
    from torchdeq import get_deq

    deq = get_deq(
        f_solver="anderson", b_solver="anderson", f_tol=TOLERANCE, b_tol=TOLERANCE, f_max_iter=200, b_max_iter=200,
        f_stop_mode="abs", b_stop_mode="abs", ift=True,
    )  # fmt: skip
    sign = -1 if work == "root" else 1
    return lambda x: deq(lambda y: y + sign * residual(work, w, x, y), torch.zeros_like(x))[0][-1]


def torchopt(work: str, w: Tensor) -> Layer:
    """TorchOpt's `custom_root` with its default adjoint, conjugate gradients on the normal equations."""
    import torchopt as to

    solver = to.linear_solve.solve_normal_cg(maxiter=500, atol=1e-10)

    @to.diff.implicit.custom_root(lambda y, w, x: residual(work, w, x, y), argnums=(1, 2), solve=solver)
    def solve(y: Tensor, w: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            for _ in range(400):
                r = residual(work, w, x, y)
                y = y - r if work == "root" else y + r
                if r.abs().max() < TOLERANCE:
                    break
        return y

    return lambda x: solve(torch.zeros_like(x), w, x)


def _jax(name: str) -> Callable[[str, Any], Any]:
    """A compiled JAX system: (work, W) -> batched function (W, x) -> y, to be jitted."""

    def make(work: str, n: int) -> Any:
        del n
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_enable_x64", True)

        def single(y: Any, w: Any, x: Any) -> Any:
            return y + 0.5 * jnp.tanh(w @ y) - x if work == "root" else jnp.tanh(w @ y + x) - y

        if name == "optimistix":
            import optimistix

            solver = optimistix.Newton(rtol=TOLERANCE, atol=TOLERANCE)

            def solve(w: Any, x: Any) -> Any:
                F = lambda y, arguments: single(y, *arguments)  # noqa: E731
                return optimistix.root_find(F, solver, jnp.zeros_like(x), args=(w, x), max_steps=100).value
        else:
            import jaxopt

            sign = -1 if work == "root" else 1
            step = lambda y, w, x: y + sign * single(y, w, x)  # noqa: E731
            iteration = jaxopt.AndersonAcceleration(step, history_size=5, tol=TOLERANCE, maxiter=200)

            def solve(w: Any, x: Any) -> Any:
                return iteration.run(jnp.zeros_like(x), w, x).params

        return jax.vmap(solve, in_axes=(None, 0))

    return make


TORCH: dict[str, System] = {
    "implayer Newton": newton,
    "implayer Picard + BiCGSTAB": matrix_free,
    "implayer Anderson + GMRES": anderson,
    "implayer Picard + LSMR 1e-5": normal_equations,
    "handwritten": handwritten,
    "handwritten-autograd": handwritten_autograd,
    "torchdeq": torchdeq,
    "torchopt": torchopt,
}
JAX = {"jaxopt": _jax("jaxopt"), "optimistix": _jax("optimistix")}
