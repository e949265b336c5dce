"""Complex unknowns: exact for a holomorphic F, refused for any other."""

import pytest
import torch

import implayer


def cubic(x, y):
    return y**3 + 2 * y - x


@pytest.fixture
def x():
    return torch.tensor([1 + 2j, -3 + 0.5j], requires_grad=True)


def newton_unrolled(x, y):
    for _ in range(3):
        y = y - cubic(x, y) / (3 * y**2 + 2)
    return y


def test_first_and_second_derivatives(x):
    layer = implayer.ImplicitLayer(cubic, implayer.Newton(), initial=torch.zeros_like, event_ndim=0)
    y = layer(x)
    assert torch.allclose(cubic(x, y), torch.zeros_like(y), atol=1e-12)
    (gradient,) = torch.autograd.grad((y.abs() ** 2).sum(), x, create_graph=True)
    torch.testing.assert_close(gradient, 2 * y / (3 * y**2 + 2).conj())
    (second,) = torch.autograd.grad((gradient.abs() ** 2).sum(), x)
    explicit = newton_unrolled(x, y.detach())
    (first,) = torch.autograd.grad((explicit.abs() ** 2).sum(), x, create_graph=True)
    torch.testing.assert_close(second, torch.autograd.grad((first.abs() ** 2).sum(), x)[0], rtol=1e-7, atol=1e-9)


def test_two_unknowns_with_a_matrix_that_is_not_symmetric():
    a = torch.tensor([[1.0 + 1j, 2.0], [0.5j, -1.0]], requires_grad=True)
    b = torch.tensor([[1.0 + 0j, 2j]])
    layer = implayer.ImplicitLayer(lambda x, y: y @ a.mT - x, implayer.Newton(), initial=torch.zeros_like)
    (gradient,) = torch.autograd.grad(layer(b).abs().sum(), a)
    (expected,) = torch.autograd.grad(torch.linalg.solve(a, b.mT).abs().sum(), a)
    torch.testing.assert_close(gradient, expected)


def test_not_holomorphic(x):
    layer = implayer.ImplicitLayer(
        lambda x, y: y + 0.1 * y.conj() - x, implayer.Newton(), initial=torch.zeros_like, event_ndim=0
    )
    with pytest.raises(implayer.ImplayerError, match="not holomorphic"):
        layer(x)


def test_krylov_is_for_real_systems(x):
    adjoint = implayer.ImplicitAdjoint(linear_solver=implayer.GMRES())
    layer = implayer.ImplicitLayer(cubic, implayer.Newton(), initial=torch.zeros_like, event_ndim=0, adjoint=adjoint)
    with pytest.raises(implayer.DtypeError, match="real systems only"):
        layer(x)
