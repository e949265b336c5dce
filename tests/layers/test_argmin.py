"""ArgminLayer: closed forms, all kinds of derivatives, failures sample by sample, degenerate solutions."""

import copy
import pickle
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.utils.checkpoint import checkpoint

from implayer.adjoints import ImplicitAdjoint
from implayer.errors import (
    DegenerateWarning,
    DtypeError,
    NotPicklableError,
    OrderError,
    ShapeError,
    SingularJacobianError,
    SolveError,
    SolveWarning,
)
from implayer.layers.argmin import KKT, ArgminLayer
from implayer.solution import Solution, Status
from implayer.solvers import Newton
from implayer.solvers.scipy_minimize import ScipyMinimize
from implayer.verify import certify, check_layer


def mv(matrix, v):
    return (matrix @ v.unsqueeze(-1)).squeeze(-1)


def half_square(x, y):
    return ((y - x) ** 2).sum(-1) / 2


def in_ball(x, y):
    return (y**2).sum(-1, keepdim=True) - 1


# ------------------------------------------------------------------------------------------------ closed forms
# Each: a layer of one dict of tensors, its inputs, and the exact y as a differentiable function of them.


def least_squares():
    """min |C y - d|^2 / 2 subject to A y = b: a linear system."""
    x = {"C": torch.randn(3, 6, 4), "d": torch.randn(3, 6), "A": torch.randn(3, 2, 4), "b": torch.randn(3, 2)}

    def exact(x):
        H, A = x["C"].mT @ x["C"], x["A"]
        system = torch.cat([torch.cat([H, A.mT], 2), torch.cat([A, A.new_zeros(3, 2, 2)], 2)], 1)
        right = torch.cat([mv(x["C"].mT, x["d"]), x["b"]], -1)
        return (torch.linalg.inv(system) @ right.unsqueeze(-1)).squeeze(-1)[:, :4]

    layer = ArgminLayer(
        lambda x, y: ((mv(x["C"], y) - x["d"]) ** 2).sum(-1) / 2,
        equality=lambda x, y: mv(x["A"], y) - x["b"],
        initial=lambda x: x["b"].new_zeros(3, 4),
    )
    return layer, x, exact


def ball():
    x = {"p": torch.tensor([[3.0, 4.0, 1.0], [0.1, -0.2, 0.3], [-2.0, 0.0, 5.0]])}
    layer = ArgminLayer(
        lambda x, y: half_square(x["p"], y), inequality=in_ball, initial=lambda x: torch.zeros_like(x["p"])
    )
    return layer, x, lambda x: x["p"] / torch.linalg.vector_norm(x["p"], dim=-1, keepdim=True).clamp(min=1)


def simplex():
    x = {"p": torch.randn(4, 5)}

    def exact(x):
        p = x["p"]
        order = p.sort(-1, descending=True).values
        count = torch.arange(1, 6)
        threshold = (order.cumsum(-1) - 1) / count
        used = (order > threshold).sum(-1, keepdim=True)
        return (p - threshold.gather(-1, used - 1)).clamp(min=0)

    layer = ArgminLayer(
        lambda x, y: half_square(x["p"], y),
        equality=lambda x, y: y.sum(-1, keepdim=True) - 1,
        inequality=lambda x, y: -y,
        initial=lambda x: torch.zeros_like(x["p"]),
    )
    return layer, x, exact


def box():
    x = {"p": 2 * torch.randn(4, 5), "low": -torch.rand(5), "high": torch.rand(5)}
    layer = ArgminLayer(
        lambda x, y: half_square(x["p"], y),
        inequality=lambda x, y: torch.cat([x["low"] - y, y - x["high"]], -1),
        initial=lambda x: torch.zeros_like(x["p"]),
    )
    return layer, x, lambda x: torch.minimum(torch.maximum(x["p"], x["low"]), x["high"])


def water_filling():
    """max sum log(a + y) with y >= 0, sum y = 1: every used channel is filled to one level."""
    x = {"a": torch.rand(4, 6) + 0.1}

    def exact(x):
        order = x["a"].sort(-1).values
        count = torch.arange(1, 7)
        level = (1 + order.cumsum(-1)) / count
        used = (level > order).sum(-1, keepdim=True)
        return (level.gather(-1, used - 1) - x["a"]).clamp(min=0)

    layer = ArgminLayer(
        lambda x, y: -torch.log(x["a"] + y).sum(-1),
        equality=lambda x, y: y.sum(-1, keepdim=True) - 1,
        inequality=lambda x, y: -y,
        initial=lambda x: torch.full_like(x["a"], 1 / 6),
    )
    return layer, x, exact


