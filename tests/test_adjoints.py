"""How a layer is differentiated: exact, unrolled, or by a stated approximation."""

import pytest
import torch

import implayer

W = torch.tensor([[0.3, -0.2, 0.1], [0.4, 0.1, 0.0], [0.0, 0.2, -0.3]], dtype=torch.float64)


def f(x, y):
    return torch.tanh(y @ W.T + x)


def gradient(adjoint, x, v, solver=None, layer_of=implayer.FixedPointLayer, F=f, **options):
    layer = layer_of(
        F, solver or implayer.Picard(atol=1e-14, rtol=0.0), adjoint=adjoint, initial=torch.zeros_like, **options
    )
    y = layer(x)
    return y.detach(), torch.autograd.grad((y * v).sum(), x)[0]


def parts(x):
    """y*, J_f and f_x of one sample by brute force."""
    y = torch.zeros_like(x)
    for _ in range(200):
        y = f(x, y)
    return y, torch.func.jacrev(f, argnums=1)(x, y), torch.func.jacrev(f)(x, y)


@pytest.fixture
def x():
    return torch.tensor([[0.5, -0.2, 0.1]], requires_grad=True)


@pytest.fixture
def v():
    return torch.tensor([[1.0, -2.0, 0.5]])


def close(got, expected, tolerance=1e-10):
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("terms", [0, 1, 2, 5])
def test_neumann_is_its_formula(terms, x, v):
    """v' (J_f^0 + ... + J_f^T) f_x, equation (14)."""
    _, J, f_x = parts(x[0].detach())
    series = sum(torch.linalg.matrix_power(J, i) for i in range(terms + 1))
    _, got = gradient(implayer.ImplicitAdjoint(linear_solver=implayer.Neumann(terms=terms)), x, v)
    close(got, v @ series @ f_x)


@pytest.mark.parametrize("sign", [1, -1])
def test_neumann_follows_the_sign_of_F(sign, x, v):
    def F(x, y):
        return sign * (f(x, y) - y)

    adjoint = implayer.ImplicitAdjoint(linear_solver=implayer.Neumann(terms=2))
    _, expected = gradient(adjoint, x, v)
    _, got = gradient(adjoint, x, v, layer_of=implayer.ImplicitLayer, F=F, sign=sign)
    close(got, expected)


def test_jacobian_free_is_neumann_without_terms(x, v):
    _, free = gradient(implayer.JacobianFree(), x, v)
    _, none = gradient(implayer.ImplicitAdjoint(linear_solver=implayer.Neumann(terms=0)), x, v)
    assert torch.equal(free, none)
    close(free, v @ parts(x[0].detach())[2])


@pytest.mark.parametrize(("steps", "damping"), [(1, 0.5), (3, 0.5), (4, 1.0)])
def test_phantom_is_damped_steps_at_the_solution(steps, damping, x, v):
    y, _, _ = parts(x[0].detach())
    z = y[None].clone()
    for _ in range(steps):
        z = (1 - damping) * z + damping * f(x, z)
    (expected,) = torch.autograd.grad((z * v).sum(), x)
    _, got = gradient(implayer.PhantomAdjoint(steps=steps, damping=damping), x, v)
    close(got, expected)


def test_more_terms_come_nearer_to_the_exact_gradient(x, v):
    _, exact = gradient(implayer.ImplicitAdjoint(), x, v)
    neumann = [
        gradient(implayer.ImplicitAdjoint(linear_solver=implayer.Neumann(terms=t)), x, v)[1] for t in (0, 2, 8, 60)
    ]
    phantom = [gradient(implayer.PhantomAdjoint(steps=s), x, v)[1] for s in (1, 5, 20, 150)]
    for approximations in (neumann, phantom):
        errors = [float((g - exact).norm() / exact.norm()) for g in approximations]
        assert errors == sorted(errors, reverse=True) and errors[0] > 1e-2 and errors[-1] < 1e-10


SOLVERS = [
    implayer.Picard(atol=1e-14, rtol=0.0),
    implayer.Anderson(atol=1e-14, rtol=0.0),
    implayer.Newton(atol=1e-14, rtol=0.0),
    implayer.Broyden(atol=1e-14, rtol=0.0),
    implayer.LevenbergMarquardt(atol=1e-14, rtol=0.0),
]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_unrolled_agrees_with_implicit(solver, x, v):
    y, implicit = gradient(implayer.ImplicitAdjoint(), x, v, solver)
    z, unrolled = gradient(implayer.UnrolledAdjoint(), x, v, solver)
    close(z, y, 1e-11)
    close(unrolled, implicit, 1e-6)


def test_unrolled_is_the_derivative_of_the_iteration_and_not_of_the_limit(x, v):
    """Stopped early it is that of the steps taken."""
    solver = implayer.Picard(max_steps=2)
    _, got = gradient(implayer.UnrolledAdjoint(), x, v, solver, on_failure="ignore")
    (expected,) = torch.autograd.grad((f(x, f(x, torch.zeros_like(x))) * v).sum(), x)
    close(got, expected)


