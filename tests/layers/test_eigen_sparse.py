"""EigenLayer on sparse and matrix-free pencils: against the dense layer, on the stored pattern, with its reports."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from implayer.errors import (
    AdjointError,
    DeflationError,
    DegenerateEigenvalueError,
    DtypeError,
    ImplayerError,
    NotDefiniteError,
    NotSymmetricError,
    OrderError,
    ShapeError,
    SolveError,
)
from implayer.layers.eigen import Clusters, EigenLayer
from implayer.linear.spectral_span import PreconditionedComplement, ShiftedComplement, Span
from implayer.solution import Status
from implayer.solvers.eigen_sparse import LOBPCG, ShiftInvert

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
H, W = 13, 10
N = H * W


@pytest.fixture(scope="module")
def edges() -> Tensor:
    index = torch.arange(N).reshape(H, W)
    across = torch.stack([index[:, :-1].flatten(), index[:, 1:].flatten()])
    return torch.cat([across, torch.stack([index[:-1].flatten(), index[1:].flatten()])], 1)


@pytest.fixture
def weights(edges: Tensor) -> Tensor:
    return (torch.rand(edges.shape[1]) + 0.1).requires_grad_()


def pencil(edges: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """D - W as COO, and the diagonal of D."""
    i, j = edges
    degree = torch.zeros(N).index_add(0, i, w).index_add(0, j, w)
    index = torch.cat([edges, edges.flip(0), torch.arange(N).expand(2, N)], 1)
    return torch.sparse_coo_tensor(index, torch.cat([-w, -w, degree]), (N, N), check_invariants=True), degree


def loss(values: Tensor, vectors: Tensor) -> Tensor:
    weight = torch.cos(torch.arange(float(vectors.numel()))).reshape(vectors.shape)
    return (values * torch.arange(1.0, values.shape[-1] + 1)).sum() + (weight * vectors**3).sum()


CASES = {
    "laplacian": ({}, False, False),
    "normalised cut": ({}, True, False),
    "known pair": ({}, True, True),
    "nearest": ({"which": "nearest", "shift": 0.7}, False, False),
    "nearest of a pencil": ({"which": "nearest", "shift": 0.7}, True, False),
    "largest": ({"which": "largest"}, True, False),
    "unit": ({"normalisation": "unit"}, True, False),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_dense_layer(edges: Tensor, weights: Tensor, case: str):
    options, general, known = CASES[case]
    found, last = [], torch.tensor(0.0)
    for dense in (False, True):
        A, B = pencil(edges, weights)
        A, B = (A.to_dense(), torch.diag(B)) if dense else (A, B)
        solution = EigenLayer(3, **options).solve(
            A, B if general else None, deflate=torch.ones(N, 1) if known else None
        )
        gradient = torch.autograd.grad(loss(*solution.value), weights)[0]
        gap = solution.aux["gap"]
        found.append((*solution.value, gradient, gap[:2]))
        last = gap[2] if not dense else last  # its neighbour is known to a few digits
        if "nearest" not in case:  # where it may lie on the other side of the wanted ones
            assert float(last) == pytest.approx(float(gap[2]), rel=0.05)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def path_graph(n: int) -> Tensor:
    """The Laplacian of a chain: eigenvalues 2 - 2 cos(pi j / n)."""
    i = torch.arange(n - 1)
    index = torch.cat([torch.stack([i, i + 1]), torch.stack([i + 1, i]), torch.arange(n).expand(2, n)], 1)
    degree = torch.full((n,), 2.0)
    degree[[0, -1]] = 1.0
    values = torch.cat([-torch.ones(2 * n - 2), degree])
    return torch.sparse_coo_tensor(index, values, (n, n), check_invariants=True).coalesce()


@pytest.mark.parametrize("off", [0.0, 1e-12, -1e-8])
@pytest.mark.parametrize("j", [0, 50])
def test_a_shift_that_is_an_eigenvalue(j: int, off: float):
    n = 200
    A = path_graph(n)
    at = float(2 - 2 * torch.cos(torch.tensor(torch.pi * j / n)))
    gradients = []
    for matrix in (A, A.to_dense()):
        matrix = matrix.requires_grad_()
        solution = EigenLayer(3, "nearest", shift=at + off).solve(matrix)
        assert float(solution.value[0][0].detach()) == pytest.approx(at, abs=1e-12)
        gradients.append(torch.autograd.grad(loss(*solution.value), matrix)[0])
    found, expected = gradients[0].coalesce(), gradients[1]
    torch.testing.assert_close(found.values(), expected[tuple(found.indices())], rtol=1e-7, atol=1e-9 * n**2)


def test_a_shift_given_to_the_solver_at_the_end_of_the_spectrum(edges: Tensor, weights: Tensor):
    A, degree = pencil(edges, weights)
    at_zero = EigenLayer(3, solver=ShiftInvert(shift=0.0))(A, degree)
    gradient = torch.autograd.grad(loss(*at_zero), weights, retain_graph=True)[0]
    expected = EigenLayer(3)(A, degree)
    torch.testing.assert_close(at_zero, expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(gradient, torch.autograd.grad(loss(*expected), weights)[0], rtol=1e-7, atol=1e-9)


def test_sparse_b_and_its_gradient(edges: Tensor):
    A, degree = pencil(edges, torch.rand(edges.shape[1]) + 0.1)
    M, _ = pencil(edges, 0.1 * torch.rand(edges.shape[1]))
    M = (M + torch.sparse_coo_tensor(torch.arange(N).expand(2, N), degree, (N, N), check_invariants=True)).coalesce()
    A, M = A.coalesce().requires_grad_(), M.requires_grad_()
    gradients = torch.autograd.grad(loss(*EigenLayer(2)(A, M)), (A, M))
    dense = (A.detach().to_dense().requires_grad_(), M.detach().to_dense().requires_grad_())
    expected = torch.autograd.grad(loss(*EigenLayer(2)(*dense)), dense)
    for sparse, full, matrix in zip(gradients, expected, (A, M), strict=True):
        assert sparse.layout == torch.sparse_coo
        i, j = matrix.detach().indices()
        torch.testing.assert_close(sparse.coalesce().indices(), matrix.detach().indices())
        torch.testing.assert_close(sparse.coalesce().values(), full[i, j], rtol=1e-7, atol=1e-9)


def test_csr_in_csr_out(edges: Tensor, weights: Tensor):
    A = pencil(edges, weights.detach())[0].coalesce()
    csr = A.to_sparse_csr().requires_grad_()
    gradient = torch.autograd.grad(loss(*EigenLayer(2)(csr)), csr)[0]
    assert gradient.layout == torch.sparse_csr
    coo = A.clone().requires_grad_()
    expected = torch.autograd.grad(loss(*EigenLayer(2)(coo)), coo)[0]
    torch.testing.assert_close(gradient.values(), expected.coalesce().values())
    torch.testing.assert_close(gradient.to_dense(), gradient.to_dense().mT)


def test_a_batch_of_csr_is_the_loop(edges: Tensor):
    parts = [pencil(edges, torch.rand(edges.shape[1]) + 0.1)[0].coalesce().to_sparse_csr() for _ in range(2)]
    batch = torch.sparse_csr_tensor(
        torch.stack([p.crow_indices() for p in parts]), torch.stack([p.col_indices() for p in parts]),
        torch.stack([p.values() for p in parts]), (2, N, N), check_invariants=True,
    ).requires_grad_()  # fmt: skip
    values, vectors = EigenLayer(2)(batch)
    gradient = torch.autograd.grad(loss(values[0], vectors[0]) + 2 * loss(values[1], vectors[1]), batch)[0]
    for i, part in enumerate(parts):
        one = part.requires_grad_()
        alone = EigenLayer(2)(one)
        torch.testing.assert_close(values[i], alone[0])
        torch.testing.assert_close(vectors[i], alone[1])
        expected = torch.autograd.grad(loss(*alone), one)[0].values()
        torch.testing.assert_close(gradient.values()[i], (i + 1) * expected)


def test_gradient_against_differences(edges: Tensor, weights: Tensor):
    def value(w: Tensor) -> Tensor:
        A, B = pencil(edges, w)
        return loss(*EigenLayer(3)(A, B))

    direction, h = torch.randn_like(weights), 1e-4
    slope = (torch.autograd.grad(value(weights), weights)[0] * direction).sum()
    w = weights.detach()
    steps = [value(w + t * h * direction) for t in (1, -1, 2, -2)]
    expected = (8 * (steps[0] - steps[1]) - (steps[2] - steps[3])) / (12 * h)
    assert float(slope) == pytest.approx(float(expected), rel=1e-7)


def test_values_alone_cost_no_solve(edges: Tensor, weights: Tensor, monkeypatch: pytest.MonkeyPatch):
    def forbidden(*_):
        raise AssertionError("a solve outside the span")

    A, B = pencil(edges, weights)
    values, vectors = EigenLayer(3)(A, B)
    monkeypatch.setattr(ShiftedComplement, "solve", forbidden)
    (slope,) = torch.autograd.grad(values[1], weights, retain_graph=True)
    i, j = edges
    v, value = vectors[:, 1].detach(), values[1].detach()
    torch.testing.assert_close(slope, (v[i] - v[j]) ** 2 - value * (v[i] ** 2 + v[j] ** 2))
    with pytest.raises(AssertionError, match="outside the span"):
        torch.autograd.grad(vectors[0, 1], weights)


@pytest.mark.parametrize("jacobi", [False, True])
@pytest.mark.parametrize("which", ["smallest", "largest"])
def test_lobpcg(edges: Tensor, weights: Tensor, which: str, jacobi: bool):
    shifted = pencil(edges, weights)[1].detach().numpy()[:, None]
    solver = LOBPCG(preconditioner=(lambda r: r / shifted) if jacobi else None)
    found = []
    for method in (solver, None):
        A, B = pencil(edges, weights)
        pairs = EigenLayer(2, which, solver=method)(A, B)
        found.append((*pairs, torch.autograd.grad(loss(*pairs), weights)[0]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_a_callable_gives_gradients_to_what_it_closes_over():
    n = 150
    u = torch.randn(n, 3, requires_grad=True)
    d = torch.linspace(1, 4, n).requires_grad_()

    def product(z: Tensor) -> Tensor:
        return d.unsqueeze(-1) * z + u @ (u.mT @ z)

    found = EigenLayer(2, "largest")(product, start=torch.ones(n, 1))
    gradients = torch.autograd.grad(loss(*found), (u, d))
    expected = EigenLayer(2, "largest")(torch.diag(d) + u @ u.mT)
    for a, b in zip(gradients, torch.autograd.grad(loss(*expected), (u, d)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)
    with pytest.raises(ValueError, match="`start="):
        EigenLayer(1)(product)


def test_float32(edges: Tensor, weights: Tensor):
    low = weights.detach().float().requires_grad_()
    i, j = edges
    degree = torch.zeros(N, dtype=torch.float32).index_add(0, i, low).index_add(0, j, low)
    index = torch.cat([edges, edges.flip(0), torch.arange(N).expand(2, N)], 1)
    A = torch.sparse_coo_tensor(index, torch.cat([-low, -low, degree]), (N, N), check_invariants=True)
    values, vectors = EigenLayer(3)(A, degree)
    assert values.dtype == vectors.dtype == torch.float32
    gradient = torch.autograd.grad(values[1] + vectors[:, 1].pow(2)[:5].sum(), low)[0].double()
    values, vectors = EigenLayer(3)(*pencil(edges, weights))
    expected = torch.autograd.grad(values[1] + vectors[:, 1].pow(2)[:5].sum(), weights)[0]
    assert float((gradient - expected).norm() / expected.norm()) < 1e-4


def two_parts(edges: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The grid without the edges between its upper and lower half: the eigenvalue 0 twice."""
    i, j = edges
    cut = (i // W < 6) & (j // W >= 6)
    return pencil(edges[:, ~cut], weights[~cut])


def test_a_disconnected_graph_is_reported_and_refused(edges: Tensor, weights: Tensor):
    A, B = two_parts(edges, weights)
    solution = EigenLayer(3).solve(A, B)
    assert solution.aux["multiplicity"].tolist() == [2, 2, 1]
    values, vectors = solution.value
    assert float(values[:2].detach().abs().max()) < 1e-12
    with pytest.raises(DegenerateEigenvalueError, match=r"pair . \(eigenvalue .*apart"):
        torch.autograd.grad(vectors.pow(3).sum(), weights, retain_graph=True)
    with pytest.raises(DegenerateEigenvalueError, match=r"pair 0 .* and pair 1 are"):
        torch.autograd.grad(values[1], weights, retain_graph=True)
    first = EigenLayer(1)(A, B)[0]
    with pytest.raises(DegenerateEigenvalueError, match="not asked for"):
        torch.autograd.grad(first.sum(), weights)


def test_invariant_losses_of_a_cluster(edges: Tensor, weights: Tensor):
    C = torch.randn(N, N)
    found = []
    for dense in (False, True):
        A, B = two_parts(edges, weights)
        A, B = (A.to_dense(), torch.diag(B)) if dense else (A, B)
        values, vectors = EigenLayer(2)(A, B)
        P = vectors @ vectors.mT
        found.append(torch.autograd.grad((P * C).sum() + values.sum(), weights)[0])
    torch.testing.assert_close(*found, rtol=1e-7, atol=1e-8)


def test_multiplicity_beyond_what_was_asked_for_is_found():
    n = 200
    d = torch.linspace(1, 5, n)
    d[:4] = 1.0
    A = torch.sparse_coo_tensor(torch.arange(n).expand(2, n), d, (n, n), check_invariants=True).requires_grad_()
    solution = EigenLayer(3).solve(A)
    assert solution.aux["multiplicity"].tolist() == [4, 4, 4]
    with pytest.raises(DegenerateEigenvalueError, match="not asked for"):
        solution.value[0].sum().backward()


@pytest.mark.parametrize(("shape", "which", "k"), [((5, 5, 5, 3), "largest", 7), ((6, 6, 6), "smallest", 5)])
def test_no_copy_is_left_out_in_a_connected_graph(shape: tuple[int, ...], which: Any, k: int):
    """Tori of equal weights: eigenvalues six times and eight times, of which a block of two shows a part."""
    nodes = torch.arange(int(np.prod(shape))).reshape(shape)
    i, n = torch.cat([nodes.flatten()] * len(shape)), nodes.numel()
    j = torch.cat([nodes.roll(1, axis).flatten() for axis in range(len(shape))])
    index = torch.cat([torch.stack([i, j]), torch.stack([j, i]), torch.arange(n).expand(2, n)], 1)
    entries = torch.cat([-torch.ones(2 * len(i)), 2 * len(shape) * torch.ones(n)])
    A = torch.sparse_coo_tensor(index, entries, (n, n), check_invariants=True)
    solution, every = EigenLayer(k, which).solve(A), torch.linalg.eigvalsh(A.to_dense())
    expected = every[:k] if which == "smallest" else every.flip(0)[:k]
    torch.testing.assert_close(solution.value[0], expected)
    copies = ((expected[:, None] - every).abs() < 1e-8).sum(-1)
    assert ((solution.aux["multiplicity"] > 1) == (copies > 1)).all()


def test_parts_of_a_graph_are_counted(edges: Tensor, weights: Tensor):
    """Three parts, the eigenvalue 0 three times, although the pattern is that of a connected graph."""
    i, j = edges
    kept = ~(((i // W < 4) & (j // W >= 4)) | ((i // W < 9) & (j // W >= 9)))
    solution = EigenLayer(4).solve(*pencil(edges, weights * kept))
    assert solution.aux["multiplicity"].tolist() == [3, 3, 3, 1]


def test_broadening_is_first_order_and_finite(edges: Tensor, weights: Tensor):
    A, B = two_parts(edges, weights)
    layer = EigenLayer(3, clusters=Clusters(broadening=1e-3))
    gradient = torch.autograd.grad(layer(A, B)[1].pow(3).sum(), weights)[0]
    assert bool(gradient.isfinite().all())


def test_first_order_only(edges: Tensor, weights: Tensor):
    values, _ = EigenLayer(2)(*pencil(edges, weights))
    (g,) = torch.autograd.grad(values.sum(), weights, create_graph=True)
    with pytest.raises(OrderError, match="order 2"):
        torch.autograd.grad(g.pow(2).sum(), weights)
    with pytest.raises(ImplayerError, match=r"torch\.func"):
        A, B = (part.detach() for part in pencil(edges, weights))
        torch.func.grad(lambda t: EigenLayer(2)(A, t * B)[0].sum())(torch.tensor(1.0))


def test_an_unconverged_pair_is_named(edges: Tensor, weights: Tensor):
    A, B = pencil(edges, weights)
    with pytest.raises(
        SolveError, match=r"pair \d of sample 0 \(eigenvalue 0\..*, gap .*\), whose residual is"
    ) as caught:
        EigenLayer(3, solver=ShiftInvert(max_steps=12))(A, B)
    assert caught.value.solution.status.tolist() == Status.MAX_STEPS
    assert caught.value.solution.value[1].shape == (N, 3)


def test_an_adjoint_that_does_not_converge_raises(edges: Tensor, weights: Tensor, monkeypatch: pytest.MonkeyPatch):
    A, B = pencil(edges, weights)
    _, vectors = EigenLayer(2)(A, B)
    monkeypatch.setattr(ShiftedComplement, "solve", lambda self, shifts, rhs, target: (0 * rhs, 1))
    with pytest.raises(AdjointError, match="linear solve of the derivative"):
        vectors.pow(3).sum().backward()


def test_bad_input(edges: Tensor, weights: Tensor):
    A, B = (part.detach() for part in pencil(edges, weights))
    upper = torch.sparse_coo_tensor(edges, weights.detach(), (N, N), check_invariants=True)
    with pytest.raises(NotSymmetricError, match="pattern of `A`"):
        EigenLayer(1)(upper)
    skew = A.coalesce().clone()
    skew.values()[1] += 1.0
    with pytest.raises(NotSymmetricError, match="`A` of sample 0 is not symmetric"):
        EigenLayer(1)(skew)
    with pytest.raises(ShapeError, match="`k` is 131"):
        EigenLayer(N + 1)(A)
    with pytest.raises(ShapeError, match="its diagonal"):
        EigenLayer(1)(A, torch.eye(N))
    with pytest.raises(DtypeError, match=r"`B` is torch\.float32"):
        EigenLayer(1)(A, B.float())
    with pytest.raises(DeflationError, match="does not span"):
        EigenLayer(1)(A, B, deflate=torch.randn(N, 1))
    with pytest.raises(DeflationError, match="depend"):
        EigenLayer(1)(A, B, deflate=torch.ones(N, 2))
    with pytest.raises(NotDefiniteError):
        EigenLayer(1)(A, B - B.max())
    with pytest.raises(ValueError, match="ShiftInvert"):
        EigenLayer(1, "nearest", shift=0.1, solver=LOBPCG())(A)


def test_nan(edges: Tensor, weights: Tensor):
    broken = weights.detach().clone()
    broken[3] = torch.nan
    A, B = pencil(edges, broken)
    with pytest.raises(SolveError, match="nan at index"):
        EigenLayer(2)(A, B)
    values, _ = EigenLayer(2, on_failure="ignore")(A, B)
    assert bool(values.isnan().all())


def test_an_empty_graph():
    A = torch.sparse_coo_tensor(torch.arange(100).expand(2, 100), torch.zeros(100), (100, 100), check_invariants=True)
    A.requires_grad_()
    solution = EigenLayer(2).solve(A)
    assert solution.aux["multiplicity"].min() > 1
    with pytest.raises(DegenerateEigenvalueError):
        solution.value[1].pow(3).sum().backward()


def test_small_sparse_matrices_and_every_k():
    A = torch.diag(torch.tensor([3.0, 1.0, 2.0])).to_sparse().requires_grad_()
    for k in (1, 2, 3):
        values, vectors = EigenLayer(k)(A)
        torch.testing.assert_close(values, torch.tensor([1.0, 2.0, 3.0])[:k])
        gradient = torch.autograd.grad(values.sum() + vectors.pow(3).sum(), A)[0]
        assert gradient.coalesce().values().shape == (3,)


def test_a_warm_start_takes_fewer_steps(edges: Tensor, weights: Tensor):
    A, B = (part.detach() for part in pencil(edges, weights))
    cold = EigenLayer(3).solve(A, B)
    warm = EigenLayer(3).solve(A, B, start=cold.value[1])
    torch.testing.assert_close(warm.value[0], cold.value[0])
    assert int(warm.steps) < int(cold.steps)


@pytest.mark.parametrize("shift", [-0.01, 3.3])
def test_complement_of_known_pairs(shift: float):
    rng = np.random.default_rng(0)
    m = rng.standard_normal((40, 40))
    A, B = np.diag(np.arange(1.0, 41.0)) / 8, m @ m.T / 40 + np.eye(40)
    from scipy.linalg import eigh

    values, vectors = eigh(A, B)
    order = np.argsort(abs(values - shift))[:6]
    V, known = vectors[:, order].T.copy(), values[order]
    span = Span(lambda z: z @ A, lambda z: z @ B, V, V @ B)
    rhs = span.right_side(rng.standard_normal((2, 40)))
    target = 1e-11 * np.linalg.norm(rhs, axis=1)
    inverse = np.linalg.inv(A - shift * B)
    methods = [ShiftedComplement(span, lambda z: z @ inverse, shift)]
    if shift < 0:
        methods.append(PreconditionedComplement(span, None, 1.0))
    for complement in methods:
        z, steps = complement.solve(known[:2], rhs, target)
        assert (np.linalg.norm(span.residual(known[:2], z, rhs), axis=1) <= 2 * target).all()
        assert np.abs(z @ B @ V.T).max() < 1e-9 and steps < 200
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ShiftedComplement(span, lambda z: z @ inverse, shift).solve(known[:2], 0 * rhs, target)[1] == 0
