"""Bisection of scalar unknowns, a whole batch at a time."""

from dataclasses import KW_ONLY, dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from .. import _tree
from ..errors import ShapeError
from ..problem import Problem, VectorProblem
from ..types import Tree, Vectors
from .base import AbstractIterativeSolver


@dataclass(frozen=True)
class Bisection(AbstractIterativeSolver):
    r"""Bisection: certain for a continuous scalar equation between two points of opposite sign.

    $$y_k = \tfrac12 (l_k + u_k),\qquad [l_{k+1}, u_{k+1}] = \text{the half in which } F \text{ changes its sign}$$

    Every sample has one unknown and needs no start. A sample ends when its bracket is two units of rounding wide (or
    F is zero) and its residual is within the tolerance; so the answer is exact to rounding, in about 55 evaluations
    in float64. Where `atol` or `rtol` is given, the residual alone decides, and the answer is as rough as asked for.
    A sample whose ends have the same sign fails with MAX_STEPS and `aux["unbracketed"]`; a pole fails, too, for its
    residual does not vanish.

    **Arguments**

    - `lower`, `upper`: numbers, or tensors that broadcast to the shape of y (batch axes, then `event_ndim` axes of
      length one). The shape is that of y0 where there is one, else that to which `lower`, `upper` and F(x, lower)
      broadcast.
    - `atol`, `rtol`, `max_steps` (keywords; `max_steps` defaults to 200): see `AbstractIterativeSolver`. A root at
      exactly zero takes all steps, since no bracket around it is ever narrow beside it; it converges by the tolerance
      then.

    **Returns** from `solver(problem)`: a `Solution` whose `aux` holds `unbracketed` as well.

    **Raises** ShapeError where a sample has more than one unknown or equation.

    **Reference**: R. P. Brent, "Algorithms for Minimization without Derivatives", Prentice-Hall (1973), chapter 4.

        >>> import torch, implayer
        >>> problem = implayer.Problem(lambda x, y: y**3 - x, torch.tensor([1.0, 8.0]), event_ndim=0)
        >>> implayer.Bisection(0.0, 3.0)(problem).value
        tensor([1., 2.])
    """

    lower: float | int | Tensor
    upper: float | int | Tensor
    _: KW_ONLY
    max_steps: int = 200

    _patience: ClassVar[int] = 10**9  # the residual of a bisection goes up and down
    _divergence: ClassVar[float] = float("inf")

    def init(self, problem: VectorProblem, y: Vectors, r: Tensor) -> Tree:
        """The bracket, and the sign of F at its lower end."""
        del y
        if r.shape[-1] != 1:
            raise ShapeError(
                f"`Bisection` needs one equation per sample, but F has {r.shape[-1]}. Use `LevenbergMarquardt()`."
            )
        lower, upper = self._ends(problem)
        at_lower, at_upper = problem.residual(lower), problem.residual(upper)
        bracketed = at_lower.sign() * at_upper.sign() <= 0  # not so with NaN at an end
        # An end that is a root is the answer: the bracket shrinks to it.
        lower = torch.where(at_upper == 0, upper, lower)
        upper = torch.where(at_lower == 0, lower, upper)
        return {"lower": lower, "upper": upper, "side": at_lower.sign(), "unbracketed": ~bracketed.squeeze(-1)}

    def step(self, problem: VectorProblem, y: Vectors, r: Tensor, state: Tree) -> tuple[Vectors, Tensor | None, Tree]:
        """Keep the half with the change of sign; its middle is next."""
        del problem
        inside = (state["lower"] <= y) & (y <= state["upper"])
        same = r.sign() == state["side"]
        lower = torch.where(same & inside, y, state["lower"])
        upper = torch.where(~same & inside, y, state["upper"])
        return _middle(lower, upper), None, {**state, "lower": lower, "upper": upper}

    def _settled(self, y: Vectors, r: Tensor, state: Tree) -> Tensor | None:
        if self.atol is not None or self.rtol is not None:
            return None
        narrow = state["upper"] - state["lower"] <= 2 * torch.finfo(y.dtype).eps * y.abs()
        return ((r == 0) | narrow).squeeze(-1)

    def _given_up(self, state: Tree) -> tuple[str, Tensor] | None:
        return "unbracketed", state["unbracketed"]

    def _vectors(self, problem: Problem) -> VectorProblem:
        vectors = problem.vectors(_start(problem, self.lower, self.upper) if problem.y0 is None else None)
        if vectors.n != 1:
            raise ShapeError(
                f"`Bisection` needs one unknown per sample, but y has {vectors.n}. Use `event_ndim=0` for a batch of "
                f"scalar unknowns, or `Newton()` for systems."
            )
        return replace(vectors, y0=_middle(*self._ends(vectors)))

    def _ends(self, problem: VectorProblem) -> tuple[Tensor, Tensor]:
        shape = problem.layout.batch + next(event for event in problem.layout.events if event is not None)
        ends = []
        for name, end in (("lower", self.lower), ("upper", self.upper)):
            value = torch.as_tensor(end, dtype=problem.dtype, device=problem.device)
            try:
                ends.append(value.expand(shape).reshape(problem.samples, 1))
            except RuntimeError as error:
                raise ShapeError(
                    f"`{name}` has shape {tuple(value.shape)}, which does not broadcast to {shape}, the shape of y."
                ) from error
        return ends[0].minimum(ends[1]), ends[0].maximum(ends[1])


def _middle(lower: Tensor, upper: Tensor) -> Tensor:
    return lower + 0.5 * (upper - lower)


def _start(problem: Problem, lower: float | int | Tensor, upper: float | int | Tensor) -> Tensor:
    """A start of the shape to which the ends and F broadcast, with the dtype of the ends, else of x."""
    candidates = [end for end in (lower, upper) if isinstance(end, Tensor)] + _tree.leaves(problem.x)
    tensor = next((leaf for leaf in candidates if _tree.differentiable(leaf)), torch.empty(0))
    ends = [torch.as_tensor(end, dtype=tensor.dtype, device=tensor.device) for end in (lower, upper)]
    start = torch.broadcast_tensors(*ends)[0]
    start = start.reshape((1,) * (problem.event_ndim - start.ndim) + start.shape)
    r = next(leaf for leaf in _tree.leaves(problem.residual(start)) if isinstance(leaf, Tensor))
    return start.expand(torch.broadcast_shapes(start.shape, r.shape)).contiguous()
