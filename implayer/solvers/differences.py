"""The Jacobian of a small system by differences: all columns of all samples in one evaluation of F."""

from dataclasses import replace

import torch
from torch import Tensor

from .. import _tree
from ..problem import VectorProblem
from ..types import Vectors

_ROWS = 16  # beyond, a chord step or two are cheaper than the larger batch
_NUMBERS = 2**15  # of all Jacobians


class Differences:
    r"""J e_k = (F(x, y + h_k e_k) - F(x, y)) / h_k with h_k = eps^(1/3) max(|y0_k|, 1).

    F is called once, on a batch in which every sample stands n times: a fraction of the cost of n vector products, each
    of which walks through the graph. The error is h F''/2, a few units of the sixth digit, so that a step leaves 1e-6 of
    the residual where Newton's own would leave nothing. The usual h, eps^(1/2), has two digits more for a smooth F, but
    they are rounding, which differs from batch to batch. Nothing rests on this J: residuals are always those of F at the
    iterate itself, and where it does not serve, the exact one takes its place.

    Reference: Kelley, Solving Nonlinear Equations with Newton's Method (2003), 2.3.
    """

    def __init__(self, problem: VectorProblem):
        samples, n = problem.samples, problem.n
        self.problem = problem

        def repeated(leaf: Tensor) -> Tensor:
            return leaf.repeat_interleave(n, 0) if leaf.ndim and leaf.shape[0] == samples else leaf

        x = _tree.map_tensors(repeated, problem.problem.x)
        layout = problem.layout.with_batch((samples * n,))
        self._tiled = VectorProblem(replace(problem.problem, x=x, y0=None), layout, problem.y0)
        steps = problem.y0.abs().clamp(min=1).mul(torch.finfo(problem.dtype).eps ** (1 / 3)).unsqueeze(-2)
        self._steps = steps * torch.eye(n, dtype=steps.dtype, device=steps.device)  # (samples, n, n)
        self._over = 1 / steps  # (samples, 1, n)

    @staticmethod
    def pay(problem: VectorProblem) -> bool:
        """Whether the system is small enough, and has the one batch axis that can be made longer."""
        n = problem.n
        return 2 < n <= _ROWS and problem.samples * n * n <= _NUMBERS and len(problem.layout.batch) == 1

    def jacobian(self, y: Vectors, r: Tensor) -> Tensor | None:
        """J at y, where F is r: (samples, n, n). None where F refuses the larger batch."""
        points = y.unsqueeze(-2) + self._steps
        try:
            found = self._tiled.residual(points.flatten(0, 1))
        except Exception:  # any reason is reason enough for the exact Jacobian
            return None
        if found.numel() != points.numel():
            return None
        return (found.reshape(points.shape) - r.unsqueeze(-2)).mT * self._over
