"""Nests and vectors: `Layout`, `Problem` and `VectorProblem`."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

import implayer
from implayer.problem import Layout, residual_norm

shapes = st.lists(st.integers(0, 3), max_size=2).map(tuple)


@given(shapes, st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=2).map(tuple), min_size=1, max_size=3))
def test_pack_and_unpack_are_inverse(batch, events):
    tree = {
        "leaves": [torch.randn(*batch, *event, dtype=torch.float64) for event in events],
        "none": None,
        "k": torch.arange(3),
    }
    layout = Layout.of(tree, 2)
    vectors = layout.pack(tree)
    assert vectors.shape == (layout.samples, layout.n) and layout.batch == batch
    back = layout.unpack(vectors)
    assert back["none"] is None and torch.equal(back["k"], tree["k"])
    assert all(torch.equal(a, b) for a, b in zip(back["leaves"], tree["leaves"], strict=True))


def test_samples_are_rows():
    vectors = implayer.Problem(
        lambda x, y: y, None, (torch.arange(6.0).reshape(3, 2), 10 + torch.arange(3.0).reshape(3, 1))
    ).vectors()
    torch.testing.assert_close(vectors.y0, torch.tensor([[0.0, 1.0, 10.0], [2.0, 3.0, 11.0], [4.0, 5.0, 12.0]]))
    assert (vectors.samples, vectors.n, vectors.sign) == (3, 3, 1)


def test_residual_on_vectors_has_its_own_number_of_rows():
    problem = implayer.Problem(
        lambda x, y: {"a": y["u"] * x, "b": y["u"][..., :1]}, torch.tensor(2.0), {"u": torch.ones(3, 2)}
    )
    assert problem.vectors().residual(torch.ones(3, 2)).tolist() == [[2.0, 2.0, 1.0]] * 3


def test_norm_is_euclidean_over_all_leaves_and_event_axes():
    r = {"a": torch.tensor([[3.0], [0.0]]), "b": [torch.tensor([[4.0, 0.0], [1.0, 0.0]]), None]}
    torch.testing.assert_close(residual_norm(r, 1), torch.tensor([5.0, 1.0]))
    torch.testing.assert_close(residual_norm(torch.tensor([-3.0, 4.0]), 0), torch.tensor([3.0, 4.0]))
    torch.testing.assert_close(residual_norm(torch.tensor([3.0 + 4.0j]), 1), torch.tensor(5.0))
    assert residual_norm(torch.zeros(2, 0), 1).tolist() == [0.0, 0.0]


def test_no_start():
    with pytest.raises(ValueError, match=r"y0=.*initial="):
        implayer.Problem(lambda x, y: y, None).vectors()


def test_restrict_is_the_problem_of_some_samples():
    x = {"own": torch.randn(5, 2), "shared": torch.randn(2), "table": torch.randn(5)}
    vectors = implayer.Problem(lambda x, y: y * x["own"] + x["shared"], x, torch.randn(5, 2)).vectors()
    index = torch.tensor([3, 1])
    small = vectors.restrict(index)
    y = torch.randn(5, 2)
    torch.testing.assert_close(small.residual(y[index]), vectors.residual(y)[index])


@pytest.mark.parametrize(
    "F",
    [
        lambda x, y: y * x["matrix"].sum(0),  # a shared leaf that has the length of the batch by chance
        lambda x, y: y.reshape(5, 2) * x["matrix"],  # refuses another batch
    ],
)
def test_restrict_gives_up_where_it_would_be_wrong(F):
    vectors = implayer.Problem(F, {"matrix": torch.randn(5, 2)}, torch.randn(5, 2)).vectors()
    assert vectors.restrict(torch.tensor([3, 1])) is None


def test_restrict_with_several_batch_axes_gives_up():
    assert implayer.Problem(lambda x, y: y, None, torch.ones(2, 3, 1)).vectors().restrict(torch.tensor([0])) is None


def test_solution_restores_batch_axes_and_nests():
    vectors = implayer.Problem(lambda x, y: y, None, {"u": torch.ones(2, 3, 4)}).vectors()
    solution = vectors.solution(
        vectors.y0,
        status=torch.zeros(6),
        residual_norm=torch.zeros(6),
        steps=torch.zeros(6),
        aux={"v": torch.zeros(6, 7)},
    )
    assert (
        solution.value["u"].shape == (2, 3, 4)
        and solution.status.shape == (2, 3)
        and solution.aux["v"].shape == (2, 3, 7)
    )
