"""What surrounds a call: transforms, forward mode, autocast, hooks on saved tensors; and contexts that shut them out."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

_functorch = torch._C._functorch  # type: ignore[attr-defined]


class plain:
    """A context without graph, tangents, autocast and hooks on saved tensors: nothing in it leaks into a derivative."""

    def __init__(self, device: torch.device):
        # Written out because it is entered several times a call: generators and ExitStack cost more than they hold.
        self._parts = [torch.no_grad(), forward_ad._set_fwd_grad_enabled(False)]
        if torch.is_autocast_enabled(device.type):
            self._parts.append(torch.autocast(device.type, enabled=False))
        if saving_is_hooked():
            self._parts.append(torch.autograd.graph.saved_tensors_hooks(_as_it_is, _as_it_is))

    def __enter__(self) -> None:
        for part in self._parts:
            part.__enter__()

    def __exit__(self, *error: Any) -> None:
        for part in reversed(self._parts):
            part.__exit__(*error)


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def saving_is_hooked() -> bool:
    """Whether saved tensors go through hooks, as activation checkpointing has it: it must not meet the tapes of a solver."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks  # type: ignore[attr-defined]
    return hooks(False) is not None


@contextlib.contextmanager
def unhooked(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Without the hooks of these tensors: a derivative inside of another one must not run them a second time."""
    kept = [(t._backward_hooks, dict(t._backward_hooks)) for t in tensors if t._backward_hooks]
    for hooks, _ in kept:
        hooks.clear()
    try:
        yield
    finally:
        for hooks, content in kept:
            hooks.update(content)


@contextlib.contextmanager
def no_autocast(device: torch.device) -> Iterator[None]:
    """Autocast would make a fixed-point loop believe that it converged; it is off inside a layer."""
    if torch.is_autocast_enabled(device.type):
        with torch.autocast(device.type, enabled=False):
            yield
    else:
        yield


def transforms() -> list[Any]:
    """The torch.func transforms that are active here, outermost first."""
    return _functorch.get_interpreter_stack() or []


def transform_counts() -> tuple[int, int]:
    """How many reverse and how many forward transforms of torch.func are active."""
    kinds = [interpreter.key() for interpreter in transforms()]
    kind = _functorch.TransformType
    return kinds.count(kind.Grad), kinds.count(kind.Jvp)


def forward_mode() -> bool:
    """Whether an eager forward-mode level (`torch.autograd.forward_ad.dual_level`) is active."""
    return forward_ad._current_level >= 0


def is_plain(device_type: str = "cpu") -> bool:
    """Whether nothing surrounds a call that has to see its single operations."""
    surrounded = transforms() or forward_mode() or saving_is_hooked() or torch.is_autocast_enabled(device_type)
    return not surrounded and torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is None