def test_unrolled_samples_stop_by_themselves(v):
    x = torch.tensor([[0.5, -0.2, 0.1], [1e-7, 0.0, 0.0], [3.0, 1.0, -1.0]], requires_grad=True)
    solver = implayer.Picard(atol=1e-8, rtol=0.0)
    y, together = gradient(implayer.UnrolledAdjoint(), x, v, solver)
    for i in range(3):
        alone, one = gradient(implayer.UnrolledAdjoint(), x[i : i + 1].detach().requires_grad_(), v, solver)
        close(y[i], alone[0], 1e-14)
        close(together[i], one[0], 1e-14)


def test_unrolled_from_a_solved_start_is_no_silent_zero(v):
    """x = 0 is solved by y0 = 0 without a step; the derivative is that of a step all the same."""
    x = torch.zeros(1, 3, requires_grad=True)
    y = implayer.FixedPointLayer(f, implayer.Picard(), adjoint=implayer.UnrolledAdjoint(), initial=torch.zeros_like)(x)
    assert y.requires_grad
    assert torch.autograd.grad((y * v).sum(), x)[0].abs().sum() > 0.1


@pytest.mark.parametrize("adjoint", [implayer.UnrolledAdjoint(), implayer.PhantomAdjoint()])
@pytest.mark.parametrize("solver", [lambda problem: problem.x, implayer.ScipyRoot()], ids=["lambda", "ScipyRoot"])
def test_type_error_at_construction(adjoint, solver):
    with pytest.raises(TypeError, match=rf"`{type(adjoint).__name__}` needs a forward solver with `init` and `step`"):
        implayer.ImplicitLayer(f, solver, adjoint=adjoint)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: implayer.ImplicitAdjoint(order=0), "`order` is 0"),
        (lambda: implayer.PhantomAdjoint(steps=0), "`steps` is 0"),
        (lambda: implayer.PhantomAdjoint(damping=1.5), "1.5"),
    ],
)
def test_value_error_at_construction(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_unrolled_refuses_transforms(x):
    layer = implayer.FixedPointLayer(f, implayer.Picard(), adjoint=implayer.UnrolledAdjoint(), initial=torch.zeros_like)
    with pytest.raises(implayer.ImplayerError, match="ImplicitAdjoint"):
        torch.func.grad(lambda x: layer(x).sum())(x.detach())


@pytest.mark.parametrize(
    "adjoint",
    [
        implayer.JacobianFree(),
        implayer.PhantomAdjoint(),
        implayer.ImplicitAdjoint(linear_solver=implayer.Neumann(terms=1)),
    ],
)
def test_approximations_agree_under_transforms_and_in_forward_mode(adjoint, x, v):
    layer = implayer.FixedPointLayer(
        f, implayer.Picard(atol=1e-14, rtol=0.0), adjoint=adjoint, initial=torch.zeros_like
    )
    (eager,) = torch.autograd.grad((layer(x) * v).sum(), x)
    close(torch.func.grad(lambda x: (layer(x) * v).sum())(x.detach()), eager)
    tangent = torch.tensor([[0.2, 1.0, -0.7]])
    close((torch.func.jvp(layer, (x.detach(),), (tangent,))[1] * v).sum(), (eager * tangent).sum())


LINEAR = [implayer.LU(), implayer.GMRES(), implayer.BiCGSTAB(), implayer.LSMR(), implayer.Auto()]


@pytest.mark.parametrize("linear_solver", LINEAR, ids=lambda s: type(s).__name__)
def test_every_general_linear_solver(linear_solver, x, v):
    _, J, f_x = parts(x[0].detach())
    _, got = gradient(implayer.ImplicitAdjoint(linear_solver=linear_solver), x, v)
    close(got, v @ torch.linalg.solve(torch.eye(3) - J, f_x), 1e-9 if isinstance(linear_solver, implayer.LU) else 1e-6)


@pytest.mark.parametrize(
    "linear_solver", [implayer.Cholesky(), implayer.CG(), implayer.MINRES()], ids=lambda s: type(s).__name__
)
def test_symmetric_linear_solvers(linear_solver):
    A = torch.tensor([[3.0, 1.0, 0.0], [1.0, 4.0, 1.0], [0.0, 1.0, 5.0]])
    x, v = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True), torch.tensor([[1.0, 0.0, -1.0]])
    y = implayer.ImplicitLayer(
        lambda x, y: y @ A - x,
        implayer.Newton(),
        adjoint=implayer.ImplicitAdjoint(linear_solver=linear_solver),
        initial=torch.zeros_like,
    )(x)
    close(torch.autograd.grad((y * v).sum(), x)[0], torch.linalg.solve(A, v.mT).mT, 1e-8)
