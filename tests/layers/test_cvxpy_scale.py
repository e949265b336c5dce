"""CvxpyLayer on data of very different sizes, and the units in which it is solved."""

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch.func import jacrev, vmap

from implayer.layers.cone_program import ConeData, Pattern
from implayer.layers.cones import Cones
from implayer.layers.cvxpy_layer import CvxpyLayer
from implayer.problem import Problem
from implayer.solution import Status
from implayer.solvers import conic


def in_a_ball():
    """min c'x over A x <= b in the ball of radius 2."""
    x, A, b, c = cp.Variable(3), cp.Parameter((4, 3)), cp.Parameter(4), cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(c @ x), [A @ x <= b, cp.norm(x) <= 2])
    torch.manual_seed(3)
    return CvxpyLayer(problem, [A, b, c], [x]), torch.randn(4, 3), torch.rand(4), torch.randn(3)


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_rows_of_any_size_have_the_gradients_of_rows_of_size_one(size):
    layer, A, b, c = in_a_ball()
    scale = torch.tensor([size, 1.0, 1.0, 1 / size])
    weight = torch.randn(3)
    results = []
    for factor in (torch.ones(4), scale):
        leaves = [
            (A * factor.unsqueeze(-1)).requires_grad_(),
            (b * factor).requires_grad_(),
            c.clone().requires_grad_(),
        ]
        solution = layer.solve(*leaves)
        assert solution.status == Status.CONVERGED
        y, multipliers = solution.value[0], solution.aux["multipliers"][:4]
        g = torch.autograd.grad((y * weight).sum(), leaves)
        results.append((y, multipliers * factor, g[0] * factor.unsqueeze(-1), g[1] * factor, g[2]))
    for found, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(found, expected, atol=1e-8, rtol=1e-8)


def test_columns_of_any_size():
    """|A x - b| with the unknowns in other units: x = y / d."""
    x, A, b = cp.Variable(2), cp.Parameter((3, 2)), cp.Parameter(3)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.norm(A @ x - b)), [cp.sum(A @ x) <= 0.1]), [A, b], [x])
    A0, b0, d = torch.randn(3, 2), torch.randn(3), torch.tensor([1e-4, 1e4])
    y, expected = layer(A0, b0)[0], jacrev(lambda A, b: layer(A, b)[0], (0, 1))(A0, b0)
    found = jacrev(lambda A, b: layer(A, b)[0], (0, 1))(A0 * d, b0)
    torch.testing.assert_close(layer(A0 * d, b0)[0] * d, y, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(found[0] * d * d.reshape(2, 1, 1), expected[0], atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(found[1] * d.reshape(2, 1), expected[1], atol=1e-8, rtol=1e-8)


def test_uneven_rows_under_vmap():
    layer, A, b, c = in_a_ball()
    scale = torch.tensor([1e-6, 1.0, 1.0, 1e6])
    many = torch.stack([b, b + 0.1, b + 0.2]) * scale
    found = vmap(jacrev(lambda b: layer(A * scale.unsqueeze(-1), b, c)[0]))(many)
    for i in range(3):
        alone = jacrev(lambda b: layer(A, b, c)[0])(many[i] / scale)
        torch.testing.assert_close(found[i] * scale, alone, atol=1e-8, rtol=1e-8)


def test_what_is_not_solved_is_not_called_degenerate(monkeypatch):
    """A rough answer that Newton's method does not better, on a kink: no mere warning."""
    x, c = cp.Variable(2), cp.Parameter(2)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.norm(x - c)), [x[0] >= 0]), [c], [x])
    monkeypatch.setattr(conic, "_ROUNDS", 0)
    program, solver = layer.canonical.program, layer._inner.forward_solver
    data = ConeData(*layer.canonical.data([torch.tensor([1.0, 2.0])], [False]))
    monkeypatch.setattr(type(solver), "_solve", lambda *_: conic.Answer(*_rough(program), Status.CONVERGED, 1))
    solution = solver(Problem(program, data, None))
    assert solution.status == Status.MAX_STEPS


def _rough(program):
    m = program.cones.size
    return np.ones(program.n), np.zeros(m), np.zeros(m)  # v = 0: on the kinks of all cones


def test_owners_of_the_rows():
    assert Cones(zero=1, nonneg=2, soc=(3,), psd=(2,), exp=1).owners.tolist() == [0, 1, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5]


@pytest.mark.parametrize("rows", [[0, 1, 0, 1], [1, 0, 1, 0]])
def test_full_patterns_in_any_order(rows):
    columns, values = torch.tensor([0, 0, 1, 1]), torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    dense = Pattern(torch.tensor(rows), columns, (2, 2)).dense(values)
    assert all(dense[0, i, j] == v for i, j, v in zip(rows, columns.tolist(), values[0].tolist(), strict=True))
