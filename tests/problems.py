"""Problems with exact answers. In each of them J differs from its transpose, and dF/dx depends on y where that is said.

A `Case` holds F, x, y0 and the root as a function of x, so that values and derivatives of any order have a reference.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from implayer.problem import Problem


def leaves(tree: Any) -> list[Tensor]:
    """The tensors of a nest."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


@dataclass(frozen=True)
class Case:
    """F(x, y) = 0 with y = root(x); `sign` makes y + sign * F a contraction where `contractive`."""

    name: str
    F: Callable[[Any, Any], Any]
    x: Any
    y0: Any
    root: Callable[[Any], Any]
    event_ndim: int = 1
    sign: int = 1
    contractive: bool = False

    @property
    def problem(self) -> Problem:
        return Problem(self.F, self.x, self.y0, self.event_ndim, self.sign)

    @property
    def answer(self) -> Any:
        return self.root(self.x)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def contraction_matrix(n: int, norm: float = 0.9, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """A matrix of that spectral norm, far from symmetric."""
    matrix = randn(n, n, seed=seed)
    return (matrix * norm / torch.linalg.matrix_norm(matrix, 2)).to(dtype)


def matrix_with_condition(n: int, condition: float, seed: int = 0, rows: int | None = None) -> Tensor:
    """(rows, n) with singular values from 1 to 1 / condition, evenly in the logarithm; not symmetric."""
    m = n if rows is None else rows
    u, _ = torch.linalg.qr(randn(m, m, seed=seed))
    v, _ = torch.linalg.qr(randn(n, n, seed=seed + 1))
    k = min(m, n)
    values = torch.logspace(0, -math.log10(condition), k, dtype=torch.float64)
    return u[:, :k] @ torch.diag(values) @ v[:, :k].mT


def linear(
    batch: int = 4, n: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64, condition: float = 10.0
) -> Case:
    """A y - x = 0: one step of Newton; y = A^-1 x."""
    matrix = matrix_with_condition(n, condition, seed).to(dtype)
    x = randn(batch, n, seed=seed + 2, dtype=dtype)
    return Case(
        "linear", lambda x, y: y @ matrix.mT - x, x, torch.zeros_like(x), lambda x: torch.linalg.solve(matrix, x.mT).mT
    )


def affine(batch: int = 4, n: int = 5, norm: float = 0.8, seed: int = 0, dtype: torch.dtype = torch.float64) -> Case:
    """The fixed point of W y + x: a contraction, F = W y + x - y."""
    W = contraction_matrix(n, norm, seed, dtype)
    eye = torch.eye(n, dtype=dtype)
    x = randn(batch, n, seed=seed + 1, dtype=dtype)
    return Case(
        "affine",
        lambda x, y: y @ W.mT + x - y,
        x,
        torch.zeros_like(x),
        lambda x: torch.linalg.solve(eye - W, x.mT).mT,
        contractive=True,
    )


def exponential(batch: int = 4, n: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64) -> Case:
    """exp(x) * (y - x W') - 1 = 0, so that dF/dx and dF/dy depend on both; y = x W' + exp(-x)."""
    W = contraction_matrix(n, 0.9, seed, dtype)
    x = 0.5 * randn(batch, n, seed=seed + 1, dtype=dtype)
    return Case(
        "exponential",
        lambda x, y: torch.exp(x) * (y - x @ W.mT) - 1,
        x,
        torch.zeros_like(x),
        lambda x: x @ W.mT + torch.exp(-x),
        sign=-1,
    )


def triangular(batch: int = 4, n: int = 4, seed: int = 0, dtype: torch.dtype = torch.float64) -> Case:
    """A system that is solved from its first row to its last: y_i + 0.5 tanh(y_{i-1}) x_i = x_i. J is triangular."""
    x = randn(batch, n, seed=seed, dtype=dtype)

    def F(x: Tensor, y: Tensor) -> Tensor:
        before = torch.cat([torch.zeros_like(y[..., :1]), y[..., :-1]], dim=-1)
        return y + 0.5 * torch.tanh(before) * x - x

    def root(x: Tensor) -> Tensor:
        columns = [x[..., 0]]
        for i in range(1, x.shape[-1]):
            columns.append(x[..., i] - 0.5 * torch.tanh(columns[-1]) * x[..., i])
        return torch.stack(columns, dim=-1)

    return Case("triangular", F, x, torch.zeros_like(x), root, sign=-1)


def square_root(batch: int = 4, seed: int = 0, dtype: torch.dtype = torch.float64) -> Case:
    """y^2 - x = 0 for scalar unknowns (`event_ndim=0`): y = sqrt(x)."""
    x = 0.5 + 4 * torch.rand(batch, generator=generator(seed), dtype=torch.float64).to(dtype)
    return Case("square_root", lambda x, y: y**2 - x, x, torch.ones_like(x), torch.sqrt, event_ndim=0)


def scalar() -> Case:
    """One scalar without any axis: x y - 1 = 0, y = 1 / x; dF/dx = y."""
    x = torch.tensor(2.5, dtype=torch.float64)
    return Case(
        "scalar", lambda x, y: x * y - 1, x, torch.tensor(0.1, dtype=torch.float64), lambda x: 1 / x, event_ndim=0
    )


def nest(batch: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64) -> Case:
    """y = {"a": (2,), "b": ((3,),)} coupled through a sum: a = x0 + 0.1 sum(b), b = exp(x1), with constants beside."""
    x = {
        "shift": randn(batch, 2, seed=seed, dtype=dtype),
        "rate": (0.3 * randn(batch, 3, seed=seed + 1, dtype=dtype), "note"),
    }

    def F(x: Any, y: Any) -> Any:
        a, (b,) = y["a"], y["b"]
        return {"first": a - x["shift"] - 0.1 * b.sum(-1, keepdim=True), "second": b - torch.exp(x["rate"][0])}

    def root(x: Any) -> Any:
        b = torch.exp(x["rate"][0])
        return {"a": x["shift"] + 0.1 * b.sum(-1, keepdim=True), "b": (b,)}

    y0 = {"a": torch.zeros(batch, 2, dtype=dtype), "b": (torch.zeros(batch, 3, dtype=dtype),)}
    return Case("nest", F, x, y0, root, sign=-1, contractive=True)


def wide(batch: int = 4, n: int = 5, m: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64) -> Case:
    """A y - x = 0 with fewer rows than unknowns, from zero: the answer is the shortest one, A^+ x."""
    matrix = matrix_with_condition(n, 5.0, seed, rows=m).to(dtype)
    x = randn(batch, m, seed=seed + 2, dtype=dtype)
    y0 = torch.zeros(batch, n, dtype=dtype)
    return Case("wide", lambda x, y: y @ matrix.mT - x, x, y0, lambda x: x @ torch.linalg.pinv(matrix).mT)


def tall(batch: int = 4, n: int = 3, m: int = 6, seed: int = 0, dtype: torch.dtype = torch.float64) -> Case:
    """A y - x in the sense of least squares: y = A^+ x, with a residual that does not vanish."""
    matrix = matrix_with_condition(n, 5.0, seed, rows=m).to(dtype)
    x = randn(batch, m, seed=seed + 2, dtype=dtype)
    y0 = torch.zeros(batch, n, dtype=dtype)
    return Case("tall", lambda x, y: y @ matrix.mT - x, x, y0, lambda x: x @ torch.linalg.pinv(matrix).mT)


def rosenbrock(batch: int = 3, dtype: torch.dtype = torch.float64) -> Case:
    """(10 (y1 - y0^2), x - y0) from the classical start: y = (x, x^2)."""
    x = torch.linspace(0.5, 1.5, batch, dtype=dtype).unsqueeze(-1)
    y0 = torch.tensor([-1.2, 1.0], dtype=dtype).expand(batch, 2).clone()
    return Case(
        "rosenbrock",
        lambda x, y: torch.stack([10 * (y[..., 1] - y[..., 0] ** 2), x[..., 0] - y[..., 0]], dim=-1),
        x,
        y0,
        lambda x: torch.cat([x, x**2], dim=-1),
    )


def equilibrium(
    batch: int = 4, n: int = 6, norm: float = 0.9, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Case:
    """F = tanh(y W' + x) - y; the answer by 2000 steps of the contraction, exact to rounding."""
    W = contraction_matrix(n, norm, seed, dtype)
    x = randn(batch, n, seed=seed + 1, dtype=dtype)

    def root(x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        for _ in range(2000):
            y = torch.tanh(y @ W.mT + x)
        return y

    return Case(
        "equilibrium", lambda x, y: torch.tanh(y @ W.mT + x) - y, x, torch.zeros_like(x), root, contractive=True
    )


def ill_conditioned(batch: int = 3, n: int = 5, condition: float = 1e8, seed: int = 0) -> Case:
    """The linear problem with a condition at which few digits are left."""
    return linear(batch, n, seed, condition=condition)


def no_root(batch: int = 1, dtype: torch.dtype = torch.float64) -> Problem:
    """y^2 + 1 = 0: never to succeed; 0 is a stationary point of its square."""
    return Problem(lambda x, y: y**2 + 1, None, torch.full((batch, 1), 0.7, dtype=dtype))


def diverging(dtype: torch.dtype = torch.float64) -> Problem:
    """z = 3 z + x, as F = f - y: the fixed-point iteration triples its error."""
    return Problem(lambda x, y: 3 * y + x - y, torch.ones(2, 1, dtype=dtype), torch.zeros(2, 1, dtype=dtype))


SQUARE = [linear, affine, exponential, triangular, square_root, nest, rosenbrock, equilibrium]
"""Makers of square cases, all with defaults."""

CONTRACTIVE = [affine, equilibrium, nest]
"""Makers of cases for which y + sign * F is a contraction."""


class Counted:
    """F with a count of its evaluations."""

    def __init__(self, F: Callable[[Any, Any], Any]):
        self.F, self.calls = F, 0

    def __call__(self, x: Any, y: Any) -> Any:
        self.calls += 1
        return self.F(x, y)
