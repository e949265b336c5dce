"""The policies of `on_failure`, and what the messages say."""

import itertools
import os
import warnings

import jaxtyping
import pytest
import torch

import implayer
from implayer import causes
from implayer.failures import enforce, warn_ill_conditioned

S = implayer.Status
PROBLEM = implayer.Problem(lambda x, y: y - x, torch.ones(4, 1), torch.ones(4, 1))


def solution(*statuses, **fields):
    count = len(statuses)
    return implayer.Solution(
        torch.zeros(count, 1),
        torch.tensor([int(s) for s in statuses]),
        torch.ones(count),
        torch.full((count,), 9),
        **fields,
    )


@pytest.mark.parametrize(
    ("statuses", "kind"),
    [
        ([S.MAX_STEPS, S.CONVERGED], implayer.SolveError),
        ([S.NONFINITE, S.NONFINITE], implayer.SolveError),
        ([S.SINGULAR, S.CONVERGED], implayer.SingularJacobianError),
        ([S.SINGULAR, S.DEGENERATE], implayer.SingularJacobianError),
        ([S.SINGULAR, S.MAX_STEPS], implayer.SolveError),
    ],
)
@pytest.mark.filterwarnings("ignore::implayer.DegenerateWarning")
def test_kind_of_the_error(statuses, kind):
    with pytest.raises(implayer.SolveError) as caught:
        enforce(solution(*statuses), "raise", "Newton", PROBLEM)
    assert type(caught.value) is kind and caught.value.solution.status.tolist() == [int(s) for s in statuses]


def test_success_is_silent():
    for policy in ("raise", "warn", "nan", "ignore"):
        enforce(solution(S.CONVERGED, S.CONVERGED), policy, "Newton", PROBLEM)


@pytest.mark.parametrize("policy", ["raise", "warn", "nan"])
def test_degenerate_is_a_warning_and_no_failure(policy):
    with pytest.warns(implayer.DegenerateWarning, match="one-sided or not unique"):
        enforce(solution(S.DEGENERATE, S.CONVERGED), policy, "QP", PROBLEM)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        enforce(solution(S.DEGENERATE, S.CONVERGED), "ignore", "QP", PROBLEM)


@pytest.mark.parametrize("policy", ["nan", "ignore"])
def test_quiet_policies(policy):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        enforce(solution(S.MAX_STEPS, S.NONFINITE), policy, "Newton", PROBLEM)


def test_message_has_cause_expectation_and_remedy_for_every_status():
    for first, second in itertools.combinations([S.MAX_STEPS, S.NONFINITE, S.SINGULAR], 2):
        with pytest.raises(implayer.SolveError) as caught:
            enforce(solution(first, second, S.CONVERGED), "raise", "Broyden", PROBLEM)
        text = str(caught.value)
        assert "`Broyden`" in text and text.count("1 of 3 samples") == 2 and "after at most 9 steps" in text
        assert first.meaning in text and second.meaning in text and '`on_failure="warn"`' in text


def test_long_lists_of_samples_are_cut():
    with pytest.raises(implayer.SolveError, match=r"100 of 100 samples .*samples 0, 1, 2, 3, 4, \.\.\."):
        enforce(solution(*[S.MAX_STEPS] * 100), "raise", "Picard", PROBLEM)


@pytest.mark.parametrize(("rate", "advice"), [(1.5, "sign=-1"), (5.0, "Newton")])
def test_the_other_sign_is_offered_where_it_would_contract(rate, advice):
    aux = {"contraction": torch.tensor([rate, torch.nan]), "diverged": torch.tensor([True, False])}
    with pytest.raises(implayer.SolveError, match=advice) as caught:
        enforce(solution(S.MAX_STEPS, S.CONVERGED, aux=aux), "raise", "Picard", PROBLEM)
    assert ("sign=-1" in str(caught.value)) == (rate < 3)


def test_a_slow_contraction_gets_no_advice_about_signs():
    aux = {"contraction": torch.tensor([0.99]), "diverged": torch.tensor([False])}
    with pytest.raises(implayer.SolveError) as caught:
        enforce(solution(S.MAX_STEPS, aux=aux), "raise", "Picard", PROBLEM)
    assert "sign" not in str(caught.value)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e12), (torch.float32, 1e6)])
def test_limits_of_the_condition(dtype, limit):
    fine, bad = torch.tensor([0.9 * limit], dtype=dtype), torch.tensor([1.0, 1.1 * limit, torch.inf], dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_ill_conditioned(fine, "raise", dtype)
        warn_ill_conditioned(bad, "ignore", dtype)
        warn_ill_conditioned(None, "raise", dtype)
        warn_ill_conditioned(fine[:0], "raise", dtype)
    with pytest.warns(implayer.IllConditionedWarning, match="1 of 3 samples"):
        warn_ill_conditioned(bad, "raise", dtype)


def test_warnings_can_be_made_errors_in_one_line():
    layer = implayer.ImplicitLayer(
        lambda x, y: y**2 + 1 + 0 * x, implayer.Newton(), initial=torch.ones_like, on_failure="warn"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", implayer.SolveWarning)
        with pytest.raises(implayer.SolveWarning):
            layer(torch.ones(1, 1))


def test_every_error_is_the_matching_built_in():
    expected = {
        "SolveError": RuntimeError,
        "SingularJacobianError": RuntimeError,
        "AdjointError": RuntimeError,
        "ShapeError": ValueError,
        "DeviceError": ValueError,
        "ClosureError": ValueError,
        "BatchCouplingError": ValueError,
        "DtypeError": TypeError,
        "OrderError": RuntimeError,
        "VerificationError": AssertionError,
        "RandomResidualError": ValueError,
    }
    for name, built_in in expected.items():
        error = getattr(implayer, name)
        assert issubclass(error, implayer.ImplayerError) and issubclass(error, built_in), name
    assert issubclass(implayer.IllConditionedWarning, implayer.SolveWarning)
    assert issubclass(implayer.DegenerateWarning, implayer.SolveWarning) and issubclass(
        implayer.SolveWarning, UserWarning
    )


def test_warnings_point_at_the_line_that_called(monkeypatch):
    """Through modules and PyTorch's own frames; tests run with those of the type checker between."""
    monkeypatch.setattr(causes, "_OWN", (*causes._OWN, os.path.dirname(jaxtyping.__file__)))
    phi = torch.linspace(-1, 1, 5).expand(5, 5, 5).clone().requires_grad_()
    circle = implayer.ImplicitLayer(lambda x, y: y * y - x, implayer.solvers.Newton(max_steps=1), on_failure="warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        implayer.LevelSetLayer()(phi)
        implayer.LevelSetLayer(on_failure="warn").solve(phi + 9)
        torch.nn.Sequential(implayer.FixedPointLayer(lambda x, y: y + x, initial=torch.zeros_like, on_failure="warn"))(
            torch.ones(1, 1)
        )
        circle(torch.full((1, 1), 9.0), y0=torch.full((1, 1), 50.0))
    assert {w.category.__name__ for w in caught} == {"DegenerateWarning", "SolveWarning"}
    assert len(caught) >= 4 and {w.filename for w in caught} == {__file__}
