import pytest
import torch

from implayer.linear import Diagonal
from implayer.operators import JacobianOperator, MatrixOperator
from implayer.solution import Status

from .systems import CountingOperator


def test_found_by_three_products_and_of_any_size():
    operator = CountingOperator(torch.diag_embed(torch.tensor([[2.0, -4.0, 8.0]])))
    x, report = Diagonal().freeze(operator).solve(torch.tensor([[2.0, -4.0, 8.0]]))
    assert x.tolist() == [[1.0, 1.0, 1.0]]
    assert operator.products == {"mv": 0, "rmv": 3, "materialise": 0}
    assert report.residual_norm.tolist() == [0.0]
    y = torch.linspace(0.1, 1, 10**6).unsqueeze(0)
    inverse = Diagonal().freeze(JacobianOperator(lambda y: y**3, y))
    assert torch.allclose(inverse.rsolve(3 * y**2)[0], torch.ones_like(y))


@pytest.mark.parametrize(("i", "j"), [(0, 1), (0, 2), (3, 1), (4, 2), (4, 0)])
def test_a_single_entry_off_the_diagonal_is_seen(i, j):
    matrix = torch.eye(5).repeat(3, 1, 1)
    matrix[1, i, j] = 1e-3
    with pytest.raises(ValueError, match="off its diagonal"):
        Diagonal().freeze(MatrixOperator(matrix))


def test_zero_entries_are_singular_and_tiny_ones_are_not():
    matrix = torch.diag_embed(torch.tensor([[1.0, 1e-300], [1.0, 0.0], [1.0, float("nan")]]))
    inverse = Diagonal().freeze(MatrixOperator(matrix))
    assert inverse.singular.tolist() == [False, True, True]
    x, report = inverse.solve(torch.ones(3, 2))
    assert torch.allclose(x, torch.tensor([[1.0, 1e300], [1.0, 1.0], [1.0, 1.0]]), rtol=1e-15)
    assert report.status.tolist() == [Status.CONVERGED, Status.SINGULAR, Status.SINGULAR]
