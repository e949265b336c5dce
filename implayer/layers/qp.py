"""Quadratic programs as a layer: (Q, q, A, b, G, h) -> argmin, with multipliers, exactly differentiated."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..adjoints import AbstractAdjoint
from ..errors import DeviceError, DtypeError, ShapeError
from ..failures import OnFailure
from ..layer import ImplicitLayer
from ..modes import transforms
from ..problem import Problem
from ..solution import Solution
from ..solvers.qp import QPSolver
from ..solvers.quadratic import margin
from ..types import Tree


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

    **Call**: `layer(Q, q, A=None, b=None, G=None, h=None, *, l=None) -> y`.

    - `Q` (*batch, n, n), positive semidefinite (zero makes a linear program). Its symmetric part is used, so its gradient
      is symmetric. `q` (*batch, n).
    - `A` (*batch, m, n) and `b` (*batch, m); `G` (*batch, p, n), `h` and `l` (*batch, p), which may hold infinities.
      None, or no rows, leaves a block out.
    - Every argument may have the batch axes or not; one that is shared gets the sum of the gradients.

    **Returns** y (*batch, n); `solve(...)` the `Solution`, whose `aux` holds `equality_multipliers` (*batch, m),
    `inequality_multipliers` (*batch, p), both differentiable, and `redundant` (*batch): whether active rows depend on one
    another (the derivative of y is exact, the multipliers are those of minimal norm, and the status is DEGENERATE).

    **Raises** `ShapeError`, `DtypeError`, `DeviceError` for arguments that do not fit; `NotConvexError` for a Q with a
    negative eigenvalue; `InfeasibleError`, `UnboundedError` or `SolveError` by `on_failure`.

    **Reference** Amos and Kolter, "OptNet", 2017; Zhang et al., "Implicitly Defined Layers in Neural Networks",
    equation (17); Boyd and Vandenberghe, Convex Optimization (2004), 5.5.

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
    ):
        super().__init__()
        self.kkt = ImplicitLayer(kkt_residual, solver or QPSolver(), adjoint=adjoint, on_failure=on_failure)

    def forward(
        self,
        Q: Tensor,
        q: Tensor,
        A: Tensor | None = None,
        b: Tensor | None = None,
        G: Tensor | None = None,
        h: Tensor | None = None,
        *,
        l: Tensor | None = None,  # noqa: E741
    ) -> Tensor:
        """The minimiser y."""
        return self.solve(Q, q, A, b, G, h, l=l).value

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
    ) -> Solution:
        """The same value and gradient, with status, multipliers and the residual of the KKT system."""
        given = {"Q": Q, "q": q, "A": A, "b": b, "G": G, "h": h, "l": l}
        x, m = arranged(given)
        solution = self.kkt.solve(x)
        n = q.shape[-1]
        y, nu, lam = solution.value.split([n, m, solution.value.shape[-1] - n - m], -1)
        aux = {**(solution.aux or {}), "equality_multipliers": nu, "inequality_multipliers": lam}
        return solution.replace(value=y, aux=aux)


CORES = {"Q": 2, "q": 1, "A, G": 2, "b, l": 1, "b, h": 1, "above": 1, "below": 1}  # axes of one sample


def arranged(given: dict[str, Any]) -> tuple[Tree, int]:
    """The checked arguments as x of the KKT system, and the number of equations.

    x holds Q, q, C, low, high and `equations`: C stacks A and G, the bounds of equations are b and b, and `equations` is
    a tensor of as many zeros (integers, so that it is no variable). `above` and `below` are the limits of activity.
    """
    given = {
        name: None if value is None or _no_rows(name, value) else _dense(name, value) for name, value in given.items()
    }
    n = _check(given)
    hessian, linear, A, b, G, h, low = (given.get(name) for name in ("Q", "q", "A", "b", "G", "h", "l"))
    assert hessian is not None and linear is not None
    hessian = (hessian + hessian.mT) / 2
    if A is None and G is None:
        rows, high = linear.new_zeros(0, n), linear.new_zeros(0)
    else:
        rows, high = _stacked(A, G, 2), _stacked(b, h, 1)
    m = 0 if A is None else A.shape[-2]
    if low is not None:
        low = _stacked(b, low, 1)
    kind = torch.zeros(m, dtype=torch.int8, device=linear.device)
    x = {"Q": hessian, "q": linear, "A, G": rows, "b, l": low, "b, h": high, "equations": kind}
    x |= {"above": high.detach() + margin(high), "below": None if low is None else low.detach() - margin(low)}
    return (_all_batched(x) if transforms() else x), m


def kkt_residual(x: Tree, z: Tensor) -> Tensor:
    """F for z = (y, multipliers) of shape (*batch, n + rows)."""
    hessian, linear, rows, low, high, kind, above, below = x.values()
    n, m, k = linear.shape[-1], kind.shape[-1], rows.shape[-2]
    y, mu = z.split([n, k], -1)
    if not k:
        return times(y, hessian) + linear
    first = times(y, hessian) + linear + times(mu, rows)
    value = times(y, rows.mT)
    shifted = value + mu
    second = torch.where(shifted > above, value - high, -mu)
    if low is not None:
        second = torch.where(shifted < below, value - low, second)
    if m:
        second = torch.cat([(value - high)[..., :m], second[..., m:]], -1)
    return torch.cat([first, second], -1)


def times(v: Tensor, matrix: Tensor) -> Tensor:
    """v' M for v (*batch, i) and M (*batch, i, j) or (i, j)."""
    return v @ matrix if matrix.ndim == 2 else (v.unsqueeze(-2) @ matrix).squeeze(-2)


