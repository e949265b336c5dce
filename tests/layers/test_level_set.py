"""The level-set layer against closed forms, in both gauges, to second order, and in every mode."""

import math
import warnings

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

from implayer.adjoints import ImplicitAdjoint, JacobianFree
from implayer.errors import (
    DegenerateWarning,
    DtypeError,
    ImplayerError,
    OrderError,
    ShapeError,
)
from implayer.layers.level_set import LevelSetLayer
from implayer.layers.level_set_residual import Stencil, VertexInverse, differences, frozen_inverse, residual
from implayer.layers.surface import Surface
from implayer.layers.surface_edges import edges
from implayer.solution import Status
from implayer.solvers.marching import march

GAUGES = ("normal", "edge")


def coordinates(n: int, ndim: int = 3, half: float = 1.0) -> Tensor:
    """(ndim, n, ...) a cube of side 2 half around the origin."""
    return torch.stack(torch.meshgrid(*[torch.linspace(-half, half, n)] * ndim, indexing="ij"))


def layer(n: int, gauge: str = "normal", half: float = 1.0, **options) -> LevelSetLayer:
    return LevelSetLayer(gauge=gauge, spacing=2 * half / (n - 1), origin=-half, **options)


def sphere(n: int, radius: float = 0.6, ndim: int = 3) -> Tensor:
    return coordinates(n, ndim).square().sum(0).sqrt() - radius


def torus(n: int) -> Tensor:
    x, y, z = coordinates(n)
    return ((x.square() + y.square()).sqrt() - 0.6).square() + z.square() - 0.09  # 2 r |grad|: no distance function


