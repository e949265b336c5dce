"""R51: fields without a surface, constant, not finite, or touching the border: a typed error or a counted warning."""

import warnings

import pytest
import torch

from implayer.errors import DegenerateWarning, NoSurfaceError, ShapeError, SolveError, SolveWarning
from implayer.layers.level_set import LevelSetLayer
from implayer.solution import Status


def ball(n: int = 9, radius: float = 0.6) -> torch.Tensor:
    x = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, n)] * 3, indexing="ij"))
    return x.square().sum(0).sqrt() - radius


@pytest.mark.parametrize("phi", [ball(radius=-1.0), torch.full((4, 4, 4), 0.5), torch.zeros(4, 4, 4)])
def test_no_crossing(phi: torch.Tensor):
    low, high = (f"{float(v):g}" for v in (phi.min(), phi.max()))
    with pytest.raises(NoSurfaceError, match="no surface") as caught:
        LevelSetLayer()(phi)
    assert f"field range [{low}, {high}]" in str(caught.value)
    assert caught.value.solution.value is None
    assert caught.value.solution.status == Status.INFEASIBLE


def test_one_of_a_batch():
    phi = torch.stack([ball(), ball(radius=-1.0), ball(radius=0.55)]).requires_grad_()
    with pytest.raises(NoSurfaceError, match=r"1 of 3 samples.*sample 1"):
        LevelSetLayer()(phi)
    with pytest.warns(SolveWarning, match="no surface"):
        LevelSetLayer(on_failure="warn")(phi)
    surfaces = LevelSetLayer(on_failure="ignore")(phi)
    assert [len(s.vertices) > 0 for s in surfaces] == [True, False, True]
    sum(s.area() for s in surfaces).backward()
    assert (
        phi.grad is not None
        and phi.grad.isfinite().all()
        and not phi.grad[1].any()
        and phi.grad[0].any()
        and phi.grad[2].any()
    )


def test_empty_surface_has_a_zero_derivative_and_no_file(tmp_path):
    phi = ball(radius=-1.0).requires_grad_()
    surface = LevelSetLayer(on_failure="ignore")(phi)
    assert surface.vertices.shape == (0, 3) and surface.faces.shape == (0, 3)
    (surface.area() + surface.volume()).backward()
    assert not phi.grad.any()
    with pytest.raises(ShapeError, match="no faces to write"):
        surface.export(tmp_path / "empty.ply")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ShapeError, match="0 faces"):
        surface.sample(3)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_not_finite(value: float):
    phi = ball()
    phi[4, 2, 3] = value
    with pytest.raises(SolveError, match=r"index \[4, 2, 3\], one of 1 values") as caught:
        LevelSetLayer()(phi)
    assert not isinstance(caught.value, NoSurfaceError)
    assert caught.value.solution.status == Status.NONFINITE
    with pytest.raises(SolveError, match=r"index \[1, 4, 2, 3\]"):
        LevelSetLayer()(torch.stack([ball(), phi]))
    leaf = phi.clone().requires_grad_()
    for gauge in ("normal", "edge"):
        surface = LevelSetLayer(gauge=gauge, on_failure="ignore")(leaf)
        assert surface.vertices.isfinite().all() and len(surface.faces)
        (gradient,) = torch.autograd.grad(surface.area(), leaf)
        assert gradient.isfinite().all() and gradient.any()


def test_nan_policy_keeps_to_its_sample():
    phi = torch.stack([ball(), ball()])
    phi[1, 4, 2, 3] = torch.nan
    good, bad = LevelSetLayer(on_failure="nan")(phi.requires_grad_())
    assert good.vertices.isfinite().all() and bad.vertices.isnan().all()


def test_touching_the_border_is_open_and_told():
    surface = LevelSetLayer()(ball(radius=1.2))
    assert surface.area() > 0
    with pytest.warns(DegenerateWarning, match=r"`volume` of a surface with \d+ open edges"):
        surface.volume()
    assert surface.defects().open_edges > 0


def test_zero_exactly_at_a_grid_point():
    phi = ball(9, 0.75)
    with pytest.warns(DegenerateWarning, match="30 vertices lie on a grid point"):
        surface = LevelSetLayer()(phi.clone().requires_grad_())
    assert surface.vertices.isfinite().all() and not surface.defects()


def test_huge_values():
    for dtype, size in ((torch.float64, 1e300), (torch.float32, 1e30)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            phi = (ball(8, 0.61).to(dtype) * size).requires_grad_()
            surface = LevelSetLayer()(phi)
            surface.area().backward()
        assert surface.vertices.isfinite().all() and phi.grad.isfinite().all() and not surface.defects()
