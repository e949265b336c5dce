"""What CG, MINRES, GMRES, BiCGSTAB and LSMR promise together."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from implayer.linear import CG, GMRES, LSMR, LU, MINRES, BiCGSTAB
from implayer.operators import JacobianOperator, MatrixOperator
from implayer.solution import Status

from .systems import (
    CountingOperator,
    batches,
    conditioned,
    near_identity,
    relative_error,
    right_hand_side,
    seeds,
    tanh_operator,
    times,
)

METHODS = {
    "cg": (CG, "definite"),
    "cg negative": (CG, "negative"),
    "minres": (MINRES, "indefinite"),
    "gmres": (GMRES, "near identity"),
    "gmres restarted": (lambda **options: GMRES(restart=5, **options), "near identity"),
    "bicgstab": (BiCGSTAB, "near identity"),
    "lsmr": (LSMR, "general"),
}
every_method = pytest.mark.parametrize("name", METHODS)


def system(name, seed, samples, n, condition=10.0, **options):
    make, kind = METHODS[name]
    if kind == "near identity":
        return make(**options), near_identity(seed, samples, n, 0.3)
    return make(**options), conditioned(seed, samples, n, condition, kind)


def diagonal_preconditioner(operator):
    diagonal = torch.einsum("bii->bi", operator.materialise())
    return lambda v: v / diagonal


@every_method
@given(seed=seeds, samples=batches, n=st.integers(1, 40))
def test_solves_both_ways_to_the_tolerance_it_reports(name, seed, samples, n):
    solver, matrix = system(name, seed, samples, n)
    b, inverse = right_hand_side(seed, samples, n), solver.freeze(MatrixOperator(matrix))
    for (x, report), a in ((inverse.solve(b), matrix), (inverse.rsolve(b), matrix.mT)):
        true = (b - times(a, x)).norm(dim=-1)
        assert torch.allclose(report.residual_norm, true, atol=1e-13, rtol=1e-6)
        assert report.status.tolist() == [Status.CONVERGED] * samples
        assert (true <= 1e-9 * b.norm(dim=-1) * (1 + 1e-6)).all()
        assert relative_error(x, times(torch.linalg.inv(a), b)) < 1e-7


@every_method
@pytest.mark.parametrize("scale", [1e-12, 1e-200, 1e200])
def test_a_gradient_scaled_by_anything_is_as_exact(name, scale):
    solver, matrix = system(name, 1, 4, 20)
    b, inverse = right_hand_side(1, 4, 20), solver.freeze(MatrixOperator(matrix))
    (x, report), (scaled, _) = inverse.rsolve(b), inverse.rsolve(b * scale)
    assert relative_error(scaled / scale, x) < 1e-6
    exact = times(torch.linalg.inv(matrix.mT), b)
    assert relative_error(scaled / scale, exact) < 1e-7
    assert (report.steps > 1).all()


@every_method
def test_zero_gives_zero_in_no_step(name):
    solver, matrix = system(name, 1, 3, 5)
    b = right_hand_side(1, 3, 5)
    b[1] = 0
    x, report = solver.freeze(MatrixOperator(matrix)).solve(b)
    assert x[1].tolist() == [0.0] * 5
    assert report.steps[1] == 0
    assert report.status[1] == Status.CONVERGED
    assert report.steps[0] > 0


@every_method
def test_an_early_stop_is_reported_with_its_true_residual(name):
    solver, matrix = system(name, 2, 3, 30, condition=1e3, max_steps=3)
    b = right_hand_side(2, 3, 30)
    x, report = solver.freeze(MatrixOperator(matrix)).rsolve(b)
    assert report.status.tolist() == [Status.MAX_STEPS] * 3
    assert torch.allclose(report.residual_norm, (b - times(matrix.mT, x)).norm(dim=-1))
    assert (report.residual_norm > 1e-6).all()
    assert (report.residual_norm <= b.norm(dim=-1) * (1 + 1e-12)).all()
    assert (report.steps == 3).all()


@every_method
@pytest.mark.parametrize("bad", ["zero", "nan", "nan in b", "infinite"])
def test_a_bad_sample_is_flagged_and_disturbs_nobody(name, bad):
    solver, matrix = system(name, 3, 3, 8)
    whole, b = matrix.clone(), right_hand_side(3, 3, 8)
    alone = solver.freeze(MatrixOperator(matrix[[0, 2]])).rsolve(b[[0, 2]])
    if bad == "nan in b":
        b[1, 4] = math.nan
    else:
        whole[1] = {"zero": 0.0, "nan": math.nan, "infinite": math.inf}[bad]
    x, report = solver.freeze(MatrixOperator(whole)).rsolve(b)
    assert relative_error(x[[0, 2]], alone[0]) < 1e-12
    assert report.steps[[0, 2]].tolist() == alone[1].steps.tolist()
    assert report.status[[0, 2]].tolist() == [Status.CONVERGED] * 2
    least_squares = name == "lsmr" and bad == "zero"  # zero is the minimal-norm answer of J = 0
    assert least_squares or report.status[1] != Status.CONVERGED
    if bad != "zero":
        assert report.status[1] == Status.NONFINITE
    if bad != "nan in b":
        assert torch.isfinite(x).all()


@every_method
def test_float32(name):
    solver, matrix = system(name, 4, 3, 20)
    b = right_hand_side(4, 3, 20)
    x, report = solver.freeze(MatrixOperator(matrix.float())).solve(b.float())
    assert x.dtype == report.residual_norm.dtype == torch.float32
    assert report.status.tolist() == [Status.CONVERGED] * 3
    assert relative_error(x.double(), times(torch.linalg.inv(matrix), b)) < 1e-3


@every_method
def test_tolerance_below_rounding_ends_at_the_floor(name):
    solver, matrix = system(name, 5, 3, 15, rtol=1e-18)
    b = right_hand_side(5, 3, 15)
    x, report = solver.freeze(MatrixOperator(matrix)).solve(b)
    assert report.status.tolist() == [Status.CONVERGED] * 3
    assert relative_error(x, times(torch.linalg.inv(matrix), b)) < 1e-12


@every_method
def test_absolute_tolerance_only_loosens_and_never_below_b(name):
    loose, matrix = system(name, 6, 2, 20, atol=1e-3)
    tight, _ = system(name, 6, 2, 20, rtol=1e-12)
    b = right_hand_side(6, 2, 20)
    few = loose.freeze(MatrixOperator(matrix)).solve(b)[1]
    many = tight.freeze(MatrixOperator(matrix)).solve(b)[1]
    assert (few.steps < many.steps).all()
    tiny = loose.freeze(MatrixOperator(matrix)).solve(1e-9 * b)[0]
    assert relative_error(tiny, 1e-9 * times(torch.linalg.inv(matrix), b)) < 0.1


@every_method
def test_jacobian_by_products_and_a_start(name):
    if name in ("cg", "cg negative", "minres"):
        pytest.skip("the Jacobian is not symmetric")
    operator, matrix = tanh_operator(0, 4, 12)
    c = right_hand_side(0, 4, 12)
    exact = times(torch.linalg.inv(matrix.mT), c)
    solver, _ = system(name, 0, 4, 12)
    x, report = solver.freeze(operator).rsolve(c)
    assert relative_error(x, exact) < 1e-7
    warm, _ = system(name, 0, 4, 12, initial=lambda c: exact + 1e-6)
    assert (warm.freeze(operator).rsolve(c)[1].steps < report.steps).all()
    bad, _ = system(name, 0, 4, 12, initial=lambda c: torch.full_like(c, math.nan))
    assert torch.equal(bad.freeze(operator).rsolve(c)[0], x)


@pytest.mark.parametrize("make", [GMRES, BiCGSTAB])
def test_transposed_solves_need_transposed_products_only(make):
    operator = CountingOperator(near_identity(0, 3, 20))
    _, report = make().freeze(operator).rsolve(right_hand_side(0, 3, 20))
    steps = int(report.steps.max())
    each = 1 if make is GMRES else 2
    assert operator.products == {"mv": 0, "rmv": each * steps + 1, "materialise": 0}  # one for the true residual


@pytest.mark.parametrize("name", ["cg", "minres", "gmres", "bicgstab"])
def test_preconditioner_for_both_ways(name):
    scale = torch.logspace(0, 4, 30)
    root = scale.sqrt()
    if name in ("cg", "minres"):
        matrix = conditioned(1, 3, 30, 3.0, "definite")
        matrix = root.unsqueeze(-1) * matrix * root
    else:
        matrix = scale.unsqueeze(-1) * near_identity(1, 3, 30, 0.3)
    b = right_hand_side(1, 3, 30)
    plain = METHODS[name][0](max_steps=400).freeze(MatrixOperator(matrix))
    helped = METHODS[name][0](max_steps=400, preconditioner=diagonal_preconditioner).freeze(MatrixOperator(matrix))
    for way in ("solve", "rsolve"):
        x, report = getattr(helped, way)(b)
        a = matrix if way == "solve" else matrix.mT
        assert relative_error(x, times(torch.linalg.inv(a), b)) < 1e-6
        assert report.status.tolist() == [Status.CONVERGED] * 3
        assert int(report.steps.max()) < int(getattr(plain, way)(b)[1].steps.max())


def test_a_factor_as_preconditioner_converges_at_once():
    matrix = near_identity(0, 3, 20)

    def preconditioner(operator):
        return LU().freeze(operator).apply

    x, report = GMRES(preconditioner=preconditioner).freeze(MatrixOperator(matrix)).rsolve(right_hand_side(0, 3, 20))
    assert report.steps.tolist() == [1, 1, 1]
    assert relative_error(x, times(torch.linalg.inv(matrix.mT), right_hand_side(0, 3, 20))) < 1e-12


def test_cg_flags_an_indefinite_sample():
    matrix = torch.stack([torch.diag(torch.tensor([1.0, 2.0])), torch.diag(torch.tensor([1.0, -1.0]))])
    b = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    x, report = CG().freeze(MatrixOperator(matrix)).solve(b)
    assert report.status.tolist() == [Status.CONVERGED, Status.MAX_STEPS]
    assert torch.allclose(report.residual_norm[1], (b - times(matrix, x))[1].norm())


def test_minres_never_calls_an_unsymmetric_system_solved():
    matrix, b = near_identity(0, 2, 20, 0.9), right_hand_side(0, 2, 20)
    x, report = MINRES().freeze(MatrixOperator(matrix)).solve(b)
    true = (b - times(matrix, x)).norm(dim=-1)
    assert torch.allclose(report.residual_norm, true)
    assert ((report.status == Status.CONVERGED) == (true <= 1e-9 * b.norm(dim=-1))).all()


@given(seed=seeds, n=st.integers(1, 20), exponent=st.floats(0, 4))
def test_gmres_needs_at_most_as_many_steps_as_unknowns(seed, n, exponent):
    matrix, b = conditioned(seed, 2, n, 10**exponent), right_hand_side(seed, 2, n)
    x, report = GMRES().freeze(MatrixOperator(matrix)).solve(b)
    assert (report.steps <= n + 1).all()
    assert (report.status == Status.CONVERGED).all()
    assert ((b - times(matrix, x)).norm(dim=-1) <= 1.01e-9 * b.norm(dim=-1)).all()


def test_gmres_happy_and_unhappy_breakdown():
    rotation = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])  # no progress in the first step, all of it in the second
    nilpotent = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    matrix = torch.stack([torch.eye(2), rotation, nilpotent])
    b = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    x, report = GMRES().freeze(MatrixOperator(matrix)).solve(b)
    assert report.steps[:2].tolist() == [1, 2]
    assert report.status.tolist() == [Status.CONVERGED, Status.CONVERGED, Status.SINGULAR]
    assert torch.allclose(x[:2], torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert report.residual_norm[2] == 1


def test_bicgstab_starts_again_after_a_breakdown():
    matrix = torch.tensor([[[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.1, 0.2]]])  # <r0, A r0> = 0 for r0 = e_1
    b = torch.tensor([[1.0, 0.0, 0.0]])
    x, report = BiCGSTAB().freeze(MatrixOperator(matrix)).solve(b)
    assert torch.allclose(report.residual_norm, (b - times(matrix, x)).norm(dim=-1), atol=1e-12)
    assert report.status.tolist() == [Status.CONVERGED]


def test_lsmr_costs_two_products_a_step():
    operator = CountingOperator(near_identity(0, 3, 20))
    _, report = LSMR().freeze(operator).rsolve(right_hand_side(0, 3, 20))
    steps = int(report.steps.max())  # beyond them: the start, and the residuals at the end; one cycle is enough
    assert operator.products == {"mv": steps + 3, "rmv": steps + 1, "materialise": 0}


@pytest.mark.parametrize("solver", [CG(), MINRES(), GMRES(), BiCGSTAB()])
def test_rectangular_is_refused_with_a_remedy(solver):
    with pytest.raises(ValueError, match=r"2 rows for 3 unknowns.*LSMR"):
        solver.freeze(MatrixOperator(torch.ones(1, 2, 3)))


@pytest.mark.parametrize("solver", [CG(), MINRES(), GMRES(), BiCGSTAB(), LSMR()])
def test_no_unknowns_and_no_samples(solver):
    for shape in ((2, 0), (0, 3)):
        matrix = torch.zeros(*shape, shape[1])
        assert solver.freeze(MatrixOperator(matrix)).rsolve(torch.zeros(shape))[0].shape == shape


@pytest.mark.parametrize("solver", [GMRES(), BiCGSTAB(), LSMR()])
def test_a_million_unknowns(solver):
    y = torch.linspace(-1, 1, 10**6).unsqueeze(0)
    operator = JacobianOperator(lambda y: y + 0.2 * torch.tanh(y + torch.roll(y, 1, -1)), y)
    c = torch.cos(7 * y)
    x, report = solver.freeze(operator).rsolve(c)
    assert report.status.tolist() == [Status.CONVERGED]
    assert float((c - operator.rmv(x)).norm()) <= 1e-9 * float(c.norm())
