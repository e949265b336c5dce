"""The strategies draw what they promise."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._pytree import tree_leaves

from implayer.verify import strategies as own


@given(own.matrices(n=st.integers(2, 5), condition=1e6, batch=own.batches(2)))
def test_matrices_have_their_condition(a):
    values = torch.linalg.svdvals(a)
    torch.testing.assert_close(values[..., 0] / values[..., -1], torch.full(a.shape[:-2], 1e6), rtol=1e-6, atol=0.0)


@given(own.spd_matrices(condition=100.0))
def test_spd(a):
    assert torch.equal(a, a.mT) and float(torch.linalg.eigvalsh(a).min()) > 0.009


@given(own.contractions(q=0.7, batch=(2,)))
def test_contractions(w):
    assert float(torch.linalg.matrix_norm(w, 2).max()) < 0.7


@given(own.linear_systems(symmetric=True, dtype=torch.float32), own.fixed_points(n=3))
def test_systems_fit(system, contraction):
    assert system["A"].shape == (*system["b"].shape, system["b"].shape[-1]) and system["A"].dtype == torch.float32
    assert contraction["W"].shape[-2:] == (3, 3)


@given(own.tensors(own.batches(2), torch.float32, min_value=-0.5, max_value=0.25), own.tensors((9, 9), max_value=1.0))
def test_tensors_stay_inside(few, many):
    assert few.dtype == torch.float32 and bool(((few >= -0.5) & (few <= 0.25)).all())
    assert many.shape == (9, 9) and bool(((many >= -2) & (many <= 1)).all())


@given(own.nests(own.tensors((2,))))
def test_nests(tree):
    leaves = tree_leaves(tree)
    assert leaves and all(leaf.shape == (2,) for leaf in leaves)


@given(st.data())
def test_around_keeps_structure_signs_and_symmetry(data):
    q = torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    example = {"Q": q, "p": torch.tensor([[1.0, 0.0], [2.0, 3.0]]), "n": torch.tensor([1, 2]), "k": None}
    leaves = tree_leaves(example, is_leaf=lambda leaf: leaf is None)
    batched = [leaf is example["p"] for leaf in leaves]
    x, y0 = data.draw(own.around(example, batched=batched, companion=torch.zeros(2, 1)))
    assert set(x) == set(example) and x["k"] is None and torch.equal(x["n"], example["n"])
    assert torch.equal(x["Q"], x["Q"].mT) and bool((x["Q"] > 0).all())
    assert bool((x["p"] >= 0).all()) and len(x["p"]) == len(y0)
