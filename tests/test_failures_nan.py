"""`on_failure="nan"`: NaN in value and derivative of the samples that failed, in every mode, and nowhere else."""

import shutil

import pytest
import torch
from torch.autograd import forward_ad

import implayer


def no_root(x, y):
    """No real solution for x0 < 0."""
    return torch.stack([y[:, 0] ** 2 - x[:, 0], y[:, 1] + y[:, 0] - x[:, 1]], -1)


def singular_at_zero(x, y):
    """Every y0 solves it for x0 = 0."""
    return torch.stack([x[:, 0] * y[:, 0] - x[:, 0], y[:, 1] - x[:, 1]], -1)


FAILURES = {
    "max steps": (no_root, -1.0),
    "singular": (singular_at_zero, 0.0),
    "not finite": (no_root, float("nan")),
}
ADJOINTS = {
    "automatic": implayer.ImplicitAdjoint(),
    "third order": implayer.ImplicitAdjoint(order=3),
    "matrix-free": implayer.ImplicitAdjoint(implayer.GMRES()),
}


def vjp(layer, x):
    return torch.func.vjp(layer, x)[1](torch.ones_like(x))[0]


def eager(layer, x, **options):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(layer(x).sum(), x, **options)[0]


def with_graph(layer, x):
    return eager(layer, x, create_graph=True)


def many_cotangents(layer, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(layer(x), x, torch.ones(2, *x.shape).to(x), is_grads_batched=True)[0][1]


def jvp(layer, x):
    return torch.func.jvp(layer, (x,), (torch.ones_like(x),))[1]


def duals(layer, x):
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, torch.ones_like(x)))).tangent
        assert tangent is not None
        return tangent


def of_each(layer, x):
    """The sum of the gradient of each sample, one at a time."""
    return torch.func.vmap(torch.func.grad(lambda row: layer(row.unsqueeze(0)).sum()))(x)


def rows_of(jacobian):
    """Which of the samples that a Jacobian derives, and for which of x: (samples, samples) NaN or not."""
    return jacobian.isnan().any(3).any(1)


MODES = {f.__name__: f for f in (eager, with_graph, many_cotangents, vjp, jvp, duals, of_each)}
CASES = [
    (failure, mode, adjoint, others)
    for failure in FAILURES
    for mode in MODES
    for adjoint in ADJOINTS
    for others in ((True, False) if adjoint == "automatic" else (True,))
    # A matrix-free adjoint refuses many cotangents at once, and sees a singular J in the backward pass alone.
    if adjoint != "matrix-free" or not (mode == "many_cotangents" or failure == "singular")
]


