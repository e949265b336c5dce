"""`ImplicitLayer`: what the contract says of F, x and y."""

from typing import NamedTuple

import pytest
import torch

import implayer
from implayer.linear.pseudo_inverse import PseudoInverse


def cubic(x, y):
    return y**3 + y - x


def close(got, expected, **options):
    torch.testing.assert_close(got, expected, **{"rtol": 1e-9, "atol": 1e-9, **options})


class Pair(NamedTuple):
    a: object
    b: object


# ------------------------------------------------------------------------------------------------------------ nests
def test_nests_with_constants_among_the_leaves():
    """x and y: dict, list, tuple, named tuple; None and strings pass through, integers are constants."""
    x = {
        "c": (torch.tensor([[2.0], [10.0]], requires_grad=True), None),
        "power": [torch.tensor([3, 3])],
        "name": "cubic",
    }

    def F(x, y):
        assert y.b["label"] == "kept" and y.b["none"] is None and y.b["index"].dtype == torch.int64
        c, power = x["c"][0], x["power"][0][:, None]
        return {"first": y.a**power + y.a - c, "second": [y.b["z"] - y.a, None]}

    def initial(x):
        zero = torch.zeros_like(x["c"][0])
        return Pair(zero, {"z": zero.expand(2, 3).clone(), "label": "kept", "none": None, "index": torch.arange(2)})

    y = implayer.ImplicitLayer(F, implayer.Newton(), initial=initial)(x)
    assert (
        type(y) is Pair
        and y.b["label"] == "kept"
        and y.b["none"] is None
        and torch.equal(y.b["index"], torch.arange(2))
    )
    close(y.a, torch.tensor([[1.0], [2.0]]))
    close(y.b["z"], y.a.expand(2, 3))
    (gradient,) = torch.autograd.grad(y.b["z"].sum(), x["c"][0])
    close(gradient, torch.tensor([[3 / 4], [3 / 13]]))


def test_nests_under_transforms():
    layer = implayer.ImplicitLayer(
        lambda x, y: {"a": cubic(x["c"], y["a"]), "b": y["b"] - 2 * y["a"]}, implayer.Newton(),
        initial=lambda x: {"a": torch.zeros_like(x["c"]), "b": torch.zeros_like(x["c"])},
    )  # fmt: skip
    x = {"c": torch.tensor([2.0, 10.0]), "idle": None}
    jacobian = torch.func.jacrev(lambda c: layer({**x, "c": c})["b"])(x["c"])
    close(jacobian, torch.diag(torch.tensor([2 / 4, 2 / 13])))


@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 3), (2, 0)], ids=str)
@pytest.mark.parametrize("event", [(), (4,), (2, 3)], ids=str)
def test_batch_and_event_axes(batch, event):
    x = torch.rand((*batch, *event), requires_grad=True)
    layer = implayer.ImplicitLayer(cubic, implayer.Newton(), initial=torch.zeros_like, event_ndim=len(event))
    solution = layer.solve(x)
    assert solution.value.shape == x.shape and solution.status.shape == batch
    close(cubic(x, solution.value), torch.zeros_like(x))
    (gradient,) = torch.autograd.grad(solution.value.sum(), x)
    close(gradient, 1 / (3 * solution.value.detach() ** 2 + 1))


def test_shared_leaves_and_batched_leaves():
    """A leaf of x without batch axes is shared; its gradient is the sum over the samples."""
    a, c = torch.tensor(2.0, requires_grad=True), torch.tensor([[2.0], [6.0]], requires_grad=True)
    y = implayer.ImplicitLayer(lambda x, y: x[0] * y - x[1], implayer.Newton(), initial=lambda x: 0 * x[1])((a, c))
    gradients = torch.autograd.grad(y.sum(), [a, c])
    close(gradients, (torch.tensor(-2.0), torch.full((2, 1), 0.5)))


def test_every_sample_has_the_value_it_would_have_alone():
    W = torch.randn(3, 3) / 4
    layer = implayer.FixedPointLayer(
        lambda x, y: torch.tanh((y @ W.T) + x), implayer.Anderson(), initial=torch.zeros_like
    )
    x = torch.randn(6, 3) * torch.logspace(-3, 1, 6)[:, None]
    whole, alone = layer.solve(x), [layer.solve(item[None]) for item in x]
    close(whole.value, torch.cat([s.value for s in alone]), rtol=1e-12, atol=1e-12)
    assert whole.steps.tolist() == [int(s.steps) for s in alone]
    order = torch.randperm(6)
    close(layer(x[order]), whole.value[order], rtol=1e-12, atol=1e-12)


