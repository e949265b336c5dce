"""The inverse of a KKT system: each way of storing it against the dense matrix."""

import pytest
import torch

from implayer.linear import kkt
from implayer.linear.kkt import KKTInverse, SmallKKTInverse, freeze_kkt


def system(kind, samples=4, n=5, k=4):
    g = torch.Generator().manual_seed(0)
    root = torch.randn(samples, n, n, generator=g, dtype=torch.float64)
    hessian = root @ root.mT + torch.eye(n, dtype=torch.float64)
    rows = torch.randn(samples, k, n, generator=g, dtype=torch.float64)
    active = torch.rand(samples, k, generator=g) > 0.5
    if kind == "linear program":
        rows = torch.randn(samples, n, n, generator=g, dtype=torch.float64)
        hessian, active = torch.zeros_like(hessian), torch.ones(samples, n, dtype=torch.bool)
    if kind == "singular":
        hessian[:, 0], hessian[:, :, 0] = 0, 0
        active[:, 0] = True
    if kind == "shared":
        hessian, rows = hessian[:1].expand(samples, n, n), rows[:1].expand(samples, k, n)
    if kind == "redundant":
        rows[1, 1], active[1, :2] = 2 * rows[1, 0], True
    return hessian, rows, active


def dense(hessian, rows, active):
    held = active.to(hessian.dtype)
    low = torch.cat([rows * held.unsqueeze(-1), -torch.diag_embed(1 - held)], -1)
    return torch.cat([torch.cat([hessian, rows.mT], -1), low], -2)


KINDS = ["definite", "linear program", "singular", "shared", "redundant"]


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_pseudo_inverse_of_the_matrix(kind, small, monkeypatch):
    monkeypatch.setattr(kkt, "SMALL", 40 if small else 0)
    parts = system(kind)
    inverse, matrix = freeze_kkt(*parts), dense(*parts)
    assert isinstance(inverse, SmallKKTInverse if small and kind != "redundant" else KKTInverse)
    expected = torch.linalg.pinv(matrix, rtol=1e-9)
    b = torch.randn(matrix.shape[:2], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    column = b.unsqueeze(-1)
    torch.testing.assert_close(inverse.apply(b), (expected @ column).squeeze(-1), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(inverse.apply_transposed(b), (expected.mT @ column).squeeze(-1), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(inverse.product(b), (matrix @ column).squeeze(-1), atol=1e-12, rtol=1e-12)
    told = inverse.redundant
    assert (told is None) if kind != "redundant" else told.tolist() == [False, True, False, False]


@pytest.mark.parametrize("kind", ["definite", "shared"])
def test_reports_hold_the_true_residual(kind, monkeypatch):
    monkeypatch.setattr(kkt, "SMALL", 0)
    parts = system(kind)
    inverse, matrix = freeze_kkt(*parts), dense(*parts)
    b = torch.ones(matrix.shape[:2], dtype=torch.float64)
    for value, report, product in (
        (*inverse.solve(b), matrix),
        (*inverse.rsolve(b), matrix.mT),
    ):
        residual = torch.linalg.vector_norm(b - (product @ value.unsqueeze(-1)).squeeze(-1), dim=-1)
        assert report.residual_norm.max() < 1e-11 and residual.max() < 1e-11


def test_without_rows():
    hessian = 2 * torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    inverse = freeze_kkt(hessian, torch.zeros(2, 0, 3, dtype=torch.float64), torch.zeros(2, 0, dtype=torch.bool))
    torch.testing.assert_close(
        inverse.apply(torch.ones(2, 3, dtype=torch.float64)), torch.full((2, 3), 0.5, dtype=torch.float64)
    )
