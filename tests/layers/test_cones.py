"""Projections on cones: Moreau's decomposition, closed forms, and derivatives of both orders."""

import math

import pytest
import torch
from torch.func import jacrev, vmap

from implayer.layers.cone_blocks import Semidefinite
from implayer.layers.cones import Cones
from implayer.layers.exponential_cone import Exponential, exponential_case

EVERY = Cones(zero=2, nonneg=3, soc=(1, 3, 4, 3), psd=(3, 2), exp=4)


def exponential_parameter(cones, v, s=None):
    return torch.from_numpy(cones.parameter(v.numpy(), None if s is None else s.numpy()))


def drawn(cones=EVERY, samples=20):
    v = 2 * torch.randn(samples, cones.size)
    return v, exponential_parameter(cones, v)


def test_sizes_and_order_of_the_rows():
    assert EVERY.size == 2 + 3 + 11 + 6 + 3 + 12
    v, rho = drawn()
    s = EVERY.project(v, rho)
    assert s.shape == v.shape and rho.shape == (20, 4)
    assert (s[:, :2] == 0).all() and torch.equal(s[:, 2:5], v[:, 2:5].clamp_min(0))
    # the second-order cones of one size are handled together, and come back to their places
    for start, d in ((5, 1), (6, 3), (9, 4), (13, 3)):
        t, u = s[:, start], s[:, start + 1 : start + d]
        assert (torch.linalg.vector_norm(u, dim=-1) <= t + 1e-12).all()


def test_projection_and_multiplier_are_orthogonal():
    v, rho = drawn()
    s = EVERY.project(v, rho)
    torch.testing.assert_close((s * (s - v)).sum(-1), torch.zeros(20), atol=1e-11, rtol=0)
    torch.testing.assert_close(EVERY.project(s, exponential_parameter(EVERY, s)), s, atol=1e-10, rtol=0)


def test_projection_is_nearest():
    v, rho = drawn(samples=200)
    s = EVERY.project(v, rho)
    other = EVERY.project(*drawn(samples=200))
    assert ((v - s).norm(dim=-1) <= (v - other).norm(dim=-1) + 1e-12).all()


def test_closed_forms():
    soc = Cones(soc=(3,))
    none = torch.zeros(1, 0)
    torch.testing.assert_close(soc.project(torch.tensor([[0.0, 3.0, 4.0]]), none), torch.tensor([[2.5, 1.5, 2.0]]))
    torch.testing.assert_close(soc.project(torch.tensor([[6.0, 3.0, 4.0]]), none), torch.tensor([[6.0, 3.0, 4.0]]))
    assert (soc.project(torch.tensor([[-6.0, 3.0, 4.0]]), none) == 0).all()
    psd = Cones(psd=(2,))  # [[1, 2], [2, 1]] has eigenvalues 3 and -1
    v = torch.tensor([[1.0, 2 * math.sqrt(2), 1.0]])
    torch.testing.assert_close(psd.project(v, none), torch.tensor([[1.5, 1.5 * math.sqrt(2), 1.5]]))
    exp = Cones(exp=1)
    rho = torch.tensor([[0.5]])
    boundary = torch.tensor([[2 * 0.5, 2.0, 2 * math.exp(0.5)]])
    v = boundary - 3 * torch.tensor([[-1.0, -0.5, math.exp(-0.5)]])
    torch.testing.assert_close(exponential_parameter(exp, v), rho)
    torch.testing.assert_close(exp.project(v, rho), boundary)


def test_exponential_cases():
    v = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, -1.0], [-1.0, -1.0, 3.0], [-1.0, -1.0, -3.0], [1.0, 1.0, 1.0]])
    inside, polar, face, curved = exponential_case(v)
    assert [inside.tolist().index(True), polar.tolist().index(True), curved.tolist().index(True)] == [0, 1, 4]
    assert face.tolist() == [False, False, True, True, False]
    s = Cones(exp=1).project(v, exponential_parameter(Cones(exp=1), v))
    torch.testing.assert_close(s[:4], torch.tensor([[0.0, 1.0, 2.0], [0, 0, 0], [-1, 0, 3], [-1, 0, 0]]))