def trust_region():
    """min y'Qy/2 + q'y on the unit ball: y = -(Q + lam I)^-1 q, by Newton's method on 1/|y| = 1."""
    factor = torch.randn(4, 3, 3)
    x = {"Q": factor @ factor.mT + 0.1 * torch.eye(3), "q": 5 * torch.randn(4, 3)}

    def at(x, lam):
        return -mv(torch.linalg.inv((x["Q"] + x["Q"].mT) / 2 + lam[:, None, None] * torch.eye(3)), x["q"])

    def exact(x):
        lam = torch.ones(4) * 1.0
        for _ in range(30):  # differentiable: Newton's last steps carry the derivatives
            y = at(x, lam)
            size = torch.linalg.vector_norm(y, dim=-1)
            slope = (y * mv(torch.linalg.inv((x["Q"] + x["Q"].mT) / 2 + lam[:, None, None] * torch.eye(3)), y)).sum(-1)
            lam = (lam + (size - 1) * size**2 / slope).clamp(min=0)
        return at(x, lam)

    layer = ArgminLayer(
        lambda x, y: (y * mv(x["Q"], y)).sum(-1) / 2 + (x["q"] * y).sum(-1),
        inequality=in_ball,
        initial=lambda x: torch.zeros_like(x["q"]),
    )
    return layer, x, exact


def rayleigh():
    matrix = torch.randn(3, 4, 4)
    x = {"A": matrix + matrix.mT}
    with torch.no_grad():
        near = torch.linalg.eigh(x["A"])[1][..., 0]

    def exact(x):
        v = torch.linalg.eigh((x["A"] + x["A"].mT) / 2)[1][..., 0]
        return v * torch.sign((v.detach() * near).sum(-1, keepdim=True))

    layer = ArgminLayer(
        lambda x, y: (y * mv(x["A"], y)).sum(-1),
        equality=in_ball,
        initial=lambda x: (near + 0.3).to(x["A"]),
    )
    return layer, x, exact


def unconstrained():
    """A cubic-free smooth convex function: dy = -H^-1 f_yx dx, here by a Newton iteration that is differentiated."""
    x = {"c": torch.randn(3, 4), "W": torch.randn(4, 4)}

    def objective(x, y):
        return torch.nn.functional.softplus(mv(x["W"], y)).sum(-1) + (y**2).sum(-1) / 2 + (x["c"] * y).sum(-1)

    def exact(x):
        y = torch.zeros(3, 4)
        for _ in range(12):
            s = torch.sigmoid(mv(x["W"], y))
            H = x["W"].mT @ ((s * (1 - s)).unsqueeze(-1) * x["W"]) + torch.eye(4)
            y = y - mv(torch.linalg.inv(H), mv(x["W"].mT, s) + y + x["c"])
        return y

    return ArgminLayer(objective, initial=lambda x: torch.zeros_like(x["c"])), x, exact


CASES = [least_squares, ball, simplex, box, water_filling, trust_region, rayleigh, unconstrained]


def gradients(f, x, weight):
    x = {name: t.clone().requires_grad_() for name, t in x.items()}
    return torch.autograd.grad((f(x) * weight).sum(), list(x.values()))


def relative(found, expected):
    gap = max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))
    return gap / max(float(b.abs().max()) for b in expected)


@pytest.mark.parametrize("make", CASES)
def test_closed_forms(make):
    layer, x, exact = make()
    y = exact(x)
    torch.testing.assert_close(layer(x), y, atol=1e-10, rtol=1e-10)
    weight = torch.randn_like(y)
    assert relative(gradients(layer, x, weight), gradients(exact, x, weight)) < 1e-9


@pytest.mark.parametrize("make", CASES)
def test_closed_forms_in_single_precision(make):
    layer, x, exact = make()
    weight = torch.randn_like(exact(x))
    small = {name: t.float() for name, t in x.items()}
    found = layer(small)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact(x), atol=1e-4, rtol=1e-4)
    assert relative(gradients(layer, small, weight.float()), gradients(exact, x, weight)) < 1e-4


@pytest.mark.parametrize("make", CASES)
def test_second_derivatives(make):
    layer, x, exact = make()
    weight = torch.randn_like(exact(x))
    name, value = next(iter(x.items()))
    u = torch.randn_like(value)

    def twice(f):
        live = value.clone().requires_grad_()
        (first,) = torch.autograd.grad((f({**x, name: live}) * weight).sum(), live, create_graph=True)
        return torch.autograd.grad((first * u).sum(), live) if first.requires_grad else (torch.zeros_like(value),)

    expected = twice(exact)
    if not bool(expected[0].any()):
        assert float(twice(layer)[0].abs().max()) < 1e-7
    else:
        assert relative(twice(layer), expected) < 1e-7


