"""The truncated gradient by one evaluation of the map: equals the general path, is refused beyond first order."""

from typing import Any

import pytest
import torch

import implayer


class Map(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = torch.nn.Linear(4, 4)
        self.calls = 0

    def forward(self, x, y):
        self.calls += 1
        return torch.tanh(0.3 * self.mix(y) + x)


def layer(map, terms, on_failure, solver=None) -> Any:
    adjoint = implayer.ImplicitAdjoint(linear_solver=implayer.Neumann(terms=terms))
    solver = solver or implayer.Picard(atol=1e-13, rtol=1e-13, max_steps=500)
    return implayer.FixedPointLayer(map, solver, adjoint=adjoint, on_failure=on_failure)


@pytest.mark.parametrize("terms", [0, 1, 3])
def test_equals_the_general_path(terms):
    map, x, c = Map(), torch.randn(5, 4, requires_grad=True), torch.randn(5, 4)
    inputs, start = [x, *map.parameters()], torch.zeros(5, 4)
    short, general = (layer(map, terms, policy).solve(x, y0=start) for policy in ("ignore", "raise"))
    assert torch.allclose(short.value, general.value, atol=1e-11)
    assert torch.equal(short.status, general.status)
    ours, expected = (torch.autograd.grad((s.value * c).sum(), inputs, retain_graph=True) for s in (short, general))
    for a, b in zip(ours, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-10)


def test_without_steps_it_is_one_step_of_the_map_for_one_evaluation():
    map, x, y0 = Map(), torch.randn(5, 4), torch.randn(5, 4)
    reuse = layer(map, 1, "ignore", lambda problem: problem.y0)
    reuse(x, y0)  # the first call of a shape also probes the map
    before = map.calls
    solution = reuse.solve(x, y0)
    solution.value.sum().backward()
    assert map.calls == before + 1
    assert torch.equal(solution.value, map(x, y0))
    assert torch.allclose(solution.residual_norm, (map(x, y0) - y0).norm(dim=-1))


def test_keeps_no_start_alive():
    import weakref

    map, x, y0 = Map(), torch.randn(5, 4), torch.randn(5, 4)
    storage = weakref.ref(y0)
    value = layer(map, 1, "ignore", lambda problem: problem.y0)(x, y0)
    del y0
    assert storage() is None
    value.sum().backward()


def test_second_order_is_refused():
    map, x = Map(), torch.randn(5, 4, requires_grad=True)
    value = layer(map, 1, "ignore")(x, torch.zeros(5, 4))
    (g,) = torch.autograd.grad(value.square().sum(), x, create_graph=True)
    with pytest.raises(implayer.OrderError):
        torch.autograd.grad(g.sum(), x)


def test_a_sample_that_is_not_finite_spoils_no_other():
    map, x = Map(), torch.randn(5, 4)
    x[2, 1] = torch.nan
    solution = layer(map, 1, "ignore").solve(x, torch.zeros(5, 4))
    assert solution.status.tolist() == [0, 0, int(implayer.Status.NONFINITE), 0, 0]
    (g,) = torch.autograd.grad(solution.value[:2].sum(), map.mix.weight)
    assert bool(torch.isfinite(g).all())
