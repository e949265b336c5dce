"""R9: what F returns does not fit the batch axes of y."""

import pytest
import torch

import implayer

CASES = {
    "event axis lost": (lambda x, y: (y - x).sum(-1), r"shape \(3,\).*batch axes \(3,\).*`event_ndim=1`"),
    "batch axis lost": (lambda x, y: (y - x).sum(0), r"shape \(2,\).*batch axes \(3,\)"),
    "one axis too many": (lambda x, y: (y - x).unsqueeze(-1), r"shape \(3, 2, 1\)"),
    "transposed": (lambda x, y: (y - x).mT, r"shape \(2, 3\).*batch axes \(3,\)"),
    "a leaf of a nest": (lambda x, y: {"a": y - x, "b": y[0]}, r"`F\(x, y\)\['b'\]` has shape \(2,\)"),
    "no tensor": (lambda x, y: None, "returned NoneType without any tensor"),
}


@pytest.mark.parametrize(("F", "said"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("solver", [implayer.Newton(), implayer.Anderson(), lambda problem: problem.y0])
def test_shape_error(F, said, solver):
    layer = implayer.ImplicitLayer(F, solver, initial=torch.zeros_like)
    with pytest.raises(implayer.ShapeError, match=said) as caught:
        layer(torch.ones(3, 2, requires_grad=True))
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, implayer.ImplayerError)


def test_a_solver_of_the_user_that_returns_another_shape():
    layer = implayer.ImplicitLayer(lambda x, y: y - x, lambda p: p.x[:, :1], initial=torch.zeros_like)
    with pytest.raises(implayer.ShapeError, match="forward solver returned"):
        layer(torch.ones(3, 2))


def test_leaves_of_y0_disagree():
    layer = implayer.ImplicitLayer(lambda x, y: y, implayer.Newton())
    with pytest.raises(implayer.ShapeError, match=r"`y0\['b'\]` has shape \(4, 2\)"):
        layer(None, {"a": torch.ones(3, 2), "b": torch.ones(4, 2)})
