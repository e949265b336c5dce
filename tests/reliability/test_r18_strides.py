"""R18: views of any stride give the answer of a contiguous tensor, bit for bit."""

import pytest
import torch

import implayer

W = torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 4
VIEWS = {
    "transposed": lambda: torch.randn(3, 4).mT,
    "strided": lambda: torch.randn(8, 6)[::2, ::2],
    "expanded batch": lambda: torch.randn(1, 3).expand(4, 3),
    "expanded event": lambda: torch.randn(4, 1).expand(4, 3),
    "expanded number": lambda: torch.tensor(0.3).expand(4, 3),
    "flipped": lambda: torch.randn(4, 3).flip(0, 1),
    "negative": lambda: torch.view_as_complex(torch.randn(4, 3, 2)).conj().imag,
    "offset": lambda: torch.randn(100)[7:19].view(4, 3),
}


@pytest.mark.parametrize("make", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("solver", [implayer.Newton(), implayer.Anderson()], ids=["Newton", "Anderson"])
def test_same_answer(make, solver):
    layer = implayer.FixedPointLayer(lambda x, y: torch.tanh(y @ W.T + x), solver)
    view, start = make(), make()

    def run(x, y0):
        x = x.detach().requires_grad_()
        y = layer(x, y0)
        (gradient,) = torch.autograd.grad((y**2).sum(), x, create_graph=True)
        return y.detach(), gradient.detach(), torch.autograd.grad(gradient.sum(), x)[0]

    for got, expected in zip(
        run(view, start), run(view.resolve_neg().contiguous(), start.resolve_neg().contiguous()), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("make", VIEWS.values(), ids=VIEWS)
def test_cotangents(make):
    layer = implayer.FixedPointLayer(lambda x, y: torch.tanh(y @ W.T + x), implayer.Newton(), initial=torch.zeros_like)
    x, v = torch.randn(4, 3, requires_grad=True), make()
    got = torch.autograd.grad(layer(x), x, v)
    torch.testing.assert_close(
        got, torch.autograd.grad(layer(x), x, v.resolve_neg().contiguous()), rtol=1e-14, atol=1e-15
    )
