"""QPLayer: the warm start, smoothing, and the signature that `forward` shares with `solve`."""

from inspect import signature

import pytest
import torch
from torch.func import jacrev, vmap

from implayer import ShapeError, Status
from implayer.layers.qp import QPLayer
from implayer.verify.planted import planted

DOUBLE = torch.float64


@pytest.mark.parametrize("size", [(1, 10, 0, 10), (3, 12, 2, 20), (12, 30, 4, 40)])
def test_a_warm_start_saves_steps_and_changes_nothing(size):
    case, layer = planted(*size), QPLayer()
    first = layer.solve(*case.given.values())
    near = {**case.given, "q": 1.001 * case.given["q"], "h": case.given["h"] + 1e-4}
    cold = layer.solve(*near.values())
    alone = torch.full((size[1],), 1e3, dtype=DOUBLE)
    for start, saves in ((first, True), (first.value, None), (-100 * first.value, None), (alone, None)):
        x = {name: value.clone().requires_grad_() for name, value in near.items()}
        warm = layer.solve(*x.values(), y0=start)
        torch.testing.assert_close(warm.value, cold.value, atol=1e-11, rtol=1e-11)
        lam = "inequality_multipliers"
        torch.testing.assert_close(warm.aux[lam], cold.aux[lam], atol=1e-10, rtol=1e-10)
        assert (warm.status == Status.CONVERGED).all()
        if saves:
            assert (2 * warm.steps <= cold.steps).all()
        (slope,) = torch.autograd.grad(warm.value.sum(), x["q"])
        leaf = near["q"].clone().requires_grad_()
        (expected,) = torch.autograd.grad(layer(**{**near, "q": leaf}).sum(), leaf)
        torch.testing.assert_close(slope, expected, atol=1e-10, rtol=1e-10)


def test_a_warm_start_under_vmap_and_one_that_does_not_fit():
    case, layer = planted(4, 6, 1, 5), QPLayer()
    Q, q, A, b, G, h = case.given.values()
    start = layer(Q, q, A, b, G, h)
    found = vmap(lambda *given: layer(*given[:-1], y0=given[-1]))(Q, q, A, b, G, h, start)
    torch.testing.assert_close(found, start, atol=1e-12, rtol=1e-12)
    with pytest.raises(ShapeError, match=r"`y0` holds \(5,\) for the 6 y; expected \(4, 6\)"):
        layer(Q, q, A, b, G, h, y0=start[0, :5])


def test_smoothing_makes_a_linear_program_differentiable():
    G, h = torch.cat([torch.eye(2), -torch.eye(2), torch.ones(1, 2)]), torch.tensor([1.0, 1.0, 0.0, 0.0, 1.5])
    cost, smoothing = torch.tensor([-1.0, -0.9]), 0.5
    program = lambda q, s: QPLayer(smoothing=s)(torch.zeros(2, 2), q, G=G, h=h)  # noqa: E731
    exact, smooth = program(cost, 0.0), program(cost, smoothing)
    found = jacrev(lambda q: program(q, smoothing))(cost)
    step = 1e-6 * torch.eye(2)
    slopes = torch.stack([(program(cost + e, smoothing) - program(cost - e, smoothing)) / 2e-6 for e in step], -1)
    torch.testing.assert_close(found, slopes, atol=1e-8, rtol=1e-8)
    assert found.abs().max() > 0.5 and (jacrev(lambda q: program(q, 0.0))(cost) == 0).all()
    assert (cost * (smooth - exact)).sum() <= smoothing / 2 * (exact**2).sum()
    flat = program(torch.tensor([-1.0, -1.0]), 1e-3)  # of all minimisers the shortest
    torch.testing.assert_close(flat, torch.tensor([0.75, 0.75]))
    with pytest.raises(ValueError, match="`smoothing` is -1"):
        QPLayer(smoothing=-1.0)


def test_forward_has_the_arguments_of_solve():
    forward, solve = signature(QPLayer.forward), signature(QPLayer.solve)
    assert list(forward.parameters.values()) == list(solve.parameters.values())
    assert forward.return_annotation is torch.Tensor and "minimiser" in (QPLayer.forward.__doc__ or "")
