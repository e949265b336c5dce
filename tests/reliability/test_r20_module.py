"""R20: an nn.Module as F. Its weights train, with the gradients of the unrolled solver."""

import pytest
import torch

import implayer


class Equilibrium(torch.nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.mix = torch.nn.Linear(width, width)
        self.norm = torch.nn.LayerNorm(width)
        self.register_buffer("shift", torch.full((width,), 0.1))
        with torch.no_grad():
            self.mix.weight.mul_(0.3)

    def forward(self, x, y):
        return torch.tanh(self.mix(y) + self.norm(x)) - self.shift

    def unrolled(self, x, steps=60):
        y = torch.zeros_like(x)
        for _ in range(steps):
            y = self(x, y)
        return y


SOLVERS = [implayer.Newton(), implayer.Anderson(atol=1e-13, rtol=0.0), implayer.Picard(atol=1e-13, rtol=0.0)]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("linear_solver", [implayer.LU(), implayer.GMRES()], ids=["LU", "GMRES"])
def test_parameters_get_the_unrolled_gradient(solver, linear_solver):
    f, x = Equilibrium(), torch.randn(5, 4)
    layer = implayer.FixedPointLayer(
        f, solver, adjoint=implayer.ImplicitAdjoint(linear_solver=linear_solver), initial=torch.zeros_like
    )
    parameters = dict(layer.named_parameters())
    assert len(parameters) == len(list(f.parameters())) == 4
    got = torch.autograd.grad((layer(x) ** 3).sum(), parameters.values())
    expected = torch.autograd.grad((f.unrolled(x) ** 3).sum(), list(f.parameters()))
    bar = 1e-9 if isinstance(linear_solver, implayer.LU) else 1e-6
    torch.testing.assert_close(got, expected, rtol=bar, atol=bar / 100)


def test_training_reaches_a_target():
    f, x = Equilibrium(), torch.randn(8, 4)
    target = 0.3 * torch.randn(8, 4).tanh()
    layer = implayer.FixedPointLayer(f, initial=torch.zeros_like)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.03)
    losses = []
    for _ in range(40):
        optimiser.zero_grad()
        loss = (layer(x) - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_functional_call_and_frozen_parameters():
    f, x = Equilibrium(), torch.randn(5, 4)
    f.mix.bias.requires_grad_(False)
    layer = implayer.FixedPointLayer(f, implayer.Newton(), initial=torch.zeros_like)
    weights = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(weights):
        return (torch.func.functional_call(layer, weights, (x,)) ** 3).sum()

    got = torch.func.grad(loss)(weights)
    trained = {name: p for name, p in layer.named_parameters() if p.requires_grad}
    expected = torch.autograd.grad((layer(x) ** 3).sum(), list(trained.values()))
    torch.testing.assert_close([got[name] for name in trained], list(expected), rtol=1e-10, atol=1e-12)
    layer(x).sum().backward()
    assert f.mix.bias.grad is None and f.mix.weight.grad is not None