@pytest.mark.parametrize("make", [ball, least_squares, simplex])
def test_all_modes_agree_with_the_closed_form(make):
    layer, x, exact = make()
    name, value = next(iter(x.items()))

    def close(found, expected):
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)

    f = lambda t: layer({**x, name: t})  # noqa: E731
    g = lambda t: exact({**x, name: t})  # noqa: E731
    expected = jacrev(g)(value)
    close(jacrev(f)(value), expected)
    close(jacfwd(f)(value), expected)
    tangent = torch.randn_like(value)
    along = jvp(g, (value,), (tangent,))[1]
    close(jvp(f, (value,), (tangent,))[1], along)
    with forward_ad.dual_level():
        close(forward_ad.unpack_dual(f(forward_ad.make_dual(value, tangent))).tangent, along)
    cubed = lambda h: lambda t: (h(t) ** 3).sum()  # noqa: E731
    wanted = hessian(cubed(g))(value)
    close(hessian(cubed(f))(value), wanted)
    close(jacrev(jacrev(cubed(f)))(value), wanted)


def test_vmap():
    layer, x, exact = ball()
    close = lambda a, b: torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)  # noqa: E731
    one = lambda p: layer({"p": p})[0]  # noqa: E731
    close(vmap(lambda p: layer({"p": p}))(x["p"]), exact(x))
    close(vmap(grad(one))(x["p"]), vmap(grad(lambda p: exact({"p": p})[0]))(x["p"]))
    multiplier = vmap(grad(lambda p: layer.solve({"p": p}).aux["inequality_multipliers"][0]))(x["p"])
    norm = torch.linalg.vector_norm(x["p"], dim=-1, keepdim=True)
    close(multiplier, torch.where(norm > 1, x["p"] / norm / 2, 0))  # lam = (|p| - 1) / 2


def test_multipliers_and_value_are_differentiable():
    layer, x, _ = simplex()
    p = x["p"].clone().requires_grad_()
    solution = layer.solve({"p": p})
    y, nu, lam = solution.value, solution.aux["equality_multipliers"], solution.aux["inequality_multipliers"]
    torch.testing.assert_close(y - p + nu - lam, torch.zeros(4, 5), atol=1e-12, rtol=0.0)
    assert bool((lam > -1e-12).all()) and bool(((lam * y).abs() < 1e-12).all())
    (envelope,) = torch.autograd.grad(solution.aux["objective"].sum(), p, retain_graph=True)
    torch.testing.assert_close(envelope, p - y, atol=1e-12, rtol=0.0)  # the partial derivative of f alone
    (slope,) = torch.autograd.grad(nu.sum(), p)
    used = (y > 1e-9).double()
    torch.testing.assert_close(slope, used / used.sum(-1, keepdim=True), atol=1e-12, rtol=0.0)


def test_optimal_value_to_second_order():
    layer, x, _ = ball()
    value = lambda p: layer.solve({"p": p}).aux["objective"].sum()  # noqa: E731
    exact = lambda p: (torch.linalg.vector_norm(p, dim=-1) - 1).clamp(min=0).square().sum() / 2  # noqa: E731
    torch.testing.assert_close(hessian(value)(x["p"]), hessian(exact)(x["p"]), atol=1e-10, rtol=1e-10)


def test_order_beyond_the_adjoint_is_refused():
    layer, x, _ = ball()
    p = x["p"][:1].clone().requires_grad_()
    (first,) = torch.autograd.grad(layer({"p": p}).pow(3).sum(), p, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(2).sum(), p, create_graph=True)
    with pytest.raises(OrderError):
        torch.autograd.grad(second.pow(2).sum(), p)


# ------------------------------------------------------------------------------------------------ verification
def sphere_or_ball(constraint):
    return ArgminLayer(half_square, **{constraint: in_ball}, initial=lambda x: torch.full_like(x, 0.5))


@pytest.mark.slow
@pytest.mark.parametrize("constraint", ["equality", "inequality"])
def test_check_layer_to_second_order(constraint):
    assert check_layer(sphere_or_ball(constraint), torch.tensor([[3.0, 4.0, 1.0], [0.1, -0.2, 0.3]])).passed