@pytest.mark.parametrize(("failure", "mode", "adjoint", "others"), CASES)
def test_nan_is_in_value_and_derivative_in_every_mode(failure, mode, others, adjoint):
    F, first = FAILURES[failure]
    layer = implayer.ImplicitLayer(
        F, implayer.Newton(), initial=torch.ones_like, on_failure="nan", adjoint=ADJOINTS[adjoint]
    )
    x = torch.tensor([[first, 1.0], [2.0, 1.0]], dtype=torch.float64)[: 1 + others]
    expected = [True, False][: 1 + others]
    if failure != "singular":  # which needs a Jacobian to be seen
        assert layer(x).isnan().all(-1).tolist() == expected
    assert layer(x.clone().requires_grad_()).isnan().all(-1).tolist() == expected
    got = MODES[mode](layer, x)
    assert got.isnan().any(-1).tolist() == expected
    if others:
        torch.testing.assert_close(got[1:], MODES[mode](layer, x[1:]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("jacobian", [torch.func.jacrev, torch.func.jacfwd], ids=["reverse", "forward"])
def test_jacobians_have_nan_in_the_block_of_the_failed_sample_alone(jacobian, failure):
    F, first = FAILURES[failure]
    layer = implayer.ImplicitLayer(F, implayer.Newton(), initial=torch.ones_like, on_failure="nan")
    x = torch.tensor([[first, 1.0], [2.0, 1.0], [3.0, 2.0]], dtype=torch.float64)
    found = jacobian(layer)(x)
    block = torch.zeros(3, 3, dtype=torch.bool)
    block[0, 0] = True
    assert torch.equal(rows_of(found), block)
    torch.testing.assert_close(found[1:, :, 1:], jacobian(layer)(x[1:]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("kind", ["hessian", "eager"])
def test_second_derivatives(kind, failure):
    F, first = FAILURES[failure]
    layer = implayer.ImplicitLayer(F, implayer.Newton(), initial=torch.ones_like, on_failure="nan")
    x = torch.tensor([[first, 1.0], [2.0, 1.0]], dtype=torch.float64)

    def second(x):
        if kind == "hessian":
            return torch.func.hessian(lambda x: (layer(x) ** 2).sum())(x)
        return torch.autograd.functional.hessian(lambda x: (layer(x) ** 2).sum(), x)

    found = second(x)
    assert found[0, :, 0].isnan().any() and found[1, :, 1].isfinite().all()
    torch.testing.assert_close(found[1:, :, 1:], second(x[1:]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("policy", ["nan", "ignore"])
@pytest.mark.parametrize(
    ("mode", "adjoint"),
    [(mode, adjoint) for mode in ("eager", "graph", "transform") for adjoint in ADJOINTS]
    + [("eager", "unrolled"), ("graph", "unrolled")],
)
@pytest.mark.parametrize("failure", FAILURES)
def test_shared_leaves_are_untouched_by_samples_that_the_loss_leaves_out(failure, mode, policy, adjoint):
    F, first = FAILURES[failure]
    x = torch.tensor([[2.0, 1.0], [first, 1.0], [3.0, 2.0]], dtype=torch.float64)
    kept = torch.tensor([0, 2])

    def gradient(x, rows):
        chosen = implayer.UnrolledAdjoint() if adjoint == "unrolled" else ADJOINTS[adjoint]

        def loss(shared):
            layer = implayer.ImplicitLayer(
                lambda x, y: F(x["rows"], x["shared"] * y), implayer.Newton(), initial=lambda x: torch.ones_like(x["rows"]),
                on_failure=policy, adjoint=chosen,
            )  # fmt: skip
            return layer({"rows": x, "shared": shared})[rows].sum()

        shared = torch.tensor([1.5], dtype=torch.float64)
        if mode == "transform":
            return torch.func.grad(loss)(shared)
        shared.requires_grad_()
        return torch.autograd.grad(loss(shared), shared, create_graph=mode == "graph")[0].detach()

    torch.testing.assert_close(gradient(x, kept), gradient(x[kept], [0, 1]), rtol=1e-10, atol=1e-10)
    counted = gradient(x, [0, 1, 2])  # with a share of the failed one
    assert bool(counted.isnan().all()) == (policy == "nan")


def test_shared_parameters_of_a_module_where_nothing_was_solved():
    class Root(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, x, y):
            return self.scale * y**2 - x

    for policy, lost in (("nan", True), ("ignore", False)):
        layer = implayer.ImplicitLayer(Root(), implayer.Newton(), initial=torch.ones_like, on_failure=policy)
        x = torch.full((2, 1), torch.nan, requires_grad=True)
        found = torch.autograd.grad(layer(x).sum(), (x, *layer.parameters()))
        assert all(bool(part.isnan().all()) == lost and (lost or not part.any()) for part in found)
        found = torch.autograd.grad((0 * layer(x).nan_to_num()).sum(), (x, *layer.parameters()))
        assert not any(part.any() for part in found)
        g, of_scale = torch.autograd.grad(layer(x)[1].sum(), (x, *layer.parameters()))
        assert not g[0].any() and bool(g[1].isnan()) == bool(of_scale.isnan()) == lost


@pytest.mark.parametrize("unknowns", [torch.float64, torch.complex128])
@pytest.mark.parametrize("others", [True, False], ids=["among others", "alone"])
@pytest.mark.parametrize("mode", ["eager", "vjp"])
def test_nan_is_handed_on_to_complex_inputs_and_keeps_the_dtype(mode, unknowns, others):
    x = torch.tensor([[complex(float("nan"), 1)], [2 + 1j]], dtype=torch.complex128)[: 1 + others]
    layer = implayer.ImplicitLayer(
        lambda x, y: y**2 - (x if y.is_complex() else x.abs()), implayer.Newton(), on_failure="nan"
    )

    def real(x):
        y = layer(x, y0=torch.ones(1 + others, 1, dtype=unknowns))
        assert y.dtype == unknowns
        return (y.real if y.is_complex() else y).sum()

    if mode == "vjp":
        g = torch.func.vjp(real, x)[1](torch.ones((), dtype=torch.float64))[0]
    else:
        (g,) = torch.autograd.grad(real(x.requires_grad_()), x)
    assert g.isnan().any(-1).tolist() == [True, False][: 1 + others]


def test_surfaces_of_fields_that_are_not_finite_are_nan_unless_they_do_not_count():
    axis = torch.linspace(-1, 1, 6)
    phi = sum(part.square() for part in torch.meshgrid(axis, axis, axis, indexing="ij")).sqrt() - 0.6
    spoiled = phi.clone()
    spoiled[0, 0, 0] = torch.nan
    level = torch.zeros((), requires_grad=True)
    layer = implayer.LevelSetLayer(level=level, on_failure="nan")
    both = torch.stack([spoiled, phi]).requires_grad_()
    first, second = layer(both)
    assert first.vertices.isnan().all()
    g, of_level = torch.autograd.grad(
        second.vertices.square().sum() + 0 * first.vertices.nan_to_num().sum(), (both, level)
    )
    assert g.isfinite().all() and not g[0].any() and of_level.isfinite()
    g, of_level = torch.autograd.grad(sum(s.vertices.sum() for s in layer(both)), (both, level))
    assert g[0].isnan().any() and g[1].isfinite().all() and of_level.isnan()


@pytest.mark.parametrize("transform", [False, True])
def test_vectors_of_singular_values_that_are_zero(transform):
    M = torch.tensor([[[3.0, 0.0], [0.0, 0.0]], [[3.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    layer = implayer.SingularLayer(2, on_failure="nan")

    def gradient(pair):
        def loss(M):
            _, left, right = layer(M)
            return left[..., pair].sum() + right[..., pair].sum()

        if transform:
            return torch.func.grad(loss)(M)
        x = M.clone().requires_grad_()
        return torch.autograd.grad(loss(x), x)[0]

    assert gradient(1)[0].isnan().any() and gradient(1)[1].isfinite().all()
    assert gradient(0).isfinite().all()


def test_a_singular_step_on_the_tape_is_a_singular_sample():
    """Newton's last steps are taken once more for the derivative: with J = 0 they would make NaN of a root."""
    x = torch.tensor([[2.0, 1.0], [0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    options = {"initial": torch.ones_like, "adjoint": implayer.UnrolledAdjoint()}
    with pytest.raises(implayer.SingularJacobianError):
        implayer.ImplicitLayer(singular_at_zero, implayer.Newton(), **options)(x)
    solution = implayer.ImplicitLayer(singular_at_zero, implayer.Newton(), on_failure="ignore", **options).solve(x)
    assert solution.status.tolist() == [implayer.Status.CONVERGED, implayer.Status.SINGULAR]
    assert torch.equal(solution.value, torch.ones(2, 2, dtype=torch.float64))
    (g,) = torch.autograd.grad(solution.value.sum(), x)
    assert torch.equal(g, torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # Dynamo itself reads it
@pytest.mark.skipif(not shutil.which("g++"), reason="Inductor compiles C++")
@pytest.mark.parametrize("first", [-1.0, float("nan")])
def test_a_compiler_leaves_the_marks(first):
    layer = implayer.ImplicitLayer(lambda x, y: y**2 - x, implayer.Newton(), initial=torch.ones_like, on_failure="nan")
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: torch.func.vjp(layer, x)[1](torch.ones_like(x))[0])
    g = compiled(torch.tensor([[first], [4.0]], dtype=torch.float64))
    assert g[0].isnan() and g[1] == 0.25


@pytest.mark.parametrize("policy", ["nan", "ignore"])
@pytest.mark.parametrize("transform", [False, True])
def test_matrices_that_are_not_finite_have_no_part_in_what_leaves_them_out(transform, policy):
    X = torch.rand(2, 3, 3, dtype=torch.float64)
    X[0, 0, 0] = torch.nan
    layer = implayer.BistochasticLayer(on_failure=policy)
    assert layer(X)[0].isnan().all()

    def gradient(weights):
        def loss(shift):
            Y = layer(shift + X)
            return (weights[:, None, None] * Y.nan_to_num(3.0).square()).sum() + weights[0] * Y[0].sum()

        shift = torch.zeros_like(X)
        return (
            torch.func.grad(loss)(shift) if transform else torch.autograd.grad(loss(shift.requires_grad_()), shift)[0]
        )

    left = gradient(torch.tensor([0.0, 1.0]))
    assert left[1].any() and left.isfinite().all()
    assert bool(gradient(torch.tensor([1.0, 1.0]))[0].isnan().any()) == (policy == "nan")
