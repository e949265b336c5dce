"""R34: pickle, deepcopy, state_dict and torch.save of a layer, before and after a forward pass."""

import copy
import io
import pickle

import pytest
import torch

import implayer


class Equilibrium(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = torch.nn.Linear(3, 3)
        self.last = None

    def forward(self, x, y):
        return torch.tanh(0.3 * self.mix(y) + x) - y


def cubic(x, y):
    return y**3 + y - x


def by_pickle(layer):
    return pickle.loads(pickle.dumps(layer))


def by_torch(layer):
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def by_state_dict(layer):
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    twin = make(type(layer.adjoint)())
    twin.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
    return twin


def make(adjoint=None):
    return implayer.ImplicitLayer(Equilibrium(), implayer.Anderson(memory=4), adjoint=adjoint, initial=torch.zeros_like)


def gradients(layer, x):
    y = layer(x)
    return [y, *torch.autograd.grad(y.square().sum(), list(layer.parameters()))]


@pytest.mark.parametrize("twin_of", [by_pickle, copy.deepcopy, by_torch, by_state_dict])
@pytest.mark.parametrize("used", [False, True], ids=["before", "after"])
def test_twin_computes_the_same_and_is_its_own(twin_of, used):
    layer, x = make(), torch.randn(4, 3)
    if used:
        layer(x).sum().backward()
    twin = twin_of(layer)
    for one, other in zip(gradients(layer, x), gradients(twin, x), strict=True):
        assert torch.equal(one, other)
    with torch.no_grad():
        next(twin.parameters()).add_(1.0)
    assert not torch.equal(next(twin.parameters()), next(layer.parameters()))


@pytest.mark.parametrize(
    "make_adjoint", [implayer.ImplicitAdjoint, implayer.JacobianFree, implayer.UnrolledAdjoint, implayer.PhantomAdjoint]
)
def test_every_adjoint(make_adjoint):
    layer = make(make_adjoint())
    assert by_pickle(layer).adjoint == layer.adjoint and copy.deepcopy(layer).adjoint == layer.adjoint


def test_named_function():
    layer = implayer.ImplicitLayer(cubic, implayer.Newton(), initial=torch.zeros_like)
    twin = by_pickle(layer)
    assert torch.equal(twin(torch.tensor([[2.0]])), layer(torch.tensor([[2.0]])))


@pytest.mark.parametrize("save", [pickle.dumps, by_torch])
@pytest.mark.parametrize(
    ("name", "make_layer"),
    [
        ("F", lambda: implayer.ImplicitLayer(lambda x, y: y - x, implayer.Newton())),
        ("F", lambda: implayer.FixedPointLayer(lambda x, y: y / 2 + x)),
        ("initial", lambda: implayer.ImplicitLayer(cubic, implayer.Newton(), initial=lambda x: 0 * x)),
        ("forward_solver", lambda: implayer.ImplicitLayer(cubic, lambda problem: problem.x)),
        ("F", lambda: torch.nn.Sequential(implayer.ImplicitLayer(lambda x, y: y - x, implayer.Newton()))),
    ],
)
def test_lambda_gets_advice(save, name, make_layer):
    with pytest.raises(implayer.ImplayerError, match=rf"`{name}` is .*lambda.*[Uu]se a named function"):
        save(make_layer())


def test_lambda_can_be_copied():
    layer = implayer.ImplicitLayer(lambda x, y: y - x, implayer.Newton(), initial=torch.zeros_like)
    for twin in (copy.deepcopy(layer), copy.copy(layer)):
        assert torch.equal(twin(torch.ones(1, 1)), torch.ones(1, 1))


def test_a_result_can_be_pickled_and_copied():
    solution = make().solve(torch.randn(4, 3))
    detached = implayer.Solution(
        solution.value.detach(), solution.status, solution.residual_norm, solution.steps, solution.aux
    )
    assert torch.equal(pickle.loads(pickle.dumps(detached)).value, solution.value)
    assert torch.equal(copy.deepcopy(detached).value, solution.value)


def test_an_error_can_be_pickled():
    """As it is when a worker process of a data loader or a pool raises it."""
    with pytest.raises(implayer.SolveError) as caught:
        implayer.ImplicitLayer(cubic, implayer.Newton(max_steps=1), initial=torch.zeros_like)(torch.full((2, 1), 9.0))
    twin = pickle.loads(pickle.dumps(caught.value))
    assert type(twin) is type(caught.value) and str(twin) == str(caught.value)
    assert torch.equal(twin.solution.status, caught.value.solution.status)
