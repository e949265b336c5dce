import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from implayer.linear import LU, Auto
from implayer.linear.lu import SMALL, far_from_singular
from implayer.operators import MatrixOperator
from implayer.solution import Status

from .systems import conditioned, near_identity, relative_error, right_hand_side, seeds, tanh_operator, times


def freeze(*matrices):
    return LU().freeze(MatrixOperator(torch.stack([torch.as_tensor(m) for m in matrices])))


def test_bad_scaling_is_not_singularity():
    matrices = [torch.diag(torch.tensor([1.0, 1e-300])), torch.tensor([[1.0, 1e20], [1.0, 1.0]]), torch.ones(2, 2)]
    inverse = freeze(*matrices)
    assert inverse.singular.tolist() == [False, False, True]
    assert inverse.condition is not None
    assert inverse.condition[0] == 1
    assert inverse.condition[1] < 10


def test_rows_of_very_different_size_keep_all_digits():
    matrix, x = torch.tensor([[1.0, 1e20], [1.0, 1.0]]), torch.tensor([[3.0, 7.0]])
    b = torch.tensor([[7e20, 10.0]])
    assert relative_error(freeze(matrix).solve(b)[0], x) < 1e-15
    c = torch.tensor([[10.0, 3e20 + 7.0]])
    assert relative_error(freeze(matrix).rsolve(c)[0], x) < 1e-14


@given(seed=seeds, n=st.integers(1, 40), exponent=st.floats(0, 12))
def test_condition_estimate_is_a_bound_from_below_and_close(seed, n, exponent):
    matrix = conditioned(seed, 3, n, 10**exponent)
    row = matrix.abs().sum(-1, keepdim=True)
    scaled = matrix / row
    scaled = scaled / scaled.abs().sum(-2, keepdim=True)
    exact = torch.linalg.inv(scaled).abs().sum(-2).amax(-1)
    found = LU().freeze(MatrixOperator(matrix)).condition
    assert found is not None
    assert (found <= exact * (1 + 1e-3)).all()
    assert (found >= exact / 10).all()


@given(seed=seeds, n=st.integers(2, 30))
def test_lack_of_rank_is_flagged_whatever_rounding_leaves(seed, n):
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.randint(-9, 10, (2, n, n - 1), generator=generator).double() for _ in range(2))
    matrix = left @ right.mT * torch.logspace(-3, 3, n).unsqueeze(-1)
    assert freeze(*matrix).singular.tolist() == [True, True]


@given(seed=seeds, n=st.integers(2, 30))
def test_bad_condition_short_of_singular_is_not_flagged(seed, n):
    inverse = LU().freeze(MatrixOperator(conditioned(seed, 2, n, 1e9)))
    assert inverse.singular.tolist() == [False, False]


@given(seed=seeds, upper=st.booleans(), n=st.integers(1, 40))
def test_triangular_jacobians_are_their_own_factor(seed, upper, n):
    matrix = near_identity(seed, 3, n)
    matrix = matrix.triu() if upper else matrix.tril()
    matrix.diagonal(dim1=-2, dim2=-1).copy_(1 + matrix.diagonal(dim1=-2, dim2=-1).abs())
    inverse, x = LU().freeze(MatrixOperator(matrix)), right_hand_side(seed, 3, n)
    assert relative_error(inverse.solve(times(matrix, x))[0], x) < 1e-10
    assert relative_error(inverse.rsolve(times(matrix.mT, x))[0], x) < 1e-10
    assert n < 16 or upper == torch.equal(inverse.lu, matrix)


def test_triangular_with_a_zero_pivot_is_singular():
    matrix = torch.eye(20).repeat(2, 1, 1)
    matrix[0, 3, 3], matrix[0, 3, 7] = 0, 1
    inverse = LU().freeze(MatrixOperator(matrix))
    assert inverse.singular.tolist() == [True, False]


def test_jacobian_by_products():
    operator, matrix = tanh_operator(0, 5, 9)
    inverse, c = LU().freeze(operator), right_hand_side(0, 5, 9)
    x, report = inverse.rsolve(c)
    assert relative_error(x, times(torch.linalg.inv(matrix).mT, c)) < 1e-13
    assert (report.status == Status.CONVERGED).all()


def test_alone_and_in_a_batch_bit_for_bit():
    matrix, b = near_identity(0, 70, 64), right_hand_side(0, 70, 64)
    matrix[3] *= torch.logspace(0, 9, 64).unsqueeze(-1)
    whole = LU().freeze(MatrixOperator(matrix))
    assert whole.condition is not None
    for k in (0, 3, 69):
        alone = LU().freeze(MatrixOperator(matrix[k : k + 1]))
        assert torch.allclose(whole.rsolve(b)[0][k], alone.rsolve(b[k : k + 1])[0][0], rtol=1e-12, atol=0.0)
        assert alone.condition is not None
        assert torch.allclose(whole.condition[k], alone.condition[0], rtol=1e-10)


@given(seed=st.integers(0, 2**16), n=st.integers(1, SMALL), exponent=st.floats(0, 16), samples=st.integers(1, 5))
def test_what_a_glance_finds_far_from_singular_is(seed, n, exponent, samples):
    """A matrix of condition 10^exponent, in any scale, among good ones: the glance lets pass none whose condition is large."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(samples, n, n, dtype=torch.float64, generator=generator)
    u, _, v = torch.linalg.svd(matrix[0])
    matrix[0] = u @ torch.diag(torch.logspace(0, -exponent, n, dtype=torch.float64)) @ v
    matrix = matrix * 10.0 ** float(torch.randint(-12, 12, (), generator=generator))
    found = far_from_singular(matrix)
    if found is None:
        return
    assert torch.linalg.cond(matrix).max() < 1e9
    b = torch.randn(samples, n, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(found.apply(b), torch.linalg.solve(matrix, b.unsqueeze(-1)).squeeze(-1))
    full = LU().freeze(MatrixOperator(matrix))
    assert found.singular is None and found.condition is None and full.singular is not None and not full.singular.any()


@given(seed=seeds, n=st.integers(1, SMALL), samples=st.integers(1, 5))
def test_a_glance_lets_good_matrices_pass(seed, n, samples):
    assert far_from_singular(near_identity(seed, samples, n)) is not None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_a_glance_lets_no_bad_matrix_pass(value):
    matrix = torch.eye(3, dtype=torch.float64).repeat(4, 1, 1)
    matrix[2, 1, 1] = value
    assert far_from_singular(matrix) is None
    inverse = Auto().freeze_untold(MatrixOperator(matrix))
    assert inverse.singular is not None and inverse.singular.tolist() == [False, False, True, False]
