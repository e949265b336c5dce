import pytest
import torch

from implayer.linear import LU, Refined
from implayer.operators import MatrixOperator
from implayer.solution import Status

from .systems import CountingOperator, near_identity, relative_error, right_hand_side, times


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("distance", "products"), [(0.0, 1), (1e-7, 2), (1e-4, 4)])
def test_a_nearby_factor_needs_few_products_of_the_right_kind(distance, products, transposed):
    matrix = near_identity(0, 4, 20)
    stale = LU().freeze(MatrixOperator(matrix + distance * near_identity(1, 4, 20)))
    operator = CountingOperator(matrix)
    inverse, b = Refined(stale).freeze(operator), right_hand_side(0, 4, 20)
    x, report = inverse.rsolve(b) if transposed else inverse.solve(b)
    a = matrix.mT if transposed else matrix
    assert relative_error(x, times(torch.linalg.inv(a), b)) < 1e-10
    assert report.status.tolist() == [Status.CONVERGED] * 4
    assert torch.allclose(report.residual_norm, (b - times(a, x)).norm(dim=-1), atol=1e-14)
    used, unused = ("rmv", "mv") if transposed else ("mv", "rmv")
    assert operator.products[used] <= products
    assert operator.products[unused] == operator.products["materialise"] == 0
    assert inverse.fresh is None


@pytest.mark.parametrize("transposed", [False, True])
def test_samples_that_do_not_contract_get_a_fresh_factor(transposed):
    matrix = near_identity(0, 3, 10)
    other = matrix.clone()
    other[1] = -matrix[1]
    operator = CountingOperator(matrix)
    inverse = Refined(LU().freeze(MatrixOperator(other))).freeze(operator)
    b = right_hand_side(0, 3, 10)
    for _ in range(2):
        x, report = inverse.rsolve(b) if transposed else inverse.solve(b)
        a = matrix.mT if transposed else matrix
        assert relative_error(x, times(torch.linalg.inv(a), b)) < 1e-10
        assert report.status.tolist() == [Status.CONVERGED] * 3
    assert operator.products["materialise"] == 1
    assert inverse.fresh is not None


def test_a_singular_live_jacobian_is_flagged():
    matrix = near_identity(0, 2, 4)
    stale = LU().freeze(MatrixOperator(matrix))
    live = matrix.clone()
    live[1, 2] = 0
    x, report = Refined(stale).freeze(MatrixOperator(live)).rsolve(right_hand_side(0, 2, 4))
    assert report.status.tolist() == [Status.CONVERGED, Status.SINGULAR]
    assert torch.isfinite(x).all()


def test_tiny_and_zero_cotangents():
    matrix, b = near_identity(0, 2, 6), right_hand_side(0, 2, 6)
    inverse = Refined(LU().freeze(MatrixOperator(matrix + 1e-6))).freeze(MatrixOperator(matrix))
    exact = inverse.rsolve(b)[0]
    assert relative_error(inverse.rsolve(1e-200 * b)[0] * 1e200, exact) < 1e-10
    zero, report = inverse.rsolve(0 * b)
    assert not zero.any()
    assert report.steps.tolist() == [0, 0]
