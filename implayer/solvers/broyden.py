"""Broyden's method with limited memory, restarts and a guard against singular updates."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..problem import VectorProblem
from ..types import Tree, Vectors
from .base import AbstractIterativeSolver, require_square

_GROWTH = 1e4  # a step that multiplies the residual by more than this is taken back
_SAFE = 0.1  # the update keeps |s' H dr| above this part of s's, so that J stays regular


@dataclass(frozen=True)
class Broyden(AbstractIterativeSolver):
    r"""The "good" Broyden method: Newton's method with a Jacobian learned from the residuals, in 2 * memory vectors.

    $$y_{k+1} = y_k - H_k r_k,\qquad H_{k+1} = H_k + \theta\,\frac{(s - H_k\Delta r)\,s^\top H_k}
      {(1-\theta)\,s^\top s + \theta\,s^\top H_k\Delta r},\qquad H_0 = -\text{sign}\cdot\text{damping}\cdot I$$

    with $s = y_{k+1} - y_k$ and $\theta = 1$, save where that would make the Jacobian nearly singular. On a linear
    system it ends after at most 2 n steps, whatever the order of the equations, if `memory` is not less than that; it
    is not monotone before. After `memory` updates it starts again from $H_0$, and so does, from its last iterate and
    with a shorter step, a sample whose residual grew ten-thousandfold.

    **Arguments**

    - `memory` (default 30): updates kept. Raise it to 2 n where n is small and J is not near $-\text{sign}\cdot I$.
    - `damping` (default 1.0): scale of $H_0$, about 1/|J|. Lower it where the first steps overshoot.
    - `atol`, `rtol`, `max_steps` (keywords; `max_steps` defaults to 200): see `AbstractIterativeSolver`.

    **Returns** from `solver(problem)`: a `Solution`.

    **Raises** ShapeError where F has not as many equations as unknowns.

    **References**: C. G. Broyden, Math. Comp. 19 (1965); J. J. More, J. A. Trangenstein, Math. Comp. 30 (1976), for
    $\theta$; D. M. Gay, SIAM J. Numer. Anal. 16 (1979), for the 2 n steps.

        >>> import torch, implayer
        >>> problem = implayer.Problem(lambda x, y: torch.cos(y) - y, None, torch.zeros(1, 1))
        >>> round(implayer.Broyden()(problem).value.item(), 4)
        0.7391
    """

    memory: int = 30
    damping: float | int = 1.0
    _: KW_ONLY
    max_steps: int = 200

    _divergence: ClassVar[float] = float("inf")  # such steps are taken back instead

    def init(self, problem: VectorProblem, y: Vectors, r: Tensor) -> Tree:
        """No updates yet."""
        del problem
        require_square(y, r, "Broyden")
        samples, n = y.shape
        return {
            "u": y.new_zeros(samples, self.memory, n),
            "v": y.new_zeros(samples, self.memory, n),
            "y": y,
            "r": r,
            "norm": torch.full_like(y[:, 0].real, torch.inf),
            "shorter": torch.ones_like(y[:, 0].real),
            "count": 0,
        }

    def step(self, problem: VectorProblem, y: Vectors, r: Tensor, state: Tree) -> tuple[Vectors, Tensor | None, Tree]:
        """Learn from the last step, then go along -H r."""
        norm = torch.linalg.vector_norm(r, dim=-1)
        new = {**state, "y": y, "r": r, "norm": norm, "count": state["count"] + 1}
        scale = self.damping * problem.sign
        if state["count"] == 0 or self.memory == 0:
            return y.add(r, alpha=scale), None, new
        used = (state["count"] - 1) % self.memory  # updates made since the last common restart
        s, dr = y - state["y"], r - state["r"]
        u, v = state["u"][:, :used], state["v"][:, :used]
        hdr = _apply(u, v, dr, scale)
        sh = _apply(v, u, s, scale)
        ss, shdr = (s.conj() * s).sum(-1).real, (sh.conj() * dr).sum(-1)
        theta = _theta(ss, shdr.real)
        below = (1 - theta) * ss + theta * shdr
        factor = torch.where(below != 0, theta / below, 0).unsqueeze(-1)
        new["u"] = _write(state["u"], used, (s - hdr) * factor)
        new["v"] = _write(state["v"], used, sh)
        y_new = y - _apply(new["u"][:, : used + 1], new["v"][:, : used + 1], r, scale)
        worse = ~(norm <= _GROWTH * state["norm"])
        if bool(worse.any()):
            return self._restart(worse, y_new, state, new, scale)
        return y_new, None, new

    def _restart(self, worse: Tensor, y: Tensor, old: Tree, new: Tree, scale: float) -> tuple[Vectors, None, Tree]:
        column, cube = worse.unsqueeze(-1), worse[:, None, None]
        shorter = torch.where(worse, 0.1 * old["shorter"], old["shorter"])
        back = old["y"] + scale * shorter.unsqueeze(-1) * old["r"]
        state = {
            **new,
            "u": torch.where(cube, 0, new["u"]),
            "v": torch.where(cube, 0, new["v"]),
            "y": torch.where(column, old["y"], new["y"]),
            "r": torch.where(column, old["r"], new["r"]),
            "norm": torch.where(worse, old["norm"], new["norm"]),
            "shorter": shorter,
        }
        return torch.where(column, back, y), None, state


def _apply(u: Tensor, v: Tensor, w: Tensor, scale: float) -> Tensor:
    """(H_0 + sum_i u_i v_i') w with H_0 = -scale I; swapped u and v give the transpose."""
    inner = (v.conj() * w.unsqueeze(1)).sum(-1, keepdim=True)
    return (u * inner).sum(1) - scale * w


def _theta(ss: Tensor, shdr: Tensor) -> Tensor:
    """One, or the share of the update that keeps the Jacobian regular (More and Trangenstein)."""
    ratio = torch.where(ss > 0, shdr / ss, 1)
    side = torch.where(ratio < 0, -1.0, 1.0).to(ratio.dtype)
    return torch.where(ratio.abs() < _SAFE, (1 - side * _SAFE) / (1 - ratio), torch.ones_like(ratio))


def _write(history: Tensor, slot: int, value: Tensor) -> Tensor:
    """The history with one slot replaced: in place, except where a graph is being built (unrolled adjoints)."""
    if value.requires_grad or history.requires_grad:
        history = history.clone()
    history[:, slot] = value
    return history