# ------------------------------------------------------------------------------------------------------------ starts
def test_initial_y0_and_neither():
    x = torch.tensor([[2.0]])
    close(implayer.ImplicitLayer(cubic, implayer.Newton(), initial=torch.zeros_like)(x), torch.ones(1, 1))
    close(implayer.ImplicitLayer(cubic, implayer.Newton())(x, torch.zeros(1, 1)), torch.ones(1, 1))
    with pytest.raises(ValueError, match=r"y0=.*initial="):
        implayer.ImplicitLayer(cubic, implayer.Newton())(x)
    close(
        implayer.ImplicitLayer(cubic, lambda problem: torch.ones(1, 1) if problem.y0 is None else None)(x),
        torch.ones(1, 1),
    )


def test_y0_wins_over_initial():
    layer = implayer.ImplicitLayer(lambda x, y: y**2 - x, implayer.Newton(), initial=torch.ones_like)
    close(layer(torch.tensor([[4.0]]), torch.tensor([[-1.0]])), torch.tensor([[-2.0]]))


def test_the_derivative_with_respect_to_y0_is_zero():
    x, y0 = torch.tensor([[4.0]], requires_grad=True), torch.tensor([[1.0]], requires_grad=True)
    layer = implayer.ImplicitLayer(lambda x, y: y**2 - x, implayer.Newton())
    gradient = torch.autograd.grad(layer(x, y0).sum(), y0, allow_unused=True)[0]
    assert gradient is None or not gradient.any()
    gradient = torch.autograd.grad(layer(x, {"y": y0}["y"] * 1.0).sum(), y0, allow_unused=True)[0]
    assert gradient is None or not gradient.any()
    close(torch.func.grad(lambda y0: layer(x.detach(), y0).sum())(y0.detach()), torch.zeros(1, 1))
    close(torch.func.jvp(lambda y0: layer(x.detach(), y0), (y0.detach(),), (torch.ones(1, 1),))[1], torch.zeros(1, 1))


def test_y0_in_a_nest_has_no_derivative_either():
    y0 = {"y": torch.tensor([[1.0]], requires_grad=True)}
    x = torch.tensor([[4.0]], requires_grad=True)
    y = implayer.ImplicitLayer(lambda x, y: y["y"] ** 2 - x, implayer.Newton())(x, y0)["y"]
    gradient = torch.autograd.grad(y.sum(), y0["y"], allow_unused=True)[0]
    assert gradient is None or not gradient.any()


def test_initial_that_depends_on_x_adds_nothing():
    x = torch.tensor([[4.0]], requires_grad=True)
    y = implayer.ImplicitLayer(lambda x, y: y**2 - x, implayer.Newton(), initial=lambda x: x**3)(x)
    close(torch.autograd.grad(y.sum(), x)[0], torch.tensor([[0.25]]))


def test_warm_start_takes_no_step():
    x = torch.randn(4, 3)
    layer = implayer.FixedPointLayer(lambda x, y: torch.tanh(y / 2 + x), initial=torch.zeros_like)
    cold = layer.solve(x)
    warm = layer.solve(x + 1e-6, cold.value)
    assert (warm.steps < cold.steps).all()


# ----------------------------------------------------------------------------------------------------- solve, forward
@pytest.mark.parametrize(
    "solver", [implayer.Newton(), implayer.Anderson(), None], ids=["Newton", "Anderson", "closed form"]
)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_forward_equals_solve_bit_for_bit(solver, requires_grad):
    if solver is None:
        layer = implayer.ImplicitLayer(lambda x, y: 2 * y - x, lambda p: p.x / 2)
    else:
        layer = implayer.ImplicitLayer(cubic, solver, initial=torch.zeros_like, sign=-1)
    x = (torch.randn(5, 3) / 4).requires_grad_(requires_grad)
    one, other = layer(x), layer.solve(x)
    assert torch.equal(one, other.value)
    if requires_grad:
        assert torch.equal(torch.autograd.grad(one.sum(), x)[0], torch.autograd.grad(other.value.sum(), x)[0])


