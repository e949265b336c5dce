"""The derivative of an eager solve when it is asked for: until then, one evaluation of F at the solution is all that is taped.

    dx' = -F_x' u,   J' u = g      (the theorem, transposed)

A derivative without a graph is made of products with that tape. One with a graph, which may be differentiated again, is
that of the chord steps (`attach`), taped only then.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import _tree
from ._records import changed
from .forward import Outcome
from .implicit import Demand, Fence, Limit, Postponed, attach
from .linear.base import AbstractDenseInverse, AbstractInverse
from .linear.call import LinearCall
from .linear.lu import LU
from .linearise import Request
from .modes import no_autocast, plain, unhooked
from .operators import JacobianOperator
from .residuals import equation
from .tape import Tape
from .types import Tree, Vectors

_PRODUCTS = 8  # with the live J before a fresh factor takes the place of one nearby
_CONTRACTS = 0.25  # a product that leaves more of the residual is worth less than a fresh factor


@dataclass(frozen=True)
class Sources:
    """F at the solution on a tape of its own, which begins at copies of the tensors in x and at tensors that F refers to."""

    tape: Tape
    copies: list[Tensor]
    tensors: list[Tensor]  # those of x, of which `copies` are copies
    live: list[Tensor]  # leaves of autograd in closures and modules
    point: Vectors  # y without a graph

    @staticmethod
    def of(request: Request, outcome: Outcome, y: Vectors) -> "Sources | None":
        """None where F refers to results of operations before it, whose tape is not only its own."""
        leaves, spec = _tree.flatten(request.problem.x)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
        copies = [tensor.detach().requires_grad_() for tensor in tensors]
        x = _filled(leaves, spec, copies)
        begin = torch.autograd._get_sequence_nr()  # type: ignore[attr-defined]
        tape = Tape(changed(request.problem, x=x), outcome, y, shared=True)
        end = torch.autograd._get_sequence_nr()  # type: ignore[attr-defined]
        live = _leaves_behind(tape.r, [tape.y, *copies], range(begin, end))
        return None if live is None else Sources(tape, copies, tensors, live, y)

    def at(self, y: Vectors) -> "Sources":
        """The same at another point."""
        return changed(self, tape=self.tape.moved(self.tape.problem.x, y), point=y)


def _filled(leaves: list[object], spec: _tree.TreeSpec, tensors: Iterable[Tensor]) -> Tree:
    """The nest with other tensors in the places of those that require grad."""
    others = iter(tensors)
    return _tree.unflatten([next(others) if isinstance(t, Tensor) and t.requires_grad else t for t in leaves], spec)


def _leaves_behind(root: Tensor, known: list[Tensor], during: range) -> list[Tensor] | None:
    """The leaves of autograd on which the root depends beside those that are known; None for operations before F."""
    own, found, seen, stack = {id(tensor) for tensor in known}, [], set(), [root.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if type(node).__name__ == "AccumulateGrad":
            if id(node.variable) not in own:  # type: ignore[attr-defined]
                found.append(node.variable)  # type: ignore[attr-defined]
        elif node._sequence_nr() not in during:  # type: ignore[attr-defined]
            return None
        else:
            stack.extend(before for before, _ in node.next_functions)
    return found


@dataclass(eq=False)
class OnDemand:
    """From cotangents of y to those of all that it depends on.

    - `sources`: the tape at the value of y; `start`: the point at which `inverse` is that of J.
    - `close`: the inverse is that of a Jacobian nearby, to be refined by products with the live one.
    """

    request: Request
    sources: Sources
    inverse: AbstractInverse
    start: Vectors
    close: bool

    def value(self, y: Tensor) -> Tensor:
        """y with its derivatives, in memory of its own: it may be changed in place."""
        live = self.sources.live
        demand = Demand(self.pull, self.attached, len(live))
        return Postponed.apply(demand, 1, y.clone(), *self.sources.tensors, *live)[0]

    def pull(self, *cotangents: Tensor | None) -> list[Tensor | None]:
        """-F_x' u, and the same for all that F refers to."""
        (g,) = cotangents
        assert g is not None
        with plain(g.device), unhooked(self.sources.live):
            if not isinstance(self.inverse, AbstractDenseInverse):
                return self._products(self._solved(self.inverse, g))[1:]
            u = self.inverse.apply_transposed(g)
            tape = self.sources.tape
            refinable = tape.r.shape == tape.y.shape and (self.close or self.start is not self.sources.point)
            return self._refined(g, u) if refinable else self._products(u)[1:]

    def _refined(self, g: Tensor, u: Tensor) -> list[Tensor | None]:
        """The products once g - J' u is small, or as small as the inverse can make it: that of a singular J leaves a part.

        J is that at y, and the inverse that of a point close to it. A fresh one takes its place where it does not serve.
        """
        assert isinstance(self.inverse, AbstractDenseInverse)
        tolerance = torch.finfo(g.dtype).eps ** 0.75
        limit = tolerance * torch.linalg.vector_norm(g, dim=-1)
        before = torch.full_like(limit, torch.inf)
        for _ in range(_PRODUCTS):
            back, *found = self._products(u)
            gap = g if back is None else g + back
            size = torch.linalg.vector_norm(gap, dim=-1)
            small = size <= limit
            if bool(small.all()):
                return found
            step = self.inverse.apply_transposed(gap)
            small |= torch.linalg.vector_norm(step, dim=-1) <= tolerance * torch.linalg.vector_norm(u, dim=-1)
            if bool(small.all()):
                return found
            if not bool((small | (size <= _CONTRACTS * before)).all()):
                break
            u, before = u + step, size
        self.inverse, self.start, self.close = self._fresh(), self.sources.point, False
        singular = self.inverse.singular
        if singular is None or not bool(singular.any()):
            u = self.inverse.apply_transposed(g)
        else:  # found so late only where J changes within the last step of the solver
            u = self._solved(self.inverse, g)
            u = torch.where(singular.unsqueeze(-1) & ~u.isnan(), 0, u)
        return self._products(u)[1:]

    def _products(self, u: Tensor) -> list[Tensor | None]:
        """-J' u and -F_x' u."""
        tape = self.sources.tape
        inputs = [tape.y, *self.sources.copies, *self.sources.live]
        return list(torch.autograd.grad(tape.r, inputs, u.neg(), retain_graph=True, allow_unused=True))

    def _solved(self, inverse: AbstractInverse, g: Tensor) -> Tensor:
        return LinearCall(inverse, self.request.judge_linear, transposed=True, last=True).solve(g)

    def _fresh(self) -> AbstractDenseInverse:
        """The inverse of J at y."""
        tape, solver = self.sources.tape, self.request.linear_solver
        assert solver is not None
        operator = JacobianOperator.from_tape(tape.r, tape.y, tape.problem.sign)
        inverse = solver.freeze(operator)
        return inverse if isinstance(inverse, AbstractDenseInverse) else LU().freeze(operator)

    def attached(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """y with derivatives up to the order of the adjoint."""
        request, tape, start = self.request, self.sources.tape, self.start
        leaves, spec = _tree.flatten(request.problem.x)
        problem = changed(request.problem, x=_filled(leaves, spec, tensors))
        inverse = self.inverse
        if self.close:
            start = self.sources.point
            with plain(start.device):
                inverse = self._fresh()
        steps = request.steps(inverse)
        with no_autocast(start.device):
            residual = equation(problem, tape.outcome.layout, tape.root.shape[1])
            there = start is self.sources.point  # then y has its value already
            hold = torch.ones(len(start), dtype=torch.bool, device=start.device) if there else None
            y = attach(residual, start, inverse, steps, hold=hold, judge=request.judge_linear).y
        return (Fence.apply(y, y, Limit(steps, steps)),)
