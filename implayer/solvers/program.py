"""A constrained minimisation on vectors, as forward solvers see it, and what they do with an answer."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..linear.dense import matvec
from ..operators import JacobianOperator
from ..problem import Problem, VectorProblem, quasi_random

_BATCHED = 2**14  # entries of all Jacobians up to which batched products make them
_SAME = 0.4  # eps**0.4: relative error up to which derivatives that were constant once still are
_ENLARGED = 1e8  # f, h, g are scaled up by at most that


class HiddenParts(ValueError):
    """F gives the KKT residual but not what it is made of."""


@dataclass(frozen=True)
class Derivatives:
    """f (samples), its gradient and the Hessian of the Lagrangian; h and g with their Jacobians A and G."""

    f: Tensor
    h: Tensor
    g: Tensor
    gradient: Tensor
    hessian: Tensor
    A: Tensor
    G: Tensor

    def finite(self) -> Tensor:
        """(samples,) whether all is finite."""
        total = self.f + self.gradient.sum(-1) + self.hessian.sum((-2, -1))
        return (total + sum(t.flatten(1).sum(-1) for t in (self.h, self.g, self.A, self.G))).isfinite()

    def slope(self, nu: Tensor, lam: Tensor) -> Tensor:
        """The gradient of the Lagrangian, (samples, n)."""
        return self.gradient + matvec(self.A.mT, nu) + matvec(self.G.mT, lam)


@dataclass
class _Memory:
    """Derivatives at a point where the constraints were linear, and the objective quadratic if `quadratic`."""

    at: Derivatives | None = None
    y: Tensor | None = None
    quadratic: bool = False
    asked: bool = False  # whether they are constant

    def forget(self) -> None:
        """They were not constant after all."""
        self.at = self.y = None

    def __getitem__(self, index: Tensor) -> "_Memory":
        if self.at is None or self.y is None:
            return _Memory(asked=self.asked)
        rows = Derivatives(*(t[index] for t in vars(self.at).values()))
        return _Memory(rows, self.y[index], self.quadratic, True)

    def times(self, f: Tensor, h: Tensor, g: Tensor) -> "_Memory":
        """The same of scale * (f, h, g)."""
        if self.at is None:
            return _Memory(asked=self.asked)
        a, column = self.at, f.unsqueeze(-1)
        at = Derivatives(
            a.f * f, a.h * h, a.g * g, a.gradient * column, a.hessian * column.unsqueeze(-1), a.A * h.unsqueeze(-1),
            a.G * g.unsqueeze(-1),
        )  # fmt: skip
        return _Memory(at, self.y, self.quadratic, True)


@dataclass(frozen=True)
class Program:
    """min f(y) subject to h(y) = 0 and g(y) <= 0, scaled sample by sample: the solver works with scale * (f, h, g).

    Made of the problem of an `ArgminLayer`, whose unknowns are z = (y, nu, lam) and whose F gives (f, h, g) too.
    """

    vectors: VectorProblem
    n: int
    m: int
    p: int
    scales: tuple[Tensor, Tensor, Tensor] | None = None
    memory: _Memory = field(default_factory=_Memory, compare=False, repr=False)

    @staticmethod
    def of(problem: Problem, who: str) -> "Program":
        """Read sizes off the start (y0, nu0, lam0)."""
        vectors = problem.vectors()
        start = problem.y0
        events = vectors.layout.events
        if not isinstance(start, tuple) or len(start) != 3 or not all(isinstance(t, Tensor) for t in start[1:]):
            raise TypeError(
                f"`{who}` solves the problem of an `ArgminLayer`, whose unknowns are (y, multipliers of equalities, "
                f"multipliers of inequalities). For an equation F(x, y) = 0 use `Newton()`."
            )
        m, p = (events[k][-1] for k in (-2, -1))  # type: ignore[index]
        return Program(vectors, vectors.n - m - p, m, p)

    def split(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z as (y, nu, lam)."""
        y, nu, lam = z.split([self.n, self.m, self.p], dim=-1)
        return y, nu, lam

    def parts(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """f (samples,), h (samples, m), g (samples, p), scaled."""
        tree, nu, lam = self.vectors.layout.unpack(torch.cat([y, y.new_zeros(len(y), self.m + self.p)], -1))
        answer = self.vectors.problem.F(self.vectors.problem.x, (tree, nu.unsqueeze(-1), lam))
        sizes = [len(y), len(y) * self.m, len(y) * self.p]
        if not isinstance(answer, tuple) or [t.numel() if isinstance(t, Tensor) else None for t in answer] != sizes:
            raise HiddenParts("F is wrapped in a function that does not pass questions for (f, h, g) on.")
        f, h, g = answer
        f, h, g = f.reshape(len(y)), h.reshape(len(y), self.m), g.reshape(len(y), self.p)
        if self.scales is None:
            return f, h, g
        return f * self.scales[0], h * self.scales[1], g * self.scales[2]

    def derivatives(self, y: Tensor, nu: Tensor, lam: Tensor) -> Derivatives:
        """All that a Newton step needs, from one evaluation and n + m + p vector products for the whole batch.

        Constraints that are linear are differentiated once, and so is an objective that is quadratic then: one product
        is left, and whether the gradient is the predicted one is looked at each time.
        """
        with torch.enable_grad():
            leaf = y.detach().requires_grad_()
            f, h, g = self.parts(leaf)
            slope = _gradient(f.sum() + (nu * h).sum() + (lam * g).sum(), leaf)
        old = self._remembered(leaf.detach(), nu, lam, f.detach(), h.detach(), g.detach(), slope.detach())
        if old is not None and self.memory.quadratic:
            return old
        if old is not None:
            hessian = _jacobian(slope, leaf)
            return replace(old, hessian=(hessian + hessian.mT) / 2)
        with torch.enable_grad():
            rows = torch.cat([slope, h, g], -1)
        if rows.shape[-1] * y.numel() <= _BATCHED:
            jacobian = _jacobian(rows, leaf)
        else:  # products for h and g must not run through the graph of the gradient
            jacobian = torch.cat([_jacobian(t, leaf) for t in (slope, h, g)], 1)
        hessian, A, G = jacobian.split([self.n, self.m, self.p], dim=1)
        gradient = slope.detach() - matvec(A.mT, nu) - matvec(G.mT, lam)
        found = Derivatives(f.detach(), h.detach(), g.detach(), gradient, (hessian + hessian.mT) / 2, A, G)
        self._remember(found, leaf, rows)
        return found

    def _remember(self, at: Derivatives, leaf: Tensor, rows: Tensor) -> None:
        memory = self.memory
        if memory.asked:
            return
        memory.asked = True
        if _is_linear(rows, leaf, self.n):
            memory.at, memory.y = at, leaf.detach()
            memory.quadratic = _is_linear(rows, leaf, 0)

    def _remembered(self, y: Tensor, nu: Tensor, lam: Tensor, f: Tensor, h: Tensor, g: Tensor,
                    slope: Tensor) -> Derivatives | None:  # fmt: skip
        """The derivatives at y with the old A, G and Hessian, if h, g and the gradient are what these predict."""
        memory = self.memory
        if memory.at is None or memory.y is None or len(memory.y) != len(y):
            return None
        at, dy = memory.at, y - memory.y
        gradient = slope - matvec(at.A.mT, nu) - matvec(at.G.mT, lam)
        steady = _predicted(h, at.h, at.A, dy) and _predicted(g, at.g, at.G, dy)
        if steady and memory.quadratic and not _predicted(gradient, at.gradient, at.hessian, dy):
            memory.quadratic = False
        if not steady:
            memory.forget()
            return None
        return Derivatives(f, h, g, gradient, at.hessian, at.A, at.G)

    def slopes(self, y: Tensor, nu: Tensor, lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient of the Lagrangian, h and g: one vector product."""
        with torch.enable_grad():
            leaf = y.detach().requires_grad_()
            f, h, g = self.parts(leaf)
            total = f.sum() + (nu * h).sum() + (lam * g).sum()
            slope = torch.autograd.grad(total, leaf, materialize_grads=True)[0] if total.requires_grad else 0 * y
        return slope, h.detach(), g.detach()

    def scaled(self, y: Tensor, largest: float) -> "Program":
        """The same with gradients of at most `largest` at y, and of at least about one where f, h, g are small."""
        zero = y.new_zeros(len(y), 1)
        at = self.derivatives(y, zero.expand(-1, self.m), zero.expand(-1, self.p))
        bend = at.hessian.abs().amax((-1, -2)) * (1 + y.abs().amax(-1))
        steep = (at.gradient.abs().amax(-1), *(_widest(t) for t in (at.A, at.G)))
        small = (
            torch.maximum(steep[0], bend),
            *(torch.maximum(a, b.abs()) for a, b in zip(steep[1:], (at.h, at.g), strict=True)),
        )
        scales = tuple(_scale(a, b, largest) for a, b in zip(steep, small, strict=True))
        return replace(self, scales=scales, memory=self.memory.times(*scales))

    def unscaled(self, y: Tensor, nu: Tensor, lam: Tensor) -> Tensor:
        """z of the problem as it was given."""
        if self.scales is None:
            return torch.cat([y, nu, lam], -1)
        f, h, g = self.scales
        return torch.cat([y, nu * h / f.unsqueeze(-1), lam * g / f.unsqueeze(-1)], -1)

    @property
    def is_plain(self) -> bool:
        """Whether all scales are one."""
        return self.scales is None or all(bool((scale == 1).all()) for scale in self.scales)

    def restricted(self, index: Tensor) -> "Program | None":
        """Some samples alone, where F can be restricted."""
        vectors = self.vectors.restrict(index)
        if vectors is None:
            return None
        scales = None if self.scales is None else tuple(t[index] for t in self.scales)
        return replace(self, vectors=vectors, scales=scales, memory=self.memory[index])

    def plain(self, at: Derivatives) -> Derivatives:
        """The derivatives of the problem as it was given, from those of the scaled one."""
        if self.scales is None:
            return at
        f, h, g = (1 / scale for scale in self.scales)
        column = f.unsqueeze(-1)
        return Derivatives(
            at.f * f, at.h * h, at.g * g, at.gradient * column, at.hessian * column.unsqueeze(-1),
            at.A * h.unsqueeze(-1), at.G * g.unsqueeze(-1),
        )  # fmt: skip


def _jacobian(rows: Tensor, y: Tensor) -> Tensor:
    """d rows / dy, (samples, rows, n).

    Batched products copy every matrix inside F once for each row, where it meets y as matrix @ column: for 16 samples of
    50 unknowns and 110 rows 300 ms instead of 190, and 70 MB. So they serve small problems alone.
    """
    if rows.shape[-1] * y.numel() <= _BATCHED or not rows.requires_grad:
        return JacobianOperator.from_tape(rows, y).materialise()
    found = torch.empty(len(y), rows.shape[-1], y.shape[-1], dtype=y.dtype, device=y.device)
    one_hot = torch.zeros_like(rows)
    for k in range(rows.shape[-1]):  # the samples are independent
        one_hot[:, k] = 1
        found[:, k] = torch.autograd.grad(rows, y, one_hot, retain_graph=True, materialize_grads=True)[0]
        one_hot[:, k] = 0
    return found


def largest(t: Tensor) -> Tensor:
    """(samples,) the largest entry by size; zero where there is none."""
    return t.abs().amax(-1) if t.shape[-1] else t.new_zeros(len(t))


def _gradient(total: Tensor, y: Tensor) -> Tensor:
    if not total.requires_grad:
        return torch.zeros_like(y)
    return torch.autograd.grad(total, y, create_graph=True, materialize_grads=True)[0]


def _widest(jacobian: Tensor) -> Tensor:
    return jacobian.abs().amax(-1) if jacobian.shape[-1] else jacobian.sum(-1)


def _scale(steep: Tensor, small: Tensor, largest: float) -> Tensor:
    """Below one where the gradient is long, above one where all is small; one where nothing is known."""
    down = (largest / steep.nan_to_num(1.0, 1.0)).clamp(1e-8, 1.0)
    up = torch.where((small > 0) & (small < 1e-2), 1 / small, 1.0).nan_to_num(1.0, 1.0).clamp(max=_ENLARGED)
    return torch.where(down < 1, down, up)


def _is_linear(rows: Tensor, y: Tensor, first: int) -> bool:
    """Whether the second derivatives of the rows from `first` on vanish at y, along one direction.

    A hint, for they may be zero there and nowhere else.
    """
    if not rows.requires_grad or not rows[:, first:].numel():
        return True
    weights = 1.5 + quasi_random(rows.shape, rows)
    weights[:, :first] = 0
    with torch.enable_grad():
        (slope,) = torch.autograd.grad((rows * weights).sum(), y, create_graph=True, materialize_grads=True)
        if not slope.requires_grad:
            return True
        total = (slope * (1.5 + quasi_random(y.shape, y))).sum()
        (bend,) = torch.autograd.grad(total, y, retain_graph=True, materialize_grads=True)
    return not bool(bend.any())


def _predicted(value: Tensor, old: Tensor, jacobian: Tensor, dy: Tensor) -> bool:
    """Whether value = old + jacobian dy, for all samples where that can be said."""
    if not value.shape[-1]:
        return True
    change = matvec(jacobian, dy)
    size = torch.maximum(torch.maximum(largest(change), largest(old)), largest(value))
    error = largest(value - old - change)
    moved = largest(change) + largest(value - old)
    eps = torch.finfo(dy.dtype).eps
    return not bool((error > eps**_SAME * moved + 1e3 * eps * size).any())
