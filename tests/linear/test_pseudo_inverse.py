import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from implayer.linear import LSMR, PseudoInverse
from implayer.operators import MatrixOperator
from implayer.solution import Status

from .systems import relative_error, right_hand_side, seeds, times

shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))


@pytest.mark.parametrize("solver", [PseudoInverse(), PseudoInverse(1e-12), LSMR(rtol=1e-13, atol=0.0, max_steps=500)])
@given(seed=seeds, shape=shapes)
def test_pseudo_inverse_of_any_shape(solver, seed, shape):
    m, n = shape
    matrix = torch.randn(3, m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    matrix = matrix + 3 * torch.eye(m, n)  # away from rank deficiency
    exact = torch.linalg.pinv(matrix)
    inverse, b, c = solver.freeze(MatrixOperator(matrix)), right_hand_side(seed, 3, m), right_hand_side(seed, 3, n)
    x, report = inverse.solve(b)
    u, transposed = inverse.rsolve(c)
    condition = float(torch.linalg.cond(matrix).max())
    bar = (1e-9 if isinstance(solver, LSMR) else 1e-13) * condition**2
    assert (x - times(exact, b)).norm() <= bar * (1 + x.norm())
    assert (u - times(exact.mT, c)).norm() <= bar * (1 + u.norm())
    assert (report.status == Status.CONVERGED).all()
    assert (transposed.status == Status.CONVERGED).all()
    residual = b - times(matrix, x)
    expected = times(matrix.mT, residual) if m > n else residual
    assert torch.allclose(report.residual_norm, expected.norm(dim=-1), atol=1e-12)


@pytest.mark.parametrize("solver", [PseudoInverse(1e-10), LSMR(rtol=1e-13, atol=0.0)])
@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (6, 4)])
def test_minimal_norm_without_full_rank(solver, shape):
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(2, k, 2, generator=generator) for k in shape)
    matrix = left @ right.mT  # rank two
    exact = torch.linalg.pinv(matrix, rtol=1e-10)
    b, c = right_hand_side(0, 2, shape[0]), right_hand_side(0, 2, shape[1])
    inverse = solver.freeze(MatrixOperator(matrix))
    x, report = inverse.solve(b)
    assert relative_error(x, times(exact, b)) < 1e-9
    assert relative_error(inverse.rsolve(c)[0], times(exact.mT, c)) < 1e-9
    assert (report.status == Status.CONVERGED).all()


def test_dependent_rows_are_flagged_unless_a_cutoff_is_given():
    matrix = torch.tensor([[[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]], [[1.0, 0.0, 0.0], [0.0, 1e-9, 0.0]]])
    for solver, j, flagged in (
        (PseudoInverse(), matrix, True),
        (PseudoInverse(), matrix.mT, True),
        (PseudoInverse(1e-12), matrix, False),
    ):
        singular = solver.freeze(MatrixOperator(j)).singular
        assert singular is not None
        assert singular.tolist() == [flagged, False]


@given(seed=seeds, m=st.integers(1, 12), extra=st.integers(1, 6), wide=st.booleans())
def test_condition_after_scaling_the_equations_or_the_unknowns(seed, m, extra, wide):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(2, m, m + extra, generator=generator, dtype=torch.float64) * torch.logspace(0, 9, m).unsqueeze(
        -1
    )
    found = PseudoInverse().freeze(MatrixOperator(matrix if wide else matrix.mT)).condition
    exact = torch.linalg.cond(matrix / matrix.norm(dim=-1, keepdim=True))
    assert found is not None
    assert (found <= 4 * m * exact).all()
    assert (found >= exact / (10 * m)).all()


def test_zero_matrix_has_zero_pseudo_inverse():
    inverse = PseudoInverse(1e-12).freeze(MatrixOperator(torch.zeros(1, 2, 3)))
    assert inverse.solve(torch.ones(1, 2))[0].tolist() == [[0.0, 0.0, 0.0]]
