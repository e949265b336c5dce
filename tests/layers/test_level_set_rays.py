"""Rays and points on implicit surfaces, of grids and of networks, against closed forms."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from implayer.errors import DtypeError, ShapeError, SolveError
from implayer.layers.level_set import LevelSetLayer
from implayer.layers.ray import GridField, ProjectionLayer, RayLayer, _matching


def rays(count: int = 20) -> tuple[Tensor, Tensor]:
    origins = torch.randn(count, 3)
    origins = 3 * origins / origins.norm(dim=-1, keepdim=True)
    return origins, -origins + 0.5 * torch.randn(count, 3)


def test_sphere():
    origins, directions = (part.requires_grad_() for part in rays())
    radius = torch.tensor(0.9, requires_grad=True)
    hits = RayLayer(lambda p: p.square().sum(-1) - radius.square())(origins, directions)
    a, b = directions.square().sum(-1), (origins * directions).sum(-1)
    root = b.square() - a * (origins.square().sum(-1) - radius.square())
    assert torch.equal(hits.hit, root > 0) and 5 < int(hits.hit.sum())
    truth = (-b - root.clamp(min=1e-9).sqrt()) / a
    assert (hits.distance - truth)[hits.hit].abs().max() < 1e-12
    weight = torch.randn(len(a)) * hits.hit
    ours = torch.autograd.grad((weight * hits.distance).sum(), (origins, directions, radius))
    theirs = torch.autograd.grad((weight * truth)[hits.hit].sum(), (origins, directions, radius))
    for one, two in zip(ours, theirs, strict=True):
        assert (one - two).abs().max() < 1e-9 * two.abs().max()


def test_first_of_several_and_misses():
    hits = RayLayer(lambda p: (3 * p[..., 0]).cos(), far=6.0)(torch.zeros(2, 3), torch.eye(3)[:2])
    assert abs(float(hits.distance[0]) - torch.pi / 6) < 1e-12
    assert hits.hit.tolist() == [True, False] and float(hits.distance[1]) == 6.0
    assert torch.equal(hits.points[1], torch.tensor([0.0, 6.0, 0.0]))


def test_second_derivative():
    origins, directions = rays(4)
    at = torch.tensor([0.8, 0.9, 1.1], requires_grad=True)

    def distance(axes: Tensor) -> Tensor:
        hits = RayLayer(lambda p: (p / axes).square().sum(-1) - 1)(origins, directions)
        return hits.distance[hits.hit]

    assert len(distance(at)) and gradcheck(distance, (at,))
    assert torch.autograd.gradgradcheck(distance, (at,))


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))

    def forward(self, points: Tensor) -> Tensor:
        return points.norm(dim=-1, keepdim=True) - 0.7 + 0.1 * self.body(points)


def test_networks_get_their_gradients():
    torch.manual_seed(0)
    net = Network()
    layer, onto = RayLayer(net), ProjectionLayer(net)
    assert len(list(layer.parameters())) == len(list(onto.parameters())) == 4
    origins, directions = rays()
    hits = layer(origins, directions)
    assert int(hits.hit.sum()) > 5 and net(hits.points[hits.hit]).abs().max() < 1e-9
    found = torch.autograd.grad(hits.distance.sum(), net.body[2].bias)[0]
    bias, step = net.body[2].bias, 1e-5
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            bias += sign * step
            values.append(float(layer(origins, directions).distance.sum()))
            bias -= sign * step
    assert abs((values[0] - values[1]) / (2 * step) - float(found)) < 1e-6
    y = onto(origins)
    assert net(y).abs().max() < 1e-9
    y.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_projection_has_the_normal_gauge():
    radius = torch.tensor(0.9, requires_grad=True)
    points = torch.randn(7, 3)
    y = ProjectionLayer(lambda p: p.square().sum(-1) - radius.square())(points)
    normal = points / points.norm(dim=-1, keepdim=True)
    assert (y - 0.9 * normal).abs().max() < 1e-9
    weight = torch.randn(7, 3)
    (found,) = torch.autograd.grad((weight * y).sum(), radius)
    assert abs(float(found) - float((weight * normal).sum())) < 1e-9


def test_projection_that_cannot_arrive():
    with pytest.raises(SolveError):
        ProjectionLayer(lambda p: p.square().sum(-1) + 1)(torch.randn(3, 3))


def test_grid_field_interpolates():
    phi = torch.randn(4, 5, 6, requires_grad=True)
    field = GridField(phi, torch.tensor([1.0, 2.0, 0.5]), torch.tensor([0.1, 0.2, 0.3]))
    index = torch.tensor([[0, 0, 0], [3, 4, 5], [1, 2, 3]])
    points = torch.tensor([0.1, 0.2, 0.3]) + index * torch.tensor([1.0, 2.0, 0.5])
    assert (field(points) - phi[tuple(index.T)]).abs().max() < 1e-12
    inner = (torch.rand(5, 3) * torch.tensor([3.0, 8.0, 2.5]) + torch.tensor([0.1, 0.2, 0.3])).requires_grad_()
    assert gradcheck(lambda p, f: GridField(f, field.spacing, field.origin)(p), (inner, phi))
    flat = GridField(torch.tensor([[0.0, 1.0], [2.0, 5.0]]))
    assert flat(torch.tensor([[0.5, 0.5], [9.0, 0.0]])).tolist() == [2.0, 2.0]


def test_rays_and_points_agree_with_the_mesh():
    x = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, 24)] * 3, indexing="ij"))
    phi = (x.square().sum(0).sqrt() - 0.6).requires_grad_()
    field = GridField(phi, 2 / 23, -1.0)
    surface = LevelSetLayer(spacing=2 / 23, origin=-1.0)(phi.detach())
    origins, directions = rays(30)
    hits = RayLayer(field)(origins, directions)
    assert surface.distance(hits.points[hits.hit].detach()).max() < 0.005
    (by_phi,) = torch.autograd.grad(hits.distance.sum(), phi)
    assert by_phi.isfinite().all() and by_phi.any()
    onto = ProjectionLayer(field)(surface.sample(20)[0])
    assert field(onto).abs().max() < 1e-9


def test_fields_that_do_not_fit():
    with pytest.raises(ShapeError, match="the field gives"):
        RayLayer(lambda p: p)(*rays(3))
    with pytest.raises(ValueError, match="near < far"):
        RayLayer(lambda p: p[..., 0], near=1.0, far=1.0)
    with pytest.raises(ShapeError, match="at least 2"):
        GridField(torch.zeros(1, 3))


def test_a_field_that_is_nan_is_no_miss():
    """It fails where NaN comes before a crossing, and not where it comes after."""
    origins, along = torch.tensor([[0.0, 0.0, -3.0]]), torch.tensor([[0.0, 0.0, 1.0]])

    def spoiled(start: float):
        return lambda p: torch.where(p[..., 2] > start, torch.nan, p.norm(dim=-1) - 1)

    assert float(RayLayer(spoiled(0.0))(origins, along).distance) == pytest.approx(2.0)
    for start in (-1.5, -4.0):
        with pytest.raises(SolveError, match="NaN or infinity"):
            RayLayer(spoiled(start))(origins, along)
        assert not RayLayer(spoiled(start), on_failure="ignore")(origins, along).hit.any()
    assert not RayLayer(spoiled(-1.5))(origins, along * 0).hit.any()  # it stays where the field is known


def test_arguments_that_do_not_fit():
    ball = lambda p: p.norm(dim=-1) - 1  # noqa: E731
    for options in ({"far": torch.inf}, {"near": -torch.inf}, {"samples": 1}):
        with pytest.raises(ValueError, match="both finite"):
            RayLayer(ball, **options)
    for layer in (RayLayer, ProjectionLayer):
        with pytest.raises(ShapeError, match=r"`level` has shape \(2,\)"):
            layer(ball, torch.zeros(2))
    with pytest.raises(TypeError, match="the field gives float"):
        RayLayer(lambda p: 1.0)(torch.zeros(1, 3), torch.ones(1, 3))
    with pytest.raises(ValueError, match="`spacing` is 0"):
        GridField(torch.zeros(3, 3), 0.0)
    with pytest.raises(DtypeError, match=r"`phi` is torch\.int64"):
        GridField(torch.zeros(3, 3).long())
    with pytest.raises(ShapeError, match=r"\(\.\.\., 2\)"):
        GridField(torch.zeros(3, 3))(torch.zeros(1, 3))
    assert bool(GridField(torch.zeros(3, 3))(torch.full((1, 2), torch.nan)).isnan())
    with pytest.raises(DtypeError, match="one floating-point type"):
        _matching(torch.zeros(1, 3), torch.zeros(1, 3).float())
    with pytest.raises(ShapeError, match="that broadcast"):
        _matching(torch.zeros(1, 3), torch.zeros(2, 2))
