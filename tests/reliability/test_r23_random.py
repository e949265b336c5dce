"""R23: F draws random numbers, so F(x, y) = 0 defines nothing. Refused; a mask drawn outside is the way."""

import pytest
import torch

import implayer


class Dropped(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mix, self.drop = torch.nn.Linear(6, 6), torch.nn.Dropout(0.5)

    def forward(self, x, y):
        return torch.tanh(0.3 * self.mix(self.drop(y)) + x)


@pytest.mark.parametrize("solver", [implayer.Anderson(), implayer.Newton()], ids=["Anderson", "Newton"])
def test_dropout_is_refused(solver):
    x = torch.randn(8, 6)
    with pytest.raises(implayer.RandomResidualError, match="dropout") as caught:
        implayer.FixedPointLayer(Dropped(), solver, initial=torch.ones_like)(x)
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, implayer.ImplayerError)


def test_noise_is_refused():
    with pytest.raises(implayer.RandomResidualError, match="noise"):
        implayer.ImplicitLayer(lambda x, y: y - x + torch.randn_like(y), implayer.Newton(), initial=torch.zeros_like)(
            torch.ones(2, 1)
        )


def test_dropout_is_found_where_the_start_hides_it():
    """At y0 = 0 dropout of y shows nothing."""
    with pytest.raises(implayer.ImplayerError):
        implayer.FixedPointLayer(Dropped(), initial=torch.zeros_like)(torch.randn(8, 6))


def test_train_after_eval_is_probed_again():
    layer = implayer.FixedPointLayer(Dropped().eval(), initial=torch.ones_like).eval()
    x = torch.randn(8, 6)
    assert layer(x).isfinite().all()
    with pytest.raises(implayer.RandomResidualError):
        layer.train()(x)


def test_a_mask_in_x_is_fine():
    weight = torch.randn(6, 6) / 6
    mask = (torch.rand(8, 6) > 0.5).to(weight.dtype) * 2
    x = torch.randn(8, 6, requires_grad=True)

    def f(x, y):
        return torch.tanh((x["mask"] * y) @ weight.T + x["input"])

    layer = implayer.FixedPointLayer(f, implayer.Newton(), initial=lambda x: torch.zeros_like(x["input"]))
    y = layer({"mask": mask, "input": x})
    (gradient,) = torch.autograd.grad(y.sum(), x)
    z = torch.zeros(8, 6)
    for _ in range(80):
        z = f({"mask": mask, "input": x}, z)
    torch.testing.assert_close(gradient, torch.autograd.grad(z.sum(), x)[0])


def test_random_state_of_the_caller_is_left_alone():
    layer = implayer.ImplicitLayer(lambda x, y: y - x, implayer.Newton(), initial=torch.zeros_like)
    before = torch.get_rng_state()
    layer(torch.ones(2, 1, requires_grad=True)).sum().backward()
    assert torch.equal(torch.get_rng_state(), before)
