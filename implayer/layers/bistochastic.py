"""Scaling of a positive matrix to given row and column sums, differentiated through its equations."""

import torch
from torch import Tensor

from ..adjoints import AbstractAdjoint, ImplicitAdjoint
from ..errors import ShapeError
from ..failures import OnFailure
from ..implicit import Spoil
from ..layer import ImplicitLayer
from ..modes import transforms
from ..solution import Solution
from ..solvers.newton import Newton
from ..types import Float

_SWEEPS = 30  # of Sinkhorn's iteration before Newton's: linear, but from anywhere
_FLOOR = 1e-10  # of entries, in units of the largest: below, an entry counts as that much


class Marginals(torch.nn.Module):
    """F(x, w) for x = log X and w = (u, v): row sums - 1, column sums - n1 / n2 but the last, and the gauge v_last = 0.

    The last column sum follows from the others; and u + c, v - c scale as u, v do.
    """

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """The residual (*batch, n1 + n2)."""
        rows, columns = x.shape[-2:]
        scaled = scale(x, w)
        across = scaled.sum(-2)[..., :-1] - rows / columns
        return torch.cat([scaled.sum(-1) - 1, across, w[..., -1:]], -1)


def scale(x: Tensor, w: Tensor) -> Tensor:
    """exp(x + u + v)."""
    u, v = w.split([x.shape[-2], x.shape[-1]], -1)
    return (x + u.unsqueeze(-1) + v.unsqueeze(-2)).exp()


def sinkhorn(x: Tensor) -> Tensor:
    """(*batch, n1 + n2) the scalings after some sweeps over rows and columns, in logarithms."""
    share = torch.tensor(x.shape[-2] / x.shape[-1], dtype=x.dtype, device=x.device).log()
    v = x.new_zeros(*x.shape[:-2], x.shape[-1])
    u = v.new_zeros(*x.shape[:-1])
    for _ in range(_SWEEPS):
        u = -(x + v.unsqueeze(-2)).logsumexp(-1)
        v = share - (x + u.unsqueeze(-1)).logsumexp(-2)
    last = v[..., -1:]
    return torch.cat([u + last, v - last], -1)


class BistochasticLayer(torch.nn.Module):
    r"""The layer X -> diag(e^u) X diag(e^v) whose rows sum to 1 and whose columns to n1 / n2.

    Sinkhorn's iteration finds the scalings roughly, Newton's method exactly; the derivative is that of the equations, so
    neither is unrolled.

    **Arguments**

    - `adjoint`: how the layer is differentiated; None (default) is exact to second order.
    - `on_failure`: what samples that failed do: "raise" (default), "warn", "nan" or "ignore".

    **Returns** from `layer(X)` for X (*batch, n1, n2) without negative entries: the scaled matrix, of the same shape. Entries
    below 1e-10 of the largest count as that much, and get no gradient: a zero pattern may have no scaling. From
    `layer.solve(X)` the `Solution`, whose `aux["scalings"]` are (u, v), (*batch, n1 + n2).

    **Raises** `ShapeError` where X is no matrix, `ValueError` where it has negative entries, `SolveError` for NaN.

    **Reference** Sinkhorn and Knopp, "Concerning nonnegative matrices and doubly stochastic matrices", 1967.

    **Example**

    ```python
    X = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    implayer.BistochasticLayer()(X)     # [[2/3, 1/3], [1/3, 2/3]]
    ```
    """

    def __init__(self, *, adjoint: AbstractAdjoint | None = None, on_failure: OnFailure = "raise"):
        super().__init__()
        adjoint = ImplicitAdjoint() if adjoint is None else adjoint
        self.marginals = ImplicitLayer(
            Marginals(), Newton(), initial=sinkhorn, adjoint=adjoint, on_failure=on_failure
        )  # fmt: skip

    def forward(self, X: Tensor) -> Float[Tensor, "*batch n1 n2"]:
        """The scaled matrix."""
        return self.solve(X).value

    def solve(self, X: Tensor) -> Solution:
        """The same with its story."""
        if X.ndim < 2 or not X.shape[-1] or not X.shape[-2]:
            raise ShapeError(f"`X` has shape {tuple(X.shape)}; expected matrices (*batch, n1, n2).")
        plain = X.detach()
        if not transforms() and bool((plain < 0).any()):
            raise ValueError(f"`X` has an entry of {float(plain.min()):.3g}; expected none below zero.")
        bad = ~plain.isfinite().all(-1).all(-1)
        if transforms() or bool(bad.any()):
            solution, value = self._among_bad(X, bad)
        else:
            x = _logarithms(X)
            solution = self.marginals.solve(x)
            value = scale(x, solution.value)
        return solution.replace(value=value, aux={**(solution.aux or {}), "scalings": solution.value})

    def _among_bad(self, X: Tensor, bad: Tensor) -> tuple[Solution, Tensor]:
        """The same where some matrices are not finite: what NaN is multiplied with is NaN, so they are kept apart."""
        wide = bad[..., None, None]
        x = _logarithms(torch.where(wide, 1, X))
        solution = self.marginals.solve(torch.where(wide, X, x))
        value = scale(x, torch.where(bad.unsqueeze(-1), 0, solution.value))
        if self.marginals.on_failure != "nan":
            return solution, torch.where(wide, torch.nan, value)
        value = torch.where(wide, X, value)
        return solution, Spoil.apply(value.flatten(-2), bad, False).unflatten(-1, X.shape[-2:])


def _logarithms(X: Tensor) -> Tensor:
    return torch.maximum(X, _FLOOR * X.detach().amax((-2, -1), keepdim=True)).log()
