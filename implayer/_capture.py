"""Closure conversion: find the tensors that F uses besides x and y, and call F with others in their place.

Only torch.func transforms need it. There a solver runs on plain tensors below all transforms, so whatever F closes over
has to be handed down as an argument. Tensors are found and replaced where torch functions receive them, wherever F keeps
them: closures, attributes, modules, globals.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

_functorch = torch._C._functorch  # type: ignore[attr-defined]


class _Record(TorchFunctionMode):
    """Note every transformed tensor that enters a torch function and was not made by one."""

    def __init__(self, known: list[Any]):
        super().__init__()
        self.made = {id(tensor): tensor for tensor in known if isinstance(tensor, Tensor)}
        self.captured: dict[int, Tensor] = {}

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for leaf in tree_flatten((args, kwargs))[0]:
            if isinstance(leaf, Tensor) and id(leaf) not in self.made and _functorch.is_functorch_wrapped_tensor(leaf):
                self.captured[id(leaf)] = leaf
        out = func(*args, **kwargs)
        for leaf in tree_flatten(out)[0]:
            if isinstance(leaf, Tensor) and id(leaf) not in self.captured:
                self.made[id(leaf)] = leaf
        return out


class _Substitute(TorchFunctionMode):
    """Give torch functions other tensors in the place of the captured ones."""

    def __init__(self, table: dict[int, Tensor]):
        super().__init__()
        self.table = table

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def swap(leaf: Any) -> Any:
            return self.table.get(id(leaf), leaf) if isinstance(leaf, Tensor) else leaf

        return func(*tree_map(swap, args), **tree_map(swap, kwargs or {}))


def captured_tensors(function: Callable[[], Any], known: list[Any]) -> list[Tensor]:
    """The transformed tensors that `function` uses besides `known`, found by running it once."""
    with torch.no_grad(), _Record(known) as mode:
        function()
    return list(mode.captured.values())


def substituted(function: Callable[..., Any], originals: list[Tensor]) -> Callable[..., Any]:
    """(replacements, *args) -> function(*args) with the captured tensors replaced."""
    identities = [id(tensor) for tensor in originals]

    def call(replacements: tuple[Tensor, ...], *args: Any) -> Any:
        if not identities:
            return function(*args)
        with _Substitute(dict(zip(identities, replacements, strict=True))):
            return function(*args)

    call.originals = originals  # type: ignore[attr-defined]  # keeps the identities alive
    return call
