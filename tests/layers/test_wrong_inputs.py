"""What `CvxpyLayer`, `ArgminLayer` and the eigen layers say of arguments that do not fit."""

import cvxpy as cp
import pytest
import torch

from implayer import (
    CvxpyLayer,
    EigenLayer,
    InteriorPoint,
    ProjectedEigenLayer,
    SingularLayer,
)
from implayer.errors import (
    DegenerateEigenvalueError,
    DtypeError,
    ImplayerError,
    NotConvexError,
    ShapeError,
    SolveError,
    UnboundedError,
)


def box(**options):
    x, c = cp.Variable(2, name="x"), cp.Parameter(2, name="c")
    return CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x >= 0]), [c], [x], **options)


# ------------------------------------------------------------------------------------------------------- CvxpyLayer
def test_what_is_no_problem_parameter_or_setting_is_refused():
    x, c = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)))
    with pytest.raises(TypeError, match="`problem` is a int"):
        CvxpyLayer(3, [c], [x])
    with pytest.raises(TypeError, match=r"`parameters` holds 'c'; expected objects of `cvxpy\.Parameter`"):
        CvxpyLayer(problem, ["c"], [x])
    with pytest.raises(TypeError, match="`variables` holds"):
        CvxpyLayer(problem, [c], [c])
    for name, value in (("eps", -1), ("eps", "a"), ("max_iters", 0), ("eps", float("nan"))):
        with pytest.raises(ValueError, match=f"`{name}` in `solver_args`"):
            box()(torch.ones(2), solver_args={name: value})
    with pytest.raises(DtypeError, match="`c` is sparse"):
        box()(torch.ones(2).to_sparse())


def test_messages_know_the_names_of_parameters_alone():
    with pytest.raises(SolveError, match=r"`c` is inf at index \[1\]"):
        box()(torch.tensor([1.0, torch.inf]))
    x, P = cp.Variable(2), cp.Parameter((2, 2), PSD=True)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.quad_form(x, P) - cp.sum(x))), [P], [x])
    with pytest.raises(NotConvexError, match="the quadratic form in the objective of sample 0"):
        layer(-torch.eye(2))


def test_a_linear_objective_without_constraints_is_unbounded():
    x, c = cp.Variable(2), cp.Parameter(2)
    with pytest.raises(UnboundedError):
        CvxpyLayer(cp.Problem(cp.Minimize(c @ x)), [c], [x])(torch.ones(2))


# ------------------------------------------------------------------------------------------------------ ArgminLayer
@pytest.mark.parametrize("wrong", [{"max_steps": 0}, {"atol": -1.0}, {"rtol": float("nan")}])
def test_settings_of_the_interior_point_method(wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` is"):
        InteriorPoint(**wrong)


# ------------------------------------------------------------------------------------------------------ eigen layers
def test_eigenpairs_of_what_has_none():
    with pytest.raises(ValueError, match="`k` is True"):
        EigenLayer(k=True)
    with pytest.raises(ValueError, match="`shift` is nan"):
        EigenLayer(which="nearest", shift=float("nan"))
    with pytest.raises(SolveError, match=r"`A` is inf at index \[0, 1\]"):
        EigenLayer()(torch.tensor([[1.0, torch.inf], [torch.inf, 1.0]]))
    with pytest.raises(ShapeError, match=r"returned shape \(2, 3\)"):
        EigenLayer()(lambda v: v[:2], start=torch.ones(3, 1))
    with pytest.raises(ImplayerError, match="NaN or infinity"):
        EigenLayer()(lambda v: v * torch.nan, start=torch.ones(3, 1))
    with pytest.raises(ShapeError, match="`start` has shape"):
        EigenLayer()(lambda v: v, start=torch.ones(3))


def test_singular_values_that_are_zero_have_no_vectors():
    M = torch.outer(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(SingularLayer()(M)[0], torch.tensor([5.0]))
    with pytest.raises(DegenerateEigenvalueError, match="singular value 1 of sample 0 is zero"):
        SingularLayer(2)(M)
    values, u, v = SingularLayer(2, on_failure="nan")(M)
    torch.testing.assert_close(values, torch.tensor([5.0, 0.0]))
    assert u[:, 1].isnan().all() and v[:, 1].isnan().all()
    torch.testing.assert_close(v[:, 0], torch.tensor([1.0, 0.0, 0.0]))


def test_matrices_of_singular_and_projected_pairs():
    with pytest.raises(SolveError, match=r"`M` is nan at index \[0, 2\]"):
        SingularLayer()(torch.tensor([[1.0, 2.0, torch.nan]]))
    with pytest.raises(ImplayerError, match="`C` holds NaN"):
        ProjectedEigenLayer()(torch.eye(3), torch.full((1, 3), torch.nan))
