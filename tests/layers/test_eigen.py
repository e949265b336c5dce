"""EigenLayer on dense matrices: values, derivatives of both orders in every mode, batches, deflation, choices."""

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, jacfwd, jacrev, jvp, vmap

from implayer.errors import DeflationError, OrderError
from implayer.layers.eigen import Clusters, EigenLayer
from implayer.solvers.eigen import Lapack


def symmetric(*shape: int) -> Tensor:
    m = torch.randn(*shape)
    return m + m.mT


def definite(*shape: int) -> Tensor:
    m = torch.randn(*shape)
    return m @ m.mT + shape[-1] * torch.eye(shape[-1])


def by_eigh(A: Tensor, B: Tensor | None) -> tuple[Tensor, Tensor]:
    """All pairs with the derivative of torch, signs as the layer has them."""
    A = (A + A.mT) / 2
    if B is None:
        values, vectors = torch.linalg.eigh(A)
    else:
        inverse = torch.linalg.inv(torch.linalg.cholesky((B + B.mT) / 2))
        values, vectors = torch.linalg.eigh(inverse @ A @ inverse.mT)
        vectors = inverse.mT @ vectors
    place = vectors.abs().argmax(-2, keepdim=True)
    return values, vectors * vectors.gather(-2, place).sign()


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().norm() / expected.detach().norm().clamp(min=1e-3))


@pytest.mark.parametrize("pencil", [False, True])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_every_k_against_eigh(n: int, pencil: bool):
    for k in range(1, n + 1):
        A = symmetric(3, n, n).requires_grad_()
        leaves = [A, definite(3, n, n).requires_grad_()] if pencil else [A]
        weight, slope = torch.randn(3, n, k), torch.randn(3, k)
        found, expected = [], []
        for call, out in ((EigenLayer(k), found), (by_eigh, expected)):
            values, vectors = call(A, leaves[1] if pencil else None)
            loss = (slope * values[..., :k].sin()).sum() + (weight * vectors[..., :k] ** 3).sum()
            first = torch.autograd.grad(loss, leaves, create_graph=True)
            second = torch.autograd.grad(sum((g.sin()).sum() for g in first), leaves)
            out += [values[..., :k].detach(), vectors[..., :k].detach(), *first, *second]
        for a, b in zip(found, expected, strict=True):
            assert relative(a, b) < 1e-9


def test_closed_form_of_two_by_two():
    a, b, c = 1.5, 0.7, -0.3
    A = torch.tensor([[a, b], [b, c]], requires_grad=True)
    values, vectors = EigenLayer(2)(A)
    mean, half = (a + c) / 2, math.hypot((a - c) / 2, b)
    torch.testing.assert_close(values, torch.tensor([mean - half, mean + half]))
    angle = 0.5 * math.atan2(2 * b, a - c)
    torch.testing.assert_close(vectors[:, 1], torch.tensor([math.cos(angle), math.sin(angle)]))
    (slope,) = torch.autograd.grad(vectors[0, 1], A)
    turn = -math.sin(angle) * math.cos(2 * angle) / (2 * half)  # d cos(angle) / db
    assert float(slope[0, 1] + slope[1, 0]) == pytest.approx(turn)


def test_normalised_cut_has_its_closed_form():
    """dl / dw_ij = (v_i - v_j)^2 - l (v_i^2 + v_j^2) for the pencil (D - W, D)."""
    w = (torch.rand(6, 6) + 0.1).triu(1).requires_grad_()
    W = w + w.mT
    D = torch.diag(W.sum(-1))
    value, vector = EigenLayer(1)(D - W, D, deflate=torch.ones(6, 1))
    (slope,) = torch.autograd.grad(value[0], w)
    v = vector[:, 0].detach()
    expected = (v - v[:, None]) ** 2 - value.detach() * (v**2 + v[:, None] ** 2)
    torch.testing.assert_close(slope.triu(1), expected.triu(1))
    assert value[0] > 1e-3


