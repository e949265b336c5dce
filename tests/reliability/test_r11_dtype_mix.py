"""R11: float32 meets float64. The error names both."""

import pytest
import torch

import implayer

DOUBLE, SINGLE = torch.ones(3, 2, dtype=torch.float64), torch.ones(3, 2, dtype=torch.float32)
WEIGHT = torch.eye(2, dtype=torch.float64)


def elementwise(x, y):
    return y - x


def matmul(x, y):
    return y @ x["weight"].T - x["input"]


@pytest.mark.parametrize("given", [lambda x, y: (x, y), lambda x, y: (x.requires_grad_(), y)], ids=["plain", "grad"])
def test_x_wider_than_y(given):
    with pytest.raises(implayer.DtypeError, match=r"float64 but y is torch.float32") as caught:
        implayer.ImplicitLayer(elementwise, implayer.Newton())(*given(DOUBLE.clone(), SINGLE.clone()))
    assert isinstance(caught.value, TypeError) and isinstance(caught.value, implayer.ImplayerError)


def test_inside_a_product():
    layer = implayer.ImplicitLayer(matmul, implayer.Newton())
    with pytest.raises(implayer.DtypeError, match=r"`x\['weight'\]` is torch.float64 and `y0` is torch.float32"):
        layer({"weight": WEIGHT, "input": SINGLE}, SINGLE)


def test_inside_a_product_without_start():
    layer = implayer.ImplicitLayer(matmul, lambda problem: problem.x["input"])
    with pytest.raises(implayer.DtypeError, match=r"torch.float64.*torch.float32|torch.float32.*torch.float64"):
        layer({"weight": WEIGHT, "input": SINGLE})


def test_parameters():
    F = torch.nn.Bilinear(2, 2, 2).to(torch.float32)
    with pytest.raises(
        implayer.DtypeError, match=r"`F\.\w+` is torch.float32.*torch.float64|torch.float64.*`F\.\w+` is torch.float32"
    ):
        implayer.ImplicitLayer(F, implayer.Newton())(DOUBLE, DOUBLE)


def test_leaves_of_y0():
    layer = implayer.ImplicitLayer(lambda x, y: y, implayer.Newton())
    with pytest.raises(implayer.DtypeError, match=r"`y0\['b'\]` is torch.float32 but other unknowns are torch.float64"):
        layer(None, {"a": DOUBLE, "b": SINGLE})


def test_a_solver_that_changes_the_dtype():
    layer = implayer.ImplicitLayer(elementwise, lambda p: p.x.float(), initial=torch.zeros_like)
    with pytest.raises(implayer.DtypeError, match=r"forward solver returned torch\.float32"):
        layer(DOUBLE)


def test_an_error_of_the_user_about_something_else_stays_what_it_is():
    def F(x, y):
        raise RuntimeError("expected scalar type of soup")

    with pytest.raises(RuntimeError, match="soup") as caught:
        implayer.ImplicitLayer(F, implayer.Newton())(DOUBLE, DOUBLE)
    assert not isinstance(caught.value, implayer.ImplayerError)
