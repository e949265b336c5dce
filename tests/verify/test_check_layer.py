"""check_layer holds for sound layers, and finds every planted fault with an input that can be pasted."""

import re
import sys
from typing import Any

import planted
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._pytree import tree_leaves

import implayer
from implayer.verify import check_layer, property_test, strategies
from implayer.verify.report import source

X = torch.tensor([[0.3, -0.4], [0.5, 0.2], [-0.1, 0.7]], dtype=torch.float64)


@pytest.fixture(autouse=True)
def few_inputs(monkeypatch: pytest.MonkeyPatch):
    """Four inputs show what ten would, in a third of the time."""
    monkeypatch.setitem(sys.modules["implayer.verify.check_layer"]._EXAMPLES, "quick", 4)


FAULTS = {
    "transposed Jacobian": (planted.ByRule("transposed"), "gradient = finite differences"),
    "dropped sign": (planted.ByRule("sign"), "gradient = finite differences"),
    "detached weight": (planted.Detached("weight"), "parameters receive gradients"),
    "detached bias": (planted.Detached("bias"), "parameters receive gradients"),
    "leaking solver": (planted.Leaking(), "second order, rev-rev"),
    "stale factor": (planted.Stale(), "gradient = finite differences"),
    "coupled batch": (planted.Coupled(), "batch = loop over samples"),
    "place in the batch": (planted.Misplaced(), "batch = loop over samples"),
    "loose solver": (planted.Loose(), "F(x, y) = 0"),
    "no second derivative": (planted.Attached(steps=1), "second order, rev-rev"),
    "float32 for float64": (planted.Single(), "dtype and device kept"),
    "input changed": (planted.Scribbling(), "input unchanged"),
    "memory kept": (planted.Hoarding(), "no memory kept"),
    "buffer lost": (planted.Forgetful(), "deepcopy and state_dict"),
}
WITHOUT_F = (
    "coupled batch",
    "place in the batch",
    "buffer lost",
    "detached weight",
    "detached bias",
    "float32 for float64",
)


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_found(fault: str):
    layer, name = FAULTS[fault]
    F = None if fault in WITHOUT_F else planted.F
    with pytest.raises(implayer.VerificationError) as caught:
        check_layer(layer, X.clone(), F=F)
    report = caught.value.report
    assert [result.name for result in report.failures] == [name]
    assert isinstance(caught.value, AssertionError) and not report.passed
    assert name in str(caught.value) and report.counterexample in str(caught.value)
    space: dict[str, Any] = {"torch": torch}
    exec(report.counterexample, space)
    assert torch.equal(space["x"], report.input[0])


def test_counterexample_is_shrunk_to_one_sample():
    with pytest.raises(implayer.VerificationError) as caught:
        check_layer(planted.ByRule("transposed"), X)
    assert caught.value.report.input[0].shape == (1, 2)


@pytest.mark.parametrize("cut", ["weight", "bias"])
def test_the_detached_parameter_is_named(cut: str):
    with pytest.raises(implayer.VerificationError, match=f"`{cut}`"):
        check_layer(planted.Detached(cut), X)


@pytest.mark.parametrize("layer", [planted.Attached(), planted.Detached()], ids=["attached", "module"])
def test_a_sound_layer_of_a_user_passes(layer: torch.nn.Module):
    F = layer.F if isinstance(layer, planted.Detached) else planted.F
    report = check_layer(layer, X, F=F)
    assert report.passed and report.inputs == 4 and report.rejected == 0
    assert report.result("third order, rev-rev-rev").note == "orders=2"


def test_a_rule_of_first_order_passes_to_first_order():
    report = check_layer(planted.ByRule(), X, F=planted.F, orders=1)
    assert report.result("forward = reverse (torch.func)").outcome == "typed error"
    assert report.result("vmap(grad) = loop").outcome == "typed error"


def test_without_an_equation_the_residual_is_left_out():
    report = check_layer(planted.Attached(), X, orders=1)
    result = report.result("F(x, y) = 0")
    assert result.outcome == "left out" and "`F=`" in result.note


