"""The truncated gradient by one taped evaluation of the fixed-point map, which also is one more step of it.

    y = f(x, y0),   dy = sum_{i=0}^{T} (df/dy)^i df/dx dx      (equations (11) and (14) of "(Implicit)^2")

This is what `Neumann(terms=T)` needs where failures are ignored: beside the forward solve one evaluation of the map, T
products for the adjoint, and no array of the size of y but those that the map itself keeps for its gradient.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from .forward import Outcome, run
from .implicit import Fence, Limit, MapStep, Unheld, gradient_edge
from .linear.base import default_tolerance
from .linear.neumann import Neumann
from .linearise import Request, detach
from .modes import forward_mode, plain, saving_is_hooked, transforms
from .problem import Problem, VectorProblem
from .residuals import Displacement
from .solution import Solution, Status


def solve_truncated(request: Request, device: torch.device) -> Solution | None:
    """The solution with its truncated gradient; None where the general path has to do it.

    That is: under torch.func, in forward mode, in activation checkpointing, without a graph, for orders above one, where
    failures are not ignored, where nothing is trainable, or where a sample is not finite.
    """
    neumann = request.linear_solver
    if not isinstance(neumann, Neumann) or request.on_failure != "ignore" or request.order not in (None, 1):
        return None
    if not (request.trainable and torch.is_grad_enabled()) or transforms() or forward_mode() or saving_is_hooked():
        return None
    with plain(device):
        outcome = run(detach(request.problem), request.solver)
    point = Unheld.apply(outcome.y, torch.zeros((), device=device, requires_grad=True))
    start = gradient_edge(point)
    image = _map(request.problem, outcome, neumann.damping)(point)
    del point
    if image.shape != outcome.y.shape:
        return None
    with plain(device):
        judged = _judged(outcome, image.detach(), neumann.damping)
    if not bool(torch.isfinite(judged.residual_norm).all()):
        return None
    value = MapStep.apply(image, gradient_edge(image), start, neumann.terms)
    value = Fence.apply(value, value, Limit(1, 1))
    return judged.solution().replace(value=outcome.layout.unpack(value))


def _map(problem: Problem, outcome: Outcome, damping: float) -> Callable[[Tensor], Tensor]:
    """The fixed-point map on vectors. That of a fixed-point layer itself: F = f - y would cost two arrays more."""
    layout = outcome.layout
    if isinstance(problem.F, Displacement) and damping == 1:
        f = problem.F.f
        return lambda y: layout.pack(f(problem.x, layout.unpack(y)))
    vectors = VectorProblem(problem, layout, outcome.y)
    return lambda y: y + (damping * problem.sign) * vectors.residual(y)


def _judged(outcome: Outcome, image: Tensor, damping: float) -> Outcome:
    """Residual norm and status of the start of the last step, which bounds that of its end where the map contracts."""
    norm = torch.linalg.vector_norm(image - outcome.y, dim=-1) / damping
    if outcome.judged:
        return replace(outcome, residual_norm=norm)
    good = norm <= default_tolerance(None, outcome.layout.dtype)
    status = torch.where(good, int(Status.CONVERGED), int(Status.MAX_STEPS))
    return replace(outcome, status=status, residual_norm=norm)