def test_certify_the_kkt_system():
    layer, x, _ = trust_region()
    certificate = certify(layer.kkt, x, layer.kkt(x, layer.start(x)))
    assert certificate.valid.all()
    assert float(certificate.gradient_error_bound.max()) < 1e-9


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 5), m=st.integers(0, 2), p=st.integers(0, 6))
def test_strictly_convex_quadratic_programs(seed, n, m, p):
    generator = torch.Generator().manual_seed(seed)
    random = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    m = min(m, n - 1)
    factor, inside = random(2, n, n), random(2, n)
    x = {"Q": factor @ factor.mT + torch.eye(n), "q": 3 * random(2, n), "A": random(2, m, n), "G": random(2, p, n)}
    x["b"], x["h"] = mv(x["A"], inside), mv(x["G"], inside) + random(2, p).abs() + 0.1
    layer = ArgminLayer(
        lambda x, y: (y * mv(x["Q"], y)).sum(-1) / 2 + (x["q"] * y).sum(-1),
        equality=lambda x, y: mv(x["A"], y) - x["b"],
        inequality=lambda x, y: mv(x["G"], y) - x["h"],
        initial=lambda x: torch.zeros_like(x["q"]),
        on_failure="ignore",
    )
    solution = layer.solve(x)
    y, nu, lam = solution.value, solution.aux["equality_multipliers"], solution.aux["inequality_multipliers"]
    g = mv(x["G"], y) - x["h"]
    assert solution.converged.all()
    slope = mv(x["Q"], y) + x["q"] + mv(x["A"].mT, nu) + mv(x["G"].mT, lam)
    scale = 1 + float(lam.abs().max() if p else 0) + float(x["q"].abs().max())
    assert float(slope.abs().max()) < 1e-9 * scale
    assert float((mv(x["A"], y) - x["b"]).abs().sum()) < 1e-9 * scale
    if p:
        assert float(g.max()) < 1e-9 and float(lam.min()) > -1e-9 and float((lam * g).abs().max()) < 1e-9 * scale
    clear = (g.abs() + lam > 1e-2).all() if p else torch.tensor(True)
    if not bool(clear) or not bool((solution.status == Status.CONVERGED).all()):
        return
    weight, u = random(2, n), random(2, n)
    q = x["q"].clone().requires_grad_()
    (slope,) = torch.autograd.grad((layer({**x, "q": q}) * weight).sum(), q)
    with torch.no_grad():
        above, below = (layer({**x, "q": x["q"] + e * u}) for e in (1e-5, -1e-5))
    difference = float(((above - below) * weight).sum() / 2e-5)
    assert float((slope * u).sum()) == pytest.approx(difference, rel=1e-6, abs=1e-6)


# ------------------------------------------------------------------------------------------------ failures
def interval(**options):
    """min a y^2 / 2 + c y for l <= y <= u: by its inputs solvable, infeasible, unbounded or not finite."""
    layer = ArgminLayer(
        lambda x, y: (x["a"] * y**2 / 2 + x["c"] * x["scale"] * y).sum(-1),
        inequality=lambda x, y: torch.cat([x["l"] - y, y - x["u"]], -1),
        initial=lambda x: torch.zeros_like(x["c"]),
        **options,
    )
    x = {
        "a": torch.tensor([[1.0], [1.0], [0.0], [1.0], [2.0]]),
        "c": torch.tensor([[3.0], [1.0], [1.0], [torch.nan, ], [1.0]]),
        "l": torch.tensor([[-1.0], [1.0], [-1e30], [-1.0], [-1.0]]),
        "u": torch.tensor([[1.0], [-1.0], [1.0], [1.0], [1.0]]),
        "scale": torch.ones(()),
    }  # fmt: skip
    return layer, x


STATUSES = [Status.CONVERGED, Status.INFEASIBLE, Status.UNBOUNDED, Status.NONFINITE, Status.CONVERGED]


def test_each_sample_has_its_own_failure():
    layer, x = interval(on_failure="ignore")
    live = {name: t.clone().requires_grad_() for name, t in x.items()}
    solution = layer.solve(live)
    assert solution.status.tolist() == STATUSES
    torch.testing.assert_close(solution.value[[0, 4]], torch.tensor([[-1.0], [-0.5]]), atol=1e-12, rtol=0.0)
    names = ("a", "c", "l", "u", "scale")
    found = torch.autograd.grad(solution.value[[0, 4]].sum(), [live[name] for name in names])
    good = {name: t[[0, 4]].clone().requires_grad_() if t.ndim else t.clone().requires_grad_() for name, t in x.items()}
    expected = torch.autograd.grad(layer(good).sum(), [good[name] for name in names])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a[[0, 4]] if a.ndim else a, b, atol=1e-12, rtol=1e-12)


def test_infeasible_and_unbounded_have_no_gradient_when_ignored():
    layer, x = interval(on_failure="ignore")
    c = x["c"][1:3].clone().requires_grad_()
    y = layer({**{k: v[1:3] if v.ndim else v for k, v in x.items()}, "c": c})
    assert torch.isfinite(y).all()
    (slope,) = torch.autograd.grad(y.sum(), c)
    assert not slope.any()


def test_raise_carries_the_solution():
    layer, x = interval()
    with pytest.raises(SolveError) as caught:
        layer(x)
    assert caught.value.solution.status.tolist() == STATUSES
    assert caught.value.solution.value.shape == (5, 1)
    assert "no feasible point" in str(caught.value) and "without lower bound" in str(caught.value)


