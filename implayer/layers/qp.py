"""Quadratic programs as a layer: (Q, q, A, b, G, h) -> argmin, with multipliers, exactly differentiated."""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec

import torch
from torch import Tensor

from ..adjoints import AbstractAdjoint, ImplicitAdjoint
from ..causes import called_with
from ..errors import ShapeError
from ..failures import OnFailure
from ..layer import ImplicitLayer
from ..linear.minimal_norm import MinimalNorm
from ..linearise import Request
from ..modes import is_plain, plain
from ..problem import Problem
from ..solution import Solution
from ..solvers.qp import QPSolver
from .qp_direct import solved_directly
from .qp_form import CORES, arranged, kkt_residual

P = ParamSpec("P")


def _value_of(solve: Callable[P, Solution]) -> Callable[P, Tensor]:
    """`forward` with the arguments of `solve`."""

    @wraps(solve)
    def forward(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        return solve(*args, **kwargs).value

    forward.__name__, forward.__doc__ = "forward", "The minimiser y: the value of `solve`."
    forward.__signature__ = signature(solve).replace(return_annotation=Tensor)  # type: ignore[attr-defined]
    return forward


@dataclass(frozen=True)
class _KKTAdjoint(AbstractAdjoint):
    """The adjoint of the user, whose linear solver, where the inverse of `QPSolver` is not at hand, knows multipliers."""

    adjoint: ImplicitAdjoint

    def apply(self, request: Request) -> Solution:
        """Solve, and attach the derivative to the value."""
        x = request.problem.x
        rows = x["saddle"].shape[-1] - x["counts"].shape[-1] if "saddle" in x else x["b, h"].shape[-1]
        linear_solver = MinimalNorm(self.adjoint.linear_solver, rows)
        return replace(self.adjoint, linear_solver=linear_solver).apply(request)


@dataclass(frozen=True)
class Found:
    """A solver that has been called already, with what it said."""

    solver: QPSolver
    solution: Solution

    @property
    def __name__(self) -> str:
        return type(self.solver).__name__

    def __call__(self, problem: Problem) -> Solution:
        """What was found of this very problem."""
        return self.solution


_DTYPES = (torch.float32, torch.float64)


class QPLayer(torch.nn.Module):
    r"""The layer (Q, q, A, b, G, h) -> y of a convex quadratic program:

    $$\min_y\ \tfrac12 y^\top Q y + q^\top y \quad\text{subject to}\quad A y = b,\quad l \le G y \le h$$

    Its residual is the KKT system with the active set frozen, with multipliers $\nu$ of equations and $\lambda$ of
    inequalities ($\lambda \ge 0$; with two sides, upper minus lower):

    $$Q y + q + A^\top \nu + G^\top \lambda = 0,\qquad A y - b = 0,\qquad
      \begin{cases} (G y - h)_i = 0 & \text{active} \\ -\lambda_i = 0 & \text{inactive}\end{cases}$$

    **Arguments**

    - `solver`: what finds y: a `QPSolver()`, or any callable `problem -> Solution` of `ImplicitLayer`.
    - `adjoint`: how the layer is differentiated; `ImplicitAdjoint()` is exact to second order.
    - `on_failure`: what failed samples do: "raise" (default), "warn", "nan" or "ignore".
    - `smoothing`: s adds s/2 |y|^2 to the objective; 0 (default) adds nothing. For linear programs, whose solution is a
      vertex with a derivative of zero, and for solutions that are not unique: y becomes a continuous, piecewise smooth
      function of all data, and its objective at most s/2 |y|^2 (of any minimiser y) larger than the least. The larger s,
      the smoother and the more biased; below some s > 0 a linear program has its old solution, and zero derivatives, again.

    **Call**: `layer(Q, q, A=None, b=None, G=None, h=None, *, l=None, y0=None) -> y`.

    - `Q` (*batch, n, n), positive semidefinite (zero makes a linear program). Its symmetric part is used, so its gradient
      is symmetric. `q` (*batch, n).
    - `A` (*batch, m, n) and `b` (*batch, m); `G` (*batch, p, n), `h` and `l` (*batch, p), which may hold infinities.
      None, or no rows, leaves a block out.
    - Every argument may have the batch axes or not; one that is shared gets the sum of the gradients.
    - `y0`: a warm start, for the active-set method: the `Solution` of a similar problem, whose active rows are tried
      first, or a y (*batch, n), of which it is those that it meets. Any start gives the same answer.

    **Returns** y (*batch, n); `solve(...)` the `Solution`, whose `aux` holds `equality_multipliers` (*batch, m),
    `inequality_multipliers` (*batch, p), both differentiable, and `redundant` (*batch): whether active rows depend on one
    another (the derivative of y is exact, the multipliers are those of minimal norm, and the status is DEGENERATE).

    **Raises** `ShapeError`, `DtypeError`, `DeviceError` for arguments that do not fit; `NotConvexError` for a Q with a
    negative eigenvalue; `InfeasibleError`, `UnboundedError` or `SolveError` by `on_failure`.

    **Reference** Amos and Kolter, "OptNet", 2017; Zhang et al., "Implicitly Defined Layers in Neural Networks",
    equation (17); Boyd and Vandenberghe, Convex Optimization (2004), 5.5. Smoothing: Wilder, Dilkina and Tambe, "Melding
    the Data-Decisions Pipeline", AAAI 2019; Mangasarian and Meyer, "Nonlinear perturbation of linear programs", 1979.

    **Example**

    ```python
    layer = implayer.QPLayer()
    q = torch.tensor([-1.0, -2.0], requires_grad=True)
    y = layer(torch.eye(2), q, G=torch.eye(2), h=torch.ones(2))   # tensor([1., 1.]): the second bound is active
    y.sum().backward()                                            # q.grad = [-1, 0]
    ```
    """

    def __init__(
        self,
        *,
        solver: Callable[[Problem], Any] | None = None,
        adjoint: AbstractAdjoint | None = None,
        on_failure: OnFailure = "raise",
        smoothing: float = 0.0,
    ):
        super().__init__()
        if not isinstance(smoothing, int | float) or not 0 <= smoothing < float("inf"):
            raise ValueError(f"`smoothing` is {smoothing!r}; expected 0 (none) or a small positive number.")
        self.smoothing = smoothing
        self._direct = adjoint is None
        adjoint = ImplicitAdjoint() if adjoint is None else adjoint
        if isinstance(adjoint, ImplicitAdjoint):
            adjoint = _KKTAdjoint(adjoint)
        self.kkt = ImplicitLayer(kkt_residual, solver or QPSolver(), adjoint=adjoint, on_failure=on_failure)

    def solve(
        self,
        Q: Tensor,
        q: Tensor,
        A: Tensor | None = None,
        b: Tensor | None = None,
        G: Tensor | None = None,
        h: Tensor | None = None,
        *,
        l: Tensor | None = None,  # noqa: E741
        y0: Tensor | Solution | None = None,
    ) -> Solution:
        """The same value and gradient, with status, multipliers and the residual of the KKT system."""
        given = {"Q": Q, "q": q, "A": A, "b": b, "G": G, "h": h, "l": l}
        solution, layer = self._directly(given, y0)
        if solution is None:
            x, n, m = arranged(given, self.smoothing)
            with called_with(given, ("h", "l")):
                solution = layer.solve(x, None if y0 is None else _start(y0, x, n, m))
            solution = solution.replace(value=solution.value.split([n, m, solution.value.shape[-1] - n - m], -1))
        y, nu, lam = solution.value
        aux = {**(solution.aux or {}), "equality_multipliers": nu, "inequality_multipliers": lam}
        return solution.replace(value=y, aux=aux)

    forward = _value_of(solve)

    def _directly(self, given: dict[str, Any], y0: Any) -> tuple[Solution | None, ImplicitLayer]:
        """The solution on numbers where there is nothing to report, else None; and the layer, which may know it by then."""
        if torch.compiler.is_compiling():
            return None, self.kkt
        solver = self.kkt.forward_solver
        leaves = [leaf for leaf in given.values() if isinstance(leaf, Tensor)]
        plain_leaves = bool(leaves) and all(leaf.layout == torch.strided and leaf.dtype in _DTYPES for leaf in leaves)
        if (
            not self._direct
            or not isinstance(solver, QPSolver)
            or not plain_leaves
            or not is_plain(leaves[0].device.type)
        ):
            return None, self.kkt
        with plain(leaves[0].device):
            x, n, m = arranged(given, self.smoothing)
            found = solver(Problem(kkt_residual, x, None if y0 is None else _start(y0, x, n, m)))
        solution = solved_directly(given, self.smoothing, x, found, m)
        if solution is None:
            layer = copy(self.kkt)
            layer.forward_solver = Found(solver, found)
            return None, layer
        return solution, self.kkt


def _start(y0: Tensor | Solution, x: dict[str, Any], n: int, m: int) -> Tensor:
    """(y, multipliers) of shape (*batch, n + rows), the multipliers zero where they are not known."""
    parts: list[Any] = [y0]
    if isinstance(y0, Solution):
        parts = [y0.value, *((y0.aux or {}).get(f"{kind}_multipliers") for kind in ("equality", "inequality"))]
    pairs = [(x[name], core) for name, core in CORES.items() if x.get(name) is not None]
    batch = max((leaf.shape[: max(leaf.ndim - core, 0)] for leaf, core in pairs), key=len)
    rows = x["saddle"].shape[-1] - n if "saddle" in x else x["b, h"].shape[-1]
    filled = []
    if not isinstance(parts[0], Tensor):
        raise TypeError(
            f"`y0` is a {type(parts[0]).__name__}; expected the `Solution` of a similar problem, or a tensor."
        )
    for part, size, what in zip(
        [*parts, None, None], (n, m, rows - m), ("y", "equations", "inequalities"), strict=False
    ):
        if part is None:
            part = filled[0].new_zeros(size)
        if part.shape[-1:] != (size,) or part.shape[:-1] not in ((), batch):
            raise ShapeError(
                f"`y0` holds {tuple(part.shape)} for the {size} {what}; expected {(*batch, size)}, or no batch axes."
            )
        filled.append(part.detach().expand(*batch, size))
    return torch.cat(filled, -1)
