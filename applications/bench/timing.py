"""How systems are timed: the same problem, one thread, medians of repeated calls taken in turn, errors beside the times."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .systems import JAX, TORCH, residual


@dataclass(frozen=True)
class Problem:
    """One size of one work, with its answer polished to rounding and the gradient by a dense adjoint."""

    work: str
    batch: int
    n: int
    w: Tensor
    x: Tensor
    c: Tensor

    @staticmethod
    def make(work: str, batch: int, n: int, seed: int = 0) -> "Problem":
        """W of spectral norm 0.9, and x and c, all from one seed."""
        generator = np.random.default_rng(seed)
        w = generator.standard_normal((n, n))
        w *= 0.9 / np.linalg.norm(w, 2)
        x, c = generator.standard_normal((batch, n)), generator.standard_normal((batch, n))
        return Problem(work, batch, n, *(torch.from_numpy(a) for a in (w, x, c)))

    def reference(self) -> tuple[Tensor, Tensor, Tensor]:
        """y, and the gradient of sum(c * y) for x and W."""
        sign, y = (-1 if self.work == "root" else 1), torch.zeros_like(self.x)
        for _ in range(400):
            y = y + sign * residual(self.work, self.w, self.x, y)
        slope = 0.5 * (1 - torch.tanh(y @ self.w.mT) ** 2) if self.work == "root" else y**2 - 1
        jacobian = torch.eye(self.n, dtype=y.dtype) + slope.unsqueeze(-1) * self.w
        u = torch.linalg.solve(jacobian.mT, self.c.unsqueeze(-1)).squeeze(-1)
        return y, (u if self.work == "root" else -slope * u), -(slope * u).mT @ y


@dataclass
class Row:
    """What was measured of one system."""

    name: str
    forward_ms: float
    backward_ms: float
    value_error: float
    gradient_error: float

    @property
    def total(self) -> float:
        """Forward and backward, in milliseconds."""
        return self.forward_ms + self.backward_ms


Sample = tuple[float, float, list[Any]]


def torch_call(name: str, problem: Problem) -> Callable[[], Sample]:
    """One timed forward and backward of a torch system."""
    w, x = problem.w.clone().requires_grad_(), problem.x.clone().requires_grad_()
    layer = TORCH[name](problem.work, w)

    def call() -> Sample:
        t0 = time.perf_counter()
        y = layer(x)
        t1 = time.perf_counter()
        gx, gw = torch.autograd.grad((problem.c * y).sum(), (x, w))
        return t1 - t0, time.perf_counter() - t1, [y.detach(), gx, gw]

    return call


def jax_call(name: str, problem: Problem) -> Callable[[], Sample]:
    """The same for a jitted JAX system: the value, and value and gradient, timed apart."""
    batched = JAX[name](problem.work, problem.n)
    import jax
    import jax.numpy as jnp

    w, x, c = (jnp.asarray(t.numpy()) for t in (problem.w, problem.x, problem.c))
    value = jax.jit(batched)
    gradient = jax.jit(jax.grad(lambda x, w: (c * batched(w, x)).sum(), argnums=(0, 1)))

    def call() -> Sample:
        t0 = time.perf_counter()
        y = value(w, x).block_until_ready()
        t1 = time.perf_counter()
        gx, gw = gradient(x, w)
        gw.block_until_ready()
        whole = time.perf_counter() - t1
        arrays = [torch.from_numpy(np.array(a)) for a in (y, gx, gw)]
        return t1 - t0, max(whole - (t1 - t0), 0.0), arrays

    return call


def measure(names: list[str], problem: Problem, reps: int, report: Callable[[str], None]) -> list[Row]:
    """All systems, in turn within every repetition, so that a drift of the machine meets all of them."""
    calls: dict[str, Callable[[], Sample]] = {}
    for name in names:
        try:
            calls[name] = (torch_call if name in TORCH else jax_call)(name, problem)
            calls[name]()
        except ImportError as error:
            report(f"{name}: skipped, {error}")
            calls.pop(name, None)
    samples: dict[str, list[Sample]] = {name: [] for name in calls}
    for _ in range(reps):
        gc.collect()
        gc.disable()  # as `timeit` does: how long it takes depends on what else has been imported
        try:
            for name, call in calls.items():
                call()  # so that it is timed with its own code and data in the caches, not with those of the system before
                samples[name].append(call())
        finally:
            gc.enable()
    expected = problem.reference()
    rows = []
    for name, taken in samples.items():
        errors = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(taken[-1][2], expected, strict=True)]
        forward = 1e3 * statistics.median([sample[0] for sample in taken])
        backward = 1e3 * statistics.median([sample[1] for sample in taken])
        rows.append(Row(name, forward, backward, errors[0], max(errors[1:])))
    return rows