def test_warn_and_nan():
    layer, x = interval(on_failure="warn")
    with pytest.warns(SolveWarning):
        y = layer(x)
    torch.testing.assert_close(y[[0, 4]], torch.tensor([[-1.0], [-0.5]]), atol=1e-12, rtol=0.0)
    layer, x = interval(on_failure="nan")
    c = x["c"].clone().requires_grad_()
    y = layer({**x, "c": c})
    assert y.isnan().squeeze(-1).tolist() == [False, True, True, True, False]
    (slope,) = torch.autograd.grad(y[[0, 4]].sum(), c)
    torch.testing.assert_close(slope[[0, 4]], torch.tensor([[0.0], [-0.5]]), atol=1e-12, rtol=0.0)


def test_missing_start():
    layer = ArgminLayer(half_square)
    with pytest.raises(ValueError, match=r"needs a start.*initial="):
        layer(torch.zeros(1, 2))
    torch.testing.assert_close(layer(torch.ones(1, 2), torch.zeros(1, 2)), torch.ones(1, 2))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"equality": lambda x, y: y.sum(-1)}, r"`equality\(x, y\)` has shape \(3,\); expected the batch axes \(3,\)"),
        (
            {"inequality": lambda x, y: y[:1]},
            r"`inequality\(x, y\)` has shape \(1, 2\); expected the batch axes \(3,\)",
        ),
        ({"inequality": lambda x, y: None}, r"`inequality\(x, y\)` has type NoneType"),
        ({"objective": lambda x, y: y**2}, r"`objective\(x, y\)` has shape \(3, 2\); expected one scalar"),
        ({"objective": lambda x, y: 0.0}, r"`objective\(x, y\)` has type float"),
    ],
)
def test_shapes_are_checked(options, words):
    options = {"objective": half_square, **options}
    layer = ArgminLayer(options.pop("objective"), **options, initial=torch.zeros_like)
    with pytest.raises(ShapeError, match=words):
        layer(torch.ones(3, 2))


def test_dtypes_and_arguments_are_checked():
    layer = ArgminLayer(half_square, equality=lambda x, y: y.float(), initial=torch.zeros_like)
    with pytest.raises(DtypeError, match="`equality"):
        layer(torch.ones(3, 2))
    plain = getattr(ArgminLayer.__init__, "__wrapped__", ArgminLayer.__init__)  # below the type checks of the test run
    layer = ArgminLayer.__new__(ArgminLayer)
    with pytest.raises(TypeError, match=r"`inequality` is 1.0; expected a callable"):
        plain(layer, half_square, inequality=1.0)
    with pytest.raises(TypeError, match="`objective`"):
        plain(layer, None)
    with pytest.raises(ValueError, match="event_ndim"):
        ArgminLayer(half_square, event_ndim=-1)


# ------------------------------------------------------------------------------------------------ degenerate solutions
def test_weakly_active_constraint_is_degenerate():
    layer, _, _ = ball()
    p = torch.tensor([[0.6, 0.8], [3.0, 4.0]], requires_grad=True)
    with pytest.warns(DegenerateWarning):
        solution = layer.solve({"p": p})
    assert solution.status.tolist() == [Status.DEGENERATE, Status.CONVERGED]
    assert solution.converged.all() and not solution.aux["redundant"].any()
    torch.testing.assert_close(solution.value, p.detach() * torch.tensor([[1.0], [0.2]]), atol=1e-7, rtol=0.0)
    (slope,) = torch.autograd.grad(solution.value[0, 0], p)
    torch.testing.assert_close(slope[0], torch.tensor([1.0, 0.0]), atol=1e-9, rtol=0.0)  # as if it were not there


def redundant():
    layer = ArgminLayer(
        half_square,
        inequality=lambda x, y: torch.stack([y[..., 0] - 1, y[..., 0] - 1, 2 * y[..., 0] - 2, y[..., 1] - 9], -1),
        initial=torch.zeros_like,
    )
    return layer, torch.tensor([[3.0, 0.5], [0.0, 0.1]])


def test_redundant_constraints():
    layer, x = redundant()
    x.requires_grad_()
    with pytest.warns(DegenerateWarning):
        solution = layer.solve(x)
    assert solution.status.tolist() == [Status.DEGENERATE, Status.CONVERGED]
    assert solution.aux["redundant"].tolist() == [True, False]
    lam = solution.aux["inequality_multipliers"]  # of minimal norm: lam_1 + lam_2 + 2 lam_3 = 2
    torch.testing.assert_close(lam[0], torch.tensor([1.0, 1.0, 2.0, 0.0]) / 3, atol=1e-10, rtol=0.0)
    jacobian = [torch.autograd.grad(solution.value[0, k], x, retain_graph=True)[0][0] for k in range(2)]
    torch.testing.assert_close(torch.stack(jacobian), torch.tensor([[0.0, 0.0], [0.0, 1.0]]), atol=1e-10, rtol=0.0)
    (slope,) = torch.autograd.grad(solution.value[1].sum(), x)
    torch.testing.assert_close(slope, torch.tensor([[0.0, 0.0], [1.0, 1.0]]), atol=1e-10, rtol=0.0)


