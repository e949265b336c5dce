"""R14: float16 and bfloat16 are promoted inside, cast back at the end, and it is said."""

import pytest
import torch

import implayer

LOW = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", LOW)
def test_promoted_and_cast_back(dtype):
    x = torch.tensor([[2.0], [10.0]], dtype=dtype, requires_grad=True)
    layer = implayer.ImplicitLayer(lambda x, y: y**3 + y - x, implayer.Newton(), initial=torch.zeros_like)
    solution = layer.solve(x)
    assert solution.value.dtype == dtype and solution.aux["computed_in"] == torch.float32
    assert (solution.residual_norm < 1e-4).all()  # out of reach of half precision, whose unit is 4e-3 and 8e-2 at 10
    (gradient,) = torch.autograd.grad(solution.value.sum(), x)
    assert gradient.dtype == dtype
    torch.testing.assert_close(solution.value, torch.tensor([[1.0], [2.0]], dtype=dtype))
    torch.testing.assert_close(gradient, torch.tensor([[1 / 4], [1 / 13]], dtype=dtype))


@pytest.mark.parametrize("dtype", LOW)
def test_module_in_half_precision(dtype):
    F = torch.nn.Bilinear(1, 1, 1).to(dtype)
    with torch.no_grad():
        F.weight.fill_(1.0), F.bias.fill_(-2.0)  # x y = 2
    y = implayer.ImplicitLayer(F, implayer.Newton(), initial=torch.ones_like)(torch.tensor([[4.0]], dtype=dtype))
    y.sum().backward()
    assert y.dtype == dtype and F.weight.grad.dtype == dtype
    torch.testing.assert_close(y, torch.tensor([[0.5]], dtype=dtype))
    torch.testing.assert_close(F.bias.grad, torch.tensor([-1 / 4], dtype=dtype))


@pytest.mark.parametrize("dtype", LOW)
def test_fixed_point_module(dtype):
    f = torch.nn.Bilinear(1, 1, 1).to(dtype)
    with torch.no_grad():
        f.weight.fill_(0.5), f.bias.fill_(1.0)  # y = x y / 2 + 1
    y = implayer.FixedPointLayer(f, initial=torch.zeros_like)(torch.tensor([[1.0]], dtype=dtype))
    torch.testing.assert_close(y, torch.tensor([[2.0]], dtype=dtype))


def test_float32_says_nothing():
    layer = implayer.ImplicitLayer(lambda x, y: y - x, implayer.Newton(), initial=torch.zeros_like)
    assert "computed_in" not in layer.solve(torch.ones(1, 1, dtype=torch.float32)).aux