# ------------------------------------------------------------------------------------------- our layers
class Equilibrium(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = torch.nn.Linear(2, 2)

    def forward(self, x, y):
        return torch.tanh(0.5 * self.mix(y) + x) - y


def equilibrium(solver=None, **options) -> implayer.ImplicitLayer:
    return implayer.ImplicitLayer(Equilibrium(), solver or implayer.Newton(), initial=torch.zeros_like, **options)


def test_implicit_layer_to_third_order():
    report = check_layer(equilibrium(adjoint=implayer.ImplicitAdjoint(order=3)), X, orders=3)
    outcomes = {result.name: result.outcome for result in report.results}
    assert set(outcomes.values()) == {"held"}, str(report)
    assert report.result("forward = reverse (torch.func)").error < 1e-12


def test_krylov_adjoint_answers_by_a_typed_error_beyond_its_order():
    solver = implayer.Anderson(atol=1e-12, rtol=1e-12)
    report = check_layer(equilibrium(solver, adjoint=implayer.ImplicitAdjoint(linear_solver=implayer.GMRES())), X)
    assert report.result("second order, rev-rev").outcome == "typed error"
    assert "OrderError" in report.result("second order, rev-rev").note
    assert report.result("second order, fwd-rev").outcome == "held"


def test_an_approximate_adjoint_is_not_taken_for_exact():
    with pytest.raises(implayer.VerificationError, match="gradient = finite differences"):
        check_layer(equilibrium(implayer.Anderson(), adjoint=implayer.JacobianFree()), X)


def test_nests_of_inputs_and_unknowns():
    def F(x, y):
        return {"a": y["a"] ** 3 + y["a"] - x[0] - x[1]["c"] * y["b"], "b": 2 * y["b"] + torch.sin(y["a"]) - x[0]}

    layer = implayer.ImplicitLayer(
        F, implayer.Newton(), initial=lambda x: {"a": torch.zeros_like(x[0]), "b": torch.zeros_like(x[0])}
    )
    x = (X.clone(), {"c": torch.tensor([0.3, 0.1], dtype=torch.float64), "count": 3, "index": torch.tensor([1, 2])})
    assert check_layer(layer, x).passed


def test_float32_and_scalar_unknowns():
    layer = implayer.ImplicitLayer(lambda x, y: y**3 + y - x, implayer.Newton(), initial=torch.zeros_like, event_ndim=0)
    assert check_layer(layer, torch.tensor([2.0, 10.0], dtype=torch.float32)).passed
    assert check_layer(layer, torch.tensor(2.0, dtype=torch.float64)).result("permuted batch").outcome == "left out"


def test_start_that_is_passed():
    layer = implayer.ImplicitLayer(lambda x, y: y**2 - x, implayer.Newton())
    x = torch.tensor([[2.0], [3.0]], dtype=torch.float64)
    assert check_layer(layer, x, y0=torch.ones_like(x), orders=1).passed
    assert check_layer(layer, x, y0=torch.ones_like, orders=1).passed


def test_fewer_and_more_equations_than_unknowns():
    wide = implayer.ImplicitLayer(lambda x, y: (y**2).sum(-1, keepdim=True) - x**2, implayer.Newton(),
                                  initial=lambda x: torch.ones_like(x).repeat(1, 2))  # fmt: skip
    assert check_layer(wide, torch.tensor([[2.0], [1.5]], dtype=torch.float64), orders=1).passed
    tall = implayer.ImplicitLayer(lambda x, y: torch.cat([y - x, y**2 - 0.3], -1), implayer.LevenbergMarquardt(),
                                  initial=torch.zeros_like)  # fmt: skip
    report = check_layer(tall, torch.tensor([[1.0], [0.7]], dtype=torch.float64))
    assert report.result("F(x, y) = 0").outcome == "held"
    assert report.result("second order, rev-rev").outcome == "held"
    assert "least squares" in report.result("implicit = unrolled").note


# ------------------------------------------------------------------------------------------- strategies as input
def test_a_strategy_draws_legal_inputs():
    layer = implayer.ImplicitLayer(
        lambda x, y: (x["A"] @ y.unsqueeze(-1)).squeeze(-1) - x["b"], implayer.Newton(),
        initial=lambda x: torch.zeros_like(x["b"]),
    )  # fmt: skip
    report = check_layer(layer, strategies.linear_systems(condition=100.0))
    assert report.inputs == 4


def test_a_refusal_of_a_legal_input_is_a_failure():
    layer = implayer.ImplicitLayer(lambda x, y: y**2 - x, implayer.Newton(), initial=torch.ones_like)
    inputs = strategies.tensors((2, 1), min_value=-1.0, max_value=2.0)
    with pytest.raises(implayer.VerificationError, match="the layer gives a value") as caught:
        check_layer(layer, inputs)
    assert isinstance(caught.value.__cause__, implayer.SolveError)


def test_inputs_near_an_example_that_the_layer_refuses_are_set_aside():
    def F(x, y):
        return torch.where(x > 2.1, torch.nan, y**2 - x)

    layer = implayer.ImplicitLayer(F, implayer.Newton(), initial=torch.ones_like)
    report = check_layer(layer, torch.tensor([[2.0], [1.0]], dtype=torch.float64), orders=1)
    assert report.passed and report.rejected > 0


def test_errors_of_F_pass_through():
    def F(x, y):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        check_layer(implayer.ImplicitLayer(F, implayer.Newton(), initial=torch.zeros_like), X)


def test_coupled_samples_are_refused_by_name():
    layer = implayer.ImplicitLayer(lambda x, y: y - y.mean(0) + y - x, implayer.Newton(), initial=torch.zeros_like)
    with pytest.raises(implayer.VerificationError, match="BatchCouplingError"):
        check_layer(layer, X)


# ------------------------------------------------------------------------------------------- the tool itself
@settings(max_examples=2, deadline=None)
@given(st.integers(0, 3))
def test_it_runs_inside_a_test_of_hypothesis(seed: int):
    assert check_layer(planted.Attached(), X[:1], orders=1, seed=seed).passed
    with pytest.raises(implayer.VerificationError):
        check_layer(planted.ByRule("sign"), X, orders=1, seed=seed)


def test_same_seed_same_verdict_and_the_generator_is_left_alone():
    state = torch.get_rng_state()
    messages = []
    for _ in range(2):
        with pytest.raises(implayer.VerificationError) as caught:
            check_layer(planted.Leaking(), X, seed=3)
        messages.append(re.sub(r"[\d.]+ s\)", "", str(caught.value)))
    assert messages[0] == messages[1]
    assert torch.equal(state, torch.get_rng_state())


@property_test(X, orders=1)
def test_decorated() -> torch.nn.Module:
    return planted.Attached()


def test_decorated_failure_and_fixtures():
    @property_test(X, orders=1)
    def test(fault):
        """Mine."""
        return planted.ByRule(fault)

    assert test.__doc__ == "Mine." and test(fault=None) is None
    with pytest.raises(implayer.VerificationError):
        test(fault="sign")


@pytest.mark.parametrize("options", [{"profile": "slow"}, {"orders": 4}])
def test_wrong_options(options: dict):
    with pytest.raises(ValueError, match=next(iter(options))):
        check_layer(planted.Attached(), X, **options)
    with pytest.raises(TypeError, match="layer"):
        check_layer(planted.Attached, X)


def test_report_prints_everything():
    text = str(check_layer(planted.Attached(), X, F=planted.F))
    for words in (
        "all properties hold",
        "F(x, y) = 0",
        "left out",
        "held",
        "allowed",
        "inputs",
        "no trainable parameter",
    ):
        assert words in text


@pytest.mark.parametrize(
    "tree",
    [
        {"a": torch.tensor([[0.1, float("nan")], [float("-inf"), 3.0]]), "b": (torch.tensor(2), [None, "s"])},
        (torch.tensor([0.1], dtype=torch.float32),),
        torch.empty((0, 3), dtype=torch.float64),
        [torch.tensor([1 + 2j, 0.5j], dtype=torch.complex128), torch.tensor(True)],
    ],
)
def test_source_rebuilds_a_nest(tree):
    rebuilt = eval(source(tree), {"torch": torch})
    assert source(rebuilt) == source(tree)
    for a, b in zip(tree_leaves(tree), tree_leaves(rebuilt), strict=True):
        if isinstance(a, torch.Tensor):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


# ------------------------------------------------------------------------------------------- the library, broken
def test_a_transposed_core_is_found(monkeypatch: pytest.MonkeyPatch):
    def transposed(self, b):
        return self.apply_transposed(b)

    from implayer.linear import lu

    kind = next(
        v for v in vars(lu).values() if isinstance(v, type) and hasattr(v, "apply_transposed") and "apply" in vars(v)
    )
    layer = equilibrium()
    monkeypatch.setattr(kind, "apply", transposed)
    with pytest.raises(implayer.VerificationError):
        check_layer(layer, X)


def test_a_core_without_its_second_step_is_found(monkeypatch: pytest.MonkeyPatch):
    from implayer import on_demand

    original = on_demand.attach
    monkeypatch.setattr(
        on_demand, "attach", lambda residual, y, inverse, steps, **k: original(residual, y, inverse, 1, **k)
    )
    with pytest.raises(implayer.VerificationError, match="second order, rev-rev"):
        check_layer(equilibrium(), X)
