"""R7: NaN in x, a parameter or y0. The error names the tensor and its first bad index; other samples go on."""

import pytest
import torch

import implayer


class Cubic(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))

    def forward(self, x, y):
        return y**3 + self.weight * y - x["force"]


def spoiled(shape=(3, 2)):
    t = torch.ones(shape, dtype=torch.float64)
    t[1, 1] = float("nan")
    return t


@pytest.mark.parametrize(
    ("x", "y0", "said"),
    [
        (spoiled(), spoiled().nan_to_num(1.0), r"`x\['force'\]` is nan at index \[1, 1\]"),
        (spoiled().nan_to_num(1.0), spoiled(), r"`y0` is nan at index \[1, 1\]"),
    ],
)
def test_x_and_y0(x, y0, said):
    layer = implayer.ImplicitLayer(Cubic(), implayer.Newton())
    with pytest.raises(implayer.SolveError, match=said) as caught:
        layer({"force": x}, y0)
    assert "1 of 3 samples" in str(caught.value) and "samples 1" in str(caught.value)
    assert caught.value.solution.status.tolist() == [0, implayer.Status.NONFINITE, 0]


@pytest.mark.parametrize("kind", ["implicit", "fixed point", "gauged"])
def test_parameter(kind):
    F = Cubic()
    with torch.no_grad():
        F.weight[1] = float("inf")
    if kind == "fixed point":
        layer = implayer.FixedPointLayer(F, implayer.Newton())
    else:
        gauge = (lambda x, y: y[..., :0]) if kind == "gauged" else None
        layer = implayer.ImplicitLayer(F, implayer.Newton(), gauge=gauge)
    with pytest.raises(implayer.SolveError, match=r"parameter `[\w.]*weight` of F is inf at index \[1\]"):
        layer({"force": torch.ones(3, 2)}, torch.ones(3, 2))


def test_under_vmap_too():
    layer = implayer.ImplicitLayer(Cubic(), implayer.Newton(), initial=lambda x: torch.ones_like(x["force"]))
    with pytest.raises(implayer.SolveError, match="is nan at index"):
        torch.vmap(layer)({"force": spoiled()})
