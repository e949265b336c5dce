"""Spectral matching: SM, SMAC, its bounded form, power iteration, bi-stochastic scaling."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import implayer
from implayer.errors import DegenerateEigenvalueError, DtypeError, ShapeError, SolveError
from implayer.layers.affinity import Affinity
from implayer.layers.bistochastic import BistochasticLayer
from implayer.layers.matching import PowerIterationLayer, SpectralMatchingLayer
from implayer.layers.matching_bounded import face_of, maximise, proportions
from implayer.solvers.eigen import Lapack
from implayer.solvers.eigen_leading import Lanczos
from implayer.solvers.eigen_sparse import SparsePencil

SQUARE, WIDE = (4, 4), (3, 5)
KINDS = [("norm", False), ("one-to-one", False), ("one-to-one", True)]


def complete(n):
    return torch.combinations(torch.arange(n))


def factors(shape, batch=(), low=0.0, seed=0):
    """Random nodes, edges and turned edges; below zero too where `low` is."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [shape, *[tuple(len(complete(n)) for n in shape)] * 2]
    return [low + torch.rand(*batch, *size, generator=generator, dtype=torch.float64) for size in sizes]


def affinity(shape, parts):
    nodes, edges, turned = parts
    return Affinity(nodes, edges, complete(shape[0]), complete(shape[1]), turned)


def check_slope(function, parts, step=1e-5, rtol=1e-5, atol=1e-7):
    """The derivative along a random direction is that of central differences, in all entries of the result."""
    direction = [torch.randn_like(part) for part in parts]

    def moved(t):
        return [part.detach() + t * move for part, move in zip(parts, direction, strict=True)]

    with torch.no_grad():
        difference = (function(*moved(step)) - function(*moved(-step))) / (2 * step)
    weight = torch.randn_like(difference)
    given = [part.detach().requires_grad_() for part in parts]
    gradients = torch.autograd.grad((function(*given) * weight).sum(), given)
    slope = sum((gradient * move).sum() for gradient, move in zip(gradients, direction, strict=True))
    torch.testing.assert_close(slope, (difference * weight).sum(), rtol=rtol, atol=atol)


def layer_of(kind, **options):
    return SpectralMatchingLayer(kind[0], nonnegative=kind[1], **options)


# The affinity


def test_dense_affinity_is_its_definition():
    shape = WIDE
    nodes, edges, turned = factors(shape)
    M = affinity(shape, (nodes, edges, turned)).dense().reshape(*shape, *shape)
    assert M[1, 2, 1, 2] == nodes[1, 2]
    assert M[1, 2, 1, 3] == 0  # one node is not matched with two
    first, second = complete(3).tolist(), complete(5).tolist()
    for e, (i, j) in enumerate(first):
        for f, (a, b) in enumerate(second):
            assert M[i, a, j, b] == M[j, b, i, a] == edges[e, f]
            assert M[i, b, j, a] == M[j, a, i, b] == turned[e, f]


def test_product_is_that_of_the_dense_matrix():
    M = affinity(WIDE, factors(WIDE, batch=(2,)))
    X = torch.randn(2, *WIDE, dtype=torch.float64)
    dense = (M.dense() @ X.reshape(2, 15, 1)).reshape(2, *WIDE)
    torch.testing.assert_close(M.product(X), dense, rtol=1e-14, atol=1e-14)


def test_bound_is_above_the_spectrum():
    M = affinity(WIDE, factors(WIDE, low=-0.5))
    assert float(M.bound()) >= float(torch.linalg.eigvalsh(M.dense()).abs().max())


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"source": torch.zeros(0, 2, dtype=torch.int64)}, ShapeError, "empty graph"),
        ({"source": torch.tensor([[0, 1], [1, 2], [0, 3]])}, ShapeError, "edge to node 3"),
        ({"source": torch.tensor([[0, 1], [1, 1], [0, 2]])}, ShapeError, "joins node 1 with itself"),
        ({"source": complete(3).double()}, ShapeError, "expected integers"),
        ({"source": complete(3)[:2]}, ShapeError, "2 edges"),
        ({"edges": torch.zeros(3, 3, dtype=torch.float64)}, ShapeError, "10 edges"),
        ({"edges": torch.zeros(3, 10)}, DtypeError, "one dtype"),
        ({"turned": torch.zeros(2, 3, 10, dtype=torch.float64)}, ShapeError, "same batch axes"),
        ({"nodes": torch.zeros(2, 3, 5, dtype=torch.float64)}, ShapeError, "same batch axes"),
    ],
)
def test_wrong_affinities_are_refused(changes, error, words):
    nodes, edges, turned = factors(WIDE)
    parts = {"nodes": nodes, "edges": edges, "source": complete(3), "target": complete(5), "turned": turned}
    with pytest.raises(error, match=words):
        Affinity(**{**parts, **changes})


