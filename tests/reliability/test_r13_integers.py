"""R13: integer or bool tensors where unknowns or gradients are needed; elsewhere they are constants."""

import pytest
import torch

import implayer


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_integer_unknowns(dtype):
    layer = implayer.ImplicitLayer(lambda x, y: y - x, implayer.Newton())
    with pytest.raises(implayer.DtypeError, match=rf"`y0` .*found: {dtype}.*`\.float\(\)`") as caught:
        layer(torch.ones(3, 2), torch.ones(3, 2, dtype=dtype))
    assert isinstance(caught.value, TypeError)


def test_integer_initial():
    layer = implayer.ImplicitLayer(lambda x, y: y - x, implayer.Newton(), initial=torch.zeros_like)
    with pytest.raises(implayer.DtypeError, match="`y0`"):
        layer(torch.arange(6).reshape(3, 2))


def test_integer_residual():
    layer = implayer.ImplicitLayer(lambda x, y: (y > x).long(), implayer.Newton(), initial=torch.zeros_like)
    with pytest.raises(implayer.DtypeError, match=r"`F\(x, y\)` is torch.int64 but y is torch.float64"):
        layer(torch.ones(3, 2))


def test_integers_and_flags_in_x_are_constants():
    x = {
        "power": torch.tensor([[2], [3]]),
        "on": torch.tensor([[True], [False]]),
        "c": torch.tensor([[4.0], [8.0]], requires_grad=True),
    }
    layer = implayer.ImplicitLayer(
        lambda x, y: torch.where(x["on"], y ** x["power"], y**3) - x["c"],
        implayer.Newton(),
        initial=lambda x: torch.ones_like(x["c"]),
    )
    y = layer(x)
    (gradient,) = torch.autograd.grad(y.sum(), x["c"])
    torch.testing.assert_close(y, torch.tensor([[2.0], [2.0]]))
    torch.testing.assert_close(gradient, torch.tensor([[1 / 4], [1 / 12]]))
