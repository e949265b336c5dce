"""Solve and attach the derivative outside torch.func: one taped evaluation of F serves J and the gradient of all it uses."""

from dataclasses import replace

import torch
from torch import Tensor

from . import _tree
from .failures import enforce
from .forward import Outcome, judge, run, stand_in
from .implicit import Fence, Limit, attach
from .linearise import Request, detach, linearise
from .modes import forward_mode, plain, saving_is_hooked
from .operators import JacobianOperator
from .problem import Problem
from .residuals import equation
from .solution import Solution, Status
from .types import Tree, Vectors


def solve_eager(request: Request, device: torch.device) -> Solution:
    """The solution with derivatives to the order that the request asks for."""
    detached = detach(request.problem)
    with plain(device):
        outcome = run(detached, request.solver)
    tape = _first_tape(request, outcome)
    with plain(device):
        outcome = judge(detached, outcome, None if tape is None else tape.root)
    clean = not bool(outcome.status.any())  # all CONVERGED, which is 0
    if not clean:
        enforce(outcome.solution(), request.on_failure, request.who, detached)
    if tape is None:
        return outcome.solution()
    if outcome.y.numel() == 0:
        y = outcome.y + tape.r.sum()  # an empty sum: connects the empty result to the graph
        return outcome.solution().replace(value=outcome.layout.unpack(y))
    return _attached(request, detached, outcome, tape, clean)


def _attached(request: Request, detached: Problem, outcome: Outcome, tape: "_Tape", clean: bool) -> Solution:
    layout, original = outcome.layout, outcome.y
    bad = None if clean else outcome.status == Status.NONFINITE
    if bad is not None and bool(bad.any()):
        if bool(bad.all()):
            return outcome.solution().replace(value=layout.unpack(original + _nothing(request)))
        tape = tape.moved(*stand_in(request.problem, outcome, bad))
    with plain(layout.device):
        inverse, outcome, singular = linearise(request, detached, outcome, tape.operator())
    if singular is not None:
        bad = singular if bad is None else bad | singular
    failed = None if bad is None else _failed(outcome)
    steps = request.steps(inverse)
    attachment = attach(
        tape.residual, tape.y.detach(), inverse, steps, first=tape.r, hold=failed, judge=request.judge_linear
    )
    y = attachment.y
    if failed is not None and bad is not None:
        y = torch.where(bad.unsqueeze(-1), original, y)
    y = Fence.apply(y, y, Limit(steps, steps, failed if request.on_failure == "nan" else None))
    if steps > 1 and attachment.polished:
        norm = torch.linalg.vector_norm(attachment.residual, dim=-1)
        outcome = replace(
            outcome, residual_norm=norm if failed is None else torch.where(failed, outcome.residual_norm, norm)
        )
    return outcome.solution().replace(value=layout.unpack(y))


def _nothing(request: Request) -> Tensor:
    """Zero, with a zero derivative for all that the layer is given: nothing else can be said where every sample failed."""
    leaves = [leaf for leaf in _tree.leaves(request.problem.x) if _tree.differentiable(leaf) and leaf.requires_grad]
    return sum((leaf.reshape(-1)[:0].sum() for leaf in [*leaves, *request.trainable]), torch.zeros(()))


def _failed(outcome: Outcome) -> Tensor | None:
    """(samples,) where value and gradient are not valid, or None where all are."""
    failed = (outcome.status != Status.CONVERGED) & (outcome.status != Status.DEGENERATE)
    return failed if bool(failed.any()) else None


def _first_tape(request: Request, outcome: Outcome) -> "_Tape | None":
    """F at the solution with its graph, or None where no derivative can be asked for."""
    forward = forward_mode()
    if not torch.is_grad_enabled() and not forward:
        return None
    alone = not forward and not saving_is_hooked()  # products with a tape that others watch would disturb them
    explicit = bool(request.trainable) or any(
        isinstance(leaf, Tensor) and leaf.requires_grad for leaf in _tree.leaves(request.problem.x)
    )
    tape = _Tape(request.problem, outcome, outcome.y, shared=explicit and alone)
    if explicit or forward:
        return tape
    if tape.r.requires_grad:  # a tensor that F closes over is differentiable
        return _Tape(request.problem, outcome, outcome.y, shared=alone)
    return None


class _Tape:
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

    def moved(self, x: Tree, y: Vectors) -> "_Tape":
        """The same with other x and y."""
        return _Tape(replace(self.problem, x=x), self.outcome, y, self.shared)

    def operator(self) -> JacobianOperator:
        """dF/dy at the point."""
        if self.shared:
            return JacobianOperator.from_tape(self.r, self.y, self.problem.sign)
        residual = equation(detach(self.problem), self.outcome.layout, self.root.shape[1])
        return JacobianOperator(residual, self.y, sign=self.problem.sign)
