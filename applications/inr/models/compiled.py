"""Training steps whose elementwise operations are fused by torch.compile."""

import importlib.util
from typing import Any

import torch
from torch import Tensor, nn


class CompiledMap(nn.Module):
    """A map F(x, z), compiled for any number of points.

    Products stay what they are; what lies between them, there and back, becomes few passes over the arrays (points, D), and
    what depends on the coordinates alone is computed again instead of kept for the way back.
    """

    def __init__(self, map: nn.Module):
        super().__init__()
        self.map = map
        # An adjoint with T terms goes back through one evaluation T + 1 times, so that its arrays may not be written over.
        # torch looks at the setting when it compiles and whenever it goes back: it has to hold for the process.
        importlib.import_module("torch._functorch.config").donated_buffer = False  # type: ignore[attr-defined]
        self._run: Any = torch.compile(map.forward, dynamic=True)

    def forward(self, x: Tensor, z: Tensor | None) -> Tensor:
        """F(x, z)."""
        return self._run(x, z)


def affine(offset: Tensor, x: Tensor, matrix: Tensor) -> Tensor:
    """x (points, inputs) times (inputs, width), plus (width,); where it is compiled, as a sum that fuses with what follows."""
    if not torch.compiler.is_compiling():
        return torch.addmm(offset, x, matrix)
    for column, row in zip(x.unbind(-1), matrix.unbind(0), strict=True):
        offset = offset + column.unsqueeze(-1) * row
    return offset


def what_compiling_lacks(device: torch.device) -> str:
    """What torch.compile needs for this device and does not find here; nothing where it has all."""
    if device.type == "cuda":
        return "" if importlib.util.find_spec("triton") else "the package triton"
    try:
        importlib.import_module("torch._inductor.cpp_builder").get_cpp_compiler()
    except Exception as error:  # of a kind of its own in every version
        return f"a C++ compiler ({str(error).splitlines()[0]})"
    return ""
