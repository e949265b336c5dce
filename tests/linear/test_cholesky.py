import pytest
import torch

from implayer.linear import Cholesky
from implayer.operators import MatrixOperator
from implayer.solution import Status

from .systems import conditioned, near_identity, right_hand_side


def test_indefinite_and_semidefinite_samples_are_flagged():
    good = conditioned(0, 1, 3, 10.0, "definite")[0]
    matrices = torch.stack([good, torch.diag(torch.tensor([1.0, -2.0, 4.0])), torch.ones(3, 3), -good])
    inverse = Cholesky().freeze(MatrixOperator(matrices))
    assert inverse.singular.tolist() == [False, True, True, False]
    _, report = inverse.solve(right_hand_side(0, 4, 3))
    assert report.status.tolist() == [Status.CONVERGED, Status.SINGULAR, Status.SINGULAR, Status.CONVERGED]


def test_a_jacobian_that_is_not_symmetric_is_refused_by_sample():
    matrices = conditioned(0, 3, 4, 10.0, "definite")
    matrices[2] = near_identity(0, 1, 4)[0]
    with pytest.raises(ValueError, match=r"sample 2.*LU"):
        Cholesky().freeze(MatrixOperator(matrices))


def test_asymmetry_of_rounding_is_accepted():
    matrix = conditioned(0, 2, 5, 10.0, "definite")
    matrix[:, 0, 1] += 4e-16
    assert not Cholesky().freeze(MatrixOperator(matrix)).singular.any()
