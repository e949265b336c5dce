"""ArgminLayer in further modes: third order, vmap, single precision, spoiled samples, the optimal value, warm starts."""

import warnings

import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, vmap

from implayer.adjoints import ImplicitAdjoint
from implayer.errors import OrderError, SingularJacobianError
from implayer.layers.argmin import ArgminLayer
from implayer.solution import Status
from implayer.solvers.interior_point import InteriorPoint
from implayer.solvers.scipy_minimize import ScipyMinimize

SOLVERS = [InteriorPoint(), ScipyMinimize(), ScipyMinimize("trust-constr")]
ONE_BY_ONE = [SOLVERS[0], *(pytest.param(solver, marks=pytest.mark.slow) for solver in SOLVERS[1:])]


def on_sphere(solver, **options):
    """min |y - A x|^2 / 2 with |y| = 1 and an inactive bound: y = A x / |A x|."""
    return ArgminLayer(
        lambda x, y: ((y - (x["A"] @ x["p"].unsqueeze(-1)).squeeze(-1)) ** 2).sum(-1) / 2,
        equality=lambda x, y: (y**2).sum(-1, keepdim=True) - 1,
        inequality=lambda x, y: y[..., :1] - 5,
        forward_solver=solver,
        initial=lambda x: (x["A"] @ x["p"].unsqueeze(-1)).squeeze(-1),
        **options,
    )


def exact(x):
    image = (x["A"] @ x["p"].unsqueeze(-1)).squeeze(-1)
    return image / (image**2).sum(-1, keepdim=True).sqrt()  # the third derivative of vector_norm fails


def inputs():
    return {"A": torch.randn(3, 3) + 2 * torch.eye(3), "p": torch.randn(4, 3)}


def close(a, b, tolerance=1e-8):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("solver", ONE_BY_ONE)
def test_shared_and_batched_inputs_under_vmap(solver):
    layer, x = on_sphere(solver), inputs()
    f, g = (lambda A, p, h=h: h({"A": A, "p": p}) for h in (layer, exact))
    for dims in ((None, 0), (0, None), (0, 0))[: 3 if isinstance(solver, InteriorPoint) else 1]:
        A = x["A"] if dims[0] is None else torch.stack([x["A"], 2 * x["A"] + 1, x["A"].mT])
        p = x["p"][0] if dims[1] is None else x["p"][:3]
        close(vmap(f, dims)(A, p), vmap(g, dims)(A, p))
        for k in (0, 1):
            close(vmap(jacrev(f, k), dims)(A, p), vmap(jacrev(g, k), dims)(A, p))
    if isinstance(solver, InteriorPoint):
        close(vmap(jacfwd(f, 1), (None, 0))(x["A"], x["p"]), vmap(jacfwd(g, 1), (None, 0))(x["A"], x["p"]))


@pytest.mark.parametrize("solver", ONE_BY_ONE)
def test_hessian_of_shared_inputs(solver):
    layer, x = on_sphere(solver), inputs()
    found, expected = (hessian(lambda A, h=h: (h({**x, "A": A}) ** 3).sum())(x["A"]) for h in (layer, exact))
    close(found, expected, 1e-7)


def test_third_order():
    x = inputs()
    layer = on_sphere(InteriorPoint(), adjoint=ImplicitAdjoint(order=3))
    u = torch.randn(4, 3)

    def thrice(f):
        p = x["p"].clone().requires_grad_()
        value = (f({**x, "p": p}) ** 3).sum()
        for _ in range(3):
            (slope,) = torch.autograd.grad(value, p, create_graph=True)
            value = (slope * u).sum()
        return slope

    close(thrice(layer), thrice(exact), 1e-7)
    with pytest.raises(OrderError):
        thrice(on_sphere(InteriorPoint()))
    third, wanted = (jacrev(hessian(lambda p, h=h: h({**x, "p": p}).sum()))(x["p"]) for h in (layer, exact))
    close(third, wanted, 1e-7)


