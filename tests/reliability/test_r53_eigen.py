"""R53: repeated eigenvalues, matrices that are not symmetric, too many pairs, signs."""

import warnings

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, vmap

from implayer.errors import (
    DegenerateEigenvalueError,
    DegenerateWarning,
    DtypeError,
    NotDefiniteError,
    NotSymmetricError,
    ShapeError,
    SolveError,
)
from implayer.layers.eigen import Clusters, EigenLayer
from implayer.solution import Status


def symmetric(n: int) -> Tensor:
    m = torch.randn(n, n)
    return m + m.mT


@pytest.fixture
def repeated() -> Tensor:
    """Eigenvalues 1, 1, 2, 3, 5 in a random basis."""
    q = torch.linalg.qr(torch.randn(5, 5))[0]
    return (q * torch.tensor([1.0, 1.0, 2.0, 3.0, 5.0])) @ q.mT


def invariant(A: Tensor, C: Tensor) -> Tensor:
    values, vectors = EigenLayer(2)(A)
    P = vectors @ vectors.mT
    return (P * C).sum() + (P @ C @ P * C).sum() + values.sum()


def test_a_loss_of_the_projector_is_exact_to_second_order(repeated: Tensor):
    C, D, h = symmetric(5), symmetric(5), 1e-3
    A = repeated.clone().requires_grad_()
    (g,) = torch.autograd.grad(invariant(A, C), A, create_graph=True)
    (second,) = torch.autograd.grad((g * D).sum(), A)
    up, middle, down = (invariant(repeated + t * D, C) for t in (h, 0.0, -h))
    wide = [invariant(repeated + t * D, C) for t in (2 * h, -2 * h)]
    slope = (8 * (up - down) - (wide[0] - wide[1])) / (12 * h)
    curvature = (16 * (up + down) - (wide[0] + wide[1]) - 30 * middle) / (12 * h * h)
    assert float((g * D).sum().detach()) == pytest.approx(float(slope), rel=1e-7)
    assert float((second * D).sum()) == pytest.approx(float(curvature), rel=1e-4)


def test_the_same_under_transforms(repeated: Tensor):
    C, D = symmetric(5), symmetric(5)
    A = repeated.clone().requires_grad_()
    (g,) = torch.autograd.grad(invariant(A, C), A, create_graph=True)
    (second,) = torch.autograd.grad((g * D).sum(), A)
    hessian = jacfwd(jacrev(invariant))(repeated, C)
    torch.testing.assert_close(torch.einsum("ijkl,kl->ij", hessian, D), second)
    both = vmap(grad(invariant), in_dims=(0, None))(torch.stack([symmetric(5), repeated]), C)
    torch.testing.assert_close(both[1], g.detach())


def first_value(A: Tensor) -> Tensor:
    return EigenLayer(2)(A)[0][0]


def cubes(A: Tensor) -> Tensor:
    return EigenLayer(2)(A)[1].pow(3).sum()


def cut_cluster(A: Tensor) -> Tensor:
    return EigenLayer(1)(A)[0].sum()


@pytest.mark.parametrize("loss", [first_value, cubes, cut_cluster])
def test_a_loss_of_the_gauge_raises_and_names_the_gap(repeated: Tensor, loss):
    A = repeated.clone().requires_grad_()
    value = loss(A)  # the value itself is fine
    with pytest.raises(DegenerateEigenvalueError, match=r"pair 0 \(eigenvalue 1\) and pair 1.* apart") as caught:
        value.backward()
    assert caught.value.solution.status.tolist() == [Status.DEGENERATE]
    with pytest.raises(DegenerateEigenvalueError):
        grad(loss)(repeated)
    with pytest.raises(DegenerateEigenvalueError, match="sample 1"):
        vmap(grad(loss))(torch.stack([symmetric(5), repeated]))


def test_second_derivatives_of_single_values_raise(repeated: Tensor):
    def squares(A: Tensor) -> Tensor:
        return (EigenLayer(2)(A)[0] ** 2).sum()

    A = repeated.clone().requires_grad_()
    (g,) = torch.autograd.grad(squares(A), A, create_graph=True)
    q = torch.linalg.eigh(repeated)[1][:, :2]
    torch.testing.assert_close(g.detach(), 2 * q @ q.mT)
    with pytest.raises(DegenerateEigenvalueError):
        torch.autograd.grad(g[0, 1], A)
    with pytest.raises(DegenerateEigenvalueError):
        jacrev(jacrev(squares))(repeated)
    with pytest.raises(DegenerateEigenvalueError):
        jacfwd(jacrev(squares))(repeated)


