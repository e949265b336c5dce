"""Minimisations that turn out to be quadratic programs: by the active-set method, and what is not one is found out."""

import pytest
import torch

from implayer import ArgminLayer, QPLayer
from implayer.solution import Status
from implayer.solvers import interior_point, quadratic_answer
from implayer.verify.planted import planted


def mv(matrix, y):
    return (y.unsqueeze(-2) @ matrix.mT).squeeze(-2)


def program(**options):
    return ArgminLayer(
        lambda x, y: (y * mv(x["Q"], y)).sum(-1) / 2 + (x["q"] * y).sum(-1),
        equality=lambda x, y: mv(x["A"], y) - x["b"],
        inequality=lambda x, y: mv(x["G"], y) - x["h"],
        initial=lambda x: torch.ones_like(x["q"]),
        **options,
    )


def never(*args):
    raise AssertionError("the interior point method is not needed")


@pytest.mark.parametrize("method", ["active set", "interior point"])
def test_the_answer_is_that_of_the_qp_layer(method, monkeypatch):
    if method == "active set":
        monkeypatch.setattr(interior_point, "_Run", never)
    else:
        monkeypatch.setattr(quadratic_answer, "daqp", lambda: None)
    x = {name: value.requires_grad_() for name, value in planted(3, 6, 2, 4).given.items()}
    found = program().solve(x)
    expected = QPLayer().solve(**x)
    results = []
    for solution in (found, expected):
        parts = (solution.value, solution.aux["equality_multipliers"], solution.aux["inequality_multipliers"])
        total = sum((part + k).sin().sum() for k, part in enumerate(parts))
        results.append((*parts, *torch.autograd.grad(total, list(x.values()))))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


def test_an_infeasible_sample_beside_others():
    x = planted(3, 6, 2, 4).given
    x["G"][1, 1], x["h"][1, 1] = -x["G"][1, 0], -x["h"][1, 0] - 1  # g y <= h and g y >= h + 1
    solution = program(on_failure="ignore").solve(x)
    assert solution.status.tolist() == [Status.CONVERGED, Status.INFEASIBLE, Status.CONVERGED]
    torch.testing.assert_close(solution.value[::2], QPLayer()(**{name: t[::2] for name, t in x.items()}))


def test_an_objective_that_only_looks_quadratic_at_the_start():
    """y^2 / 2 + y^4 - c y has the third derivative zero at y = 0, and the quadratic answer y = c is far away."""
    c = torch.tensor([[1e8], [1.0]])
    layer = ArgminLayer(lambda c, y: (y**2 / 2 + y**4 - c * y).sum(-1), initial=torch.zeros_like)
    y = layer(c)
    torch.testing.assert_close(y + 4 * y**3, c, atol=0, rtol=1e-10)