# Values


@pytest.mark.parametrize("shape", [SQUARE, WIDE])
def test_sm_is_the_leading_eigenvector(shape):
    M = affinity(shape, factors(shape))
    values, vectors = torch.linalg.eigh(M.dense())
    solution = SpectralMatchingLayer().solve(M)
    torch.testing.assert_close(solution.value.flatten(), vectors[:, -1].abs(), rtol=0, atol=1e-12)
    torch.testing.assert_close(solution.aux["score"], values[-1])
    torch.testing.assert_close(solution.aux["gap"], values[-1] - values[-2])
    assert float(solution.value.min()) > 0  # Perron


@pytest.mark.parametrize("shape", [SQUARE, WIDE])
def test_smac_solves_the_constrained_problem(shape):
    """Against the null space of the constraints, made homogeneous, with one redundant row dropped."""
    n1, n2 = shape
    M = affinity(shape, factors(shape))
    C = np.concatenate([np.kron(np.eye(n1), np.ones(n2)), np.kron(np.ones(n1), np.eye(n2))])
    b = np.repeat([1, n1 / n2], [n1, n2])
    H = (C - np.outer(b, C.sum(0)) / b.sum())[:-1]
    assert np.linalg.matrix_rank(C) == n1 + n2 - 1
    null = np.linalg.svd(H)[2][np.linalg.matrix_rank(H) :].T
    value, y = np.linalg.eigh(null.T @ M.dense().numpy() @ null)
    y = null @ y[:, -1]
    solution = SpectralMatchingLayer("one-to-one").solve(M)
    np.testing.assert_allclose(solution.value.flatten(), y * (n1 / y.sum()), rtol=0, atol=1e-12)
    np.testing.assert_allclose(float(solution.aux["score"]), value[-1])
    np.testing.assert_allclose(C @ solution.value.flatten().numpy(), b, atol=1e-12)


@pytest.mark.parametrize("shape", [SQUARE, WIDE, (6, 6)])
@pytest.mark.parametrize("low", [-0.5, -0.8])
def test_bounded_matching_is_a_constrained_maximum(shape, low):
    """Feasible, better than its neighbours along feasible segments, and no worse than SLSQP from the same start."""
    from scipy.optimize import minimize

    M = affinity(shape, factors(shape, low=low))
    solution = SpectralMatchingLayer("one-to-one", nonnegative=True).solve(M)
    X, D = solution.value, M.dense().numpy()
    assert float(SpectralMatchingLayer("one-to-one")(M).min()) < -0.1  # the bound matters
    assert float(X.min()) == 0
    torch.testing.assert_close(X.sum(-1), torch.ones_like(X.sum(-1)))
    torch.testing.assert_close(X.sum(-2), torch.full_like(X.sum(-2), shape[0] / shape[1]))
    torch.testing.assert_close(X > 0, solution.aux["free"])

    def loss(y):
        return -(y @ D @ y) / (y @ y)

    y = X.flatten().numpy()
    assert float(solution.aux["score"]) == pytest.approx(-loss(y))
    C = np.concatenate([np.kron(np.eye(shape[0]), np.ones(shape[1])), np.kron(np.ones(shape[0]), np.eye(shape[1]))])
    b = C @ y
    found = minimize(
        loss, y, method="SLSQP", bounds=[(0, 1)] * len(y), constraints={"type": "eq", "fun": lambda y: (C @ y - b)[:-1]}
    )  # fmt: skip
    assert loss(y) <= found.fun + 1e-6
    generator = np.random.default_rng(0)
    for _ in range(50):
        other = generator.random(shape)
        for _ in range(200):
            other /= other.sum(1, keepdims=True)
            other *= shape[0] / shape[1] / other.sum(0)
        near = y + 1e-3 * (other.ravel() - y)
        assert loss(y) <= loss(near)


