"""The direct way from the data of dense quadratic programs to their solutions and back, on numbers, for eager reverse mode."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..implicit import Demand, Fence, Limit, Postponed, attach
from ..linear.base import default_tolerance
from ..linear.kkt import KKTInverse, SmallKKTInverse
from ..modes import plain
from ..solution import Solution, Status
from .qp_form import arranged, kkt_residual


def solved_directly(
    given: dict[str, Any], smoothing: float, x: dict[str, Any], found: Solution, m: int
) -> Solution | None:
    """The solution whose value is (y, nu, lam), or None where there is something to report, or no inverse of ours.

    `x` are the arranged numbers, and `found` is what `QPSolver` said of them.
    """
    norm, z, n = ordinary_norm(x, found), found.value, given["q"].shape[-1]
    if norm is None:
        return None
    assert isinstance(found.inverse, KKTInverse | SmallKKTInverse)
    parts = z.split([n, m, z.shape[-1] - n - m], -1)
    names = [name for name, value in given.items() if isinstance(value, Tensor) and value.numel()]
    tensors = [given[name] for name in names]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        gradient = _Gradient(names, given, smoothing, x, z, m, found.inverse)
        demand = Demand(gradient.pull, gradient.attached)
        parts = Postponed.apply(demand, 3, *(part.clone() for part in parts), *tensors)
    status = torch.full_like(norm, int(Status.CONVERGED), dtype=torch.long)
    return Solution(parts, status, norm, found.steps, found.aux)


def ordinary_norm(x: dict[str, Any], found: Solution) -> Tensor | None:
    """The norm of the residual (*batch), or None where there is something to report, or no inverse of ours."""
    inverse, z = found.inverse, found.value
    if not isinstance(inverse, KKTInverse | SmallKKTInverse) or inverse.redundant is not None or not z.numel():
        return None
    if found.status is not None and bool(found.status.any()):
        return None
    if inverse.singular is not None and bool(inverse.singular.any()):
        return None
    with plain(z.device):
        norm = torch.linalg.vector_norm(kkt_residual(x, z), dim=-1)
    return norm if bool((norm <= default_tolerance(None, z.dtype)).all()) else None


@dataclass(frozen=True, eq=False)
class _Gradient:
    """From cotangents of y and the multipliers to those of the arguments."""

    names: list[str]
    given: dict[str, Any]
    smoothing: float
    x: dict[str, Any]
    z: Tensor
    equations: int
    inverse: KKTInverse | SmallKKTInverse

    def pull(self, *cotangents: Tensor | None) -> list[Tensor | None]:
        r"""$-(\partial F/\partial\theta)^\top u$ with $J^\top u = g$: products of vectors."""
        n, m, size = self.given["q"].shape[-1], self.equations, self.z.shape[-1]
        z = self.z.reshape(-1, size)
        sizes = (n, m, size - n - m)
        g = [z.new_zeros(len(z), k) if c is None else c.reshape(-1, k) for c, k in zip(cotangents, sizes, strict=True)]
        u = self.inverse.apply_transposed(torch.cat(g, -1))
        y, mu, p, q = z[:, :n], z[:, n:], u[:, :n], u[:, n:]
        q = torch.where(self.inverse.held, q, 0)
        low = "l" in self.names
        found = {"q": lambda: -p, "b": lambda: q[:, :m], "l": lambda: torch.where(mu < 0, q, 0)[:, m:]}
        found["h"] = lambda: (torch.where(mu < 0, 0, q) if low else q)[:, m:]
        found["Q"] = lambda: _outer((y, p), (p, y), self.given["Q"].ndim == 2).mul_(-0.5)
        found["A"] = lambda: _outer((mu[:, :m], q[:, :m]), (p, y), self.given["A"].ndim == 2).neg_()
        found["G"] = lambda: _outer((mu[:, m:], q[:, m:]), (p, y), self.given["G"].ndim == 2).neg_()
        return [
            _shaped(found[name](), self.given[name]) if self.given[name].requires_grad else None for name in self.names
        ]

    def attached(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """y and the multipliers with derivatives of both orders."""
        given = {**self.given, **dict(zip(self.names, tensors, strict=True))}
        x, n, m = arranged(given, self.smoothing)
        size = self.z.shape[-1]
        return attached_kkt(x, self.z, self.inverse).split([n, m, size - n - m], -1)


def attached_kkt(x: dict[str, Any], z: Tensor, inverse: KKTInverse | SmallKKTInverse) -> Tensor:
    """A solution z of the KKT system with derivatives of both orders."""
    size, shape = z.shape[-1], z.shape
    y = attach(lambda y: kkt_residual(x, y.reshape(shape)).reshape(-1, size), z.reshape(-1, size), inverse, 2).y
    return Fence.apply(y, y, Limit(2, 2)).reshape(shape)


def _outer(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor], shared: bool) -> Tensor:
    """The sum of two outer products of rows (samples, i) and (samples, j), and over the samples where they share it."""
    if shared:
        return torch.cat(left).mT @ torch.cat(right)
    return torch.stack(left, -1) @ torch.stack(right, -2)


def _shaped(g: Tensor, like: Tensor) -> Tensor:
    """A cotangent (samples, ...) in the shape of an argument that may be shared."""
    return g.sum(0) if like.ndim == 1 and g.ndim == 2 else g.reshape(like.shape)
