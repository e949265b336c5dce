"""R12: tensors of one call live on several devices. Said before any work; "meta" stands in for a GPU."""

import pytest
import torch

import implayer


def never(x, y):
    raise AssertionError("F was called")


@pytest.mark.parametrize(
    ("x", "y0", "said"),
    [
        (torch.ones(3, 2), torch.ones(3, 2, device="meta"), "`x` is on cpu but `y0` is on meta"),
        ({"a": torch.ones(3, 2, device="meta")}, torch.ones(3, 2), r"`x\['a'\]` is on meta but `y0` is on cpu"),
        ((torch.ones(3, 2), torch.ones(3, 2, device="meta")), None, r"`x\[1\]` is on meta but `x\[0\]` is on cpu"),
    ],
)
def test_inputs(x, y0, said):
    with pytest.raises(implayer.DeviceError, match=said) as caught:
        implayer.ImplicitLayer(never, implayer.Newton())(x, y0)
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, implayer.ImplayerError)


def test_parameters():
    F = torch.nn.Bilinear(2, 2, 2, device="meta")
    with pytest.raises(implayer.DeviceError, match=r"`F.weight` is on meta but `y0` is on cpu"):
        implayer.ImplicitLayer(F, implayer.Newton())(torch.ones(3, 2), torch.ones(3, 2))


def test_numbers_on_the_cpu_go_anywhere():
    """A 0-d CPU tensor may meet tensors of any device, as in torch."""
    with pytest.raises(AssertionError, match="F was called"):
        implayer.ImplicitLayer(never, lambda p: p.y0)(torch.tensor(2.0), torch.ones(3, 2, device="cpu"))
