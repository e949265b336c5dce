"""R8: F returns NaN or infinity midway. Said with the step; a line search may recover."""

import pytest
import torch

import implayer


def wall(x, y):
    """A map that walks right and meets a wall at 3, except for x = 0."""
    return torch.where(y > 3, torch.nan, x)


def test_error_tells_the_step():
    layer = implayer.ImplicitLayer(wall, implayer.Picard(), initial=torch.zeros_like)
    with pytest.raises(implayer.SolveError) as caught:
        layer(torch.tensor([[1.0], [0.0], [0.5]]))
    solution, text = caught.value.solution, str(caught.value)
    assert solution.status.tolist() == [implayer.Status.NONFINITE, 0, implayer.Status.NONFINITE]
    assert solution.steps.tolist() == [4, 0, 7]
    for part in ("F itself returned NaN or infinity", "7 steps", "samples 0, 2"):
        assert part in text


def test_line_search_recovers():
    """From 10, a full Newton step for log(y) = x leaves the domain."""
    x = torch.tensor([[0.0], [1.0]], requires_grad=True)
    y = implayer.ImplicitLayer(lambda x, y: y.log() - x, implayer.Newton(), initial=lambda x: 10 + 0 * x)(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(y, x.exp())
    torch.testing.assert_close(gradient, x.exp())


@pytest.mark.parametrize("on_failure", ["nan", "ignore"])
def test_no_nan_reaches_a_shared_weight(on_failure):
    weight = torch.tensor(0.5, requires_grad=True)

    def F(x, y):
        return torch.where(y > 3, torch.nan, x - weight * y * (x < 1) + 0.0)

    layer = implayer.ImplicitLayer(F, implayer.Picard(), initial=torch.zeros_like, on_failure=on_failure)
    y = layer(torch.tensor([[1.0], [0.25]]))
    (gradient,) = torch.autograd.grad(y[1].sum(), weight)
    torch.testing.assert_close(gradient, torch.tensor(-0.25 / 0.5**2))