def test_policies_for_such_a_loss(repeated: Tensor):
    batch = torch.stack([symmetric(5), repeated])
    good = batch[:1].clone().requires_grad_()
    EigenLayer(2)(good)[1].pow(3).sum().backward()
    for policy in ("warn", "nan", "ignore"):
        A = batch.clone().requires_grad_()
        loss = EigenLayer(2, on_failure=policy)(A)[1].pow(3).sum()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loss.backward()
        assert [w.category for w in caught] == ([DegenerateWarning] if policy == "warn" else [])
        assert A.grad is not None and good.grad is not None
        assert bool(torch.isfinite(A.grad[1]).all()) == (policy != "nan")
        torch.testing.assert_close(A.grad[0], good.grad[0])


def test_the_identity_has_finite_gradients_of_invariant_losses():
    A = torch.eye(3, requires_grad=True)
    values, vectors = EigenLayer(3)(A)
    (values.sum() + (vectors @ vectors.mT)[0, 1]).backward()
    torch.testing.assert_close(A.grad, torch.eye(3))


def test_not_symmetric():
    A = symmetric(4)
    A[0, 1] += 0.5
    size = A.norm() / 2
    with pytest.raises(NotSymmetricError, match=f"`A` of sample 0 is not symmetric.* {0.5 * 2**0.5 / size:.2e} of"):
        EigenLayer(1)(A)
    with pytest.raises(NotSymmetricError, match="`B` of sample 1"):
        EigenLayer(1)(symmetric(4), torch.stack([torch.eye(4), torch.eye(4).roll(1, 0) + torch.eye(4)]))
    with pytest.raises(NotSymmetricError):
        vmap(EigenLayer(1))(torch.stack([symmetric(4), A]))


def test_b_not_positive_definite():
    with pytest.raises(NotDefiniteError, match=r"`B` of sample 1 is not positive definite.*from -1.00e\+00"):
        EigenLayer(1)(symmetric(2), torch.stack([torch.eye(2), torch.diag(torch.tensor([1.0, -1.0]))]))


def test_too_many_pairs():
    with pytest.raises(ShapeError, match="`k` is 4, but `A` has only 3 rows"):
        EigenLayer(4)(symmetric(3))
    with pytest.raises(ShapeError, match="`k` is 3 beside 1 known ones"):
        EigenLayer(3)(symmetric(3), deflate=torch.ones(3, 1))


def test_shapes_and_kinds():
    with pytest.raises(ShapeError, match="square"):
        EigenLayer(1)(torch.randn(3, 4))
    with pytest.raises(ShapeError, match="`B` has shape"):
        EigenLayer(1)(symmetric(3), torch.eye(4))
    with pytest.raises(DtypeError, match="complex"):
        EigenLayer(1)(torch.eye(2, dtype=torch.complex128))
    with pytest.raises(DtypeError, match=r"`B` is torch\.float32"):
        EigenLayer(1)(symmetric(3), torch.eye(3, dtype=torch.float32))
    with pytest.raises(ValueError, match="`k` is 0"):
        EigenLayer(0)
    with pytest.raises(ValueError, match="shift"):
        EigenLayer(1, "nearest")


def test_nan_names_its_place_and_spares_the_others():
    A = torch.stack([symmetric(3), symmetric(3)])
    A[1, 2, 0] = A[1, 0, 2] = torch.nan
    with pytest.raises(SolveError, match=r"`A` is nan at index \[1, 0, 2\]") as caught:
        EigenLayer(2)(A)
    assert caught.value.solution.status.tolist() == [Status.CONVERGED, Status.NONFINITE]
    assert caught.value.solution.value[1].shape == (2, 3, 2)
    leaf = A.clone().requires_grad_()
    values, vectors = EigenLayer(2, on_failure="ignore")(leaf)
    assert bool(values[1].isnan().all())
    (values[0].sum() + vectors[0].pow(3).sum()).backward()
    alone = A[0].clone().requires_grad_()
    values, vectors = EigenLayer(2)(alone)
    (values.sum() + vectors.pow(3).sum()).backward()
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad[0], alone.grad)


