"""F at a point on the tape of autograd: one evaluation serves J and the derivative of all that F uses."""

from ._records import changed
from .forward import Outcome
from .linearise import detach
from .operators import JacobianOperator
from .problem import Problem
from .residuals import equation
from .types import Tree, Vectors


class Tape:
    """The equation at a point y, evaluated live. `shared`: y is on the tape too, which then serves the Jacobian."""

    def __init__(self, problem: Problem, outcome: Outcome, y: Vectors, shared: bool):
        self.problem, self.outcome, self.shared = problem, outcome, shared
        self.y = y.detach().requires_grad_() if shared else y.detach()
        self.residual = equation(problem, outcome.layout, outcome.layout.n)
        self.r = self.residual(self.y)
        self.root = self.r.detach()  # F itself, also where the equation is J'F = 0
        if self.r.shape[1] > outcome.layout.n:
            self.residual = equation(problem, outcome.layout, self.r.shape[1])
            self.r = self.residual(self.y)

    def moved(self, x: Tree, y: Vectors) -> "Tape":
        """The same with other x and y."""
        return Tape(changed(self.problem, x=x), self.outcome, y, self.shared)

    def operator(self) -> JacobianOperator:
        """dF/dy at the point."""
        if self.shared:
            return JacobianOperator.from_tape(self.r, self.y, self.problem.sign)
        residual = equation(detach(self.problem), self.outcome.layout, self.root.shape[1])
        return JacobianOperator(residual, self.y, sign=self.problem.sign)