def ellipsoid(n: int, a: float = 0.8, b: float = 0.6, c: float = 0.5) -> Tensor:
    x, y, z = coordinates(n)
    return (x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2 - 1


def frozen(phi: Tensor, spacing: Tensor, wide: bool = True) -> tuple[Stencil, VertexInverse, Tensor]:
    """The stencil of a field, its frozen inverse, and the places of the vertices on their edges."""
    marched = march(phi[None], torch.zeros(1), False)
    stencil = Stencil.of(marched, phi[None], wide)
    across = differences(phi.view(-1), stencil.beside) if wide else None
    return stencil, frozen_inverse(marched, stencil, across, spacing, None, 0.0)[0], stencil.start(marched.t)


def normals_of(phi: Tensor) -> Tensor:
    """Unit gradients of a field on a uniform grid, along which the normal gauge moves."""
    stencil, inverse, _ = frozen(phi, torch.ones(3))
    row = stencil.turned(inverse.row).T
    return row / row.norm(dim=-1, keepdim=True)


# ------------------------------------------------------------------------------------------------------ closed forms
@pytest.mark.parametrize("gauge", GAUGES)
@pytest.mark.parametrize("inside", ["negative", "positive"])
def test_plane_is_exact(gauge: str, inside: str):
    normal = torch.tensor([0.3, -0.7, 0.4])
    offset = torch.tensor(0.111, requires_grad=True)
    phi = torch.einsum("i,i...->...", normal, coordinates(7)) - offset
    surface = layer(7, gauge, inside=inside)(phi)
    assert (surface.vertices @ normal - offset).abs().max() < 1e-15
    side = 1 if inside == "negative" else -1
    good = surface.areas() > 1e-12
    assert (surface.normals()[good] - side * normal / normal.norm()).abs().max() < 1e-12
    jacobian = torch.stack([torch.autograd.grad(v, offset, retain_graph=True)[0] for v in surface.vertices @ normal])
    assert (jacobian - 1).abs().max() < 1e-12


def test_normal_gauge_moves_along_the_normal():
    normal = torch.tensor([0.3, -0.7, 0.4])
    offset = torch.tensor(0.111)

    def phi(c: Tensor) -> Tensor:
        return torch.einsum("i,i...->...", normal, coordinates(7)) - c

    motion = jvp(lambda c: layer(7)(phi(c)).vertices, (offset,), (torch.ones(()),))[1]
    assert (motion - normal / normal.square().sum()).abs().max() < 1e-13


@pytest.mark.parametrize("gauge", GAUGES)
def test_sphere_has_the_derivatives_of_a_sphere(gauge: str):
    n, radius = 32, torch.tensor(0.6, requires_grad=True)
    surface = layer(n, gauge)(coordinates(n).square().sum(0).sqrt() - radius)
    assert not surface.defects()
    for found, truth, slope in (
        (surface.area(), 4 * math.pi * 0.36, 8 * math.pi * 0.6),
        (surface.volume(), 4 / 3 * math.pi * 0.216, 4 * math.pi * 0.36),
    ):
        assert abs(float(found.detach()) / truth - 1) < 1.2e-2
        (derivative,) = torch.autograd.grad(found, radius, retain_graph=True)
        assert abs(float(derivative) / slope - 1) < 1.2e-2
    assert surface.centroid().abs().max() < 1e-5


def test_published_figures_of_an_unweighted_loss():
    """Radius 0.6 on 32^3, loss mean |y|^2: 1.2245936 in the edge gauge, where the sphere itself has 2 r = 1.2."""
    for gauge, figure, tolerance in (("edge", 1.2245936, 1e-6), ("normal", 1.2, 4e-3)):
        radius = torch.tensor(0.6, requires_grad=True)
        surface = layer(32, gauge)(coordinates(32).square().sum(0).sqrt() - radius)
        surface.vertices.square().sum(-1).mean().backward()
        assert abs(float(radius.grad) - figure) < tolerance
        assert surface.vertices.shape == (1608, 3)


def test_torus_and_ellipsoid():
    for phi, genus, volume in (
        (torus(48), 1, 2 * math.pi**2 * 0.6 * 0.09),
        (ellipsoid(48), 0, 4 / 3 * math.pi * 0.8 * 0.6 * 0.5),
    ):
        surface = layer(48)(phi)
        _, _, count, balance = edges(surface.faces)
        assert not balance.any()
        assert len(surface.vertices) - len(count) + len(surface.faces) == 2 - 2 * genus
        assert abs(float(surface.volume()) / volume - 1) < 1e-2


@pytest.mark.parametrize("gauge", GAUGES)
def test_convergence_of_order_two(gauge: str):
    """Volume of an ellipsoid that is no distance function, and its derivative by one axis, 4 pi b c / 3: errors over places."""
    errors = []
    for n in (16, 32, 64):
        squares = torch.zeros(2)
        for shift in torch.rand(6, 3, generator=torch.Generator().manual_seed(1)) * 0.125:
            a = torch.tensor(0.8, requires_grad=True)
            x, y, z = coordinates(n) - shift.view(3, 1, 1, 1)
            volume = layer(n, gauge)((x / a) ** 2 + (y / 0.6) ** 2 + (z / 0.5) ** 2 - 1).volume()
            volume.backward()
            truth = 4 / 3 * math.pi * 0.6 * 0.5
            squares += torch.tensor([float(volume.detach()) - truth * 0.8, float(a.grad) - truth]).square()
        errors.append(squares.sqrt())
    orders = (torch.stack(errors)[:-1] / torch.stack(errors)[1:]).log2()
    assert orders.min() > 1.75 and orders.max() < 2.35, orders


def test_two_dimensions():
    radius = torch.tensor(0.6, requires_grad=True)
    curve = layer(64, "edge", ndim=2)(coordinates(64, 2).square().sum(0).sqrt() - radius)
    assert abs(float(curve.area().detach()) / (1.2 * math.pi) - 1) < 1e-3
    assert abs(float(curve.volume().detach()) / (0.36 * math.pi) - 1) < 1e-3  # positive: the inside is on the left
    curve.volume().backward()
    assert abs(float(radius.grad) / (1.2 * math.pi) - 1) < 1e-3
    p = curve.corners()
    left = torch.stack([p[:, 0, 1] - p[:, 1, 1], p[:, 1, 0] - p[:, 0, 0]], -1)
    assert ((left * p[:, 0]).sum(-1) < 0).all()


def test_one_cell():
    phi = torch.full((2, 2, 2), 3.0)
    phi[0, 0, 0] = -1.0
    surface = LevelSetLayer(spacing=2.0, origin=10.0)(phi)
    assert torch.equal(surface.vertices.sort(0)[0], torch.tensor([[10.0] * 3, [10.0] * 3, [10.5] * 3]))
    assert (surface.normals() > 0).all() and len(surface.faces) == 1


def test_merging_spheres():
    x, y, z = coordinates(41)

    def ball(c: float) -> Tensor:
        return ((x - c).square() + y.square() + z.square()).sqrt() - 0.3

    for gap, pieces in ((0.42, 2), (0.2, 1)):
        surface = layer(41)(torch.minimum(ball(gap), ball(-gap)) - 1e-3)
        edges = len(surface.faces) * 3 // 2
        assert len(surface.vertices) - edges + len(surface.faces) == 2 * pieces
        assert not surface.defects()


# --------------------------------------------------------------------------------------------------------- the gauges
@pytest.mark.parametrize("make", [sphere, torus, ellipsoid])
def test_normal_parts_of_both_gauges_agree(make):
    phi = make(20)
    direction = torch.randn_like(phi)
    n = normals_of(phi)
    parts = [
        (jvp(lambda p, g=gauge: layer(20, g)(p).vertices, (phi,), (direction,))[1] * n).sum(-1) for gauge in GAUGES
    ]
    assert (parts[0] - parts[1]).abs().max() < 1e-12 * parts[1].abs().max().clamp(min=1)
    assert parts[0].abs().max() > 0.1


@pytest.mark.parametrize("gauge", GAUGES)
@pytest.mark.parametrize("make", [sphere, torus, ellipsoid])
def test_scaling_identity(gauge: str, make):
    """c phi has the surface of phi: sum phi_g dL/dphi_g = 0."""
    phi = make(16).requires_grad_()
    vertices = layer(16, gauge)(phi).vertices
    (gradient,) = torch.autograd.grad((torch.randn_like(vertices) * vertices.sin()).sum(), phi)
    assert abs(float((gradient * phi).sum().detach())) < 1e-12 * float((gradient * phi).abs().sum().detach())


@pytest.mark.parametrize("gauge", GAUGES)
def test_level_identity(gauge: str):
    """phi + c at level + c has the surface of phi at level: dL/dlevel = -sum dL/dphi."""
    phi, level = torus(16).requires_grad_(), torch.tensor(0.01, requires_grad=True)
    vertices = layer(16, gauge, level=level)(phi).vertices
    by_phi, by_level = torch.autograd.grad((torch.randn_like(vertices) * vertices).sum(), (phi, level))
    assert abs(float(by_phi.sum() + by_level)) < 1e-12 * float(by_phi.abs().sum())


def test_spacing_scales_the_surface():
    for gauge in GAUGES:
        spacing = torch.tensor([0.1, 0.2, 0.15], requires_grad=True)
        volume = LevelSetLayer(0.0, gauge, spacing)(sphere(16)).volume()
        volume.backward()
        # The volume is that of one cell times a number, and each spacing is a factor of it.
        assert spacing.grad is not None
        assert (spacing.grad * spacing.detach() / volume.detach() - 1).abs().max() < (
            1e-12 if gauge == "edge" else 0.02
        )


@pytest.mark.parametrize("ndim", [2, 3])
def test_edge_gauge_is_the_derivative_of_the_vertices(ndim: int):
    phi = torch.randn(*[4 if ndim == 2 else 3] * ndim, requires_grad=True)
    level = torch.tensor(0.03, requires_grad=True)
    spacing = torch.tensor([1.0, 1.3, 0.7][:ndim], requires_grad=True)
    origin = torch.tensor([0.1, 0.2, 0.3][:ndim], requires_grad=True)

    def vertices(phi: Tensor, level: Tensor, spacing: Tensor, origin: Tensor) -> Tensor:
        return LevelSetLayer(level, "edge", spacing, origin, ndim=ndim)(phi).vertices

    assert gradcheck(vertices, (phi, level, spacing, origin), check_forward_ad=True)
    assert gradgradcheck(vertices, (phi, level, spacing, origin), check_fwd_over_rev=True, fast_mode=True)


@pytest.mark.parametrize("ndim", [2, 3])
def test_normal_gauge_moves_on_a_frozen_line(ndim: int):
    """First and second derivatives of y = y0 + s n with F(phi, y) = 0 and n frozen, the root found anew by bisection."""
    torch.manual_seed(1)
    phi = torch.randn(*[3] * ndim)
    direction, spacing = torch.randn_like(phi), torch.tensor([1.0, 1.3, 0.7][:ndim])
    make = LevelSetLayer(0.0, "normal", spacing, ndim=ndim)
    stencil, inverse, w = frozen(phi, spacing)
    column = spacing * stencil.turned(inverse.column).T
    gradient = stencil.turned(inverse.row).T / spacing
    assert (column - gradient / gradient.square().sum(-1, keepdim=True)).abs().max() < 1e-12  # of minimal norm in space

    def moved(step: float) -> Tensor:
        flat, at = (phi + step * direction).reshape(-1), w
        x = {"values": flat[stencil.ends].view(2, -1), "level": torch.zeros(1)}
        x["beside"] = differences(flat, stencil.beside)
        for _ in range(60):
            at = at - residual(x, at) * inverse.column
        return spacing * (stencil.corner + stencil.turned(at)).T

    y = moved(0.0)
    assert (y - make(phi).vertices).abs().max() < 1e-14
    first = jvp(lambda p: make(p).vertices, (phi,), (direction,))[1]
    second = jvp(lambda p: jvp(lambda q: make(q).vertices, (p,), (direction,))[1], (phi,), (direction,))[1]
    h, (ahead, behind) = 1e-4, (moved(1e-4), moved(-1e-4))
    assert ((ahead - behind) / (2 * h) - first).abs().max() < 1e-6 * first.abs().max()
    assert ((ahead - 2 * y + behind) / h**2 - second).abs().max() < 1e-5 * second.abs().max()
    assert second.abs().max() > 0.1


def test_vertices_lie_on_grid_edges_to_the_last_bit():
    phi = torch.randn(6, 6, 6, requires_grad=True)
    for gauge in GAUGES:
        vertices = LevelSetLayer(gauge=gauge)(phi).vertices
        assert ((vertices == vertices.round()).sum(-1) >= 2).all()
        assert torch.equal(vertices, LevelSetLayer(gauge=gauge)(phi.detach()).vertices)


@pytest.mark.parametrize("ndim", [2, 3])
def test_equation_is_the_multilinear_interpolant(ndim: int):
    """A multilinear polynomial is its own interpolant in every cell: F is its value at any point near a vertex."""
    x = torch.stack(torch.meshgrid(*[torch.arange(4.0)] * ndim, indexing="ij"))
    factors = torch.randn(2, ndim) + torch.tensor([[0.0], [1.5]])

    def polynomial(points: Tensor) -> Tensor:
        first, second = (part.view(-1, *[1] * (points.ndim - 1)) for part in factors)
        return (first + second * points).prod(0)

    phi = (polynomial(x) - 0.7).contiguous()
    stencil, _, w = frozen(phi, torch.ones(ndim))
    w = w + torch.randn_like(w)
    values = {"values": phi.view(-1)[stencil.ends].view(2, -1), "level": torch.zeros(1)}
    values["beside"] = differences(phi.view(-1), stencil.beside)
    truth = polynomial(stencil.corner + stencil.turned(w)) - 0.7
    assert len(w) and (residual(values, w).squeeze(-1) - truth).abs().max() < 1e-11 * truth.abs().max().clamp(min=1)


@pytest.mark.parametrize("wide", [True, False])
def test_frozen_inverse_is_one(wide: bool):
    inverse = frozen(torch.randn(5, 5, 5), torch.tensor([1.0, 2.0, 0.5]), wide)[1]
    u, v = torch.randn(len(inverse.row), 1), torch.randn_like(inverse.row)
    assert (inverse.product(inverse.apply(u)) - u).abs().max() < 1e-12
    assert ((inverse.apply(u) * v).sum() - (u * inverse.apply_transposed(v)).sum()).abs() < 1e-9
    value, report = inverse.solve(u)
    assert report.residual_norm.max() < 1e-12 and value.shape == v.shape


# -------------------------------------------------------------------------------------------------- orders and modes
@pytest.mark.parametrize("gauge", GAUGES)
@pytest.mark.parametrize("ndim", [2, 3])
def test_direct_gradient_is_that_of_the_equation(gauge: str, ndim: int):
    """Of all arguments, for vertices at the border too (random fields), thin grids, and slopes below the floor."""
    for batch, grid, floor in (((3,), (5, 4, 3), 1e-6), ((), (2, 5, 2), 1e-6), ((), (4, 4, 4), 0.3)):
        phi = torch.randn(*batch, *grid[:ndim], requires_grad=True)
        level = torch.full(batch, 0.03, requires_grad=True)
        spacing = torch.tensor([1.0, 1.3, 0.7][:ndim], requires_grad=True)
        origin = torch.tensor([0.1, 0.2, 0.3][:ndim], requires_grad=True)
        made = LevelSetLayer(level, gauge, spacing, origin, ndim=ndim, floor=floor, on_failure="ignore")(phi)
        vertices = torch.cat([surface.vertices for surface in (made if batch else [made])])
        loss = (vertices.sin() * torch.randn_like(vertices)).sum()
        given = (phi, level, spacing, origin)
        taped = torch.autograd.grad(loss, given, create_graph=True)
        for one, other in zip(torch.autograd.grad(loss, given), taped, strict=True):
            assert (one - other).abs().max() < 1e-12 * other.abs().max()
            assert not one.requires_grad and other.requires_grad


@pytest.mark.parametrize("gauge", GAUGES)
@pytest.mark.parametrize("size", [1e-30, 1e25])
def test_fields_and_cells_far_from_one_keep_their_gradient(gauge: str, size: float):
    """In single precision, where the square of a slope is beyond the range."""
    plain = sphere(9).float()
    for field, cell in ((size, 1.0), (1.0, size**0.5), (size, size**0.5)):
        phi = (plain * field).requires_grad_()
        vertices = LevelSetLayer(gauge=gauge, spacing=cell)(phi).vertices
        loss = (vertices / cell).sin().sum()
        (g,) = torch.autograd.grad(loss, phi, create_graph=True)
        (direct,) = torch.autograd.grad(loss, phi)
        (one,) = torch.autograd.grad(LevelSetLayer(gauge=gauge)(plain.requires_grad_()).vertices.sin().sum(), plain)
        assert one.abs().max() > 0.1
        for found in (g, direct):
            assert (found * field - one).abs().max() < 1e-4 * one.abs().max()


def test_orders():
    phi = torus(10).requires_grad_()
    vertices = layer(10)(phi).vertices
    loss = vertices.sin().sum()
    (first,) = torch.autograd.grad(loss, phi, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), phi, create_graph=True)
    with pytest.raises(OrderError, match="order=3"):
        torch.autograd.grad(second.sum(), phi)
    third = LevelSetLayer(gauge="edge", adjoint=ImplicitAdjoint(order=3))
    at = torch.randn(3, 3, requires_grad=True)
    small = LevelSetLayer(gauge="edge", ndim=2, adjoint=ImplicitAdjoint(order=3))
    assert third.adjoint.order == 3

    def gradient(p: Tensor) -> Tensor:
        return torch.autograd.grad(small(p).vertices.sin().sum(), p, create_graph=True)[0]

    assert gradgradcheck(gradient, (at,))


