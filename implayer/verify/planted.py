"""Quadratic programs whose solution, active set and multipliers are drawn first, so that everything about them is known."""

from dataclasses import dataclass

import torch
from torch import Tensor

NAMES = ("Q", "q", "A", "b", "G", "h")


@dataclass(frozen=True)
class Planted:
    """The arguments of a `QPLayer`, the solution, and the exact gradients of sum(weight * y)."""

    given: dict[str, Tensor]
    y: Tensor
    nu: Tensor
    lam: Tensor
    weight: Tensor
    gradients: dict[str, Tensor]


def planted(samples: int, n: int, m: int, p: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Planted:
    """Strictly complementary, with min(p, n / 3) active inequalities; the gradients by a solve of the reduced KKT system."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    root = normal(samples, n, n) / n**0.5
    Q = root @ root.mT + 0.1 * torch.eye(n, dtype=torch.float64)
    A, G, y, nu = normal(samples, m, n), normal(samples, p, n), normal(samples, n), normal(samples, m)
    active = torch.zeros(samples, p, dtype=torch.bool)
    count = min(p, max(1, n // 3), n - m) if p else 0
    for i in range(samples):
        active[i, torch.randperm(p, generator=g)[:count]] = True
    uniform = 0.1 + 0.9 * torch.rand(samples, p, generator=g, dtype=torch.float64)
    lam, slack = torch.where(active, uniform, 0), torch.where(active, 0, uniform)
    b, h = (A @ y.unsqueeze(-1)).squeeze(-1), (G @ y.unsqueeze(-1)).squeeze(-1) + slack
    C, mu = torch.cat([A, G], 1), torch.cat([nu, lam], 1)
    q = -(Q @ y.unsqueeze(-1) + C.mT @ mu.unsqueeze(-1)).squeeze(-1)
    weight = normal(samples, n)
    given = {"Q": Q, "q": q, "A": A, "b": b, "G": G, "h": h}
    gradients = {name: torch.zeros_like(value) for name, value in given.items()}
    for i in range(samples):
        held = torch.cat([A[i], G[i][active[i]]])
        k = len(held)
        kkt = torch.cat([torch.cat([Q[i], held.T], 1), torch.cat([held, torch.zeros(k, k, dtype=torch.float64)], 1)])
        u = torch.linalg.solve(kkt.T, torch.cat([weight[i], torch.zeros(k, dtype=torch.float64)]))
        dy, dm = u[:n], torch.zeros(m + p, dtype=torch.float64)
        dm[:m], dm[m:][active[i]] = u[n : n + m], u[n + m :]
        outer = -torch.outer(dy, y[i])
        gradients["Q"][i], gradients["q"][i] = (outer + outer.T) / 2, -dy
        rows = -(torch.outer(dm, y[i]) + torch.outer(mu[i], dy))
        gradients["A"][i], gradients["G"][i] = rows[:m], rows[m:]
        gradients["b"][i], gradients["h"][i] = dm[:m], dm[m:]
    cast = {name: value.to(dtype) for name, value in given.items()}
    return Planted(cast, y, nu, lam, weight.to(dtype), gradients)