def test_solution_fields_are_filled_in_for_any_solver():
    x = torch.tensor([[2.0], [10.0], [3.0]])
    exact = torch.tensor([[1.0], [2.0], [1.2134116627622296]])
    solution = implayer.ImplicitLayer(cubic, lambda problem: exact).solve(x)
    assert solution.status.tolist() == [0, 0, 0] and solution.converged.all() and solution.steps.tolist() == [0, 0, 0]
    assert (solution.residual_norm < 1e-9).all() and solution.message() == "all 3 samples reached the tolerance"
    told = implayer.Solution(
        exact, status=[implayer.Status.DEGENERATE] * 3, steps=torch.tensor([1, 2, 3]), aux={"twice": 2 * exact}
    )
    with pytest.warns(implayer.DegenerateWarning):
        solution = implayer.ImplicitLayer(cubic, lambda problem: told).solve(x)
    assert solution.steps.tolist() == [1, 2, 3] and solution.converged.all()
    close(solution.aux["twice"], 2 * exact)


def test_the_solver_runs_without_a_graph():
    def nosy(problem):
        assert not torch.is_grad_enabled()
        assert not problem.x.requires_grad
        with torch.enable_grad():
            y = (problem.x * 1.0).requires_grad_()
            return (y / 2) * y / y  # a graph of its own, which must not leak

    x = torch.tensor([[3.0]], requires_grad=True)
    y = implayer.ImplicitLayer(lambda x, y: 2 * y - x, nosy)(x)
    close(torch.autograd.grad(y.sum(), x)[0], torch.tensor([[0.5]]))


def test_problem_that_a_solver_receives():
    seen = {}

    def solver(problem):
        seen.update(x=problem.x, y0=problem.y0, event_ndim=problem.event_ndim, r=problem.residual(problem.y0))
        seen["norm"] = problem.norm(seen["r"])
        return problem.x / 2

    layer = implayer.ImplicitLayer(lambda x, y: 2 * y - x, solver, initial=torch.zeros_like)
    x = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    layer(x)
    close(seen["norm"], torch.tensor([5.0, 1.0]))
    close(seen["r"], -x)
    assert seen["event_ndim"] == 1 and not seen["y0"].any()


def test_nothing_to_differentiate_costs_no_graph():
    layer = implayer.ImplicitLayer(cubic, implayer.Newton(), initial=torch.zeros_like)
    assert not layer(torch.ones(2, 1)).requires_grad
    with torch.no_grad():
        assert not layer(torch.ones(2, 1, requires_grad=True)).requires_grad


# -------------------------------------------------------------------------------------------------------- gauge, sign
def test_gauge_rows_choose_the_derivative():
    """y1 + y2 = x alone moves both by a half; the gauge y1 = 2 y2 moves them by 2/3 and 1/3."""

    def F(x, y):
        return y.sum(-1, keepdim=True) - x

    x = torch.tensor([[3.0]], requires_grad=True)
    plain = implayer.ImplicitLayer(F, implayer.Newton())(x, torch.zeros(1, 2))
    close(
        torch.autograd.functional.jacobian(
            lambda x: implayer.ImplicitLayer(F, implayer.Newton())(x, torch.zeros(1, 2))[0], x
        ).flatten(),
        torch.full((2,), 0.5),
    )
    gauged = implayer.ImplicitLayer(F, implayer.Newton(), gauge=lambda x, y: y[..., :1] - 2 * y[..., 1:])
    y = gauged(x, torch.zeros(1, 2))
    close((plain.detach(), y.detach()), (torch.full((1, 2), 1.5), torch.tensor([[2.0, 1.0]])))
    close(torch.autograd.grad(y[0, 0], x)[0], torch.tensor([[2 / 3]]))


@pytest.mark.parametrize("solver", [implayer.Picard(), implayer.Anderson()])
def test_sign(solver):
    layer = implayer.ImplicitLayer(lambda x, y: y - torch.cos(y) - x, solver, initial=torch.zeros_like, sign=-1)
    x = torch.zeros(1, 1, requires_grad=True)
    y = layer(x)
    close(y, torch.tensor([[0.7390851332151607]]), atol=1e-8)
    close(torch.autograd.grad(y.sum(), x)[0], 1 / (1 + y.detach().sin()), rtol=1e-7)


# ------------------------------------------------------------------------------------------------------------- probes
COUPLED = {
    "mean": lambda x, y: y - x - 0.1 * y.mean(0),
    "one neighbour": lambda x, y: y - x - 0.1 * y.roll(1, 0),
    "last to first": lambda x, y: torch.cat([y[:1] + 0.1 * y[-1:], y[1:]]) - x,
}


