"""R24: batch norm in training mode inside F couples the samples. A clear message, and eval mode works."""

import pytest
import torch

import implayer


class Normalised(torch.nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.mix, self.norm = torch.nn.Linear(4, 4), norm

    def forward(self, x, y):
        return torch.tanh(self.norm(0.1 * self.mix(y) + 2 * x))


def test_training_mode_is_refused():
    layer = implayer.FixedPointLayer(Normalised(torch.nn.BatchNorm1d(4)), initial=torch.zeros_like)
    with pytest.raises(implayer.BatchCouplingError, match=r"BatchNorm.*`\.eval\(\)` or GroupNorm") as caught:
        layer(torch.randn(6, 4))
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, implayer.ImplayerError)


def test_training_mode_is_refused_without_a_start():
    layer = implayer.FixedPointLayer(
        Normalised(torch.nn.BatchNorm1d(4)), lambda p: torch.zeros_like(p.x), on_failure="ignore"
    )
    with pytest.raises(implayer.BatchCouplingError, match="BatchNorm"):
        layer(torch.randn(6, 4, requires_grad=True))


@pytest.mark.parametrize(
    "norm",
    [torch.nn.BatchNorm1d(4).eval(), torch.nn.GroupNorm(2, 4), torch.nn.LayerNorm(4)],
    ids=lambda n: type(n).__name__,
)
def test_what_keeps_samples_apart_works(norm):
    f = Normalised(norm.double())
    layer = implayer.FixedPointLayer(f, implayer.Newton(), initial=torch.zeros_like)
    x = torch.randn(6, 4)
    y = layer(x)
    y.sum().backward()
    torch.testing.assert_close(f(x, y), y)
    alone = torch.cat([layer(x[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(y, alone)