def test_signs_do_not_flip_under_small_changes():
    A = torch.tensor([[2.0, -1.0], [-1.0, 2.0]])  # vectors (1, 1) and (1, -1): a tie of moduli
    signs = {tuple(EigenLayer(2)(A + 1e-12 * symmetric(2))[1].sign().flatten().tolist()) for _ in range(20)}
    assert len(signs) == 1


def test_any_loss_of_a_part_of_a_cluster_is_refused():
    """The square of an entry does not turn the vector e_1 to first order, and yet has no derivative there."""
    A = torch.diag(torch.tensor([1.0, 1.0, 3.0], dtype=torch.float64)).requires_grad_()
    vectors = EigenLayer(1)(A)[1]
    with pytest.raises(DegenerateEigenvalueError, match="not asked for"):
        (vectors[0, 0] ** 2).backward()


def one_entry(vectors: Tensor) -> Tensor:
    return vectors[0, 0] ** 2


def fourth_powers(vectors: Tensor) -> Tensor:
    return (vectors**4).sum()


def diagonal(n: int) -> Tensor:
    """Eigenvalues 1, 1, 3, 4, ..., whose vectors LAPACK finds among the unit vectors."""
    return torch.diag(torch.arange(1.0, n + 1).index_fill(0, torch.tensor([1]), 1.0))


@pytest.mark.parametrize(
    "A", [torch.eye(2), torch.eye(3), diagonal(3), 2e8 * diagonal(5)], ids=["2", "3", "1+2", "big"]
)
@pytest.mark.parametrize("loss", [one_entry, fourth_powers])
def test_no_basis_of_a_cluster_is_special(A: Tensor, loss):
    """At unit vectors these losses do not change to first order as the basis turns: the layer returns other ones."""
    A = A.double()
    k = len(A) if bool((A == torch.eye(len(A))).all()) else 2
    leaf = A.clone().requires_grad_()
    with pytest.raises(DegenerateEigenvalueError, match=r"pair 0 .* and pair \d"):
        loss(EigenLayer(k)(leaf)[1]).backward()
    with pytest.raises(DegenerateEigenvalueError):
        grad(lambda A: loss(EigenLayer(k)(A)[1]))(A)
    with pytest.raises(DegenerateEigenvalueError):
        vmap(grad(lambda A: loss(EigenLayer(k)(A)[1])))(A.expand(2, *A.shape))
    B = torch.diag(torch.linspace(1, 2, len(A)))
    with pytest.raises(DegenerateEigenvalueError):
        loss(EigenLayer(k)(B.sqrt() @ leaf @ B.sqrt(), B)[1]).backward()


def test_the_basis_of_a_cluster_follows_from_its_subspace():
    A = diagonal(5)
    expected = EigenLayer(2)(A)[1]
    torch.testing.assert_close(EigenLayer(2)(A + 1e-14 * symmetric(5))[1], expected)
    torch.testing.assert_close(EigenLayer(2)(torch.stack([symmetric(5), A]))[1][1], expected)
    torch.testing.assert_close(A @ expected, expected)
    assert float(expected.abs().max()) < 0.999


def test_pairs_that_rounding_tells_apart_are_not_mixed():
    """A wide tolerance makes a cluster, but each vector remains an eigenvector."""
    A = torch.diag(torch.tensor([1.0, 1.001, 3.0]))
    solution = EigenLayer(2, clusters=Clusters(tolerance=0.1)).solve(A)
    assert solution.aux["multiplicity"].tolist() == [2, 2]
    torch.testing.assert_close(solution.value[1], torch.eye(3)[:, :2])


def test_no_basis_is_special_in_a_sparse_matrix_either():
    for n, start in ((20, None), (400, torch.eye(400)[:, :2])):
        places = torch.arange(n).expand(2, n)
        A = torch.sparse_coo_tensor(places, diagonal(n).diagonal(), (n, n), check_invariants=True).requires_grad_()
        vectors = EigenLayer(2)(A, start=start)[1]
        (vectors @ vectors.mT)[0, :2].sum().backward()
        assert float(A.grad.to_dense().abs().max()) < 1e-13  # only entries that are not stored move it
        vectors = EigenLayer(2)(A, start=start)[1]
        with pytest.raises(DegenerateEigenvalueError):
            one_entry(vectors).backward()