@pytest.mark.parametrize("F", COUPLED.values(), ids=COUPLED)
@pytest.mark.parametrize("samples", [2, 3, 7, 64])
def test_coupling_of_samples_is_refused(F, samples):
    with pytest.raises(implayer.BatchCouplingError, match="mixes the samples"):
        implayer.ImplicitLayer(F, implayer.Newton(), initial=torch.zeros_like)(torch.ones(samples, 2))
    with pytest.raises(implayer.BatchCouplingError):
        implayer.ImplicitLayer(F, lambda p: p.x.clone(), on_failure="ignore")(
            torch.ones(samples, 2, requires_grad=True)
        )


def test_coupling_is_refused_under_transforms():
    layer = implayer.ImplicitLayer(COUPLED["mean"], implayer.Newton(), initial=torch.zeros_like)
    with pytest.raises(implayer.BatchCouplingError):
        torch.func.grad(lambda x: layer(x).sum())(torch.ones(4, 2))


def test_too_small_an_event_ndim_is_found():
    W = torch.randn(3, 3) / 4
    with pytest.raises(implayer.BatchCouplingError, match="`event_ndim` is too small"):
        implayer.ImplicitLayer(lambda x, y: y - y @ W.T - x, implayer.Newton(), initial=torch.zeros_like, event_ndim=0)(
            torch.ones(2, 3)
        )


def test_the_probe_is_made_once_per_shape():
    calls = []

    def F(x, y):
        calls.append(y.shape)
        return 2 * y - x

    layer = implayer.ImplicitLayer(F, lambda p: p.x / 2, initial=torch.zeros_like)
    counts = []
    for shape in [(4, 2), (4, 2), (4, 2), (5, 2), (5, 2)]:
        calls.clear()
        layer(torch.ones(shape))
        counts.append(len(calls))
    assert counts[1] == counts[2] == counts[4] < counts[0] == counts[3]


# ------------------------------------------------------------------------------------------------- parameters, modules
def test_parameters_of_F_gauge_and_initial_belong_to_the_layer():
    layer = implayer.ImplicitLayer(
        torch.nn.Bilinear(2, 2, 2), implayer.Newton(), gauge=torch.nn.Bilinear(2, 2, 1), initial=torch.nn.Linear(2, 2)
    )
    assert {name.split(".")[0] for name, _ in layer.named_parameters()} == {"F", "gauge", "initial"}
    for moved in (layer.to(torch.float32), layer.float()):
        assert moved is layer and all(p.dtype == torch.float32 for p in layer.parameters())
    assert next(layer.to("meta").parameters()).is_meta


def test_repr_tells_solver_and_adjoint():
    text = repr(implayer.ImplicitLayer(cubic, implayer.Newton(max_steps=7), adjoint=implayer.JacobianFree()))
    assert "max_steps=7" in text and "JacobianFree" in text


