"""Our layers against closed forms, at the bars: 1e-9 dense, 1e-6 Krylov, 1e-7 second order, 1e-4 float32."""

from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

import implayer
from implayer.verify import catalogue

I = implayer  # noqa: E741
TIGHT: dict[str, Any] = {"atol": 1e-12, "rtol": 1e-12}

ROOT_SOLVERS = {
    "Newton": (I.Newton(), {"root"}),
    "Broyden": (I.Broyden(**TIGHT), {"root"}),
    "LevenbergMarquardt": (I.LevenbergMarquardt(), {"root"}),
    "ScipyRoot": (I.ScipyRoot(), {"root"}),
    "Anderson": (I.Anderson(**TIGHT), {"fixed point"}),
    "Picard": (I.Picard(**TIGHT), {"fixed point"}),
    "Bisection": (None, {"scalar"}),
    "LevenbergMarquardt, least squares": (I.LevenbergMarquardt(), {"tall"}),
    "Newton, fewer equations": (I.Newton(), {"wide"}),
}
DENSE = {
    "Auto": (I.Auto(), set()),
    "LU": (I.LU(), {"root"}),
    "Cholesky": (I.Cholesky(), {"definite"}),
}
KRYLOV = {
    "GMRES": (I.GMRES(rtol=1e-8, atol=1e-8), {"root"}),
    "BiCGSTAB": (I.BiCGSTAB(rtol=1e-8, atol=1e-8), {"root"}),
    "LSMR": (I.LSMR(rtol=1e-8, atol=1e-8), {"root"}),
    "CG": (I.CG(rtol=1e-8, atol=1e-8), {"definite"}),
    "MINRES": (I.MINRES(rtol=1e-8, atol=1e-8), {"symmetric"}),
    "Neumann": (I.Neumann(terms=100), {"fixed point"}),
}


def table(solver_name: str, linear_solver, kinds: set[str], **options) -> catalogue.Table:
    solver, own = ROOT_SOLVERS[solver_name]

    def factory(entry: catalogue.Entry):
        if not (own | kinds) <= entry.kinds:
            return None
        chosen = I.Bisection(*(entry.bracket or (0.0, 1.0))) if solver is None else solver
        adjoint = I.ImplicitAdjoint(linear_solver=linear_solver)
        return I.ImplicitLayer(entry.F, chosen, adjoint=adjoint, initial=entry.initial, event_ndim=entry.event_ndim)

    return catalogue.run(factory, **options)


@pytest.mark.parametrize("linear", DENSE)
@pytest.mark.parametrize("solver", ROOT_SOLVERS)
def test_dense(solver: str, linear: str):
    found = table(solver, *DENSE[linear])
    if not found.rows:
        pytest.skip("no entry has all these kinds")
    for row in found.rows:
        assert row.gradient_error <= 1e-9 and row.value_error <= 1e-8, str(found)
        assert row.second_error <= 1e-7, str(found)


@pytest.mark.parametrize("linear", KRYLOV)
@pytest.mark.parametrize("solver", ["Newton", "Broyden", "Anderson", "Bisection"])
def test_krylov(solver: str, linear: str):
    found = table(solver, *KRYLOV[linear], second=False)
    if not found.rows:
        pytest.skip("no entry has all these kinds")
    for row in found.rows:
        if linear == "BiCGSTAB" and row.name == "circle and hyperbola" and "AdjointError" in row.note:
            continue  # it may break down where J has zeros on its diagonal, and says so
        assert row.gradient_error <= 1e-6, str(found)


@pytest.mark.parametrize("solver", [name for name in ROOT_SOLVERS if name not in ("Broyden", "Anderson", "Picard")])
def test_float32(solver: str):
    found = table(solver, I.Auto(), set(), dtype=torch.float32, second=False)
    assert found.rows and all(row.gradient_error <= 1e-4 for row in found.rows), str(found)


def test_float32_fixed_points():
    for solver in (I.Anderson(), I.Picard()):
        found = catalogue.run(
            lambda e, s=solver: I.ImplicitLayer(e.F, s, initial=e.initial, event_ndim=e.event_ndim)
            if "fixed point" in e.kinds else None,
            dtype=torch.float32, second=False,
        )  # fmt: skip
        assert len(found.rows) == 2 and all(row.gradient_error <= 1e-4 for row in found.rows), str(found)


@pytest.mark.parametrize("adjoint", [I.UnrolledAdjoint()])
def test_unrolled(adjoint):
    for entry in catalogue.entries("fixed point"):
        layer = I.ImplicitLayer(
            entry.F, I.Picard(**TIGHT), adjoint=adjoint, initial=entry.initial, event_ndim=entry.event_ndim
        )
        row = catalogue.run(lambda e, w=layer, n=entry.name: w if e.name == n else None).rows[0]
        assert row.gradient_error <= 1e-9 and row.second_error <= 1e-7, row


# ------------------------------------------------------------------------------------------- the formulas themselves
@pytest.mark.parametrize("entry", catalogue.ENTRIES, ids=lambda entry: entry.name)
def test_value_solves_the_equation(entry: catalogue.Entry):
    x = entry.example(torch.float64)
    y = entry.value(x)
    if "tall" in entry.kinds:
        r, pull = torch.func.vjp(lambda y: entry.F(x, y), y)[:2]
        assert float(pull(r)[0].abs().max()) < 1e-12
        return
    for leaf in tree_leaves(entry.F(x, y)):
        assert float(leaf.abs().max()) < 1e-12


@pytest.mark.parametrize("entry", catalogue.ENTRIES, ids=lambda entry: entry.name)
def test_formulas_equal_finite_differences(entry: catalogue.Entry):
    x = entry.example(torch.float64)
    basis = list(catalogue._basis(x))
    h = 1e-5

    def moved(u, t):
        return tree_map(lambda a, d: a + t * d, x, u)

    def pack(y):
        return entry._pack(y)

    if "wide" not in entry.kinds:  # where many y solve the equation, that of other x is another branch
        columns = [(pack(entry.value(moved(u, h))) - pack(entry.value(moved(u, -h)))) / (2 * h) for u in basis]
        torch.testing.assert_close(entry.jacobian(x), torch.stack(columns, -1), rtol=1e-7, atol=1e-8)
        assert entry.curvature is not None
        seconds = [(entry.jacobian(moved(u, h)) - entry.jacobian(moved(u, -h))) / (2 * h) for u in basis]
        torch.testing.assert_close(entry.hessian(x), torch.stack(seconds, -1), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(entry.hessian(x), entry.hessian(x).mT)


def test_papers_point():
    entry = next(entry for entry in catalogue.ENTRIES if entry.name == "circle and hyperbola")
    x = torch.ones(1, 1)
    torch.testing.assert_close(entry.value(x), torch.tensor([[1.0, 2**0.5]]))
    torch.testing.assert_close(entry.jacobian(x), torch.tensor([[[-1.0], [0.0]]]))


def test_table_shows_errors_of_layers():
    found = catalogue.run(
        lambda e: I.ImplicitLayer(e.F, I.Newton(max_steps=1), initial=e.initial), only=("square root",)
    )
    assert "SolveError" in str(found) and "square root" in str(found)


def test_a_wrong_gradient_shows():
    found = catalogue.run(
        lambda e: lambda x: torch.sqrt(x) + 0.1 * (x - x.detach()), only=("square root",), second=False
    )
    assert found.rows[0].value_error < 1e-12 < 1e-2 < found.rows[0].gradient_error