def test_a_guess_of_the_projection_gives_the_same_parameter():
    v, rho = drawn()
    s = EVERY.project(v, rho)
    torch.testing.assert_close(exponential_parameter(EVERY, v, s * (1 + 1e-6)), rho, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(exponential_parameter(EVERY, v, torch.ones_like(s)), rho, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("block", EVERY.blocks, ids=lambda block: f"{type(block).__name__}{block.index.shape[1]}")
def test_derivatives_of_both_orders(block):
    v, rho = drawn(samples=6)
    point = v[:, block.index]
    tangent = block.tangent(point.numpy(), rho.numpy())
    s, height, jacobian = (
        None if part is None else torch.from_numpy(part) for part in (tangent.s, tangent.height, tangent.jacobian)
    )
    torch.testing.assert_close(s, block.project(point, rho, 0), atol=1e-13, rtol=1e-13)
    if isinstance(block, Exponential):
        torch.testing.assert_close(height, block.project_with_height(point, rho)[1], atol=1e-13, rtol=1e-13)
        point = torch.cat([point, rho.unsqueeze(-1)], -1)

    def parts(u):
        if not isinstance(block, Exponential):
            return block.project(u, rho, 2)
        v, r = u[..., :3], u[..., 3]
        s, height = block.project_with_height(v, r)
        return torch.cat([s, height.unsqueeze(-1)], -1)

    single = vmap(vmap(jacrev(lambda u: parts(u.unsqueeze(0)).squeeze(0))))
    torch.testing.assert_close(jacobian, single(point), atol=1e-11, rtol=1e-11)
    point.requires_grad_()
    assert torch.autograd.gradcheck(parts, (point,), check_forward_ad=True, check_batched_grad=False)
    assert torch.autograd.gradgradcheck(parts, (point,))


def test_third_order_of_the_semidefinite_projection_with_repeated_eigenvalues():
    block = Cones(psd=(3,)).blocks[0]
    assert isinstance(block, Semidefinite)
    start = torch.diag(torch.tensor([2.0, 2.0, -1.0]))
    direction = block.matrix(torch.randn(6))

    def along(t, order):
        v = block.vector(start + t * direction)
        return block.project(v.reshape(1, 1, -1), torch.zeros(1, 0), order).sum()

    third = torch.func.grad(torch.func.grad(torch.func.grad(lambda t: along(t, 3))))(torch.tensor(0.0))
    h = 2e-2
    values = [float(along(torch.tensor(k * h), 1)) for k in (-3, -2, -1, 1, 2, 3)]
    weights = [1 / 8, -1, 13 / 8, -13 / 8, 1, -1 / 8]
    assert float(third) == pytest.approx(sum(w * f for w, f in zip(weights, values, strict=True)) / h**3, rel=1e-4)


def test_margin_finds_the_kinks():
    cones = Cones(nonneg=1, soc=(3,), psd=(2,), exp=1)
    smooth = torch.tensor([1.0, 0.0, 3.0, 4.0, 1.0, 2.0, 1.0, 1.0, 1.0, 1.0])
    kinks = [smooth.clone() for _ in range(5)]
    kinks[0][0] = 0  # the corner of a half-line
    kinks[1][1] = 5  # the boundary of the second-order cone
    kinks[2][4:7] = torch.tensor([1.0, math.sqrt(2), 1.0])  # a singular matrix
    kinks[3][7:] = torch.tensor([0.0, 1.0, 1.0])  # the boundary of the exponential cone
    kinks[4][7:] = torch.tensor([-1.0, 0.0, 3.0])  # the edge of its face
    v = torch.stack([smooth, *kinks])
    margin = cones.tangent(v.numpy(), exponential_parameter(cones, v).numpy())[3]
    assert margin[0] > 1e-2 and (margin[1:] < 1e-12).all()