def _no_rows(name: str, value: Any) -> bool:
    axis = {"A": -2, "G": -2, "b": -1, "h": -1, "l": -1}.get(name)
    return axis is not None and isinstance(value, Tensor) and value.ndim >= -axis and value.shape[axis] == 0


def _dense(name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise DtypeError(
            f"`{name}` is {type(value).__name__}; expected a floating-point tensor, or None to leave it out."
        )
    return value if value.layout == torch.strided else value.to_dense()


def _check(given: dict[str, Tensor | None]) -> int:
    """Shapes, dtypes and devices, each with the name of the argument; returns n."""
    q = given["q"]
    if q is None or given["Q"] is None:
        raise ShapeError("`Q` and `q` are needed; pass zeros for a problem without quadratic or linear term.")
    if q.ndim < 1:
        raise ShapeError("`q` has shape (); expected (*batch, n).")
    n = q.shape[-1]
    for matrix, *vectors in (("A", "b"), ("G", "h", "l")):
        if given[matrix] is None and any(given[name] is not None for name in vectors):
            there = next(name for name in vectors if given[name] is not None)
            raise ShapeError(f"`{there}` is given without `{matrix}`; pass both or neither.")
    if given["A"] is not None and given["b"] is None:
        raise ShapeError("`A` is given without `b`; pass both or neither.")
    if given["G"] is not None and given["h"] is None:
        if given["l"] is None:
            raise ShapeError("`G` is given without `h` and `l`; pass at least one bound.")
        given["h"] = torch.full_like(given["l"].detach(), torch.inf)
    batches = {}
    for name, value in given.items():
        if value is None:
            continue
        _check_kind(name, value, q)
        core = _core(name, given, n)
        if value.ndim < len(core) or tuple(value.shape[value.ndim - len(core) :]) != core:
            shown = ", ".join(str(size) for size in core)
            raise ShapeError(f"`{name}` has shape {tuple(value.shape)}; expected (*batch, {shown}).")
        batches[name] = tuple(value.shape[: value.ndim - len(core)])
    batch = max(batches.values(), key=len)
    for name, found in batches.items():
        if found not in ((), batch):
            longest = next(other for other, axes in batches.items() if axes == batch)
            raise ShapeError(
                f"`{name}` has batch axes {found} but `{longest}` has {batch}; expected the same, or none for an argument "
                f"that all samples share."
            )
    return n


def _core(name: str, given: dict[str, Tensor | None], n: int) -> tuple[int, ...]:
    if name in ("Q", "q"):
        return (n, n) if name == "Q" else (n,)
    matrix = given["A" if name in "Ab" else "G"]
    assert matrix is not None
    if matrix.ndim < 2:
        label = "A" if name in "Ab" else "G"
        raise ShapeError(f"`{label}` has shape {tuple(matrix.shape)}; expected (*batch, rows, {n}).")
    return (matrix.shape[-2], n) if name in "AG" else (matrix.shape[-2],)


def _check_kind(name: str, value: Tensor, q: Tensor) -> None:
    if not value.is_floating_point() or value.dtype != q.dtype:
        raise DtypeError(
            f"`{name}` is {value.dtype} but `q` is {q.dtype}; give all arguments one floating-point dtype."
        )
    if value.device != q.device:
        raise DeviceError(f"`{name}` is on {value.device} but `q` is on {q.device}; move them to one device.")


def _stacked(top: Tensor | None, bottom: Tensor | None, core: int) -> Tensor:
    if top is None or bottom is None:
        only = bottom if top is None else top
        assert only is not None
        return only
    batch = max(top.shape[:-core], bottom.shape[:-core], key=len)
    parts = [part.expand(*batch, *part.shape[-core:]) for part in (top, bottom)]
    return torch.cat(parts, -core)


def _all_batched(x: dict[str, Any]) -> dict[str, Any]:
    """Every leaf with all batch axes and under every transform that any of them is under: the solver gets them below."""
    pairs = {name: (x[name], core) for name, core in CORES.items() if x[name] is not None}
    batch = max((leaf.shape[: leaf.ndim - core] for leaf, core in pairs.values()), key=len)
    nothing = sum(torch.zeros_like(leaf.reshape(-1)[:1]).sum() for leaf, _ in pairs.values())
    filled = {
        name: leaf.expand(*batch, *leaf.shape[leaf.ndim - core :]) + nothing for name, (leaf, core) in pairs.items()
    }
    return {**x, **filled}
