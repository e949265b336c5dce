"""Scale: a million unknowns in one sample with memory O(n), and a batch of a hundred thousand small samples."""

import subprocess
import sys

import pytest
import torch

import implayer

# Growth of the peak resident memory over the level before the solve, in units of one vector of n numbers.
LARGE = """
import resource, sys, torch, implayer
torch.set_default_dtype(torch.float64); torch.set_num_threads(1)
n = int(sys.argv[1])

def f(x, y):
    return torch.sin(0.5 * y.roll(1, -1) + 0.25 * y.roll(-1, -1)) + x

layer = implayer.FixedPointLayer(f, implayer.Anderson(memory=3), initial=torch.zeros_like)
x = torch.linspace(0, 1, n).reshape(1, n).requires_grad_()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
y = layer(x)
(g,) = torch.autograd.grad(y.sum(), x)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
z = y.detach().requires_grad_()
(back,) = torch.autograd.grad(f(x.detach(), z), z, g)  # df/dx = 1, so that g solves (1 - df/dy)' g = 1
print(grown / (8 * n), float((f(x, y) - y).detach().abs().max()), float((g - back - 1).abs().max()))
"""


def measured(n):
    done = subprocess.run([sys.executable, "-c", LARGE, str(n)], capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def test_a_million_unknowns():
    vectors, residual, error = measured(1_000_000)
    assert residual < 1e-6 and error < 1e-6
    assert vectors < 100  # of n numbers each: an iterate history and a Krylov basis, and nothing like n x n


@pytest.mark.slow
def test_memory_grows_linearly():
    sizes = [100_000, 300_000, 1_000_000, 3_000_000]
    assert max(measured(n)[0] for n in sizes[1:]) < 100


def test_a_hundred_thousand_samples():
    """Dense, with eight unknowns each."""
    W = torch.randn(8, 8) / 8
    x = torch.randn(100_000, 8, requires_grad=True)
    layer = implayer.FixedPointLayer(lambda x, y: torch.tanh(y @ W.T + x), implayer.Newton(), initial=torch.zeros_like)
    solution = layer.solve(x)
    assert solution.converged.all() and float(solution.residual_norm.max()) < 1e-8
    v = torch.randn(8)
    (gradient,) = torch.autograd.grad((solution.value @ v).sum(), x)
    few = torch.arange(0, 100_000, 9_999)
    D = 1 - solution.value[few].detach() ** 2
    J = torch.eye(8) - D.unsqueeze(-1) * W
    torch.testing.assert_close(
        gradient[few], torch.linalg.solve(J.mT, v.expand(len(few), 8)) * D, rtol=1e-9, atol=1e-10
    )
