"""What solves and differentiates the quadratic programs of the network: ours, or a peer, all with one signature."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from implayer import QPLayer, Status

from ..shared.errors import InputError
from .config import LayerName

# (Q, q, A, b, G, h) -> z (batch, n), solved (batch,), degenerate (batch,); A and b may be None.
Answer = tuple[Tensor, Tensor, Tensor]
Solver = Callable[[Tensor, Tensor, Tensor | None, Tensor | None, Tensor, Tensor], Answer]


def build_solver(layer: LayerName, n: int, equations: int, inequalities: int) -> Solver:
    """The solver of that name.

    **Raises** `InputError` where its package is not installed.
    """
    if layer == "implicit":
        return _implicit()
    try:
        return _qpth() if layer == "qpth" else _cvxpylayers(n, equations, inequalities)
    except ImportError as error:
        raise InputError(
            f"`--layer {layer}` needs the package `{layer}`, which cannot be imported ({error}): `pip install {layer}`, or "
            "take `--layer implicit`, which needs nothing more."
        ) from error


def installed(layer: LayerName) -> bool:
    """Whether that solver can be had."""
    try:
        build_solver(layer, 1, 0, 1)
    except InputError:
        return False
    return True


def _implicit() -> Solver:
    # One weakly active row must not end a training: its one-sided derivative is as good as any, and is counted.
    layer = QPLayer(on_failure="ignore")

    def solve(Q: Tensor, q: Tensor, A: Tensor | None, b: Tensor | None, G: Tensor, h: Tensor) -> Answer:
        solution = layer.solve(Q, q, A, b, G, h)
        return solution.value, solution.converged, solution.status == Status.DEGENERATE

    return solve


def _qpth() -> Solver:
    from qpth.qp import QPFunction  # type: ignore[import-not-found]

    def solve(Q: Tensor, q: Tensor, A: Tensor | None, b: Tensor | None, G: Tensor, h: Tensor) -> Answer:
        empty = q.new_empty(0)
        z = QPFunction(verbose=-1)(Q, q, G, h, empty if A is None else A, empty if b is None else b)
        return _checked(z)

    return solve


def _cvxpylayers(n: int, equations: int, inequalities: int) -> Solver:
    import cvxpy
    from cvxpylayers.torch import CvxpyLayer  # type: ignore[import-not-found]

    z, root, linear = cvxpy.Variable(n), cvxpy.Parameter((n, n)), cvxpy.Parameter(n)
    rows, high = cvxpy.Parameter((inequalities, n)), cvxpy.Parameter(inequalities)
    parameters = [root, linear, rows, high]
    constraints: list[Any] = [rows @ z <= high]
    if equations:
        left, right = cvxpy.Parameter((equations, n)), cvxpy.Parameter(equations)
        parameters += [left, right]
        constraints.append(left @ z == right)
    problem = cvxpy.Problem(cvxpy.Minimize(0.5 * cvxpy.sum_squares(root @ z) + linear @ z), constraints)
    layer = CvxpyLayer(problem, parameters=parameters, variables=[z])

    def solve(Q: Tensor, q: Tensor, A: Tensor | None, b: Tensor | None, G: Tensor, h: Tensor) -> Answer:
        equalities = () if A is None else (A, b)
        return _checked(layer(torch.linalg.cholesky(Q).mT, q, G, h, *equalities)[0])

    return solve


def _checked(z: Tensor) -> Answer:
    """Peers have no statuses: what is finite counts as solved."""
    solved = z.detach().isfinite().all(-1)
    return z, solved, torch.zeros_like(solved)
