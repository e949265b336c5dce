"""Weights of fewer bits, for files that shall be small."""

import torch
from torch import Tensor

_THIN = 8  # a side shorter than this: input maps, whose frequencies bear no rounding and which are few
_SCALE = ".scale"


def quantised(tensors: dict[str, Tensor], bits: int) -> dict[str, Tensor]:
    """Weights with 8 or 16 bits an entry, 32 leaves them as they are.

    16 is half precision. 8 is an integer q with w = q s, s = max |w| / 127 for each row of a matrix, kept beside it. Vectors
    and thin matrices keep 32 bits: they are a few per cent of the entries, and the frequencies among them reach hundreds.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if bits == 32 or not tensor.is_floating_point() or tensor.ndim < 2 or min(tensor.shape) < _THIN:
            found[name] = tensor
        elif bits == 16:
            found[name] = tensor.to(torch.float16)
        else:
            scale = tensor.abs().amax(dim=tuple(range(1, tensor.ndim)), keepdim=True) / 127
            scale = scale.clamp_min(torch.finfo(torch.float32).tiny)
            found[name] = (tensor / scale).round().to(torch.int8)
            found[name + _SCALE] = scale
    return found


def restored(tensors: dict[str, Tensor], like: dict[str, Tensor]) -> dict[str, Tensor]:
    """The opposite of `quantised`; `like` has the names and types that are wanted."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(_SCALE) and name not in like:
            continue
        kind = like[name].dtype if name in like else tensor.dtype
        scale = tensors.get(name + _SCALE)
        found[name] = (
            tensor.to(kind) if scale is None or tensor.dtype != torch.int8 else tensor.to(kind) * scale.to(kind)
        )
    return found
