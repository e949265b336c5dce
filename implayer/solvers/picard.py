"""Picard: the damped fixed-point iteration."""

from dataclasses import KW_ONLY, dataclass

from torch import Tensor

from ..problem import VectorProblem
from ..types import Tree, Vectors
from .base import AbstractIterativeSolver, require_square


@dataclass(frozen=True)
class Picard(AbstractIterativeSolver):
    r"""The damped fixed-point iteration, for contractions.

    $$y_{k+1} = y_k + \text{damping}\cdot\text{sign}\cdot F(x, y_k)$$

    With `sign` that of the layer (+1 for `FixedPointLayer`, where F = f - y) and `damping=1` this is $y_{k+1} = f(x,
    y_k)$. It converges where $I + \text{damping}\cdot\text{sign}\cdot\partial F/\partial y$ has a spectral radius
    below one.

    **Arguments**

    - `damping` (default 1.0): length of the step. Lower it to 0.5 or 0.1 where the iteration oscillates (eigenvalues
      of f below -1); it slows down contractions that need none.
    - `atol`, `rtol`, `max_steps` (keywords; `max_steps` defaults to 1000): see `AbstractIterativeSolver`. With
      `max_steps=1` F is evaluated once, at the start, and the residual of the answer is left to the caller.

    **Returns** from `solver(problem)`: a `Solution`; samples that did not contract have the status MAX_STEPS.

    **Raises** ShapeError where F has not as many equations as unknowns.

    **Reference**: E. Picard, Journal de Mathematiques Pures et Appliquees 6 (1890).

        >>> import torch, implayer
        >>> problem = implayer.Problem(lambda x, y: torch.cos(y) - y, None, torch.zeros(1, 1))
        >>> round(implayer.Picard()(problem).value.item(), 4)
        0.7391
    """

    damping: float | int = 1.0
    _: KW_ONLY
    max_steps: int = 1000

    def init(self, problem: VectorProblem, y: Vectors, r: Tensor) -> Tree:
        """Nothing to remember."""
        del problem
        require_square(y, r, "Picard")
        return None

    def step(self, problem: VectorProblem, y: Vectors, r: Tensor, state: Tree) -> tuple[Vectors, Tensor | None, Tree]:
        """One damped step along the residual."""
        return y.add(r, alpha=self.damping * problem.sign), None, state

    @property
    def _evaluate_last(self) -> bool:
        return self.max_steps != 1