@pytest.mark.filterwarnings("ignore::implayer.errors.DegenerateWarning")
def test_redundant_constraints_in_all_modes():
    layer, x = redundant()
    expected = torch.tensor([[[0.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]])
    close = lambda a, b: torch.testing.assert_close(a, b, atol=1e-10, rtol=0.0)  # noqa: E731
    close(vmap(jacrev(layer))(x), expected)
    close(vmap(jacfwd(layer))(x), expected)
    close(jacrev(lambda x: layer(x).sum(0))(x).movedim(1, 0), expected)
    cubed = hessian(lambda x: (layer(x) ** 3).sum())(x)
    close(cubed[0, :, 0], torch.diag(torch.tensor([0.0, 6 * 0.5])))


def test_redundant_beside_samples_that_fail():
    layer, x = redundant()
    layer = ArgminLayer(
        layer.objective, inequality=layer.kkt.F.inequality, initial=torch.zeros_like, on_failure="ignore"
    )
    x = torch.cat([x, torch.full((1, 2), torch.nan)]).requires_grad_()
    solution = layer.solve(x)
    assert solution.status.tolist() == [Status.DEGENERATE, Status.CONVERGED, Status.NONFINITE]
    (slope,) = torch.autograd.grad(solution.value[:2].sum(), x)
    torch.testing.assert_close(slope, torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]), atol=1e-10, rtol=0.0)


def test_redundant_equalities():
    layer = ArgminLayer(
        half_square,
        equality=lambda x, y: torch.stack([y.sum(-1) - 1, 2 * y.sum(-1) - 2], -1),
        initial=torch.zeros_like,
    )
    x = torch.tensor([[3.0, 0.5]], requires_grad=True)
    with pytest.warns(DegenerateWarning):
        solution = layer.solve(x)
    assert solution.aux["redundant"].all()
    multipliers = solution.aux["equality_multipliers"]
    torch.testing.assert_close(multipliers, torch.tensor([[0.25, 0.5]]), atol=1e-12, rtol=0.0)
    (slope,) = torch.autograd.grad(solution.value[0, 0], x)
    torch.testing.assert_close(slope, torch.tensor([[0.5, -0.5]]), atol=1e-12, rtol=0.0)


def test_minimal_norm_multipliers_do_not_push_the_wrong_way():
    # grad g_3 = grad g_1 + grad g_2; the smallest multipliers without regard to their sign would have lam_2 < 0.
    layer = ArgminLayer(
        half_square,
        inequality=lambda x, y: torch.stack([y[..., 0], y[..., 1], y.sum(-1)], -1),
        initial=lambda x: x - 4,
    )
    with pytest.warns(DegenerateWarning):
        solution = layer.solve(torch.tensor([[1.0, 0.1]]))
    lam = solution.aux["inequality_multipliers"]
    assert float(lam.min()) > -1e-12
    torch.testing.assert_close(lam[:, :2] + lam[:, 2:], torch.tensor([[1.0, 0.1]]), atol=1e-6, rtol=0.0)
    torch.testing.assert_close(solution.value, torch.zeros(1, 2), atol=1e-8, rtol=0.0)


def test_minimisers_that_are_not_isolated_are_singular():
    layer = ArgminLayer(lambda x, y: (y.sum(-1) - x.sum(-1)) ** 2, initial=torch.zeros_like)
    with torch.no_grad():
        assert float(layer(torch.ones(1, 2)).sum()) == pytest.approx(2.0)
    with pytest.raises(SingularJacobianError):
        layer(torch.ones(1, 2, requires_grad=True))


