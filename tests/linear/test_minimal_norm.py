"""MinimalNorm: singular KKT matrices whose primal part is unique, and those whose is not."""

import pytest
import torch

from implayer.linear.lu import LU
from implayer.linear.minimal_norm import MinimalNorm
from implayer.operators import MatrixOperator


def kkt(H, A):
    return torch.cat([torch.cat([H, A.mT], 1), torch.cat([A, A.new_zeros(len(A), len(A))], 1)], 0)


def test_regular_matrices_are_left_to_the_other_solver():
    J, b = torch.randn(3, 5, 5), torch.randn(3, 5)
    inverse = MinimalNorm(LU(), 2).freeze(MatrixOperator(J))
    plain = LU().freeze(MatrixOperator(J))
    assert type(inverse) is type(plain)
    assert torch.equal(inverse.solve(b)[0], plain.solve(b)[0])


def test_dependent_constraints_and_flat_objectives():
    A, row = torch.randn(1, 3), torch.randn(1, 3)
    H = torch.eye(3)
    flat = H - torch.linalg.pinv(row) @ row  # no curvature along a direction that A does not hold
    regular, dependent, free = (
        kkt(H, torch.cat([A, row])),
        kkt(H, torch.cat([A, -2 * A])),
        kkt(flat, 0 * torch.cat([A, A])),
    )
    J = torch.stack([regular, dependent, free])
    inverse = MinimalNorm(LU(), 2).freeze(MatrixOperator(J))
    assert inverse.singular.tolist() == [False, False, True]
    z = torch.randn(3, 5)
    found = inverse.solve((J @ z.unsqueeze(-1)).squeeze(-1))[0]
    torch.testing.assert_close(found[0], z[0], atol=1e-10, rtol=0.0)
    torch.testing.assert_close(found[1, :3], z[1, :3], atol=1e-10, rtol=0.0)
    u = z[1, 3] - 2 * z[1, 4]  # all that A'u tells; u / 5 * (1, -2) is the smallest pair
    torch.testing.assert_close(found[1, 3:], u / 5 * torch.tensor([1.0, -2.0]), atol=1e-10, rtol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_transposed(dtype):
    A = torch.randn(1, 3)
    J = kkt(torch.eye(3) + torch.randn(3, 3) / 9, torch.cat([A, A])).to(dtype).unsqueeze(0)
    inverse = MinimalNorm(LU(), 2).freeze(MatrixOperator(J))
    z = torch.randn(1, 5, dtype=dtype)
    found = inverse.rsolve((J.mT @ z.unsqueeze(-1)).squeeze(-1))[0]
    torch.testing.assert_close(found[:, :3], z[:, :3], atol=1e-3 if dtype == torch.float32 else 1e-10, rtol=0.0)


def test_any_unknown_may_be_the_one_that_is_not_unique():
    J = torch.randn(2, 4, 4)
    J[1, :, 3] = 2 * J[1, :, 2]
    b = (J @ torch.randn(2, 4, 1)).squeeze(-1)
    inverse = MinimalNorm().freeze(MatrixOperator(J))
    assert not inverse.singular.any()
    torch.testing.assert_close(inverse.solve(b)[0], (torch.linalg.pinv(J) @ b.unsqueeze(-1)).squeeze(-1))
    assert MinimalNorm(multipliers=1).freeze(MatrixOperator(J)).singular.tolist() == [False, True]
