"""Samples that failed: a stand-in while the others are differentiated, and what the policy says in their place."""

import torch
from torch import Tensor

from . import _tree
from ._records import changed
from .forward import Outcome
from .implicit import Spoil
from .linearise import Request
from .problem import Layout, Problem, VectorProblem, quasi_random
from .solution import Solution, Status
from .types import Tree, Vectors


def failed_samples(outcome: Outcome) -> Tensor | None:
    """(samples,) where value and gradient are not valid, or None where all are."""
    failed = (outcome.status != Status.CONVERGED) & (outcome.status != Status.DEGENERATE)
    return failed if bool(failed.any()) else None


def without_derivative(request: Request, outcome: Outcome) -> Solution:
    """What the solver found, as the policy has it."""
    failed = failed_samples(outcome)
    if failed is None or request.on_failure != "nan":
        return outcome.solution()
    y = torch.where(failed.unsqueeze(-1), torch.nan, outcome.y)
    return outcome.solution().replace(value=outcome.layout.unpack(y))


def stand_in(problem: Problem, outcome: Outcome, bad: Tensor, whole: bool = False) -> tuple[Tree, Vectors]:
    """x and y in which the rows of bad samples are those of a good one.

    A failed sample is evaluated there, so that 0 * NaN never reaches a parameter that all samples share. A leaf of x that
    is shared may look as if it had the batch axes; so as little as possible is replaced (all of x if `whole`, where it is
    finite and yet no good), and what F says about the good samples has to stay as it was.
    """
    with torch.no_grad():
        before = VectorProblem(problem, outcome.layout, outcome.y).residual(outcome.y)[~bad]
        for every in (True, False) if whole else (False, True):
            x, y = _replaced(problem, outcome, bad, every)
            r = VectorProblem(changed(problem, x=x), outcome.layout, y).residual(y)
            if bool(torch.isfinite(r).all()) and torch.allclose(r[~bad], before, rtol=1e-6, atol=1e-9):
                break
        else:
            every = False
    return _replaced(problem, outcome, bad, every)


def _replaced(problem: Problem, outcome: Outcome, bad: Tensor, every: bool) -> tuple[Tree, Vectors]:
    layout = outcome.layout
    good = (~bad).nonzero().reshape(-1)
    source = good[:1] if len(good) else torch.zeros(1, dtype=torch.int64, device=bad.device)

    def repaired(rows: Tensor) -> Tensor:
        chosen = rows.detach()[source]
        if not len(good):
            chosen = torch.nan_to_num(chosen, nan=1.0, posinf=1.0, neginf=-1.0)
        return torch.where(bad.reshape(-1, *[1] * (rows.ndim - 1)), chosen, rows)

    def repair_leaf(leaf: Tensor) -> Tensor:
        if not _tree.differentiable(leaf) or tuple(leaf.shape[: len(layout.batch)]) != layout.batch:
            return leaf
        if not every and bool(torch.isfinite(leaf).all()):
            return leaf
        return repaired(leaf.reshape(layout.samples, *leaf.shape[len(layout.batch) :])).reshape(leaf.shape)

    return _tree.map_tensors(repair_leaf, problem.x), repaired(outcome.y)


def _tied(x: Tree, layout: Layout, y: Vectors) -> Vectors:
    """y, whatever its value, with a derivative with respect to the rows of x that belong to each sample.

    What a sample that was evaluated at a stand-in depends on still, for those who mark its derivative as unknown.
    """
    for leaf in _tree.leaves(x):
        if _tree.differentiable(leaf) and tuple(leaf.shape[: len(layout.batch)]) == layout.batch and leaf.numel():
            real = torch.view_as_real(leaf) if leaf.is_complex() and not layout.dtype.is_complex else leaf
            rows = real.reshape(layout.samples, -1).to(layout.dtype)
            weights = quasi_random(rows.shape, rows.detach())  # a sum of its own would miss changes that cancel
            y = y + (weights * rows).sum(-1, keepdim=True)
    return y


def as_failed(
    request: Request, layout: Layout, y: Vectors, found: Vectors, bad: Tensor, unknown: Tensor, failed: Tensor
) -> Vectors:
    """y with derivatives, as the policy has it where samples `failed`.

    **Arguments**

    - `found`: what the solver returned.
    - `bad`: those whose linearisation is not that of their own J; `unknown`: those that were evaluated at a stand-in.
    """
    if request.on_failure != "nan":
        return torch.where(bad.unsqueeze(-1), found, y)
    y = torch.where(unknown.unsqueeze(-1), _tied(request.problem.x, layout, y), y)
    return Spoil.apply(y, failed, False)


def nothing_solved(request: Request, layout: Layout, found: Vectors, failed: Tensor) -> Vectors:
    """The same where no sample is finite, so that there is no stand-in, either: a derivative of zero, or of NaN."""
    leaves = [leaf for leaf in _tree.leaves(request.problem.x) if _tree.differentiable(leaf)]
    if request.on_failure != "nan":
        every = [*leaves, *request.trainable]
        return found + sum((leaf.reshape(-1)[:0].sum().real for leaf in every), found.new_zeros(()))
    y = _tied(request.problem.x, layout, found)
    shared = [leaf for leaf in leaves if tuple(leaf.shape[: len(layout.batch)]) != layout.batch]
    for leaf in [*shared, *request.trainable]:
        y = y + leaf.sum().real.to(layout.dtype)
    return Spoil.apply(y, failed, False)