@pytest.mark.parametrize("which", ["smallest", "largest", "nearest"])
def test_ends_of_the_spectrum(which: str):
    A = symmetric(2, 3, 8, 8)
    shift = torch.tensor([0.3, -1.0, 2.0]) if which == "nearest" else None
    values, vectors = EigenLayer(3, which, shift=shift)(A)
    every = torch.linalg.eigvalsh(A)
    expected = {"smallest": every[..., :3], "largest": every[..., -3:].flip(-1)}.get(which)
    if shift is not None:
        near = (every - shift[:, None]).abs().argsort(-1)[..., :3]
        expected = every.gather(-1, near)
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(A @ vectors, vectors * values.unsqueeze(-2))
    place = vectors.abs().argmax(-2, keepdim=True)
    assert bool((vectors.gather(-2, place) > 0).all())


@pytest.mark.parametrize("pencil", [False, True])
def test_gradcheck_in_both_modes_and_orders(pencil: bool):
    A = symmetric(2, 4, 4).requires_grad_()
    B = definite(4, 4).requires_grad_()  # shared

    def f(*leaves: Tensor) -> tuple[Tensor, Tensor]:
        return EigenLayer(2, normalisation="unit")(*leaves)

    leaves = (A, B) if pencil else (A,)
    assert torch.autograd.gradcheck(f, leaves, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(f, leaves, fast_mode=True)


def test_unit_normalisation():
    A, B = symmetric(5, 5), definite(5, 5)
    _, vectors = EigenLayer(3, normalisation="unit")(A, B)
    torch.testing.assert_close(vectors.norm(dim=0), torch.ones(3))
    _, others = EigenLayer(3)(A, B)
    torch.testing.assert_close(others.mT @ B @ others, torch.eye(3))


def curve(A: Tensor, B: Tensor) -> Tensor:
    values, vectors = EigenLayer(2)(A, B)
    weight = torch.arange(A.shape[-1] * 2.0).reshape(-1, 2)
    return (values**2).sum() + (weight * vectors**3).sum()


def test_transforms_agree_with_the_loop():
    A, B, direction = symmetric(3, 5, 5), definite(5, 5), symmetric(5, 5)
    a = A[0].clone().requires_grad_()
    (g,) = torch.autograd.grad(curve(a, B), a, create_graph=True)
    (h,) = torch.autograd.grad((g * direction).sum(), a)
    gradient = grad(curve)
    torch.testing.assert_close(vmap(gradient, in_dims=(0, None))(A, B), torch.stack([gradient(one, B) for one in A]))
    shared = vmap(grad(curve, argnums=1), in_dims=(0, None))(A, B)
    torch.testing.assert_close(shared, torch.stack([grad(curve, argnums=1)(one, B) for one in A]))
    torch.testing.assert_close(gradient(A[0], B), g.detach())
    torch.testing.assert_close(jvp(lambda m: gradient(m, B), (A[0],), (direction,))[1], h)
    torch.testing.assert_close(grad(lambda m: (gradient(m, B) * direction).sum())(A[0]), h)
    slope = jvp(lambda m: curve(m, B), (A[0],), (direction,))[1]
    torch.testing.assert_close(slope, (g * direction).sum().detach())
    hessian = jacfwd(jacrev(curve))(A[0], B)
    torch.testing.assert_close(torch.einsum("ijkl,kl->ij", hessian, direction), h)


def test_eager_forward_mode():
    A, direction, B = symmetric(4, 4), symmetric(4, 4), definite(4, 4)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(curve(forward_ad.make_dual(A, direction), B)).tangent
    torch.testing.assert_close(tangent, (grad(curve)(A, B) * direction).sum())


def test_a_third_order_raises():
    A = symmetric(4, 4).requires_grad_()
    g = torch.autograd.grad(EigenLayer(1)(A)[1].pow(3).sum(), A, create_graph=True)[0]
    g = torch.autograd.grad(g.sin().sum(), A, create_graph=True)[0]
    with pytest.raises(OrderError, match="order 3"):
        torch.autograd.grad(g.sin().sum(), A)


def test_batch_is_the_loop():
    A, B = symmetric(4, 5, 5), definite(4, 5, 5)
    values, vectors = EigenLayer(3)(A, B)
    for i in range(4):
        one = EigenLayer(3)(A[i], B[i])
        torch.testing.assert_close(values[i], one[0])
        torch.testing.assert_close(vectors[i], one[1])


def test_deflation_leaves_pairs_out():
    A, B = symmetric(6, 6), definite(6, 6)
    values, vectors = EigenLayer(4)(A, B)
    mixed = vectors[:, :2] @ torch.tensor([[1.0, 2.0], [-1.0, 3.0]])  # only the span counts
    left, rest = EigenLayer(2)(A, B, deflate=mixed)
    torch.testing.assert_close(left, values[2:])
    torch.testing.assert_close(rest, vectors[:, 2:])
    largest, _ = EigenLayer(6 - 2, "largest")(A, B, deflate=vectors[:, :2])
    torch.testing.assert_close(largest, torch.linalg.eigvals(torch.linalg.solve(B, A)).real.sort().values[2:].flip(0))


def test_deflation_does_not_change_the_derivative():
    A = symmetric(5, 5).requires_grad_()
    known = EigenLayer(1)(A.detach())[1]
    whole = torch.autograd.grad(EigenLayer(2)(A)[1][:, 1].pow(3).sum(), A)[0]
    torch.testing.assert_close(torch.autograd.grad(EigenLayer(1)(A, deflate=known)[1].pow(3).sum(), A)[0], whole)


def test_wrong_deflation_raises():
    A = symmetric(5, 5)
    with pytest.raises(DeflationError, match="does not span eigenvectors"):
        EigenLayer(1)(A, deflate=torch.ones(5, 1))
    with pytest.raises(DeflationError, match="depend on one another"):
        EigenLayer(1)(A, deflate=EigenLayer(1)(A)[1].expand(5, 2))


def test_broadening_bounds_the_derivative_as_documented():
    A = torch.diag(torch.tensor([1.0, 1.01, 3.0])).requires_grad_()
    epsilon = 0.05
    exact = torch.autograd.grad(EigenLayer(1)(A)[1][1, 0], A)[0][0, 1]
    layer = EigenLayer(1, clusters=Clusters(broadening=epsilon))
    g = torch.autograd.grad(layer(A)[1][1, 0], A, create_graph=True)[0]
    size = float(A.detach().norm() / math.sqrt(3))
    assert float(g[0, 1].detach()) == pytest.approx(float(exact) / (1 + (epsilon * size / 0.01) ** 2))
    with pytest.raises(OrderError):
        torch.autograd.grad(g.sin().sum(), A)
    flat = torch.eye(3, requires_grad=True)
    assert bool(torch.isfinite(torch.autograd.grad(layer(flat)[1].pow(3).sum(), flat)[0]).all())


def test_float32_is_computed_in_float64():
    A = torch.diag(torch.tensor([1.0, 1.001, 2.0])) + 1e-4 * symmetric(3, 3)
    low = A.float().requires_grad_()
    values, vectors = EigenLayer(1)(low)
    assert values.dtype == vectors.dtype == torch.float32
    vectors.pow(3).sum().backward()
    high = low.detach().double().requires_grad_()
    EigenLayer(1)(high)[1].pow(3).sum().backward()
    assert low.grad.dtype == torch.float32
    assert relative(low.grad.double(), high.grad) < 1e-5  # eps / gap would be 1e-4


@pytest.mark.parametrize("size", [1e-12, 1e12])
def test_units_do_not_matter(size: float):
    A, B = symmetric(4, 4), definite(4, 4)
    values, vectors = EigenLayer(2)(A, B)
    other = EigenLayer(2)(A * size, B / size)
    torch.testing.assert_close(other[0] / size**2, values)
    torch.testing.assert_close(other[1] / size**0.5, vectors)


def test_report_of_the_spectrum():
    A = torch.diag(torch.tensor([1.0, 1.0, 4.0, 9.0]))
    solution = EigenLayer(3).solve(A)
    torch.testing.assert_close(solution.aux["gap"], torch.tensor([3.0, 3.0, 3.0]))
    assert solution.aux["multiplicity"].tolist() == [2, 2, 1]
    assert float(solution.aux["residual"].max()) < 1e-14
    assert bool(solution.converged) and solution.status.shape == ()


def test_empty_batch():
    A = torch.zeros(0, 3, 3, requires_grad=True)
    values, vectors = EigenLayer(2)(A)
    assert values.shape == (0, 2) and vectors.shape == (0, 3, 2)
    vectors.sum().backward()
    assert A.grad.shape == (0, 3, 3)


def test_copies_and_pickles():
    layer = EigenLayer(2, "largest")
    A = symmetric(4, 4)
    expected = layer(A)[1]
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(twin(A)[1], expected)
    assert layer.state_dict() == {} and "largest" in repr(layer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("which", ["smallest", "largest"])
@pytest.mark.parametrize("k", [1, 3, 12])
def test_the_direct_way_is_that_of_solve(k: int, which: str, dtype: torch.dtype):
    """A call without a report is differentiated on numbers; what it returns is the same."""
    A = symmetric(2, 1, 12, 12).to(dtype).requires_grad_()
    skew = 1e-6 * torch.randn(12, 12).to(dtype)  # as that of a difference quotient
    layer, weight = EigenLayer(k, which), torch.randn(2, 1, 12, k, dtype=dtype)
    losses = [
        lambda v, x: v.sin().sum(),
        lambda v, x: (weight * x**3).sum(),
        lambda v, x: (v * x.square()[..., 0, :]).sum(),
    ]
    for loss in losses:
        direct, told = layer(A + skew), layer.solve(A + skew).value
        for a, b in zip(direct, told, strict=True):
            assert a.dtype == dtype
            torch.testing.assert_close(a, b)
        first = torch.autograd.grad(loss(*direct), A)[0]
        assert relative(first, torch.autograd.grad(loss(*told), A)[0]) < (1e-12 if dtype == torch.float64 else 1e-5)
        torch.testing.assert_close(first, first.mT)


def test_the_direct_way_leaves_exceptions_to_the_layer(monkeypatch: pytest.MonkeyPatch):
    """And what was found of a cluster is not looked for again."""
    count, find = [], Lapack.find
    monkeypatch.setattr(Lapack, "find", lambda self, pencil, wanted: (count.append(1), find(self, pencil, wanted))[1])
    A = torch.eye(3, requires_grad=True)
    EigenLayer(3)(A)[0].sum().backward()
    torch.testing.assert_close(A.grad, torch.eye(3))
    assert len(count) == 1
    values, _ = EigenLayer(1)(torch.zeros(2, 3, 3))
    assert values.tolist() == [[0.0], [0.0]]


def test_results_may_be_changed_in_place():
    A = symmetric(4, 4).requires_grad_()
    values, vectors = EigenLayer(2)(A)
    expected = torch.autograd.grad(values.sum() + vectors.pow(3).sum(), A)[0]
    values, vectors = EigenLayer(2)(A)
    values.mul_(2)
    vectors[:, 0].mul_(-2)
    (g,) = torch.autograd.grad(values.sum() / 2 + (vectors / torch.tensor([-2.0, 1.0])).pow(3).sum(), A)
    torch.testing.assert_close(g, expected)


def test_batches_of_cotangents_in_both_ways():
    A = symmetric(4, 4)
    found = torch.autograd.functional.jacobian(lambda A: EigenLayer(2)(A)[1], A, vectorize=True)
    torch.testing.assert_close(found, torch.autograd.functional.jacobian(lambda A: EigenLayer(2)(A)[1], A))
