"""R35: one seed twice gives the same bytes; `use_deterministic_algorithms` passes."""

import hashlib

import pytest
import torch

import implayer


@pytest.fixture(autouse=True)
def deterministic():
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def digest(*tensors):
    return hashlib.sha256(b"".join(t.detach().contiguous().numpy().tobytes() for t in tensors)).hexdigest()


SOLVERS = [implayer.Newton(), implayer.Anderson(), implayer.Broyden(), implayer.Picard(), implayer.LevenbergMarquardt()]
LINEAR = [implayer.Auto(), implayer.GMRES(), implayer.BiCGSTAB(), implayer.LSMR()]


def train(solver, linear_solver):
    torch.manual_seed(7)
    mix = torch.nn.Linear(5, 5)
    layer = implayer.FixedPointLayer(
        lambda x, y: torch.tanh(0.2 * mix(y) + x),
        solver,
        adjoint=implayer.ImplicitAdjoint(linear_solver=linear_solver),
        initial=torch.zeros_like,
    )
    optimiser = torch.optim.Adam(mix.parameters(), lr=0.01)
    for _ in range(5):
        optimiser.zero_grad()
        layer(torch.randn(6, 5)).square().sum().backward()
        optimiser.step()
    return digest(*mix.parameters())


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("linear_solver", LINEAR, ids=lambda s: type(s).__name__)
def test_same_bytes(solver, linear_solver):
    assert train(solver, linear_solver) == train(solver, linear_solver)


def test_the_digest_sees_a_difference():
    assert train(implayer.Newton(), implayer.LU()) != train(implayer.Newton(max_steps=60), implayer.Neumann(terms=1))


def test_transforms_too():
    layer = implayer.FixedPointLayer(
        lambda x, y: torch.tanh(x * y.roll(1, -1) + x), implayer.Newton(), initial=torch.zeros_like
    )
    x = torch.randn(3, 4)

    def run():
        return digest(torch.vmap(torch.func.jacrev(layer))(x), torch.func.hessian(lambda x: layer(x).sum())(x))

    assert run() == run()
