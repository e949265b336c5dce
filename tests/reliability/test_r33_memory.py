"""R33: 1000 training steps leave memory flat, also with create_graph through autograd.grad."""

import gc
import resource

import jaxtyping
import pytest
import torch

import implayer

STEPS = 1000


class Equilibrium(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = torch.nn.Linear(4, 4)

    def forward(self, x, y):
        return torch.sinh(y) + self.mix(y) - x

    def solver(self, problem):
        """Six Newton steps by hand: quick, so that 1000 training steps are."""
        y = problem.x / 3
        for _ in range(6):
            J = torch.diag_embed(y.cosh()) + self.mix.weight
            y = y - torch.linalg.solve(J, self(problem.x, y))
        return y


def plain(layer, x):
    layer(x).square().mean().backward()
    with torch.no_grad():
        for p in layer.parameters():
            p -= 1e-3 * p.grad
            p.grad = None


def penalised(layer, x):
    x = x.requires_grad_()
    y = layer(x)
    (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    parameters = list(layer.parameters())
    gradients = torch.autograd.grad(y.square().mean() + g.square().mean(), parameters)
    with torch.no_grad():
        for p, d in zip(parameters, gradients, strict=True):
            p -= 1e-3 * d


def living_tensors():
    return sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects())


def resident_kb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 1024


@pytest.fixture
def unchecked():
    """Without the checks of the shape annotations, which take longer than the layer and have memory of their own."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("step", [plain, penalised])
def test_flat(step):
    F = Equilibrium()
    layer = implayer.ImplicitLayer(F, F.solver)
    x = torch.randn(8, 4)
    for _ in range(100):
        step(layer, x)
    gc.collect()
    tensors, memory = living_tensors(), resident_kb()
    for _ in range(STEPS - 100):
        step(layer, x)
    assert resident_kb() <= 1.05 * memory
    gc.collect()
    assert living_tensors() <= tensors


def big(x, y):
    return torch.tanh(0.3 * y.roll(1, -1) + x)


ADJOINTS = {
    "dense": implayer.ImplicitAdjoint(),
    "matrix-free": implayer.ImplicitAdjoint(linear_solver=implayer.GMRES()),
    "unrolled": implayer.UnrolledAdjoint(),
}


@pytest.mark.parametrize("adjoint", ADJOINTS.values(), ids=ADJOINTS)
def test_no_cycle_keeps_a_graph(adjoint):
    """With the collector switched off nothing may survive: a cycle through a graph would hold its tensors."""
    layer = implayer.FixedPointLayer(big, implayer.Picard(), adjoint=adjoint, initial=torch.zeros_like)
    x = torch.randn(2, 16, requires_grad=True)

    def once():
        torch.autograd.grad(layer(x).square().sum(), x)

    once()
    gc.collect()
    gc.disable()
    try:
        before = living_tensors()
        for _ in range(20):
            once()
        assert living_tensors() - before <= 0
    finally:
        gc.enable()
