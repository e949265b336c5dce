"""certify: the bound holds where the truth is known, and every kind of trouble makes a sample not valid."""

import pytest
import torch
from torch.utils._pytree import tree_map

import implayer
from implayer.verify import catalogue, certify
from implayer.verify.catalogue import _jacobian

FIELDS = ("residual_norm", "adjoint_residual_norm", "condition", "contraction", "gradient_error_bound", "valid")


def cube(solver=None, **options) -> implayer.ImplicitLayer:
    return implayer.ImplicitLayer(
        lambda x, y: y**3 + y - x, solver or implayer.Newton(), initial=torch.zeros_like, event_ndim=0, **options
    )


def weights() -> torch.Tensor:
    return 0.4 * torch.tensor([[0.8, 0.6, 0.0], [-0.6, 0.8, 0.0], [0.0, 0.3, 0.9]])


def equilibrium(solver=None, **options) -> implayer.ImplicitLayer:
    return implayer.FixedPointLayer(
        lambda x, y: torch.tanh(y @ weights().T + x), solver or implayer.Anderson(atol=1e-12, rtol=1e-12),
        initial=torch.zeros_like, **options,
    )  # fmt: skip


def test_fields_have_the_batch_shape():
    certificate = certify(cube(), torch.ones(2, 3))
    assert all(getattr(certificate, name).shape == (2, 3) for name in FIELDS)
    assert bool(certificate.valid.all()) and certificate.valid.dtype == torch.bool
    assert "6 of 6 samples valid" in str(certificate)


def test_condition_and_contraction_are_those_of_the_jacobian():
    a = torch.tensor([[[1.0, 0.5], [0.0, 0.25]], [[2.0, 0.0], [0.0, 2.0]]])
    layer = implayer.ImplicitLayer(
        lambda x, y: (a[: len(x)] @ y.unsqueeze(-1)).squeeze(-1) - x,
        implayer.Newton(),
        initial=torch.zeros_like,
        sign=-1,
    )
    certificate = certify(layer, torch.ones(2, 2))
    torch.testing.assert_close(certificate.contraction, torch.tensor([0.75, 1.0]))
    torch.testing.assert_close(certificate.condition[1], torch.tensor(1.0))


@pytest.mark.parametrize("entry", catalogue.entries("root"), ids=lambda entry: entry.name)
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_the_bound_bounds_the_error(entry, tolerance: float):
    """The gradient at a value that is only as good as a loose solver, against the closed form."""

    def loose(problem):
        step = implayer.Newton()(problem).value
        return tree_map(lambda t: t * (1 + tolerance), step)

    layer = implayer.ImplicitLayer(
        entry.F, loose, initial=entry.initial, event_ndim=entry.event_ndim, on_failure="ignore",
        adjoint=implayer.ImplicitAdjoint(order=1),
    )  # fmt: skip
    x = entry.example(torch.float64)
    exact = entry.jacobian(x)
    bound = certify(layer, x).gradient_error_bound
    found = _jacobian(entry, layer, x)
    norms = [torch.linalg.matrix_norm(t, 2) for t in (found - exact, exact)]
    assert bool((norms[0] <= 3 * bound * norms[1] + 1e-12).all()), (norms[0] / norms[1], bound)


def test_an_approximate_adjoint_shows():
    x = torch.tensor([[0.3, -0.2, 0.5], [0.1, 0.9, -0.4]])
    exact = certify(equilibrium(adjoint=implayer.ImplicitAdjoint(linear_solver=implayer.GMRES())), x)
    assert bool(exact.valid.all()) and bool((exact.contraction < 0.5).all())
    bounds = []
    for terms in (0, 2, 6):
        certificate = certify(
            equilibrium(adjoint=implayer.ImplicitAdjoint(linear_solver=implayer.Neumann(terms=terms))), x
        )
        assert not bool(certificate.valid.any())
        bounds.append(float(certificate.gradient_error_bound.max()))
    assert bounds == sorted(bounds, reverse=True) and bounds[-1] < 1e-3
    free = certify(equilibrium(adjoint=implayer.JacobianFree()), x)
    assert float(free.gradient_error_bound.max()) == pytest.approx(bounds[0], rel=0.5)


def test_failed_samples_are_not_valid_and_raise_nothing():
    layer = implayer.ImplicitLayer(lambda x, y: y**2 - x, implayer.Newton(), initial=torch.ones_like)
    certificate = certify(layer, torch.tensor([[2.0], [-1.0], [float("nan")], [0.0]]))
    assert certificate.valid.tolist() == [True, False, False, False]
    assert bool(torch.isinf(certificate.gradient_error_bound[1:]).all())
    assert "1 of 4 samples valid" in str(certificate) and "samples 1, 2, 3" in str(certificate)


def test_singular_and_ill_conditioned():
    a = torch.diag_embed(torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
    a[0] += torch.tensor([[0.0, 0.0], [1.0 - 1e-14, 0.0]])

    def F(x, y):
        return (a @ y.unsqueeze(-1)).squeeze(-1) - x

    layer = implayer.ImplicitLayer(F, lambda p: torch.zeros_like(p.x))
    certificate = certify(layer, torch.zeros(2, 2))
    assert not bool(certificate.valid[1]) and bool(torch.isinf(certificate.condition[1]))


def test_fewer_and_more_equations():
    wide = next(entry for entry in catalogue.ENTRIES if "wide" in entry.kinds)
    tall = next(entry for entry in catalogue.ENTRIES if "tall" in entry.kinds)
    for entry, solver in ((wide, implayer.Newton()), (tall, implayer.LevenbergMarquardt())):
        layer = implayer.ImplicitLayer(entry.F, solver, initial=entry.initial)
        certificate = certify(layer, entry.example(torch.float64))
        assert bool(certificate.valid.all()), str(certificate)
        assert bool(certificate.contraction.isnan().all()) == (entry is wide)


def test_a_layer_of_a_user_with_its_equation():
    x = torch.tensor([[2.0], [3.0]])
    assert bool(certify(torch.sqrt, x, F=lambda x, y: y**2 - x).valid.all())
    assert not bool(certify(lambda x: torch.sqrt(x).detach(), x, F=lambda x, y: y**2 - x).valid.any())
    with pytest.raises(ValueError, match="`F=`"):
        certify(torch.sqrt, x)


def test_large_samples_without_a_matrix():
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(600, 600, generator=generator) * 0.3 / 600**0.5
    layer = implayer.FixedPointLayer(lambda x, y: torch.tanh(y @ w.T + x), initial=torch.zeros_like,
                                     adjoint=implayer.ImplicitAdjoint(linear_solver=implayer.GMRES()))  # fmt: skip
    certificate = certify(layer, torch.randn(2, 600, generator=generator))
    assert bool(certificate.valid.all()), str(certificate)
    assert bool((certificate.contraction < 0.5).all())


def test_empty_batch_and_float32():
    assert certify(cube(), torch.zeros(0)).valid.shape == (0,)
    assert bool(certify(cube(), torch.tensor([2.0, 10.0], dtype=torch.float32)).valid.all())