# ---------------------------------------------------------------------------------------------------- wrong arguments
@pytest.mark.parametrize(
    ("arguments", "options", "kind", "said"),
    [
        (("F", implayer.Newton()), {}, TypeError, "`F` must be callable"),
        ((cubic, "newton"), {}, TypeError, "`forward_solver` must be callable.*`Newton\\(\\)`"),
        ((cubic, implayer.Newton), {}, TypeError, "is the class Newton; pass an object: `Newton\\(\\)`"),
        (
            (cubic, implayer.Newton()),
            {"on_failure": "explode"},
            ValueError,
            "`on_failure` is 'explode'; expected one of 'raise'",
        ),
        ((cubic, implayer.Newton()), {"sign": 0}, ValueError, "`sign` is 0"),
        ((cubic, implayer.Newton()), {"event_ndim": -1}, ValueError, "`event_ndim` is -1"),
        ((cubic, implayer.Newton(), implayer.ImplicitAdjoint()), {}, TypeError, "positional"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_constructor(arguments, options, kind, said, monkeypatch):
    import jaxtyping

    monkeypatch.setattr(
        jaxtyping.config, "jaxtyping_disable", True
    )  # a user has our messages, not those of the test run
    with pytest.raises(kind, match=said):
        implayer.ImplicitLayer(*arguments, **options)


def test_complex_holomorphic():
    x = torch.tensor([[3.0 + 4.0j]], requires_grad=True)
    layer = implayer.ImplicitLayer(lambda x, y: y**2 - x, implayer.Newton(), initial=lambda x: 1 + 0 * x)
    y = layer(x)
    close(y, torch.tensor([[2.0 + 1.0j]]))
    (gradient,) = torch.autograd.grad(y.real.sum(), x)
    close(gradient, (1 / (2 * y.detach())).conj())


def test_complex_but_not_holomorphic():
    x = torch.tensor([[3.0 + 4.0j]], requires_grad=True)
    with pytest.raises(implayer.ImplayerError):
        layer = implayer.ImplicitLayer(lambda x, y: y + 0.3 * y.conj() - x, lambda p: p.x / 1.3, on_failure="ignore")
        layer(x).abs().sum().backward()


def test_legacy_batched_gradients_with_a_matrix_free_adjoint():
    x = torch.ones(2, 3, requires_grad=True)
    adjoint = implayer.ImplicitAdjoint(linear_solver=implayer.GMRES())
    y = implayer.ImplicitLayer(cubic, implayer.Newton(), adjoint=adjoint, initial=torch.zeros_like)(x)
    with pytest.raises(implayer.ImplayerError, match="is_grads_batched"):
        torch.autograd.grad(y, x, torch.ones(4, 2, 3), is_grads_batched=True)


def test_an_error_of_the_user_has_their_line_on_top():
    def F(x, y):
        raise KeyError("my own mistake")

    with pytest.raises(KeyError, match="my own mistake") as caught:
        implayer.ImplicitLayer(F, implayer.Newton(), initial=torch.zeros_like)(torch.ones(2, 1))
    assert caught.traceback[-1].name == "F"


def test_a_solver_may_hand_over_a_pseudo_inverse():
    def F(x, y):  # of rank one: every point of a line is a root, and the shortest one is asked for
        s = y.sum(-1, keepdim=True) - x
        return torch.cat([s, 2 * s], -1)

    def solver(problem):
        y = torch.cat([problem.x, problem.x], -1) / 2
        operator = implayer.JacobianOperator(problem.vectors(y).residual, y)
        return implayer.Solution(y, inverse=PseudoInverse(cutoff=1e-10).freeze(operator))

    x = torch.tensor([[2.0], [3.0]], requires_grad=True)
    y = implayer.ImplicitLayer(F, solver)(x)
    y.square().sum().backward()
    torch.testing.assert_close(x.grad, x.detach(), atol=1e-12, rtol=1e-12)


# -------------------------------------------------------------------------------------- what a call tells, and what not
def test_only_solve_tells_the_condition_and_both_find_what_is_wrong():
    layer = implayer.ImplicitLayer(
        lambda x, y: y @ x[0] - 1.0, implayer.Newton(), initial=lambda x: torch.zeros(1, 3).double()
    )
    good = torch.eye(3, dtype=torch.float64).unsqueeze(0).requires_grad_()
    aux = layer.solve(good).aux
    assert aux is not None and aux["condition"].shape == (1,)
    close(layer(good), layer.solve(good).value)
    bad = torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)).unsqueeze(0).requires_grad_()
    near = torch.tensor(
        [[[1.0, 1.0, 0.0], [1.0, 1.0 + 1e-13, 0.0], [0.0, 0.0, 1.0]]], dtype=torch.float64, requires_grad=True
    )
    solved = implayer.ImplicitLayer(lambda x, y: y @ x[0], lambda problem: torch.zeros(1, 3).double())
    for call in (solved, solved.solve):
        with pytest.raises(implayer.SingularJacobianError):
            call(bad)
        with pytest.warns(implayer.IllConditionedWarning):
            call(near)


def test_a_subclass_with_its_own_solve_is_asked():
    class Twice(implayer.ImplicitLayer):
        def solve(self, x, y0=None):
            found = super().solve(x, y0)
            return found.replace(value=2 * found.value)

    layer = Twice(cubic, implayer.Newton(), initial=torch.zeros_like)
    close(layer(torch.tensor([[2.0], [10.0]])), torch.tensor([[2.0], [4.0]]), rtol=1e-5, atol=1e-5)


def test_a_solution_is_copied_with_fields_that_it_has():
    solution = implayer.Solution(1)
    assert solution.replace(value=2).value == 2 and solution.value == 1
    with pytest.raises(TypeError, match="a Solution has no field values"):
        solution.replace(values=3)
