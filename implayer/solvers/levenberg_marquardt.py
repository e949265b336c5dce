"""The Levenberg-Marquardt method for square, wide and least-squares problems."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..operators import JacobianOperator
from ..problem import VectorProblem
from ..types import Tree, Vectors
from .base import AbstractIterativeSolver

_ACCEPTED = 1e-4  # least gain ratio of a step that is taken
_HIDDEN = 64  # units of rounding of |F|^2 below which its decrease cannot be measured
_ROUNDING = 16  # a step of so many units of rounding is taken whatever it does: it shows that y is at its floor


@dataclass(frozen=True)
class LevenbergMarquardt(AbstractIterativeSolver):
    r"""Levenberg-Marquardt: the robust solver where a start is poor, and the one for more equations than unknowns.

    $$y_{k+1} = y_k - d,\qquad d = \arg\min_d \|F - J d\|^2 + \mu\,\|D d\|^2$$

    $D$ holds the largest column norms of J so far (Marquardt's scaling, as in MINPACK; with fewer equations than
    unknowns the largest of them for all, which leads to the root nearest to y0 to first order); $\mu$ belongs to a
    sample and follows its gain ratio (actual over predicted decrease of $|F|^2$): steps with a ratio below 1e-4 are
    not taken. The small problems are solved by QR, not by normal equations, so that their condition is not squared.

    With more equations than unknowns success is stationarity, $\|J^\top F\| \le \text{atol} + \text{rtol}\,\|J_0^\top
    F_0\|$, and that is the `residual_norm`. With as many or fewer it is $F = 0$: a minimum of $|F|$ that is no root
    ends with MAX_STEPS.

    **Arguments**

    - `mu` (default 1e-3): first damping, relative to D. Raise it to 1 for a very poor start; 1e-6 makes the first
      steps those of Gauss and Newton.
    - `atol`, `rtol`, `max_steps` (keywords; `max_steps` defaults to 100, rejected steps included): see
      `AbstractIterativeSolver`.

    **Returns** from `solver(problem)`: a `Solution`.

    **References**: J. J. More, "The Levenberg-Marquardt algorithm: implementation and theory", LNM 630 (1978); H. B.
    Nielsen, IMM report 1999-05, for the rule of $\mu$.

        >>> import torch, implayer
        >>> t = torch.arange(3.0)
        >>> problem = implayer.Problem(lambda x, y: x - y * t, torch.tensor([[0.0, 2.0, 4.1]]), torch.ones(1, 1))
        >>> round(implayer.LevenbergMarquardt()(problem).value.item(), 2)
        2.04
    """

    mu: float | int = 1e-3
    _: KW_ONLY
    max_steps: int = 100

    _patience: ClassVar[int] = 25

    def _start(self, problem: VectorProblem) -> tuple[Tensor, Tree]:
        tape = JacobianOperator(problem.residual, problem.y0, sign=problem.sign)
        return tape.value, self._prepared(tape, self._empty(problem.y0))

    def init(self, problem: VectorProblem, y: Vectors, r: Tensor) -> Tree:
        """The first damping; the first Jacobian where success is stationarity."""
        del r
        return self._prepared(JacobianOperator(problem.residual, y, sign=problem.sign), self._empty(y))

    def _empty(self, y: Tensor) -> dict[str, Any]:
        real = y[:, 0].real
        return {
            "scale": torch.zeros_like(y.real),
            "mu": torch.full_like(real, self.mu),
            "nu": torch.full_like(real, 2.0),
        }

    def _prepared(self, tape: JacobianOperator, state: Tree) -> Tree:
        """J at once where J'F is to be judged, else only when the next step needs it."""
        if tape.rows > tape.columns:
            return _linearised(tape, state)
        return {**state, "jacobian": None, "tape": tape}

    def _measure(self, r: Tensor, state: Tree) -> Tensor:
        return state["gradient"] if r.shape[-1] > state["scale"].shape[-1] else r

    def step(self, problem: VectorProblem, y: Vectors, r: Tensor, state: Tree) -> tuple[Vectors, Tensor | None, Tree]:
        """One damped step, taken by the samples to which it is a gain."""
        if state["jacobian"] is None:
            tape = state["tape"]
            if tape.samples != len(y):  # the loop has left samples out since
                tape = JacobianOperator(problem.residual, y, sign=problem.sign)
            state = _linearised(tape, state)
        jacobian, scale, mu = state["jacobian"], state["scale"], state["mu"]
        weights = scale * mu.sqrt().unsqueeze(-1)
        move = _damped(jacobian, weights, r)
        trial = y - move
        tape = JacobianOperator(problem.residual, trial, sign=problem.sign)
        before, after = torch.linalg.vector_norm(r, dim=-1), torch.linalg.vector_norm(tape.value, dim=-1)
        product = (jacobian @ move.unsqueeze(-1)).squeeze(-1)
        predicted = (
            torch.linalg.vector_norm(product, dim=-1) ** 2 + 2 * torch.linalg.vector_norm(weights * move, dim=-1) ** 2
        )
        gain = (before - after) * (before + after) / predicted
        eps = torch.finfo(y.dtype).eps
        # A decrease that rounding hides says nothing about the step: the model is trusted. Without this, least squares
        # would end with half of the digits.
        hidden = (predicted <= _HIDDEN * eps * before**2) & (after <= before * (1 + _HIDDEN * eps))
        gain = torch.where(hidden, 1.0, gain)
        rounding = _ROUNDING * eps * torch.linalg.vector_norm(y, dim=-1)
        small = (torch.linalg.vector_norm(move, dim=-1) <= rounding) & after.isfinite()
        taken = (gain > _ACCEPTED) | small
        # Nielsen's rule, but a factor 0.1 where the model was exact, so that the end is fast.
        lower = (1 - (2 * gain - 1) ** 3).clamp(min=1 / 3).where(gain < 0.9, 0.1)
        lower = torch.where(hidden, 1.0, lower)  # nor does it say that less damping would do: J'J alone may overshoot
        state = {
            **state,
            "mu": torch.where(taken & ~small, mu * lower, torch.where(small, mu, mu * state["nu"])).clamp(1e-30, 1e30),
            "nu": torch.where(taken, 2.0, state["nu"] * 2).clamp(max=1e10),
        }
        count = int(taken.sum())
        if count == 0:
            return y, r, state
        if count < len(y):
            trial = torch.where(taken.unsqueeze(-1), trial, y)
            tape = JacobianOperator(problem.residual, trial, sign=problem.sign)
        return trial, tape.value, self._prepared(tape, state)