def test_bounds_that_do_not_bind_change_nothing():
    M = affinity(SQUARE, factors(SQUARE))
    plain, bounded = (SpectralMatchingLayer("one-to-one", nonnegative=flag).solve(M) for flag in (False, True))
    torch.testing.assert_close(plain.value, bounded.value, rtol=0, atol=1e-12)
    assert bool(bounded.aux["free"].all()) and not bool(bounded.aux["vertex"])


def test_closed_form_of_two_nodes():
    """For n1 = n2 = 2 the one-to-one X are (1 + t) / 2 and (1 - t) / 2, and y lies in two dimensions."""
    same, crossed = 3.0, 1.0
    edge = torch.tensor([[0, 1]])
    nodes = torch.tensor([[0.5, 0.2], [0.2, 0.5]], dtype=torch.float64)
    M = Affinity(nodes, torch.tensor([[same]]).double(), edge, edge, torch.tensor([[crossed]]).double())
    X = SpectralMatchingLayer("one-to-one")(M)
    # Along (1, 0, 0, 1) and (0, 1, 1, 0), each of norm sqrt 2, M is diagonal: 0.5 + same and 0.2 + crossed.
    torch.testing.assert_close(X, torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("low", [0.0, -0.5])
def test_products_alone_give_what_the_dense_matrix_gives(kind, low):
    M = affinity((10, 9), factors((10, 9), low=low))  # 90 unknowns: Lanczos
    dense, products = (layer_of(kind, dense_up_to=size).solve(M) for size in (200, 0))
    torch.testing.assert_close(dense.value, products.value, rtol=0, atol=1e-8 * float(dense.value.abs().max()))
    torch.testing.assert_close(dense.aux["score"], products.aux["score"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dense_up_to", [0, 256])
def test_batch_equals_loop(kind, dense_up_to):
    M = affinity(SQUARE, factors(SQUARE, batch=(2, 3), low=-0.2))
    layer = layer_of(kind, dense_up_to=dense_up_to)
    together = layer.solve(M)
    assert together.value.shape == (2, 3, 4, 4) and together.status.shape == (2, 3)
    assert together.aux["score"].shape == (2, 3)
    loop = torch.stack([layer(M.sample(i)) for i in range(6)]).reshape(2, 3, 4, 4)
    torch.testing.assert_close(together.value, loop, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_renaming_nodes_renames_rows_and_columns(kind):
    parts, order = factors(SQUARE, low=-0.4), torch.tensor([2, 0, 3, 1])
    M = affinity(SQUARE, parts)
    renamed = Affinity(parts[0][:, order], parts[1], complete(4), order.argsort()[complete(4)], parts[2])
    layer = layer_of(kind)
    torch.testing.assert_close(layer(M)[:, order], layer(renamed), rtol=0, atol=1e-10)


def test_single_precision_is_kept():
    M = affinity(SQUARE, [part.float() for part in factors(SQUARE)])
    exact = affinity(SQUARE, factors(SQUARE))
    for size in (0, 256):
        layer = SpectralMatchingLayer("one-to-one", dense_up_to=size)
        assert layer(M).dtype == torch.float32
        torch.testing.assert_close(layer(M).double(), layer(exact), rtol=0, atol=1e-5)


# Derivatives


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dense_up_to", [0, 256])
@pytest.mark.parametrize("shape", [SQUARE, WIDE, (10, 9)])
def test_gradient_is_that_of_differences(kind, dense_up_to, shape):
    parts, layer = factors(shape, low=-0.5 if kind[1] else 0.0), layer_of(kind, dense_up_to=dense_up_to)
    if kind[1]:
        aux = layer.solve(affinity(shape, parts)).aux
        assert 0 < int(aux["free"].sum()) < aux["free"].numel() and not bool(aux["vertex"])
    check_slope(lambda *given: layer(affinity(shape, given)), parts)
    if shape != (10, 9):
        check_slope(lambda *given: layer.solve(affinity(shape, given)).aux["score"], parts)


@pytest.mark.parametrize("kind", KINDS)
def test_every_entry_of_the_gradient(kind):
    parts = [part.requires_grad_() for part in factors((3, 3), low=-0.5 if kind[1] else 0.0)]
    layer = layer_of(kind)
    gradcheck(lambda *given: layer(affinity((3, 3), given)), parts, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivative_of_dense_matching(kind):
    parts, layer = factors((3, 3), low=-0.5 if kind[1] else 0.0), layer_of(kind)
    weight = torch.randn(3, 3)

    def gradient(*given):
        given = [part if part.requires_grad else part.detach().requires_grad_() for part in given]
        with torch.enable_grad():
            value = (layer(affinity((3, 3), given)) * weight).sum()
            return torch.cat([g.flatten() for g in torch.autograd.grad(value, given, create_graph=True)])

    check_slope(gradient, parts, rtol=1e-4, atol=1e-6)


def test_transforms_of_dense_matching():
    D = affinity(SQUARE, factors(SQUARE, batch=(3,))).dense()
    for kind in KINDS[:2]:
        layer = layer_of(kind)
        weight = torch.randn(4, 4, dtype=torch.float64)

        def loss(M, layer=layer, weight=weight):
            return (layer(M) * weight).sum()

        mapped = torch.func.vmap(torch.func.grad(loss))(D)
        given = D.clone().requires_grad_()
        (expected,) = torch.autograd.grad(sum(loss(M) for M in given), given)
        torch.testing.assert_close(mapped, expected, rtol=0, atol=1e-9)
    with pytest.raises(implayer.ImplayerError, match=r"no torch\.func transforms"):
        torch.func.vmap(layer_of(KINDS[2]))(D)


def test_a_vertex_does_not_move():
    nodes = torch.eye(3, dtype=torch.float64) * 5 - 3
    edges = torch.full((3, 3), -1.0, dtype=torch.float64) + torch.eye(3, dtype=torch.float64) * 4
    parts = [nodes.requires_grad_(), edges.requires_grad_(), torch.full((3, 3), -2.0, dtype=torch.float64)]
    for size in (0, 256):
        layer = SpectralMatchingLayer("one-to-one", nonnegative=True, dense_up_to=size)
        solution = layer.solve(affinity((3, 3), parts))
        torch.testing.assert_close(solution.value, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-9)
        assert bool(solution.aux["vertex"]) and solution.converged.all()
        grad = torch.autograd.grad((solution.value * torch.randn(3, 3)).sum(), parts[:2])
        assert all(float(each.abs().max()) < 1e-9 for each in grad)


def test_power_iteration_tends_to_the_eigenvector():
    parts = factors(SQUARE)
    exact = SpectralMatchingLayer()(affinity(SQUARE, parts))
    errors = [float((PowerIterationLayer(k)(affinity(SQUARE, parts)) - exact).abs().max()) for k in (1, 5, 60)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-9
    check_slope(lambda *given: PowerIterationLayer(3)(affinity(SQUARE, given)), parts)
    dense = PowerIterationLayer(5)(affinity(SQUARE, parts).dense())
    torch.testing.assert_close(dense, PowerIterationLayer(5)(affinity(SQUARE, parts)))


# Failures


def test_repeated_leading_eigenvalue_raises_at_backward():
    """Two graphs of two parts each: the association graph falls apart."""
    edges = torch.tensor([[0, 1], [2, 3]])
    weights = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
    for size in (0, 256):
        X = SpectralMatchingLayer(dense_up_to=size)(Affinity(torch.zeros(4, 4).double(), weights, edges, edges))
        with pytest.raises(DegenerateEigenvalueError):
            (X * torch.randn(4, 4)).sum().backward()


def test_nan_is_named():
    nodes, edges, turned = factors(SQUARE)
    edges[1, 2] = torch.nan
    for kind in KINDS:
        for size in (0, 256):
            with pytest.raises(SolveError, match="NaN"):
                layer_of(kind, dense_up_to=size)(affinity(SQUARE, (nodes, edges, turned)))


def test_sums_of_zero_cannot_be_scaled():
    """The leading vector is antisymmetric: rows sum to zero."""
    y = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
    M = torch.outer(y, y)
    with pytest.raises(SolveError, match="sums of zero") as caught:
        SpectralMatchingLayer("one-to-one")(M)
    assert int(caught.value.solution.status) == implayer.Status.SINGULAR
    assert SpectralMatchingLayer("one-to-one", on_failure="nan")(M).isnan().all()
    with pytest.warns(implayer.SolveWarning, match="sums of zero"):
        SpectralMatchingLayer("one-to-one", on_failure="warn")(M)
    SpectralMatchingLayer("one-to-one", nonnegative=True, on_failure="ignore")(M)


def test_wrong_arguments_are_refused():
    with pytest.raises((ValueError, TypeError), match="'norm'"):  # the test run checks types first
        SpectralMatchingLayer("sphere")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one-to-one"):
        SpectralMatchingLayer(nonnegative=True)
    with pytest.raises(ValueError, match="at least 1"):
        PowerIterationLayer(0)
    layer = SpectralMatchingLayer()
    with pytest.raises(ShapeError, match="6 rows"):
        layer(torch.eye(6))
    with pytest.raises(ShapeError, match="shape \\(3, 4\\)"):
        layer(torch.zeros(3, 4))
    with pytest.raises(ShapeError, match="affinity is of"):
        layer(affinity(SQUARE, factors(SQUARE)), (2, 8))
    with pytest.raises(ValueError, match="largest pairs"):
        Lanczos(1.0).find(SparsePencil(np.eye(100)), (1, "smallest", None))
    assert repr(layer) and repr(Lapack())


# The parts


def test_projector_of_the_whole_polytope_is_the_closed_form():
    face = face_of(np.ones(15, dtype=bool), WIDE)
    X = np.random.default_rng(0).standard_normal(WIDE)
    mean = X.mean()
    closed = X - (X.mean(1, keepdims=True) - mean) - (X.mean(0, keepdims=True) - mean)
    np.testing.assert_allclose(face.project(X.reshape(1, -1))[0], closed.ravel(), atol=1e-14)
    assert face.dimension == 15 - (3 + 5 - 2)
    assert np.abs(proportions(WIDE) @ closed.ravel()).max() < 1e-14


def test_search_says_where_it_gave_up():
    M = affinity(SQUARE, factors(SQUARE, low=-0.5)).dense().numpy()
    found = maximise(lambda z: z @ M, SQUARE, 10.0, max_steps=1)
    assert not found.converged


def test_lanczos_finds_both_copies_of_a_double_eigenvalue():
    values = np.concatenate([np.linspace(-3, 1, 98), [2.0, 2.0]])
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((100, 100)))[0]
    found = Lanczos(4.0).find(SparsePencil((Q * values) @ Q.T), (1, "largest", None))
    np.testing.assert_allclose(found.values, [2.0, 2.0], atol=1e-9)


# Bi-stochastic scaling


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5, 3)])
def test_bistochastic_scaling(shape):
    X = torch.rand(2, *shape, dtype=torch.float64)
    S = BistochasticLayer().solve(X)
    torch.testing.assert_close(S.value.sum(-1), torch.ones(2, shape[0], dtype=torch.float64))
    torch.testing.assert_close(S.value.sum(-2), torch.full((2, shape[1]), shape[0] / shape[1], dtype=torch.float64))
    logs = S.value.log() - X.log()  # a row and a column scaling
    torch.testing.assert_close(logs - logs[:, :1] - logs[:, :, :1] + logs[:, :1, :1], torch.zeros_like(logs))
    check_slope(BistochasticLayer(), [X])


def test_bistochastic_closed_form_of_two():
    """Of (a, b; c, d) the diagonal entry is sqrt(ad) / (sqrt(ad) + sqrt(bc))."""
    X = torch.tensor([[3.0, 0.5], [2.0, 7.0]], dtype=torch.float64)
    S = BistochasticLayer()(X)
    gradcheck(BistochasticLayer(), X.clone().requires_grad_())
    gradgradcheck(BistochasticLayer(), X.clone().requires_grad_())
    assert float(S[0, 0]) == pytest.approx(21**0.5 / (21**0.5 + 1))


def test_bistochastic_scaling_of_nearly_permutations():
    """Sinkhorn's iteration alone would need thousands of sweeps."""
    X = torch.tensor([[1.0, 1e-6, 0.0], [1.0, 1.0, 1e-6], [1.0, 1.0, 1.0]], dtype=torch.float64)
    S = BistochasticLayer()(X)
    torch.testing.assert_close(S.sum(-1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(S.sum(-2), torch.ones(3, dtype=torch.float64))


def test_bistochastic_refuses():
    with pytest.raises(ShapeError, match="expected matrices"):
        BistochasticLayer()(torch.rand(3))
    with pytest.raises(ValueError, match="below zero"):
        BistochasticLayer()(torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
    with pytest.raises(SolveError):
        BistochasticLayer()(torch.tensor([[1.0, torch.nan], [1.0, 1.0]]))
    with pytest.raises(SolveError):
        BistochasticLayer()(torch.zeros(2, 2))
