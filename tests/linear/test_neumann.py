import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from implayer.linear import Neumann
from implayer.solution import Status

from .systems import CountingOperator, near_identity, right_hand_side, seeds, times


@pytest.mark.parametrize("sign", [1, -1])
@given(seed=seeds, terms=st.integers(0, 5), n=st.integers(1, 8))
def test_is_the_sum_of_the_series_at_the_price_of_its_terms(sign, seed, terms, n):
    matrix = -sign * near_identity(seed, 3, n)
    j_f = torch.eye(n) + sign * matrix
    exact = -sign * sum(torch.linalg.matrix_power(j_f, k) for k in range(terms + 1))
    b = right_hand_side(seed, 3, n)
    operator = CountingOperator(matrix, sign)
    inverse = Neumann(terms).freeze(operator)
    assert torch.allclose(inverse.solve(b)[0], times(exact, b))
    assert operator.products == {"mv": terms, "rmv": 0, "materialise": 0}
    assert torch.allclose(inverse.rsolve(b)[0], times(exact.mT, b))
    assert operator.products == {"mv": terms, "rmv": terms, "materialise": 0}


def test_says_that_it_is_not_exact_and_gives_the_residual_when_asked():
    matrix, b = -near_identity(0, 2, 5, 0.3), right_hand_side(0, 2, 5)
    inverse = Neumann(2).freeze(CountingOperator(matrix))
    assert inverse.exact is False
    x, report = inverse.solve(b)
    assert report.status.tolist() == [Status.CONVERGED] * 2
    assert report.steps.tolist() == [2, 2]
    residual = (b - times(matrix, x)).norm(dim=-1)
    assert torch.allclose(inverse.residual_norm(b, x), residual)
    assert (residual < report.residual_norm).all()
    u, _ = inverse.rsolve(b)
    assert torch.allclose(inverse.transposed_residual_norm(b, u), (b - times(matrix.mT, u)).norm(dim=-1))


def test_converges_to_the_inverse_where_the_map_contracts():
    matrix, b = -near_identity(0, 2, 5, 0.3), right_hand_side(0, 2, 5)
    x = Neumann(60).freeze(CountingOperator(matrix)).solve(b)[0]
    assert torch.allclose(x, times(torch.linalg.inv(matrix), b))


def test_overflow_is_reported():
    b = torch.ones(1, 2)
    _, report = Neumann(2000).freeze(CountingOperator(3 * torch.eye(2).unsqueeze(0))).solve(b)
    assert report.status.tolist() == [Status.NONFINITE]
