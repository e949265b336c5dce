"""What LU, Cholesky, PseudoInverse and Diagonal promise together."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, vmap

from implayer.linear import LU, AbstractDenseInverse, Cholesky, Diagonal, PseudoInverse
from implayer.operators import MatrixOperator
from implayer.solution import Status

from .systems import batches, conditioned, near_identity, relative_error, right_hand_side, seeds, sizes, times

KINDS = {
    "lu": (LU(), "general"),
    "lu without estimate": (LU(estimate=False), "general"),
    "cholesky": (Cholesky(), "definite"),
    "cholesky of a negative definite J": (Cholesky(), "negative"),
    "qr": (PseudoInverse(), "general"),
    "svd": (PseudoInverse(cutoff=1e-13), "general"),
    "diagonal": (Diagonal(), "diagonal"),
}
every_kind = pytest.mark.parametrize("name", KINDS)


def system(name: str, seed: int, samples: int, n: int, condition: float = 100.0):
    solver, kind = KINDS[name]
    if kind == "diagonal":
        generator = torch.Generator().manual_seed(seed)
        matrix = torch.diag_embed(torch.randn(samples, n, generator=generator, dtype=torch.float64).exp())
    else:
        matrix = conditioned(seed, samples, n, condition, kind)
    return solver, matrix


@every_kind
@given(seed=seeds, samples=batches, n=sizes, exponent=st.floats(0, 6))
def test_solves_both_ways(name, seed, samples, n, exponent):
    condition = 10**exponent
    solver, matrix = system(name, seed, samples, n, condition)
    x, inverse = right_hand_side(seed, samples, n), solver.freeze(MatrixOperator(matrix))
    for found, report in (inverse.solve(times(matrix, x)), inverse.rsolve(times(matrix.mT, x))):
        assert relative_error(found, x) <= 1e-13 * condition
        assert report.status.tolist() == [Status.CONVERGED] * samples
        assert report.residual_norm.shape == report.steps.shape == (samples,)
        assert (report.residual_norm <= 1e-12).all()


@every_kind
def test_reports_the_residual_of_its_answer(name):
    solver, matrix = system(name, 3, 4, 6)
    inverse = solver.freeze(MatrixOperator(matrix))
    b = right_hand_side(3, 4, 6)
    x, report = inverse.solve(b)
    assert torch.allclose(report.residual_norm, (b - times(matrix, x)).norm(dim=-1), atol=1e-14)
    wrong = inverse.with_tensors(tuple(t * 2 if t.is_floating_point() else t for t in inverse.tensors))
    assert isinstance(wrong, type(inverse))
    x, report = wrong.solve(b)
    product = times(2 * matrix, x)
    assert torch.allclose(report.residual_norm, (b - product).norm(dim=-1), rtol=1e-10)


@every_kind
@pytest.mark.parametrize("transposed", [False, True])
def test_derivatives_in_b_in_every_mode(name, transposed):
    solver, matrix = system(name, 1, 3, 4)
    inverse = solver.freeze(MatrixOperator(matrix))
    exact = torch.linalg.inv(matrix.mT if transposed else matrix)
    apply = inverse.apply_transposed if transposed else inverse.apply
    b = right_hand_side(1, 3, 4)

    def loss(apply):
        return lambda b: (apply(torch.sin(b)) ** 3).sum()

    ours, reference = loss(apply), loss(lambda b: times(exact, b))
    scale = float(hessian(reference)(b).abs().max())
    modes = (
        grad,
        jacfwd,
        hessian,
        lambda f: jacfwd(grad(f)),
        lambda f: jacrev(jacfwd(f)),
        lambda f: jacfwd(jacfwd(f)),
        lambda f: jacrev(jacrev(f)),
    )
    for mode in modes:
        assert torch.allclose(mode(ours)(b), mode(reference)(b), atol=1e-11 * scale)
    many = right_hand_side(2, 15, 4).reshape(5, 3, 4)
    assert torch.allclose(vmap(apply)(many), times(exact, many), atol=1e-11 * scale)
    assert torch.allclose(vmap(grad(ours))(many), vmap(grad(reference))(many), atol=1e-10 * scale)
    assert torch.allclose(vmap(hessian(ours))(many), vmap(hessian(reference))(many), atol=1e-10 * scale)
    assert torch.autograd.gradcheck(apply, (b.clone().requires_grad_(),), check_forward_ad=True)


@every_kind
def test_vmap_over_the_factor_with_and_without_b(name):
    solver, matrix = system(name, 5, 6, 4)
    inverse = solver.freeze(MatrixOperator(matrix))
    assert isinstance(inverse, AbstractDenseInverse)
    assert all(len(t) == 6 for t in inverse.tensors)
    b = right_hand_side(5, 6, 4)
    folded = tuple(t.reshape(2, 3, *t.shape[1:]) for t in inverse.tensors)

    def one(tensors, b):
        return inverse.with_tensors(tensors).apply(b)

    exact = times(torch.linalg.inv(matrix), b).reshape(2, 3, 4)
    both = vmap(one)(folded, b.reshape(2, 3, 4))
    assert relative_error(both, exact) < 1e-10
    alone = vmap(one, in_dims=(0, None))(folded, b[:3])
    assert relative_error(alone[0], exact[0]) < 1e-10


BAD = {
    "zero": torch.zeros(3, 3),
    "rank one": torch.ones(3, 3),
    "zero row": torch.diag(torch.tensor([1.0, 0.0, 2.0])),
    "nan": torch.full((3, 3), math.nan),
    "one nan": torch.eye(3).index_put((torch.tensor(1), torch.tensor(1)), torch.tensor(math.nan)),
    "infinite": torch.diag(torch.tensor([1.0, math.inf, 2.0])),
}


@pytest.mark.parametrize("bad", BAD)
@every_kind
def test_a_singular_sample_is_flagged_and_disturbs_nobody(name, bad):
    solver, matrix = system(name, 2, 3, 3)
    if name == "diagonal" and bad == "rank one":
        pytest.skip("not a diagonal matrix")
    whole = matrix.clone()
    whole[1] = BAD[bad].double()
    b = right_hand_side(2, 3, 3)
    inverse = solver.freeze(MatrixOperator(whole))
    alone = solver.freeze(MatrixOperator(matrix[[0, 2]]))
    assert inverse.singular is not None
    minimal = name == "svd" and not ("nan" in bad or bad == "infinite")
    assert inverse.singular.tolist() == [False, not minimal, False]
    for ours, theirs in ((inverse.solve, alone.solve), (inverse.rsolve, alone.rsolve)):
        (x, report), (expected, _) = ours(b), theirs(b[[0, 2]])
        assert relative_error(x[[0, 2]], expected) < 1e-13
        assert torch.isfinite(x).all()
        assert minimal or report.status.tolist() == [Status.CONVERGED, Status.SINGULAR, Status.CONVERGED]
    assert all(torch.isfinite(t).all() for t in inverse.tensors[:2])


@every_kind
@pytest.mark.parametrize("scale", [1e-12, 1e-200, 1e200])
def test_homogeneous_in_b(name, scale):
    solver, matrix = system(name, 7, 3, 5)
    inverse, b = solver.freeze(MatrixOperator(matrix)), right_hand_side(7, 3, 5)
    assert relative_error(inverse.rsolve(b * scale)[0] / scale, inverse.rsolve(b)[0]) < 1e-12


@every_kind
def test_float32_and_half_precision(name):
    solver, matrix = system(name, 8, 3, 5, 10.0)
    exact = times(torch.linalg.inv(matrix), right_hand_side(8, 3, 5))
    for dtype, bar in ((torch.float32, 1e-5), (torch.bfloat16, 0.2)):
        x, report = solver.freeze(MatrixOperator(matrix.to(dtype))).solve(right_hand_side(8, 3, 5).to(dtype))
        assert x.dtype == dtype
        assert relative_error(x.double(), exact) < bar
        assert (report.status == Status.CONVERGED).all()


def test_nan_in_b_is_reported_for_its_sample_alone():
    b = right_hand_side(0, 3, 4)
    b[1, 2] = math.nan
    _, report = LU().freeze(MatrixOperator(near_identity(0, 3, 4))).solve(b)
    assert report.status.tolist() == [Status.CONVERGED, Status.NONFINITE, Status.CONVERGED]


@pytest.mark.parametrize("solver", [LU(), Cholesky(), Diagonal()])
def test_rectangular_is_refused_with_a_remedy(solver):
    with pytest.raises(ValueError, match=r"2 rows for 3 unknowns.*PseudoInverse"):
        solver.freeze(MatrixOperator(torch.ones(1, 2, 3)))


def no_unknowns() -> Tensor:
    return torch.zeros(2, 0, 0)


@pytest.mark.parametrize("solver", [LU(), Cholesky(), PseudoInverse(), PseudoInverse(1e-12), Diagonal()])
def test_no_unknowns(solver):
    x, report = solver.freeze(MatrixOperator(no_unknowns())).solve(torch.zeros(2, 0))
    assert x.shape == (2, 0)
    assert report.residual_norm.tolist() == [0.0, 0.0]
