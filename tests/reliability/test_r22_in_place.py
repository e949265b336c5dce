"""R22: F works in place on its arguments. An error or the right answer; the caller's tensors stay as they were."""

import pytest
import torch

import implayer


def on_x(x, y):
    x += 1
    return y - x


def on_leaf(x, y):
    x["table"][0] = 7.0
    return y - x["own"]


def on_y(x, y):
    y.mul_(2)
    return y - x


def on_own_result(x, y):
    r = y - x
    r.mul_(2)
    r[..., 0] += y[..., 1] ** 2
    return r


@pytest.mark.parametrize("requires_grad", [False, True])
def test_on_x(requires_grad):
    x = torch.ones(2, 2, requires_grad=requires_grad)
    with pytest.raises((implayer.ImplayerError, RuntimeError), match=r"in place|in-place"):
        implayer.ImplicitLayer(on_x, implayer.Newton(), initial=torch.zeros_like)(x)
    assert torch.equal(x, torch.ones(2, 2))


def test_on_a_leaf_of_x_by_name():
    x = {"own": torch.ones(2, 2), "table": torch.ones(3)}
    with pytest.raises(implayer.ClosureError, match=r"`x\['table'\]` in place"):
        implayer.ImplicitLayer(on_leaf, implayer.Newton(), initial=lambda x: 0 * x["own"])(x)
    assert torch.equal(x["table"], torch.ones(3))


@pytest.mark.parametrize("requires_grad", [False, True])
def test_on_y(requires_grad):
    x, y0 = torch.ones(2, 2, requires_grad=requires_grad), torch.ones(2, 2)
    with pytest.raises((implayer.ImplayerError, RuntimeError), match=r"in place|in-place"):
        implayer.ImplicitLayer(on_y, implayer.Newton())(x, y0)
    assert torch.equal(y0, torch.ones(2, 2))


@pytest.mark.parametrize("F", [on_x, on_y])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_without_a_start(F, requires_grad):
    x = torch.ones(2, 2, requires_grad=requires_grad)
    with pytest.raises((implayer.ImplayerError, RuntimeError), match=r"in place|in-place"):
        implayer.ImplicitLayer(F, lambda p: (p.x + 1.0) if F is on_x else p.x / 2)(x)
    assert torch.equal(x, torch.ones(2, 2))


def test_on_its_own_result_is_right():
    x = torch.tensor([[1.0, 2.0]], requires_grad=True)
    y = implayer.ImplicitLayer(on_own_result, implayer.Newton(), initial=torch.zeros_like)(x)
    (gradient,) = torch.autograd.grad(y[0, 0], x)
    torch.testing.assert_close(y, torch.tensor([[-1.0, 2.0]]))
    torch.testing.assert_close(gradient, torch.tensor([[1.0, -2.0]]))


def test_y0_and_the_result_share_nothing():
    """A warm start that is solved already: changing the result must not change y0, nor the other way round."""
    y0 = torch.ones(2, 1)
    y = implayer.ImplicitLayer(lambda x, y: y - x, implayer.Newton())(torch.ones(2, 1), y0)
    y.mul_(3)
    assert torch.equal(y0, torch.ones(2, 1))
