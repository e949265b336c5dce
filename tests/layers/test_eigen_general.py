"""Simple pairs of matrices that are not symmetric, singular vectors, pairs on a subspace."""

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from implayer.errors import ImplayerError, ShapeError, SingularJacobianError, SolveError
from implayer.layers.eigen import EigenLayer
from implayer.layers.eigen_general import NonsymmetricEigenLayer, ProjectedEigenLayer, SingularLayer


def with_real_spectrum(*batch: int, n: int) -> Tensor:
    basis = torch.randn(*batch, n, n)
    return basis @ torch.diag(torch.arange(1.0, n + 1)) @ torch.linalg.inv(basis)


def test_right_and_left_vectors():
    A = with_real_spectrum(3, n=5)
    values, v, w = NonsymmetricEigenLayer(2)(A)
    torch.testing.assert_close(values, torch.tensor([5.0, 4.0]).expand(3, 2))
    torch.testing.assert_close(A @ v, v * values.unsqueeze(-2))
    torch.testing.assert_close(A.mT @ w, w * values.unsqueeze(-2))
    torch.testing.assert_close((w * v).sum(-2), torch.ones(3, 2))
    torch.testing.assert_close(v.norm(dim=-2), torch.ones(3, 2))


def test_closed_form_of_the_eigenvalue():
    A = with_real_spectrum(n=4).requires_grad_()
    values, v, w = NonsymmetricEigenLayer()(A)
    (slope,) = torch.autograd.grad(values[0], A)
    torch.testing.assert_close(slope, (w @ v.mT).detach())


def test_both_orders_and_modes():
    A = with_real_spectrum(2, n=3).requires_grad_()
    layer = NonsymmetricEigenLayer(2, "smallest modulus")
    assert torch.autograd.gradcheck(layer, (A,), check_forward_ad=True, fast_mode=True, atol=1e-4, rtol=1e-4)
    assert torch.autograd.gradgradcheck(layer, (A,), fast_mode=True, atol=1e-3, rtol=1e-3)

    def f(a: Tensor) -> Tensor:
        values, v, w = layer(a)
        return values.sum() + (v**3).sum() + (w**2).sum()

    expected = torch.autograd.grad(f(A[0]) + f(A[1]), A)[0]
    torch.testing.assert_close(vmap(grad(f))(A.detach()), expected)


def test_stationary_distribution_of_a_chain():
    def chain(t: Tensor) -> Tensor:
        return torch.stack([torch.stack([1 - t, t]), torch.tensor([0.5, 0.5])])

    t = torch.tensor(0.1, requires_grad=True)
    left = NonsymmetricEigenLayer()(chain(t))[2][:, 0]
    stationary = left / left.sum()
    torch.testing.assert_close(stationary, torch.tensor([5 / 6, 1 / 6]))
    (slope,) = torch.autograd.grad(stationary[1], t)  # t / (t + 1/2)
    assert float(slope) == pytest.approx(0.5 / 0.36)


def test_complex_repeated_and_broken_input():
    with pytest.raises(ImplayerError, match="complex"):
        NonsymmetricEigenLayer()(torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
    defective = torch.tensor([[1.0, 1.0], [0.0, 1.0]], requires_grad=True)
    with pytest.raises((SingularJacobianError, SolveError)):
        NonsymmetricEigenLayer()(defective)
    with pytest.raises(SolveError, match="nan at index"):
        NonsymmetricEigenLayer()(torch.full((2, 2), torch.nan))
    with pytest.raises(ShapeError):
        NonsymmetricEigenLayer(3)(torch.eye(2))
    with pytest.raises(ValueError, match="`k` is 0"):
        NonsymmetricEigenLayer(0)


def test_singular_vectors_against_svd():
    M = torch.randn(2, 5, 3).requires_grad_()
    values, u, v = SingularLayer(2)(M)
    U, S, V = torch.linalg.svd(M, full_matrices=False)
    torch.testing.assert_close(values, S[..., :2])
    torch.testing.assert_close(M @ v, u * values.unsqueeze(-2))
    weight = torch.randn(5, 3)
    product = u @ v.mT  # has no sign
    expected = U[..., :2] @ V[..., :2, :]
    torch.testing.assert_close(product, expected)
    found = torch.autograd.grad((product * weight).sum(), M)[0]
    torch.testing.assert_close(found, torch.autograd.grad((expected * weight).sum(), M)[0])
    with pytest.raises(ShapeError, match="3 singular values"):
        SingularLayer(4)(M)


@pytest.mark.parametrize("which", ["smallest", "largest"])
def test_pairs_on_a_subspace(which: str):
    m = torch.randn(6, 6)
    A = (m + m.mT).requires_grad_()
    C = torch.randn(2, 6)
    C = torch.cat([C, C[:1] + C[1:]]).requires_grad_()  # one row is redundant
    values, v = ProjectedEigenLayer(2, which)(A, C)
    torch.testing.assert_close(C @ v, torch.zeros(3, 2), atol=1e-10, rtol=0)
    Z = torch.linalg.svd(C.detach())[2][2:]
    inner, w = EigenLayer(2, which)(Z @ A @ Z.mT)
    torch.testing.assert_close(values, inner)
    found = torch.autograd.grad((v**2).sum(1)[0] + values.sum(), A)[0]
    expected = torch.autograd.grad(((Z.mT @ w) ** 2).sum(1)[0] + inner.sum(), A)[0]
    torch.testing.assert_close(found, expected)
    with pytest.raises(ShapeError, match="beside 2 known ones"):
        ProjectedEigenLayer(5, which)(A, C)