@pytest.mark.parametrize("gauge", GAUGES)
def test_transforms_agree(gauge: str):
    phi = torch.randn(3, 3)
    small = LevelSetLayer(gauge=gauge, ndim=2)

    def loss(p: Tensor) -> Tensor:
        return (small(p).vertices.sin() * torch.arange(2.0).add(1)).sum()

    leaf = phi.clone().requires_grad_()
    (eager,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    assert (grad(loss)(phi) - eager).abs().max() < 1e-14
    assert (jacfwd(loss)(phi) - eager).abs().max() < 1e-13
    curvature = hessian(loss)(phi)
    rows = torch.stack([torch.autograd.grad(e, leaf, retain_graph=True)[0] for e in eager.reshape(-1)])
    assert (curvature.reshape(9, 9) - rows.reshape(9, 9)).abs().max() < 1e-10 * rows.abs().max()
    assert (jacrev(jacrev(loss))(phi) - curvature).abs().max() < 1e-10 * rows.abs().max()
    with pytest.raises(ImplayerError, match="vmap"):
        vmap(lambda p: small(p).vertices.sum())(phi.expand(2, 3, 3))


def test_backward_works_under_no_grad_and_compile_boundary():
    with torch.no_grad():
        assert not layer(8)(sphere(8)).vertices.requires_grad
    assert not layer(8)(sphere(8)).vertices.requires_grad


# -------------------------------------------------------------------------------------------------------------- batch
@pytest.mark.parametrize("gauge", GAUGES)
def test_batch_is_a_loop(gauge: str):
    phi = torch.randn(3, 5, 6, 7, requires_grad=True)
    level = torch.tensor([0.0, 0.1, -0.2], requires_grad=True)
    together = LevelSetLayer(level, gauge)(phi)
    alone = [LevelSetLayer(level[k], gauge)(phi[k]) for k in range(3)]
    for a, b in zip(together, alone, strict=True):
        assert torch.equal(a.vertices, b.vertices) and torch.equal(a.faces, b.faces)
    losses = [sum(s.vertices.sin().sum() for s in surfaces) for surfaces in (together, alone)]
    one, two = (torch.autograd.grad(loss, (phi, level)) for loss in losses)
    for a, b in zip(one, two, strict=True):
        assert (a - b).abs().max() < 1e-12 * b.abs().max()
    assert LevelSetLayer()(phi[:0]) == []


def test_positive_inside_is_the_mirror():
    phi = torch.randn(6, 6, 6)
    one, two = LevelSetLayer()(phi), LevelSetLayer(inside="positive")(-phi)
    assert torch.equal(one.vertices, two.vertices) and torch.equal(one.faces, two.faces)


def test_strides_dtypes_and_the_story():
    phi = sphere(9).float()
    assert torch.equal(LevelSetLayer()(phi.mT).vertices, LevelSetLayer()(phi.mT.contiguous()).vertices)
    assert LevelSetLayer()(phi).vertices.dtype == torch.float32
    assert LevelSetLayer()(phi.half()).vertices.dtype == torch.float16
    solution = LevelSetLayer().solve(torch.stack([sphere(9), sphere(9, 0.4)]))
    assert solution.status.tolist() == [0, 0] and solution.steps.tolist() == [0, 0]
    assert solution.residual_norm.shape == (2,) and solution.residual_norm.max() < 1e-14
    assert set(solution.aux) == {"flat", "ties", "ambiguous", "tunnels"}
    single = LevelSetLayer().solve(sphere(9))
    assert isinstance(single.value, Surface) and single.status.shape == ()


def test_parameters_belong_to_the_layer():
    module = LevelSetLayer(torch.nn.Parameter(torch.zeros(())), spacing=torch.nn.Parameter(torch.ones(3)))
    module(sphere(9)).area().backward()
    assert module.level.grad is not None and module.spacing.grad is not None
    assert set(module.state_dict()) == {"level", "spacing"}


# ----------------------------------------------------------------------------------------------------- ties and floor
def test_ties_are_merged_counted_and_told():
    phi = (coordinates(9) * 4).abs().sum(0) - 3.0  # an octahedron whose corners and edges are grid points
    plain = LevelSetLayer().solve(phi)
    assert int(plain.aux["ties"]) == 4 * 9 + 2 == len(plain.value.vertices) and plain.status == Status.DEGENERATE
    assert not plain.value.defects()
    assert abs(float(plain.value.volume()) - 4 / 3 * 27) < 1e-9
    with pytest.warns(DegenerateWarning, match="38 vertices lie on a grid point"):
        LevelSetLayer()(phi.clone().requires_grad_()).area().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LevelSetLayer(on_failure="ignore")(phi.clone().requires_grad_()).area().backward()


def test_flat_gradients_are_bounded_and_counted():
    phi = torch.full((3, 3, 3), 1.0)
    phi[1, 1, 1] = -1.0
    phi[0, 0, 0], phi[0, 0, 1] = -1e-9, 1e-9
    for gauge in GAUGES:
        leaf = phi.clone().requires_grad_()
        module = LevelSetLayer(gauge=gauge)
        with pytest.warns(DegenerateWarning, match="below `floor`") if gauge == "edge" else warnings.catch_warnings():
            solution = module.solve(leaf)
        assert int(solution.aux["flat"]) == (gauge == "edge")
        solution.value.vertices.sum().backward()
        assert leaf.grad.isfinite().all() and leaf.grad.abs().max() < 2e6


# ---------------------------------------------------------------------------------------------------------- bad input
def test_wrong_arguments():
    with pytest.raises(Exception, match="'normal', 'edge'"):  # where annotations are checked they speak first
        LevelSetLayer(gauge="tangent")
    with pytest.raises(ValueError, match="`ndim` is 4"):
        LevelSetLayer(ndim=4)
    with pytest.raises(ValueError, match="`floor`"):
        LevelSetLayer(floor=-1.0)
    with pytest.raises(TypeError, match="ImplicitAdjoint"):
        LevelSetLayer(adjoint=JacobianFree())
    with pytest.raises(ValueError, match="`spacing`"):
        LevelSetLayer(spacing=(1.0, 0.0, 1.0))(sphere(5))
    with pytest.raises(ShapeError, match="`spacing` has shape"):
        LevelSetLayer(spacing=(1.0, 1.0))(sphere(5))
    with pytest.raises(ShapeError, match="`level` has shape"):
        LevelSetLayer(torch.zeros(2))(sphere(5))
    with pytest.raises(ShapeError, match="ndim=2"):
        LevelSetLayer()(torch.randn(5, 5))
    with pytest.raises(ShapeError, match="at least 2"):
        LevelSetLayer()(torch.randn(5, 5, 1))
    with pytest.raises(DtypeError, match="int64"):
        LevelSetLayer()(torch.ones(3, 3, 3, dtype=torch.int64))
