"""A failed sample must not touch the gradient of the others, also where a shared matrix looks like a batch."""

import pytest
import torch

import implayer

N = 4


def layer():
    return implayer.ImplicitLayer(
        lambda x, y: y + 0.5 * torch.tanh(y @ x["w"].mT) - x["b"],
        implayer.Newton(),
        initial=lambda x: torch.zeros_like(x["b"]),
        on_failure="ignore",
    )


@pytest.mark.parametrize("transform", ["eager", "func"])
def test_shared_square_matrix_of_the_size_of_the_batch(transform):
    w = torch.randn(N, N) / N
    b = torch.randn(N, N)
    spoiled = b.clone()
    spoiled[1, 2] = torch.nan
    good = torch.tensor([0, 2, 3])

    def loss(w, b, rows):
        return (layer()({"w": w, "b": b})[rows] ** 2).sum()

    def gradients(b, rows):
        if transform == "func":
            return torch.func.grad(loss, argnums=(0, 1))(w, b, rows)
        inputs = w.clone().requires_grad_(), b.clone().requires_grad_()
        return torch.autograd.grad(loss(*inputs, rows), inputs)

    found_w, found_b = gradients(spoiled, good)
    expected_w, expected_b = gradients(b, good)
    torch.testing.assert_close(found_w, expected_w)
    torch.testing.assert_close(found_b[good], expected_b[good])
    assert not found_b[1].any()


def test_f_that_is_not_finite_for_a_finite_sample():
    x = torch.tensor([1.0, -1.0, 4.0], requires_grad=True)
    scale = torch.tensor(2.0, requires_grad=True)
    root = implayer.ImplicitLayer(
        lambda x, y: scale * y - torch.log(x),
        implayer.Newton(),
        initial=torch.ones_like,
        event_ndim=0,
        on_failure="ignore",
    )
    y = root(x)
    gx, gs = torch.autograd.grad(y[0] + y[2], (x, scale))
    torch.testing.assert_close(gx, torch.tensor([0.5, 0.0, 0.125]))
    torch.testing.assert_close(gs, -(torch.log(torch.tensor(4.0)) / 4))
