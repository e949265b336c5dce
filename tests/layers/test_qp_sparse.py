"""Sparse Q, A and G: the same answers and gradients as dense ones, on the pattern alone, and statuses."""

import warnings

import pytest
import torch

from implayer import QPLayer, Status
from implayer.errors import (
    DegenerateWarning,
    InfeasibleError,
    NotConvexError,
    SingularJacobianError,
    SolveError,
    UnboundedError,
)
from implayer.layers.qp_form import arranged

DOUBLE = torch.float64
pytestmark = pytest.mark.filterwarnings("ignore:Sparse")  # torch calls its sparse tensors a beta


def banded(n, seed=0):
    """Q definite with five diagonals, G with five entries a row, two equations."""
    g = torch.Generator().manual_seed(seed)
    i = torch.arange(n)
    places, values = [torch.stack([i, i])], [torch.full((n,), 4.0, dtype=DOUBLE)]
    for offset in (1, 2):
        v = torch.randn(n - offset, generator=g, dtype=DOUBLE) / 2
        places += [torch.stack([i[:-offset], i[offset:]]), torch.stack([i[offset:], i[:-offset]])]
        values += [v, v]
    Q = torch.sparse_coo_tensor(torch.cat(places, 1), torch.cat(values), (n, n)).coalesce()
    column = ((i[:, None] + torch.tensor([0, 1, 3, 7, 12])) % n).reshape(-1)
    entries = torch.randn(5 * n, generator=g, dtype=DOUBLE)
    G = torch.sparse_coo_tensor(torch.stack([i.repeat_interleave(5), column]), entries, (n, n)).coalesce()
    A = torch.sparse_coo_tensor(
        torch.tensor([[0, 0, 1], [0, 9, 5]]), torch.tensor([1.0, 2.0, 1.0], dtype=DOUBLE), (2, n)
    )
    q, h = (torch.randn(n, generator=g, dtype=DOUBLE), 0.3 * torch.rand(n, generator=g, dtype=DOUBLE))
    return {"Q": Q, "q": q, "A": A.coalesce(), "b": torch.tensor([0.1, -0.1], dtype=DOUBLE), "G": G, "h": h}


@pytest.mark.parametrize("layout", ["coo", "csr"])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_it_is_the_dense_layer_with_gradients_on_the_pattern(layout, batch):
    given, n, layer = banded(120), 120, QPLayer()
    assert "Q at" in arranged({**given, "l": None})[0]
    if batch:
        given |= {"q": torch.stack([given["q"], -given["q"]]), "h": given["h"] + 0.1}
    if layout == "csr":
        given = {name: t.to_sparse_csr() if t.layout == torch.sparse_coo else t for name, t in given.items()}
    sparse = {name: t.requires_grad_() for name, t in given.items()}
    strided = lambda t: t.detach().to_dense() if t.layout != torch.strided else t.detach().clone()  # noqa: E731
    dense = {name: strided(t).requires_grad_() for name, t in given.items()}
    weight, lam = torch.linspace(-1, 1, n, dtype=DOUBLE), "inequality_multipliers"
    found, expected = layer.solve(**sparse), layer.solve(**dense)
    torch.testing.assert_close(found.value, expected.value, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(found.aux[lam], expected.aux[lam], atol=1e-11, rtol=1e-11)
    assert (found.status == Status.CONVERGED).all() and (expected.aux[lam] > 1e-6).any()
    for solution in (found, expected):
        (solution.value * weight + solution.value**2).sum().backward()
    for name in given:
        slope, wanted = sparse[name].grad, dense[name].grad
        assert slope.layout == given[name].layout
        if slope.layout != torch.strided:
            wanted = torch.where(dense[name] != 0, wanted, 0)
            slope = slope.to_dense()
        torch.testing.assert_close(slope, wanted, atol=1e-11, rtol=1e-10, msg=name)


def test_statuses_of_sparse_problems():
    layer, given = QPLayer(), banded(120)
    eye = torch.eye(120, dtype=DOUBLE)
    both, ones = torch.cat([eye, -eye]).to_sparse(), torch.ones(240, dtype=DOUBLE)
    with pytest.raises(InfeasibleError):
        layer(given["Q"], given["q"], G=both, h=-ones)
    with pytest.raises(UnboundedError):
        layer(0 * given["Q"], given["q"], G=eye.to_sparse(), h=ones[:120], b=None)
    with pytest.raises(SolveError) as caught:
        layer(given["Q"], given["q"] * float("nan"), G=both, h=ones)
    assert caught.value.solution.status == Status.NONFINITE
    twice = torch.cat([eye[:60], eye[:60]]).to_sparse()
    with pytest.raises(SingularJacobianError), warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateWarning)
        layer(given["Q"], (given["q"] - 9).requires_grad_(), G=twice, h=0 * ones[:120])


def test_one_infeasible_sample_of_a_sparse_batch():
    given, layer = banded(120), QPLayer(on_failure="ignore")
    eye = torch.eye(120, dtype=DOUBLE)
    both = torch.cat([eye, -eye]).to_sparse()
    h = torch.ones(3, 240, dtype=DOUBLE) / 8
    h[1] = -1
    q = given["q"].clone().requires_grad_()
    solution = layer.solve(given["Q"], q, G=both, h=h)
    assert solution.status.tolist() == [Status.CONVERGED, Status.INFEASIBLE, Status.CONVERGED]
    alone = layer(given["Q"], q, G=both, h=h[0])
    torch.testing.assert_close(solution.value[[0, 2]], alone.expand(2, -1), atol=1e-12, rtol=0)
    (slope,) = torch.autograd.grad(solution.value[[0, 2]].sum(), q)
    torch.testing.assert_close(slope, 2 * torch.autograd.grad(alone.sum(), q)[0], atol=1e-11, rtol=1e-10)


def test_smoothing_and_two_sided_bounds_of_a_sparse_linear_program():
    n, s = 250, 0.5
    q, eye = torch.linspace(-1, 1, n, dtype=DOUBLE), torch.eye(n, dtype=DOUBLE).to_sparse()
    one = torch.ones(n, dtype=DOUBLE)
    y = QPLayer(smoothing=s)(0 * eye, q, G=eye, h=one, l=-one)
    torch.testing.assert_close(y, (-q / s).clamp(-1, 1), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("spoil", ["one pivot", "saddle", "none"])
def test_a_negative_eigenvalue_raises(spoil):
    given = banded(120)
    Q = given["Q"].to_dense()
    if spoil == "one pivot":
        Q[60, 60] = -1.0
    elif spoil == "saddle":  # indefinite with a zero diagonal
        Q = torch.zeros_like(Q)
        Q[0, 1] = Q[1, 0] = 1.0
    else:
        Q = Q - (torch.linalg.eigvalsh(Q)[0] - 1e-13) * torch.eye(120, dtype=DOUBLE)  # semidefinite to rounding
    given["Q"] = Q.to_sparse()
    if spoil == "none":
        assert QPLayer(on_failure="ignore").solve(**given).value.isfinite().all()
        return
    with pytest.raises(NotConvexError, match="least eigenvalue is -"):
        QPLayer()(**given)