def _linearised(tape: JacobianOperator, state: Tree) -> Tree:
    """The state with J at the tape's point, the largest column norms, and J'F."""
    jacobian = tape.materialise()
    # With fewer equations than unknowns one scale for all, so that steps stay in range(J') and are the shortest.
    columns = torch.linalg.vector_norm(jacobian, dim=-2).nan_to_num(0.0, 0.0)
    if tape.rows < tape.columns:
        columns = columns.amax(-1, keepdim=True)
    scale = state["scale"].maximum(columns)
    gradient = (jacobian.mH @ tape.value.unsqueeze(-1)).squeeze(-1)
    return {**state, "jacobian": jacobian, "scale": scale, "gradient": gradient, "tape": None}


def _damped(jacobian: Tensor, weights: Tensor, r: Tensor) -> Tensor:
    """argmin |r - J d|^2 + |weights d|^2 by QR of (J; diag weights)."""
    weights = torch.where(weights > 0, weights, 1)  # an unknown on which F does not depend yet: any scale will do
    q, upper = torch.linalg.qr(torch.cat([jacobian, torch.diag_embed(weights).to(jacobian.dtype)], dim=-2))
    right = q[:, : r.shape[-1]].mH @ r.unsqueeze(-1)
    return torch.linalg.solve_triangular(upper, right, upper=True).squeeze(-1)
