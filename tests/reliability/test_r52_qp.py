"""R52: a QP that is infeasible, unbounded, not convex, without rows or degenerate says so, for that sample alone."""

import pytest
import torch

from implayer import QPLayer, Status
from implayer.errors import DegenerateWarning, InfeasibleError, NotConvexError, UnboundedError

EYE, BOX = torch.eye(2, dtype=torch.float64), torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
Q, QS = torch.tensor([-2.0, -1.0], dtype=torch.float64), torch.tensor([[-2.0, -1.0]] * 3, dtype=torch.float64)


def row(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def test_infeasible():
    with pytest.raises(InfeasibleError, match="no feasible point") as caught:
        QPLayer()(EYE, Q, G=BOX, h=row(-1, -1))  # y1 <= -1 and y1 >= 1
    solution = caught.value.solution
    assert solution.status == Status.INFEASIBLE
    certificate = solution.aux["certificate"]
    y, lam = certificate[:2], certificate[2:]
    assert (lam >= 0).all() and (lam @ BOX).abs().max() < 1e-8 * lam.max() and lam @ row(-1, -1) < 0
    assert (y == 0).all()  # Farkas: lam'G = 0 and lam'h < 0, so no y has G y <= h


def test_infeasible_equations():
    A, b = torch.stack([row(1, 1), row(2, 2)]), row(1, 3)
    with pytest.raises(InfeasibleError) as caught:
        QPLayer()(EYE, Q, A, b)
    nu = caught.value.solution.aux["certificate"][2:]
    assert (nu @ A).abs().max() < 1e-8 * nu.abs().max() and nu @ b < 0


def test_unbounded():
    flat = torch.diag(row(1, 0))
    with pytest.raises(UnboundedError, match="without lower bound") as caught:
        QPLayer()(flat, Q, G=row(1, 0)[None], h=row(5))
    assert caught.value.solution.status == Status.UNBOUNDED
    ray = caught.value.solution.aux["certificate"][:2]
    assert (flat @ ray).abs().max() < 1e-8 * ray.abs().max() and row(1, 0) @ ray <= 1e-8 and Q @ ray < 0


def test_not_positive_semidefinite():
    matrices = torch.stack([EYE, torch.diag(row(1, -1)), EYE])
    for policy in ("raise", "ignore"):
        with pytest.raises(NotConvexError, match=r"`Q` of sample 1 .* least eigenvalue is -1"):
            QPLayer(on_failure=policy)(matrices, QS, G=BOX, h=row(1, 1))


def test_no_inequalities():
    q = Q.clone().requires_grad_()
    for rows in ((None, None), (torch.zeros(0, 2, dtype=torch.float64), torch.zeros(0, dtype=torch.float64))):
        y = QPLayer()(EYE, q, G=rows[0], h=rows[1])
        torch.testing.assert_close(y, -q)
        torch.testing.assert_close(torch.autograd.grad(y.sum(), q)[0], -torch.ones_like(q))


def test_a_degenerate_active_set_warns_that_the_gradient_is_one_sided():
    q = row(0, -1).requires_grad_()
    with pytest.warns(DegenerateWarning, match="one-sided"):
        solution = QPLayer().solve(EYE, q, G=row(1, 0)[None], h=row(0))
    assert solution.status == Status.DEGENERATE and solution.converged
    (slope,) = torch.autograd.grad(solution.value[0], q)
    torch.testing.assert_close(slope, row(-1, 0))  # that of the row inactive: y1 = -q1 for q1 > 0


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_in_a_batch_only_the_bad_instance_is_affected(bad):
    h = torch.tensor([[1.0, 1.0], [0.5, 1.0], [0.7, 1.0]], dtype=torch.float64)
    good = [i for i in range(3) if i != bad]
    h[bad] = row(-1, -1)
    shared, alone = EYE.clone().requires_grad_(), EYE.clone().requires_grad_()
    solution = QPLayer(on_failure="ignore").solve(shared, QS, G=BOX, h=h)
    assert [Status(int(s)) for s in solution.status] == [
        Status.INFEASIBLE if i == bad else Status.CONVERGED for i in range(3)
    ]
    expected = QPLayer()(alone, QS[good], G=BOX, h=h[good])
    torch.testing.assert_close(solution.value[good], expected, atol=1e-12, rtol=0)
    solution.value[good].sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(shared.grad, alone.grad, atol=1e-12, rtol=0)
    assert (solution.aux["certificate"][good] == 0).all() and solution.aux["certificate"][bad].abs().max() > 0
