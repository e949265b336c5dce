"""Messages in the words of the caller: which layer failed, which of its arguments is not finite, and in which line."""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import _tree
from .modes import transforms
from .problem import Problem

_OWN = tuple(os.path.dirname(path) + os.sep for path in (__file__, torch.__file__))


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line that called this library, or PyTorch on its behalf, from outside."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OWN):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


@dataclass(frozen=True)
class _Arguments:
    """What the caller of a layer gave; of `bounds`, which may be infinite, only NaN is a cause."""

    given: Mapping[str, Any]
    bounds: tuple[str, ...]
    who: str | None


_called: ContextVar[_Arguments | None] = ContextVar("_called", default=None)


@contextlib.contextmanager
def called_with(given: Mapping[str, Any], bounds: tuple[str, ...] = (), who: str | None = None) -> Iterator[None]:
    """While a layer solves an inner problem, messages speak of its own arguments; those of the outermost layer count.

    `who` failed; None leaves that to the inner problem, which names its solver.
    """
    if transforms() or _called.get() is not None:
        yield
        return
    token = _called.set(_Arguments(given, bounds, who))
    try:
        yield
    finally:
        _called.reset(token)


def caller(who: object) -> object:
    """Who failed, in the words of the caller."""
    called = _called.get()
    return who if called is None or called.who is None else called.who


def first_cause(problem: Problem) -> tuple[str, str]:
    """A sentence that says where the first number is that is not finite, and what can be done."""
    called = _called.get()
    if called is None:
        named, advice = _parts(problem), "Check x, the parameters and y0 for NaN, and the domain of F"
        clean = "x, y0 and the parameters are finite, so F itself returned NaN or infinity.", advice
    else:
        named, advice = list(called.given.items()), "Check the arguments for NaN and infinity"
        clean = "The arguments are finite, but products of them are not.", "Scale the problem"
    for name, leaf in named:
        if isinstance(leaf, Tensor) and _tree.differentiable(leaf):
            found = _not_finite(leaf.detach(), nan_alone=called is not None and name in called.bounds)
            if found is not None:
                return f"First cause: {name if ' ' in name else f'`{name}`'} is {found}.", advice
    return clean


def _parts(problem: Problem) -> list[tuple[str, Any]]:
    named = [*_tree.named_leaves(problem.x, "x"), *_tree.named_leaves(problem.y0, "y0")]
    F = getattr(problem.F, "F", problem.F)  # without its gauge
    if isinstance(F, torch.nn.Module):
        named += [(f"parameter `{name}` of F", value) for name, value in F.named_parameters()]
    return named


def _not_finite(leaf: Tensor, nan_alone: bool) -> str | None:
    """The first such value and its place, or None."""
    values, places = leaf, None
    if leaf.layout != torch.strided:
        entries = leaf.to_sparse_coo().coalesce()
        values, places = entries.values(), entries.indices()
    bad = (torch.isnan(values) if nan_alone else ~torch.isfinite(values)).nonzero()
    if not len(bad):
        return None
    first = bad[0].tolist()
    index = first if places is None else places[:, first[0]].tolist()
    return f"{float(values[tuple(first)].real):g}" + (f" at index {index}" if index else "")
