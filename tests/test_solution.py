"""What came back: `Solution` and `Status`."""

import enum

import pytest
import torch

import implayer

S = implayer.Status


def test_status_values_and_meanings():
    assert issubclass(S, enum.IntEnum)
    names = ["CONVERGED", "MAX_STEPS", "NONFINITE", "SINGULAR", "INFEASIBLE", "UNBOUNDED", "DEGENERATE"]
    assert [member.name for member in S] == names and [int(member) for member in S] == list(range(7))
    assert len({member.meaning for member in S}) == 7


def test_converged_counts_degenerate():
    solution = implayer.Solution(None, torch.tensor([[0, 1, 2], [3, 6, 0]]))
    assert solution.converged.tolist() == [[True, False, False], [False, True, True]]
    assert implayer.Solution(None, [S.CONVERGED, S.SINGULAR]).converged.tolist() == [True, False]


def test_message_tells_of_all_that_failed():
    solution = implayer.Solution(
        None,
        torch.tensor([0, 1, 1, 2]),
        torch.tensor([0.0, 0.5, 0.25, torch.nan]),
        aux={"stalled": torch.tensor([False, True, False, False])},
    )
    assert solution.message() == (
        "2 of 4 samples did not reach the tolerance (samples 1, 2; largest residual 0.5; 1 stalled); "
        "1 of 4 samples met NaN or infinity (samples 3; largest residual nan)"
    )
    assert implayer.Solution(None, torch.zeros(3)).message() == "all 3 samples reached the tolerance"


def test_it_is_a_nest():
    solution = implayer.Solution({"a": torch.ones(2)}, torch.zeros(2), aux={"b": torch.ones(2)})
    doubled = torch.utils._pytree.tree_map(lambda t: 2 * t if isinstance(t, torch.Tensor) else t, solution)
    assert isinstance(doubled, implayer.Solution)
    assert doubled.value["a"].tolist() == [2.0, 2.0] and doubled.aux["b"].tolist() == [2.0, 2.0]


def test_it_goes_through_vmap():
    layer = implayer.ImplicitLayer(lambda x, y: y**2 - x, implayer.Newton(), initial=torch.ones_like)
    solution = torch.vmap(layer.solve)(torch.tensor([[1.0], [4.0], [9.0]]))
    torch.testing.assert_close(solution.value, torch.tensor([[1.0], [2.0], [3.0]]))
    assert solution.converged.tolist() == [True] * 3 and solution.steps.shape == (3,)


def test_replace_keeps_the_rest():
    solution = implayer.Solution(1, status=[S.CONVERGED], steps=torch.tensor([3]))
    changed = solution.replace(value=2)
    assert (solution.value, changed.value) == (1, 2) and changed.steps is solution.steps


@pytest.mark.parametrize("field", ["status", "residual_norm"])
def test_fields_of_the_wrong_length_are_refused(field):
    wrong = [S.CONVERGED] * 3 if field == "status" else torch.zeros(3)
    layer = implayer.ImplicitLayer(lambda x, y: y - x, lambda p: implayer.Solution(p.x.clone(), **{field: wrong}))
    with pytest.raises(implayer.ShapeError, match=rf"`Solution.{field}` has 3 entries for 2 samples"):
        layer(torch.ones(2, 1))
