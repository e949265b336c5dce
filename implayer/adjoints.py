"""How a layer is differentiated: implicitly (exact), or by a choice of approximations."""

import abc
from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import _tree
from ._records import changed
from .eager import solve_eager
from .linear.auto import Auto
from .linear.base import AbstractLinearSolver
from .linear.neumann import Neumann
from .linearise import Request
from .modes import transforms
from .solution import Solution
from .transformed import solve_transformed
from .truncated import solve_truncated
from .unrolled import require_step, solve_unrolled


class AbstractAdjoint(abc.ABC):
    """Solves a problem and gives the answer its derivatives."""

    @abc.abstractmethod
    def apply(self, request: Request) -> Solution:
        """Solve, and attach the derivative to the value."""


@dataclass(frozen=True)
class ImplicitAdjoint(AbstractAdjoint):
    """The implicit function theorem: dy = -J^-1 F_x dx with J = dF/dy, exact to a chosen order.

    **Arguments**

    - `linear_solver`: how J^-1 is applied. `Auto()` (default) chooses by size and structure; a dense one (`LU`,
      `Cholesky`) factorises J once for all right-hand sides; a Krylov method (`GMRES`, `CG`, ...) needs vector products
      alone; `LSMR` gives the minimal-norm derivative where J is singular; `Neumann(terms=T)` is the truncated gradient
      of "(Implicit)^2", equation (14); with `on_failure="ignore"` one taped evaluation of the map then serves as the next
      step of it, too (equation (11)): the value is that step, and `residual_norm` that of the point before it.
    - `order`: derivatives are exact up to this order and raise `OrderError` beyond it (under torch.func they are exact
      up to the number of nested transforms where that is larger). None (default) means 2 with a dense and 1 with a
      matrix-free linear solver. Each order costs one more evaluation of F and one more application of the inverse.

    **Reference** Zhang et al., "Implicitly Defined Layers in Neural Networks", theorem 1 and equation (11).
    """

    linear_solver: AbstractLinearSolver = field(default_factory=Auto)
    order: int | None = None

    def __post_init__(self) -> None:
        if self.order is not None and self.order < 1:
            raise ValueError(f"`order` is {self.order}; expected 1 (gradient), 2 (Hessian), 3, ... or None.")

    def apply(self, request: Request) -> Solution:
        """Solve, freeze dF/dy at the solution, and attach chord steps."""
        request = changed(request, linear_solver=self.linear_solver, order=self.order)
        solution = solve_truncated(request, _device(request))
        if solution is not None:
            return solution
        solve = solve_transformed if transforms() else solve_eager
        return solve(request, _device(request))


@dataclass(frozen=True)
class JacobianFree(AbstractAdjoint):
    """Take J_f = 0: dy = f_x dx for the fixed-point map f = y + sign * F; `Neumann(terms=0)` by its usual name.

    Cheap and biased: a useful direction where f contracts strongly. First order only.

    **Reference** Fung et al., "JFB: Jacobian-Free Backpropagation for Implicit Networks", AAAI 2022.
    """

    def apply(self, request: Request) -> Solution:
        """Solve, then attach one step of the fixed-point map."""
        return ImplicitAdjoint(linear_solver=Neumann(terms=0), order=1).apply(request)


@dataclass(frozen=True)
class PhantomAdjoint(AbstractAdjoint):
    """The phantom gradient: differentiate `steps` damped steps y + damping * sign * F(x, y) at the solution.

        J^-1 ~ -sign damping sum_{i < steps} (I + damping sign J)^i

    A compromise between `JacobianFree` (one step) and the exact derivative (many). First order only.

    **Arguments**

    - `steps` (default 5): more steps are nearer to the exact gradient and cost one product each.
    - `damping` (default 0.5): nearer to 1 where the map contracts strongly.

    **Raises** TypeError at construction of a layer whose forward solver has no `step`.

    **Reference** Geng et al., "On Training Implicit Models", NeurIPS 2021.
    """

    steps: int = 5
    damping: float = 0.5

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.damping <= 1:
            raise ValueError(
                f"`steps` is {self.steps} and `damping` {self.damping}; expected 1 or more, and 0 < damping <= 1."
            )

    def check_solver(self, solver: object) -> None:
        """The forward solver must be one of ours that has `step`."""
        require_step(solver, "PhantomAdjoint")

    def apply(self, request: Request) -> Solution:
        """Solve, then attach the damped series."""
        series = Neumann(terms=self.steps - 1, damping=self.damping)
        return ImplicitAdjoint(linear_solver=series, order=1).apply(request)


@dataclass(frozen=True)
class UnrolledAdjoint(AbstractAdjoint):
    """Differentiate the iterations of the forward solver themselves.

    The baseline that needs no theorem: every step is taped, so memory grows with the number of steps, and the derivative is
    that of the iteration. It tends to the implicit one where the iteration converges; Jacobians, line searches and the
    choice of a step are constants of the tape. Eager reverse mode, first and higher orders.

    **Raises** TypeError at construction of a layer whose forward solver has no `step`; ImplayerError under torch.func.
    """

    def check_solver(self, solver: object) -> None:
        """The forward solver must be one of ours that has `step`."""
        require_step(solver, "UnrolledAdjoint")

    def apply(self, request: Request) -> Solution:
        """Solve, then take the same steps again on the tape."""
        return solve_unrolled(request, _device(request))


def _device(request: Request) -> torch.device:
    for leaf in [*_tree.leaves(request.problem.y0), *_tree.leaves(request.problem.x)]:
        if isinstance(leaf, Tensor):
            return leaf.device
    return torch.device("cpu")
