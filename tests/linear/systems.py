"""Linear systems with known answers, and operators that count their products."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from implayer.operators import AbstractOperator, JacobianOperator, MatrixOperator


class CountingOperator(MatrixOperator):
    """Matrices that count how often they are applied, each way."""

    def __init__(self, matrix: Tensor, sign: int = 1):
        super().__init__(matrix, sign)
        self.products = {"mv": 0, "rmv": 0, "materialise": 0}

    def mv(self, v: Tensor) -> Tensor:
        self.products["mv"] += 1
        return super().mv(v)

    def rmv(self, u: Tensor) -> Tensor:
        self.products["rmv"] += 1
        return super().rmv(u)

    def materialise(self) -> Tensor:
        self.products["materialise"] += 1
        return super().materialise()


def orthogonal(generator: torch.Generator, samples: int, n: int) -> Tensor:
    return torch.linalg.qr(torch.randn(samples, n, n, generator=generator, dtype=torch.float64))[0]


def conditioned(seed: int, samples: int, n: int, condition: float, kind: str = "general") -> Tensor:
    """(samples, n, n) with singular values between 1 and 1 / condition: general, definite, negative or indefinite."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.logspace(0, -torch.log10(torch.tensor(condition)).item(), n, dtype=torch.float64)
    u = orthogonal(generator, samples, n)
    if kind == "general":
        return u @ (values.unsqueeze(-1) * orthogonal(generator, samples, n))
    signs = (-1.0) ** torch.arange(n) if kind == "indefinite" else torch.ones(n) * (-1 if kind == "negative" else 1)
    matrix = u @ ((values * signs).unsqueeze(-1) * u.mT)
    return (matrix + matrix.mT) / 2


def near_identity(seed: int, samples: int, n: int, size: float = 0.5) -> Tensor:
    """I + size * G with a random G of spectral radius about one: not symmetric, what contractions give."""
    generator = torch.Generator().manual_seed(seed)
    return torch.eye(n) + size * torch.randn(samples, n, n, generator=generator, dtype=torch.float64) / n**0.5


def times(matrix: Tensor, x: Tensor) -> Tensor:
    return (matrix @ x.unsqueeze(-1)).squeeze(-1)


def right_hand_side(seed: int, samples: int, n: int) -> Tensor:
    return torch.randn(samples, n, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)


def relative_error(x: Tensor, exact: Tensor) -> float:
    if not x.numel():
        return 0.0
    return float(((x - exact).norm(dim=-1) / exact.norm(dim=-1)).max())


def tanh_operator(seed: int, samples: int, n: int) -> tuple[AbstractOperator, Tensor]:
    """The Jacobian of y + tanh(W y) / 2 by products, and as matrices."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(n, n, generator=generator, dtype=torch.float64) / n**0.5
    y = torch.randn(samples, n, generator=generator, dtype=torch.float64)
    operator = JacobianOperator(lambda y: y + 0.5 * torch.tanh(y @ w.T), y)
    slope = 0.5 * (1 - torch.tanh(y @ w.T) ** 2)
    return operator, torch.eye(n) + slope.unsqueeze(-1) * w


seeds = st.integers(0, 10_000)
sizes = st.integers(1, 12)
batches = st.integers(0, 4)
