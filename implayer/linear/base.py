"""What a linear solver is: it freezes an operator into an inverse, a pair of solves with constants inside."""

import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from ..operators import AbstractOperator
from ..types import Samples, Vectors


@dataclass(frozen=True)
class LinearReport:
    """Per sample: `status` (values of `Status`), the true residual norm |b - A x| recomputed at the end, and steps."""

    status: Tensor
    residual_norm: Samples
    steps: Tensor


class AbstractInverse(abc.ABC):
    """A frozen inverse of J: its derivative is never taken, only itself is applied."""

    condition: Samples | None = None  # estimate of the condition of J scaled by rows and columns, where it is known
    singular: Tensor | None = None  # (samples,) bool, where it is known
    constant: bool = False  # whether J is the same for all y nearby
    trusted: bool = False  # made of the residual's own parts: nothing to probe
    travels: bool = False  # whether it goes through torch.func transforms, to `arrived(tensors)` below them
    exact: bool = True  # False for approximations such as a truncated Neumann series

    @abc.abstractmethod
    def solve(self, b: Vectors) -> tuple[Tensor, LinearReport]:
        """J^-1 b (or its stated generalisation): (samples, m) -> (samples, n)."""

    @abc.abstractmethod
    def rsolve(self, c: Vectors) -> tuple[Tensor, LinearReport]:
        """J^-T c: (samples, n) -> (samples, m)."""


class AbstractDenseInverse(AbstractInverse):
    """An inverse that is made of tensors alone: the torch operations of `apply` are differentiable in b.

    `tensors` (each with samples first) and `with_tensors` let it travel through torch.func transforms.
    """

    @abc.abstractmethod
    def apply(self, b: Tensor) -> Tensor:
        """J^-1 b by torch operations that autograd, forward mode and vmap understand."""

    @abc.abstractmethod
    def apply_transposed(self, c: Tensor) -> Tensor:
        """J^-T c, likewise."""

    @property
    @abc.abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """The factors; every one has the samples as first axis."""

    @abc.abstractmethod
    def with_tensors(self, tensors: tuple[Tensor, ...]) -> "AbstractDenseInverse":
        """The same inverse with other factors."""


class AbstractLinearSolver(abc.ABC):
    """Turns an operator into a frozen inverse. Solvers are frozen dataclasses without state."""

    @abc.abstractmethod
    def freeze(self, operator: AbstractOperator) -> AbstractInverse:
        """Factorise, or keep the operator for an iteration."""


def default_tolerance(value: float | None, dtype: torch.dtype) -> float:
    """None means 1e-9 in float64 and 1e-5 in float32, forward and adjoint alike."""
    if value is not None:
        return value
    return 1e-9 if dtype in (torch.float64, torch.complex128) else 1e-5
