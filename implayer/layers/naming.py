"""Messages of an inner problem in the words of the layer around it."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import SolveError
from ..modes import transforms

_HINT = "Check the arguments for NaN and infinity"
_LARGE = "The arguments are finite, but products of them are not. Scale the problem"
_ADVICE = rf"(Check x, the parameters and y0 for NaN, and the domain of F|{_HINT})"
_CAUSE = rf"First cause: .*? is \S+?( at index \[[^\]]*\])?\. {_ADVICE}|{_LARGE}"


def renamed(error: SolveError, given: Mapping[str, Any], bounds: tuple[str, ...] = ()) -> SolveError:
    """The error whose first cause is named as the user knows it; of `bounds`, which may be infinite, only NaN is one."""
    if transforms():
        return error
    return type(error)(re.sub(_CAUSE, _cause(given, bounds).replace("\\", r"\\"), str(error)), error.solution)


def _cause(given: Mapping[str, Any], bounds: tuple[str, ...]) -> str:
    for name, leaf in given.items():
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            continue
        values, places = leaf.detach(), None
        if values.layout != torch.strided:
            entries = values.to_sparse_coo().coalesce()
            values, places = entries.values(), entries.indices()
        bad = (torch.isnan(values) if name in bounds else ~torch.isfinite(values)).nonzero()
        if len(bad):
            first = bad[0].tolist()
            index = first if places is None else places[:, first[0]].tolist()
            where = f" at index {index}" if index else ""
            return f"First cause: `{name}` is {float(values[tuple(first)]):g}{where}. {_HINT}"
    return _LARGE