@pytest.mark.parametrize("solver", SOLVERS)
def test_single_precision_of_multipliers_and_gradients(solver):
    x = inputs()
    small = {name: t.float().requires_grad_() for name, t in x.items()}
    large = {name: t.clone().requires_grad_() for name, t in x.items()}
    solution, reference = on_sphere(solver).solve(small), on_sphere(InteriorPoint()).solve(large)
    assert solution.value.dtype == torch.float32
    for name in ("equality_multipliers", "objective"):
        close(solution.aux[name].double(), reference.aux[name], 1e-4)
    for wanted in (lambda s: s.value[:, 0].sum(), lambda s: s.aux["equality_multipliers"].sum()):
        found, expected = (
            torch.autograd.grad(wanted(s), list(t.values()), retain_graph=True)
            for s, t in ((solution, small), (reference, large))
        )
        for a, b in zip(found, expected, strict=True):
            close(a.double(), b, 1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_spoiled_samples_leave_the_others_as_they_are_alone(solver):
    layer = ArgminLayer(
        lambda x, y: (x["a"] * (y - x["w"]) ** 2 / 2 + x["c"] * y).sum(-1),
        inequality=lambda x, y: torch.cat([x["l"] - y, y.sum(-1, keepdim=True) - x["u"]], -1),
        initial=lambda x: torch.zeros_like(x["c"]),
        forward_solver=solver,
        on_failure="ignore",
    )
    x = {
        "a": torch.tensor([[1.0], [1.0], [0.0], [1.0], [2.0]]).expand(5, 2).clone(),
        "c": torch.tensor([[3.0, 1.0], [1.0, 1.0], [1.0, 2.0], [torch.nan, 1.0], [-4.0, 0.5]]),
        "l": torch.tensor([[-1.0], [1.0], [-1e30], [-1.0], [-1.0]]).expand(5, 2).clone(),
        "u": torch.tensor([[1.0], [-1.0], [1.0], [1.0], [1.0]]),
        "w": torch.tensor([0.3, -0.2]),
    }
    live = {name: t.clone().requires_grad_() for name, t in x.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        solution = layer.solve(live)
    assert solution.status[[0, 4]].tolist() == [0, 0]
    assert [Status(s) for s in solution.status[[1, 3]].tolist()] == [Status.INFEASIBLE, Status.NONFINITE]
    assert not solution.converged[2]
    found = torch.autograd.grad(solution.value[[0, 4]].pow(2).sum(), list(live.values()))
    total = torch.zeros(2)
    for b in (0, 4):
        alone = {k: (t if k == "w" else t[b : b + 1]).clone().requires_grad_() for k, t in x.items()}
        y = layer(alone)
        close(y[0], solution.value[b], 1e-12)
        expected = torch.autograd.grad(y.pow(2).sum(), list(alone.values()))
        for name, a, e in zip(x, found, expected, strict=True):
            if name == "w":
                total = total + e
            else:
                close(a[b], e[0], 1e-12)
    close(found[-1], total, 1e-12)


def test_a_flat_minimum_raises_in_every_mode():
    layer = ArgminLayer(lambda x, y: (y.sum(-1) - x.sum(-1)) ** 2, initial=torch.zeros_like)
    x = torch.tensor([[1.0, 0.3]])
    for derivative in (
        lambda: layer(x.clone().requires_grad_()),
        lambda: grad(lambda x: layer(x).sum())(x),
        lambda: vmap(jacrev(layer))(x),
        lambda: jacfwd(layer)(x),
    ):
        with pytest.raises(SingularJacobianError):
            derivative()
    close(layer(x).sum(-1), x.sum(-1))  # the value is fine


# ------------------------------------------------------------------------------------------------ the optimal value
@pytest.mark.parametrize("solver", SOLVERS)
def test_envelope_theorem_with_active_constraints_that_depend_on_x(solver):
    """dV = f_x + nu' h_x + lam' g_x at fixed (y, nu, lam), and V itself by differences."""
    layer = ArgminLayer(
        lambda x, y: ((y - x["p"]) ** 2).sum(-1) / 2 + torch.exp(x["p"][..., 0] * y[..., 1]),
        equality=lambda x, y: (x["p"] * y).sum(-1, keepdim=True) - x["b"],
        inequality=lambda x, y: (y**2).sum(-1, keepdim=True) - x["r"] ** 2,
        forward_solver=solver,
        initial=lambda x: torch.zeros_like(x["p"]),
    )
    x = {"p": torch.tensor([[1.0, 0.4, 2.0]]), "b": torch.tensor([[0.2]]), "r": torch.tensor([[0.15]])}
    live = {name: t.clone().requires_grad_() for name, t in x.items()}
    solution = layer.solve(live)
    assert float(solution.aux["inequality_multipliers"].detach()) > 0.1
    found = torch.autograd.grad(solution.aux["objective"].sum(), list(live.values()))
    y, nu, lam = (
        t.detach()
        for t in (solution.value, solution.aux["equality_multipliers"], solution.aux["inequality_multipliers"])
    )
    _, h, g = layer.kkt.F.parts(live, y, (1,))
    lagrangian = layer.objective(live, y).sum() + (nu * h).sum() + (lam * g).sum()
    for a, b in zip(found, torch.autograd.grad(lagrangian, list(live.values())), strict=True):
        close(a, b, 1e-9)
    for name, slope in zip(x, found, strict=True):
        step = torch.full_like(x[name], 1e-5)
        above, below = (layer.solve({**x, name: x[name] + s * step}).aux["objective"] for s in (1, -1))
        assert float(slope.sum()) == pytest.approx(float((above - below).sum()) / 2e-5, rel=1e-7)


# ------------------------------------------------------------------------------------------------ warm starts
def test_warm_starts():
    layer, x = on_sphere(InteriorPoint()), inputs()
    cold = layer.solve(x, torch.full((4, 3), 0.7))
    warm = layer.solve(x, cold.value)
    close(warm.value, cold.value, 1e-12)
    assert int(warm.steps.max()) < int(cold.steps.max())


def test_the_start_is_passed_through_and_has_no_derivative():
    seen = []

    def solver(problem):
        seen.append(problem.y0)
        return InteriorPoint()(problem)

    layer, x = on_sphere(solver), inputs()
    start = torch.randn(4, 3, requires_grad=True)
    p = x["p"].clone().requires_grad_()
    y = layer({**x, "p": p}, start)
    assert torch.equal(seen[0][0], start) and not seen[0][0].requires_grad
    assert torch.autograd.grad(y.sum(), [p, start], allow_unused=True)[1] is None


def test_the_start_chooses_among_local_minima():
    layer = ArgminLayer(lambda x, y: ((y**2 - x) ** 2).sum(-1))
    x = torch.full((2, 1), 4.0, requires_grad=True)
    y = layer(x, torch.tensor([[1.0], [-1.0]]))
    close(y, torch.tensor([[2.0], [-2.0]]))
    (slope,) = torch.autograd.grad(y.sum(0).squeeze(), x, grad_outputs=torch.tensor(1.0))
    close(slope, torch.tensor([[0.25], [-0.25]]))


@pytest.mark.parametrize("solver", SOLVERS[:2])
@pytest.mark.parametrize(("f_scale", "g_scale"), [(1.0, 1.0), (1e6, 1e-6), (1e-6, 1e6)])
def test_redundant_constraints_in_any_scaling(solver, f_scale, g_scale):
    layer = ArgminLayer(
        lambda x, y: f_scale * ((y - x) ** 2).sum(-1) / 2,
        inequality=lambda x, y: g_scale * torch.stack([y[..., 0] - 1, y[..., 0] - 1, y[..., 1] - 9], -1),
        forward_solver=solver,
        initial=torch.zeros_like,
        on_failure="ignore",
    )
    x = torch.tensor([[3.0, 0.5]], requires_grad=True)
    solution = layer.solve(x)
    assert solution.status.tolist() == [Status.DEGENERATE] and solution.aux["redundant"].all()
    (slope,) = torch.autograd.grad(solution.value.sum(), x)
    close(slope, torch.tensor([[0.0, 1.0]]))
    close(solution.aux["inequality_multipliers"] * g_scale / f_scale, torch.tensor([[1.0, 1.0, 0.0]]))
