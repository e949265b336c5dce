"""The Jacobian of a batch as an operator: its numbers, and what they cost."""

from typing import ClassVar

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import implayer
from implayer.operators import JacobianOperator, MatrixOperator, TransposedOperator


class Counted(torch.autograd.Function):
    """tanh, which counts how often its backward runs (a product) and for how many samples."""

    runs: ClassVar[list[int]] = []

    @staticmethod
    def forward(y):
        return torch.tanh(y)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, g):
        Counted.runs.append(g.shape[0])
        (t,) = ctx.saved_tensors
        return g * (1 - t**2)

    @staticmethod
    def vmap(info, in_dims, y):
        return torch.tanh(y), in_dims[0]


def residual_of(W):
    return lambda y: torch.tanh(y) @ W.T + y[:, :1] ** 2


def operator_of(samples=3, m=4, n=5):
    W, y = torch.randn(m, n), torch.randn(samples, n)
    J = torch.func.vmap(torch.func.jacrev(lambda y: residual_of(W)(y[None])[0]))(y)
    return JacobianOperator(residual_of(W), y), J


@pytest.mark.parametrize(("m", "n"), [(4, 5), (5, 4), (1, 5), (2, 2), (70, 3)])
def test_products_and_dense_agree(m, n):
    operator, J = operator_of(m=m, n=n)
    v, u = torch.randn(3, n), torch.randn(3, m)
    assert (operator.samples, operator.rows, operator.columns) == (3, m, n)
    torch.testing.assert_close(operator.mv(v), torch.einsum("bmn,bn->bm", J, v))
    torch.testing.assert_close(operator.rmv(u), torch.einsum("bmn,bm->bn", J, u))
    torch.testing.assert_close(operator.materialise(), J)
    torch.testing.assert_close((operator.mv(v) * u).sum(), (v * operator.rmv(u)).sum())


def test_transposed():
    operator, J = operator_of()
    assert isinstance(operator.T, TransposedOperator) and operator.T.T is operator
    assert (operator.T.rows, operator.T.columns) == (5, 4)
    u = torch.randn(3, 4)
    torch.testing.assert_close(operator.T.mv(u), operator.rmv(u))
    torch.testing.assert_close(operator.T.materialise(), J.mT)


def test_matrix_operator():
    A = torch.randn(3, 4, 5)
    operator, v, u = MatrixOperator(A), torch.randn(3, 5), torch.randn(3, 4)
    torch.testing.assert_close((operator.mv(v) * u).sum(-1), (v * operator.rmv(u)).sum(-1))
    assert torch.equal(operator.materialise(), A) and torch.equal(operator.T.materialise(), A.mT)


@pytest.mark.parametrize("m", [1, 2])
def test_dense_costs_as_many_products_as_rows(m):
    """One product serves the whole batch: m products for any number of samples (small m: one by one)."""
    Counted.runs = []
    W = torch.randn(m, 6)
    JacobianOperator(lambda y: Counted.apply(y) @ W.T, torch.randn(50, 6)).materialise()
    assert Counted.runs == [50] * m


@pytest.mark.parametrize("m", [3, 8, 40])
def test_dense_evaluates_F_once(m):
    """And m products in all: counted by the work of the matrix product in F."""
    calls = []
    W = torch.randn(m, 6)

    def residual(y):
        calls.append(y.shape)
        return torch.tanh(y) @ W.T

    operator = JacobianOperator(residual, torch.randn(50, 6))
    with FlopCounterMode(display=False) as one:
        operator.rmv(torch.ones(50, m))
    with FlopCounterMode(display=False) as all_rows:
        operator.materialise()
    assert calls == [(50, 6)] and one.get_total_flops() == 2 * 50 * m * 6
    assert all_rows.get_total_flops() == m * one.get_total_flops()


def test_constant_residual_has_a_zero_jacobian():
    operator = JacobianOperator(lambda y: torch.ones(2, 3), torch.zeros(2, 4))
    assert not operator.mv(torch.ones(2, 4)).any() and not operator.rmv(torch.ones(2, 3)).any()
    assert operator.materialise().shape == (2, 3, 4)


def test_partly_constant_residual():
    operator = JacobianOperator(lambda y: torch.cat([y[:, :1], torch.ones(2, 1)], -1), torch.zeros(2, 3))
    torch.testing.assert_close(operator.materialise(), torch.tensor([[[1.0, 0, 0], [0, 0, 0]]] * 2))
    torch.testing.assert_close(operator.mv(torch.ones(2, 3)), torch.tensor([[1.0, 0.0]] * 2))


def test_from_tape_serves_the_same():
    y = torch.randn(3, 5, requires_grad=True)
    W = torch.randn(4, 5)
    r = residual_of(W)(y)
    torch.testing.assert_close(
        JacobianOperator.from_tape(r, y).materialise(), JacobianOperator(residual_of(W), y).materialise()
    )
    assert not JacobianOperator.from_tape(r, y).value.requires_grad


@pytest.mark.parametrize("samples", [2, 3, 5, 16])
def test_coupling_of_a_single_pair_is_found(samples):
    for source in range(samples):
        target = (source + 1) % samples

        def leaky(y, source=source, target=target):
            mask = torch.zeros(samples, 1)
            mask[target] = 1e-6
            return y + mask * y[source]

        with pytest.raises(implayer.BatchCouplingError):
            JacobianOperator(leaky, torch.randn(samples, 2)).require_independent_samples()
    JacobianOperator(lambda y: y**2, torch.randn(samples, 2)).require_independent_samples()
    JacobianOperator(lambda y: y.sum(0, keepdim=True), torch.randn(1, 2)).require_independent_samples()
