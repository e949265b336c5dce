"""An F that torch.compile has made: compiled where its value is wanted, as it was before where it is differentiated."""

from types import FunctionType
from typing import Any

import torch

from .modes import transforms
from .types import Residual


def differentiable(F: Residual) -> Residual:
    """What to call in this place for F: itself, or what it was before torch.compile.

    Compiled code of torch 2.13 goes back once for each evaluation, where an adjoint goes back several times, and has no
    second derivative, no forward mode and no rule for torch.func. The steps of a solver, which are most of the work, need
    none of these.
    """
    original = _original(F)
    return F if original is None or not (torch.is_grad_enabled() or transforms()) else original


def always_differentiable(F: Residual) -> Residual:
    """F itself, or where it is compiled a function that decides at every call."""
    return F if _original(F) is None else lambda x, y: differentiable(F)(x, y)


def _original(F: Any) -> Any:
    if type(F) is FunctionType:
        # `functools.wraps` copies the attribute to functions around a compiled one; where a function was made it cannot copy.
        made = F.__globals__.get("__name__") == "torch._dynamo.eval_frame"
        return F.__dict__.get("_torchdynamo_orig_callable") if made else None
    if not isinstance(F, torch.nn.Module):
        return None
    if F.__dict__.get("_compiled_call_impl") is not None:  # module.compile()
        return F._call_impl
    return (
        F._modules.get("_orig_mod") if type(F).__name__ == "OptimizedModule" else None
    )  # what torch.compile(module) is
