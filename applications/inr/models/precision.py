"""Products with the hidden maps in training steps: in single precision, or faster and rounded."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ..config import Precision


class RoundedMap(nn.Module):
    """A map for training steps, whose products with W, there and back, are of bfloat16 numbers.

    The rest has single precision: phases of coordinates times high frequencies bear no rounding, nor do the weights. A
    product has its inputs and its outcome rounded to 8 bits, relative error 2^-9; sums are in single precision. A CPU
    computes the same in single precision: few of them multiply bfloat16 numbers any faster.
    """

    def __init__(self, map: nn.Module):
        super().__init__()
        self.map = map

    def forward(self, x: Tensor, z: Tensor | None) -> Tensor:
        """F(x, z)."""
        return self.map(x, z, multiply=_rounded)


def _rounded(hidden: nn.Linear, state: Tensor) -> Tensor:
    weight, dtype = hidden.weight, state.dtype
    at = dtype if state.device.type == "cpu" else torch.bfloat16
    product = linear(state.bfloat16().to(at), weight.bfloat16().to(at))
    return product.bfloat16().to(dtype) + hidden.bias


@contextlib.contextmanager
def tensor_float(precision: Precision) -> Iterator[None]:
    """Where that is asked for, products of single precision on a CUDA device are of TF32 numbers: relative error 2^-11."""
    with _products("tf32") if precision == "tf32" else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def single() -> Iterator[None]:
    """Products of single precision as they are, also inside `tensor_float`: for solves, and for phases."""
    # A compiled map has no products of phases, and cannot ask for the setting.
    inside = not torch.compiler.is_compiling() and torch.backends.cuda.matmul.fp32_precision == "tf32"
    with _products("ieee") if inside else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _products(kind: str) -> Iterator[None]:
    settings = torch.backends.cuda.matmul
    before = settings.fp32_precision
    settings.fp32_precision = kind  # type: ignore[assignment]
    try:
        yield
    finally:
        settings.fp32_precision = before  # type: ignore[assignment]
