"""Truncated Neumann series: an approximate inverse of chosen cost."""

from dataclasses import dataclass

import torch

from ..operators import AbstractOperator
from ..solution import Status
from ..types import Samples, Tensor, Vectors
from .base import AbstractInverse, AbstractLinearSolver, LinearReport
from .dense import require_square


@dataclass(frozen=True)
class NeumannInverse(AbstractInverse):
    """The operator and the number of terms. `exact` is False: nothing is promised but the cost."""

    operator: AbstractOperator
    terms: int
    damping: float = 1.0
    exact = False

    def solve(self, b: Vectors) -> tuple[Vectors, LinearReport]:
        """The truncated series for J^-1 b: `terms` products with J."""
        return self._series(self.operator, b)

    def rsolve(self, c: Vectors) -> tuple[Vectors, LinearReport]:
        """The truncated series for J^-T c: `terms` products with J'."""
        return self._series(self.operator.T, c)

    def residual_norm(self, b: Vectors, x: Vectors) -> Samples:
        """|b - J x|, for one more product."""
        return torch.linalg.vector_norm(b - self.operator.mv(x), dim=-1)

    def transposed_residual_norm(self, c: Vectors, u: Vectors) -> Samples:
        """|c - J' u|, for one more product."""
        return torch.linalg.vector_norm(c - self.operator.rmv(u), dim=-1)

    def _series(self, operator: AbstractOperator, b: Vectors) -> tuple[Vectors, LinearReport]:
        with torch.no_grad():
            b = b.detach()
            term = total = b
            for _ in range(self.terms):
                term = term + self.damping * operator.sign * operator.mv(term)  # I + damping sign J
                total = total + term
            x = -operator.sign * self.damping * total
            return x, _report(x, term, self.terms)


def _report(x: Tensor, term: Tensor, terms: int) -> LinearReport:
    # The residual of the series is J_f applied to its last term; the last term itself needs no further product.
    norm = torch.linalg.vector_norm(term, dim=-1)
    finite = torch.isfinite(x).all(-1)
    status = torch.where(finite, int(Status.CONVERGED), int(Status.NONFINITE))
    return LinearReport(status, norm, torch.full_like(status, terms))


@dataclass(frozen=True)
class Neumann(AbstractLinearSolver):
    """The first terms of the Neumann series of the fixed-point map f(y) = y + sign F(x, y), with exactly T products.

        J = -sign (I - J_f),   J^-1 b ~ -sign (J_f^0 + J_f^1 + ... + J_f^T) b

    With `damping` d the map is y + d sign F: -sign d sum_i (I + d sign J)^i, the phantom gradient of T + 1 damped
    steps. An approximation that you choose: its relative error is about q^(T+1) where J_f contracts with rate q, and
    it grows with T where J_f does not contract. `terms=0` is the Jacobian-free gradient, `terms=1` the truncated
    gradient of the (Implicit)^2 networks.

    **Arguments**

    - `terms`: T, the number of products. More terms: a better gradient at a cost linear in T; for the exact one take
      `Auto()` or `GMRES()`.
    - `damping` (default 1.0): below one where J_f does not contract, but a damped map would.

    **Returns** from `freeze`: an inverse with `exact = False`. Its reports say CONVERGED where the answer is finite. No
    product is spent on the residual: `residual_norm` of the report is the norm of the last term, which bounds the
    residual where J_f contracts (residual = J_f applied to the last term); `inverse.residual_norm(b, x)` and
    `inverse.transposed_residual_norm(c, u)` are the residual itself for one product more.

    **Raises** ShapeError where J is not square.

    Reference: equation (14) of Huang, Bai and Kolter, (Implicit)^2: Implicit Layers for Implicit Representations, 2021.

    >>> import torch
    >>> from implayer.operators import MatrixOperator
    >>> inverse = Neumann(terms=3).freeze(MatrixOperator(torch.tensor([[[-0.5]]])))  # F = f - y with f' = 1/2
    >>> inverse.solve(torch.tensor([[1.0]]))[0]  # -(1 + 1/2 + 1/4 + 1/8), the exact one is -2
    tensor([[-1.8750]])
    """

    terms: int = 1
    damping: float = 1.0

    def freeze(self, operator: AbstractOperator) -> NeumannInverse:
        """Keep the operator."""
        require_square(operator, "Neumann", "`LSMR()` or `PseudoInverse()`")
        return NeumannInverse(operator, self.terms, self.damping)
