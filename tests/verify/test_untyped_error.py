"""A bare RuntimeError in an optional mode is an answer from a stranger's layer, and a defect of ours."""

import pytest
import torch

import implayer
from implayer import verify


class Untyped(implayer.FixedPointLayer):
    def solve(self, x, y0=None):
        if torch._C._functorch.get_interpreter_stack():
            raise RuntimeError("this mode does not work")
        return super().solve(x, y0)


def test_ours_has_to_say_it_by_type():
    layer = Untyped(lambda x, y: torch.tanh(0.5 * y + x), initial=torch.zeros_like)
    with pytest.raises(implayer.VerificationError, match="this mode does not work"):
        verify.check_layer(layer, torch.randn(2, 2), orders=1)