# ------------------------------------------------------------------------------------------------ shapes and modules
class Energy(torch.nn.Module):
    """The squared distance to a linear image of x."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(2, 2)

    def forward(self, x, y):
        return ((y - self.net(x)) ** 2).sum(-1) / 2


def test_parameters_of_modules_are_those_of_the_layer():
    layer = ArgminLayer(Energy(), inequality=in_ball, initial=torch.zeros_like)
    x = torch.randn(3, 2) * 3
    names = [name for name, _ in layer.named_parameters()]
    assert len(names) == 2
    exact = lambda w, b: (u := x @ w.mT + b) / torch.linalg.vector_norm(u, dim=-1, keepdim=True).clamp(min=1)  # noqa: E731
    weights = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    expected = torch.autograd.grad(exact(*weights).pow(3).sum(), weights)
    layer(x).pow(3).sum().backward()
    for parameter, wanted in zip(layer.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, wanted, atol=1e-12, rtol=1e-9)
    loss = lambda values: functional_call(layer, values, (x,)).pow(3).sum()  # noqa: E731
    found = grad(loss)(dict(zip(names, [w.detach() for w in weights], strict=True)))
    for name, wanted in zip(names, expected, strict=True):
        torch.testing.assert_close(found[name], wanted, atol=1e-12, rtol=1e-9)


def test_copies_and_pickle():
    layer = ArgminLayer(Energy(), inequality=in_ball, initial=torch.zeros_like)
    x = torch.randn(3, 2)
    twin = copy.deepcopy(layer)
    torch.testing.assert_close(twin(x), layer(x))
    assert twin.kkt.F.objective is not layer.kkt.F.objective
    other = ArgminLayer(Energy(), inequality=in_ball, initial=torch.zeros_like)
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other(x), layer(x))
    torch.testing.assert_close(pickle.loads(pickle.dumps(layer))(x), layer(x))
    copy.deepcopy(ArgminLayer(lambda x, y: y.sum(-1)))
    with pytest.raises(NotPicklableError, match="`objective`"):
        pickle.dumps(ArgminLayer(lambda x, y: y.sum(-1)))


def test_tensors_in_closures():
    x, w = torch.randn(3, 2), torch.randn(2, 2, requires_grad=True)

    def loss(w):
        return (
            ArgminLayer(lambda x, y: half_square(x @ w, y), inequality=in_ball, initial=torch.zeros_like)(x)
            .pow(3)
            .sum()
        )

    exact = lambda w: (u := x @ w) / torch.linalg.vector_norm(u, dim=-1, keepdim=True).clamp(min=1)  # noqa: E731
    expected = grad(lambda w: exact(w).pow(3).sum())(w.detach())
    torch.testing.assert_close(torch.autograd.grad(loss(w), w)[0], expected, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(grad(loss)(w.detach()), expected, atol=1e-12, rtol=1e-9)


def test_scalar_unknowns():
    layer = ArgminLayer(
        lambda x, y: (y - x) ** 2, inequality=lambda x, y: y.unsqueeze(-1) - 1, event_ndim=0, initial=torch.zeros_like
    )
    x = torch.tensor([0.5, 3.0], requires_grad=True)
    solution = layer.solve(x)
    torch.testing.assert_close(solution.value, torch.tensor([0.5, 1.0]), atol=1e-10, rtol=0.0)
    assert solution.aux["inequality_multipliers"].shape == (2, 1)
    assert torch.autograd.grad(solution.value.sum(), x)[0].tolist() == pytest.approx([1.0, 0.0])
    torch.testing.assert_close(layer(torch.tensor(3.0)), torch.tensor(1.0), atol=1e-10, rtol=0.0)  # no batch axis


def test_matrices_and_two_batch_axes():
    layer = ArgminLayer(
        lambda x, y: ((y - x) ** 2).sum((-1, -2)) / 2,
        equality=lambda x, y: y.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) - 1,
        inequality=lambda x, y: y[..., 0] - 2,
        event_ndim=2,
        initial=torch.zeros_like,
    )
    x = torch.randn(2, 3, 2, 2)
    solution = layer.solve(x)
    trace = x.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    torch.testing.assert_close(solution.value, x + torch.eye(2) * (1 - trace) / 2, atol=1e-10, rtol=0.0)
    assert solution.aux["equality_multipliers"].shape == (2, 3, 1)
    assert solution.aux["inequality_multipliers"].shape == (2, 3, 2)
    assert solution.aux["objective"].shape == solution.status.shape == solution.aux["redundant"].shape == (2, 3)


def test_nests():
    layer = ArgminLayer(
        lambda x, y: ((y["a"] - x[0]) ** 2).sum(-1) + y["power"] * (y["b"][0] ** 2).sum(-1),
        equality=lambda x, y: y["a"] - y["b"][0],
        initial=lambda x: {"a": torch.zeros_like(x[0]), "b": [torch.zeros_like(x[0])], "power": 3},
    )
    x = torch.randn(2, 2, requires_grad=True)
    y = layer((x, None))
    torch.testing.assert_close(y["a"], x / 4)
    assert y["power"] == 3
    assert torch.autograd.grad(y["b"][0].sum(), x)[0].unique().item() == pytest.approx(0.25)


def test_empty_batch_and_no_constraints_at_all():
    layer, _, _ = ball()
    p = torch.zeros(0, 2, requires_grad=True)
    y = layer({"p": p})
    assert y.shape == (0, 2)
    y.sum().backward()
    none = ArgminLayer(half_square, equality=lambda x, y: y[..., :0], initial=torch.zeros_like)
    torch.testing.assert_close(none(torch.ones(2, 3)), torch.ones(2, 3))


def test_checkpointing():
    layer, x, exact = ball()
    p = x["p"].clone().requires_grad_()
    checkpoint(lambda p: layer({"p": p}).pow(3).sum(), p, use_reentrant=False).backward()
    torch.testing.assert_close(p.grad, grad(lambda p: exact({"p": p}).pow(3).sum())(x["p"]), atol=1e-12, rtol=0.0)


def test_autocast_and_half_precision():
    layer, _, _ = ball()
    p = torch.tensor([[3.0, 4.0]])
    assert layer({"p": p.bfloat16()}).tolist()[0] == pytest.approx([0.6, 0.8], abs=1e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = ArgminLayer(lambda x, y: half_square(x @ torch.eye(2), y), inequality=in_ball, initial=torch.zeros_like)(p)
    torch.testing.assert_close(y, torch.tensor([[0.6, 0.8]]), atol=1e-12, rtol=0.0)


def test_call_equals_solve():
    layer, x, _ = trust_region()
    assert torch.equal(layer(x), layer.solve(x).value)


def test_nothing_is_differentiated_where_nothing_can_be():
    layer, x, _ = ball()
    solution = layer.solve(x)
    assert not solution.value.requires_grad and "condition" not in solution.aux


@pytest.mark.parametrize("solver", [ScipyMinimize(), ScipyMinimize("trust-constr")])
def test_other_solvers_have_the_same_derivative(solver):
    layer, x, exact = simplex()
    other = ArgminLayer(
        layer.objective, equality=layer.kkt.F.equality, inequality=layer.kkt.F.inequality, forward_solver=solver,
        initial=layer.initial,
    )  # fmt: skip
    weight = torch.randn(4, 5)
    torch.testing.assert_close(other(x), exact(x), atol=1e-10, rtol=0.0)
    assert relative(gradients(other, x, weight), gradients(exact, x, weight)) < 1e-9


def test_newton_and_a_solver_of_the_users():
    layer, x, exact = least_squares()
    by_newton = ArgminLayer(
        layer.objective, equality=layer.kkt.F.equality, forward_solver=Newton(), initial=layer.initial
    )
    torch.testing.assert_close(by_newton(x), exact(x), atol=1e-10, rtol=1e-10)

    def closed(problem):
        p = problem.x["p"]
        norm = torch.linalg.vector_norm(p, dim=-1, keepdim=True)
        return Solution((p / norm.clamp(min=1), p[..., :0], (norm - 1).clamp(min=0) / 2))

    layer, x, exact = ball()
    own = ArgminLayer(
        layer.objective, inequality=in_ball, forward_solver=closed, initial=layer.initial,
        adjoint=ImplicitAdjoint(order=1),
    )  # fmt: skip
    weight = torch.randn(3, 3)
    assert relative(gradients(own, x, weight), gradients(exact, x, weight)) < 1e-9
    assert not own.solve(x).aux["redundant"].any()


def test_kkt_parts():
    kkt = KKT(half_square, None, in_ball, 1)
    x, y = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])
    slope, h, rows = kkt(x, (y, y[:, :0], torch.full((1, 1), 2.0)))
    assert (slope[0].tolist(), h.shape, rows.tolist()) == ([[15.0, 20.0]], (1, 0), [[24.0]])
    f, h, g = kkt(x, (y, y[:, :0].unsqueeze(-1), torch.zeros(1, 1)))
    assert (f.tolist(), h.shape, g.tolist()) == ([12.5], (1, 0), [[24.0]])
    inactive = kkt(x, (0 * y, y[:, :0], torch.full((1, 1), 0.5)))[2]
    assert inactive.tolist() == [[-0.5]]


def test_a_batch_is_solved_as_each_sample_alone():
    layer, x, _ = trust_region()
    whole = layer.solve(x)
    for b in range(4):
        start = torch.zeros(1, 3)
        alone = layer.solve({name: t[b : b + 1] for name, t in x.items()}, start)
        torch.testing.assert_close(alone.value[0], whole.value[b], atol=1e-12, rtol=1e-12)
        assert alone.steps[0] == whole.steps[b]


def test_a_large_batch_leaves_finished_samples_out():
    x = torch.randn(400, 6) * torch.linspace(0.1, 30, 400).unsqueeze(-1)
    layer = ArgminLayer(half_square, inequality=in_ball, initial=torch.zeros_like)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateWarning)
        y = layer(x)
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    torch.testing.assert_close(y, x / norm.clamp(min=1), atol=1e-10, rtol=0.0)
