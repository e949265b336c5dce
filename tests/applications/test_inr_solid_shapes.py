"""Shapes: what is inside, points to learn from, surfaces of fields, and pictures of them."""

import math

import pytest
import torch
from torch import Tensor

import implayer
from applications.inr.solid import extract as extracting
from applications.inr.solid.data import Shape, load_shape
from applications.inr.solid.extract import extract
from applications.inr.solid.points import SPREADS, SurfacePoints, box, overlap, test_sets
from applications.shared.inside import InsideTest
from applications.shared.soundness import repaired
from applications.shared.view import Camera, around, normals_of, on_cube, places_of, portrait, rasterised, shaded
from implayer import Surface
from implayer.errors import NoSurfaceError
from implayer.layers.surface_winding import solid_angles

test_sets.__test__ = False  # a function of the application, no test


def cube(low: float = -0.5, high: float = 0.5) -> tuple[Tensor, Tensor]:
    """8 vertices and 12 faces that look outwards."""
    corners = torch.cartesian_prod(*[torch.tensor([low, high], dtype=torch.float64)] * 3)
    quads = torch.tensor([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])
    return corners, torch.cat([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def ball(radius: float = 0.6, nodes: int = 13, centre: float = 0.0) -> tuple[Tensor, Tensor]:
    x = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, nodes, dtype=torch.float64)] * 3, indexing="ij"))
    found = implayer.LevelSetLayer(spacing=2 / (nodes - 1), origin=-1.0)(x.square().sum(0).sqrt() - radius)
    return found.vertices + centre, found.faces


def anywhere(count: int = 2000, size: float = 1.0) -> Tensor:
    return size * (2 * torch.rand(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1)


# ----------------------------------------------------------------------------------------------------- what is inside
def test_inside_of_a_cube_is_exact():
    vertices, faces = cube()
    boundary = repaired(vertices, faces)
    points = anywhere()
    assert boundary.closed and not boundary.notes
    assert torch.equal(InsideTest(boundary)(points), (points.abs() < 0.5).all(-1))


def test_rays_through_corners_and_edges_do_not_slip_through():
    vertices, faces = ball(nodes=9)
    test = InsideTest(repaired(vertices, faces))
    below = torch.cat([vertices, vertices[faces].mean(1), (vertices[faces[:, 0]] + vertices[faces[:, 1]]) / 2])
    below = torch.cat([below[:, :2], torch.full((len(below), 1), -2.0, dtype=torch.float64)], -1)
    inner = below[:, :2].norm(dim=-1) < 0.5
    assert not test.winding(below[inner]).any()  # all rays go in and out again


@pytest.mark.parametrize("change", ["soup", "inward", "one face", "half the faces"])
def test_faces_that_disagree_are_turned_and_counted(change: str):
    vertices, faces = ball()
    points = anywhere(1000)
    true = InsideTest(repaired(vertices, faces))(points)
    if change == "soup":  # as STL files are
        vertices, faces = vertices[faces].reshape(-1, 3), torch.arange(3 * len(faces)).view(-1, 3)
    turned = {"inward": len(faces), "one face": 1, "half the faces": len(faces) // 3}.get(change, 0)
    faces = torch.cat([faces[:turned].flip(-1), faces[turned:]])
    boundary = repaired(vertices, faces)
    assert boundary.closed and torch.equal(InsideTest(boundary)(points), true)
    assert float(Surface(boundary.vertices, boundary.faces).volume()) > 0
    told = {
        "soup": "vertices lie where another does: merged",
        "inward": "the faces look inwards: all turned",
        "one face": f"1 of {len(faces)} faces look to another side",
        "half the faces": f"{turned} of {len(faces)} faces look to another side",
    }
    assert any(told[change] in note for note in boundary.notes)


def test_open_meshes_have_the_generalised_winding_number():
    vertices, faces = ball()
    middle = vertices[faces].mean(1)
    holes = (middle[:, 0] > 0.5) | (middle[:, 2] < -0.45)  # two rims
    boundary = repaired(vertices, faces[~holes])
    test, points = InsideTest(boundary), anywhere(500)
    assert not boundary.closed and any("edges have a face on one side alone" in note for note in boundary.notes)
    exact = solid_angles(points, boundary.vertices[boundary.faces])
    found = test.winding(points)
    whole = found == found.round()  # far from the holes, where they have no say
    assert 50 < int(whole.sum()) < 450 and (found - exact)[whole].abs().max() < 0.25
    assert (found - exact)[~whole].abs().max() < 1e-12
    assert torch.equal(test(points), exact.abs() >= 0.5)
    true = InsideTest(repaired(vertices, faces))(points)
    assert (test(points) == true).double().mean() > 0.97


def test_overlapping_parts_are_one_body_and_told():
    one, other = ball(), ball(centre=0.4)
    vertices, faces = torch.cat([one[0], other[0]]), torch.cat([one[1], other[1] + len(one[0])])
    test = InsideTest(repaired(vertices, faces))
    points = anywhere()
    parts = [InsideTest(repaired(*each))(points) for each in (one, other)]
    assert torch.equal(test(points), parts[0] | parts[1]) and bool((parts[0] & parts[1]).any())
    assert test.crossing() > 10 and not InsideTest(repaired(*one)).crossing()


def projective_plane() -> tuple[Tensor, Tensor]:
    """With six vertices: every edge has two faces, and they cannot agree."""
    faces = torch.tensor(
        [[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 5], [0, 5, 1], [1, 2, 4], [2, 3, 5], [3, 4, 1], [4, 5, 2], [5, 1, 3]]
    )
    return torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), faces


def test_a_surface_with_one_side_is_decided_by_parity():
    vertices, faces = projective_plane()
    boundary = repaired(vertices, faces)
    test, points = InsideTest(boundary), anywhere(500)
    assert boundary.even and not boundary.closed and test.parity
    # Parity does not depend on the direction of the rays.
    turned = InsideTest(repaired(vertices[:, [1, 2, 0]], faces))
    assert torch.equal(test(points), turned(points[:, [1, 2, 0]])) and bool(test(points).any())


@pytest.mark.parametrize("kind", ["closed", "open", "one side"])
def test_on_a_grid_as_point_by_point(kind: str):
    vertices, faces = ball() if kind != "one side" else projective_plane()
    faces = faces[vertices[faces].mean(1)[:, 0] < 0.4] if kind == "open" else faces
    test, n = InsideTest(repaired(vertices / 2 + 0.503, faces)), 12
    found, doubt = test.on_grid(n)
    points = torch.cartesian_prod(*[torch.linspace(0, 1, n, dtype=torch.float64)] * 3)
    assert torch.equal(found.reshape(-1), test(points)) and bool(found.any()) and not bool(found.all())
    assert (0 < doubt < 0.2) == (kind == "open")


# ------------------------------------------------------------------------------------------------- points and figures
def test_points_by_area_and_by_faces():
    vertices, faces = cube()
    small = torch.tensor(
        [[2.0, 2.0, 2.0], [2.01, 2.0, 2.0], [2.0, 2.01, 2.0]], dtype=torch.float64
    )  # a face of no size
    surface = Surface(torch.cat([vertices, small]).float(), torch.cat([faces, torch.tensor([[8, 9, 10]])]))
    shape = Shape("x", surface, None, None, False)
    generator = torch.Generator().manual_seed(0)
    for draw, share in (("area", 0.0), ("faces", 1 / 13)):
        points, normals = SurfacePoints(shape, draw)(20_000, generator)  # type: ignore[arg-type]
        assert abs(float((points > 1).all(-1).double().mean()) - share) < 0.005
        on = points[(points < 1).all(-1)]
        assert (on.abs().amax(-1) - 0.5).abs().max() < 1e-6
        assert ((normals * points).sum(-1)[(points < 1).all(-1)] - 0.5).abs().max() < 1e-6  # outwards


def test_test_sets_are_the_same_for_every_run():
    shape = load_shape("torus", None).content
    first, again = (test_sets(shape, 500, "area") for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    lower, upper = box(shape)
    assert bool(((first["easy"] > lower) & (first["easy"] < upper)).all())
    for name, spread in SPREADS.items():
        assert (
            0.7 * spread < float(shape.surface.distance(first[name]).mean()) < 0.9 * spread
        )  # |N(0, s)| is 0.8 s on average


def test_overlap_counts():
    found, true = torch.tensor([1, 1, 1, 0, 0, 0]) > 0, torch.tensor([1, 0, 0, 1, 0, 0]) > 0
    assert overlap(found, true) == {"accuracy": 0.5, "precision": 1 / 3, "recall": 0.5, "iou": 0.25}
    assert overlap(~true & true, true)["precision"] == 1.0 and overlap(~true & true, true)["iou"] == 0.0


# ------------------------------------------------------------------------------------------------ surfaces of fields
def waves(points: Tensor) -> Tensor:
    return 0.6 - points.norm(dim=-1) + 0.1 * (9 * points[:, 0]).sin() * (8 * points[:, 1] + points[:, 2]).cos()


@pytest.mark.parametrize("positive", [True, False])
def test_slabs_make_the_surface_of_the_whole(monkeypatch: pytest.MonkeyPatch, positive: bool):
    lower, upper = torch.tensor([-0.5, -1.0, -0.8]), torch.tensor([0.5, 1.0, 0.8])  # which cuts the body off in x
    whole = extract(waves, lower, upper, 30, positive=positive)
    most = []

    def counted(points: Tensor) -> Tensor:
        most.append(len(points))
        return waves(points)

    monkeypatch.setattr(extracting, "_SLAB", 1500)
    parts = extract(counted, lower, upper, 30, positive=positive)
    assert max(most) <= 1500 < sum(most)
    assert len(parts.vertices) == len(whole.vertices) and len(parts) == len(whole)
    assert not parts.defects() and torch.isclose(parts.volume(), whole.volume())
    assert float(parts.volume()) > 0
    inner = InsideTest(repaired(parts.vertices, parts.faces))
    points = anywhere(500, 0.45)
    assert (inner(points) == ((waves(points) > 0) == positive)).double().mean() > 0.98


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("value", [-1.5, 2.5])
def test_no_surface_names_the_range(positive: bool, value: float):
    with pytest.raises(NoSurfaceError, match=rf"no surface, field range \[{value:g}, {value:g}\]"):
        extract(lambda p: 0 * p[:, 0] + value, -torch.ones(3), torch.ones(3), 8, positive=positive)


def test_pictures_show_what_the_rays_meet():
    surface = Surface(*ball(nodes=41))
    surface = Surface(surface.vertices.float(), surface.faces)
    camera = around(surface, size=64, azimuth=30.0, elevation=20.0)
    seen = rasterised(surface, camera)
    eye, axes = camera.axes()
    assert torch.allclose(axes @ axes.T, torch.eye(3, dtype=axes.dtype), atol=1e-6) and torch.linalg.det(axes) > 0
    rays = camera.directions(torch.arange(64**2))
    along = -(rays @ eye)
    inner = along.square() - eye.square().sum() + 0.36
    shown = torch.zeros(64**2, dtype=torch.bool).index_fill(0, seen.pixels, True)
    assert int((shown != (inner > 0)).sum()) < 40  # of 3000 pixels, those at the rim
    clear = inner[seen.pixels] > 0.02
    exact = eye + (along - inner.clamp(min=0).sqrt()).unsqueeze(-1) * rays
    assert (places_of(surface, seen) - exact[seen.pixels])[clear].abs().max() < 0.01
    assert (normals_of(surface, seen) - exact[seen.pixels] / 0.6)[clear].abs().max() < 0.06


def test_a_large_triangle_hides_what_is_behind():
    vertices = torch.tensor([[-1.0, -1, 0.5], [1, -1, 0.5], [0, 1, 0.5], [-0.1, -0.1, 0], [0.1, -0.1, 0], [0, 0.1, 0]])
    surface = Surface(vertices, torch.tensor([[0, 1, 2], [3, 4, 5]]))
    for azimuth, front in ((0.0, {0}), (180.0, {0, 1})):  # with y up the azimuth is counted from +z
        camera = Camera(torch.zeros(3), 1.5, azimuth=azimuth, elevation=0.0, size=100)
        assert set(rasterised(surface, camera).faces.tolist()) == front


def test_portraits_are_shaded_from_the_side_that_is_asked_for():
    vertices, faces = ball(nodes=41)
    surface = Surface(vertices / 2 + torch.tensor([0.5, 0.5, 0.3], dtype=torch.float64), faces)  # radius 0.3, below
    for up in ("y", "z"):
        picture = portrait(surface, 30.0, 40, up)
        camera = on_cube(30.0, 40, up)
        dark = (picture.squeeze(-1) < 1).nonzero().double() + 0.5
        middle = camera.projected(torch.tensor([[0.5, 0.5, 0.3]]).float()).at[0].flip(0).double()
        assert (dark.mean(0) - middle).norm() < 0.1  # a parallel projection shows where it is, and how large
        assert abs(len(dark) / (math.pi * (0.3 / 1.6 * 40) ** 2) - 1) < 0.1
        brightest, darkest = ((picture - value).abs().flatten().argmin() for value in (0.999, 0.25))
        assert int(brightest) // 40 < middle[0] < int(darkest) // 40  # lit from above
    points, normals = surface.sample(20_000)
    cloud = shaded(points.float(), normals.float(), on_cube(30.0, 40, "z"))
    inner = (cloud > 0) & (picture.squeeze(-1) < 1)
    assert (cloud - picture.squeeze(-1)).abs()[inner].median() < 0.02
    assert bool((portrait(Surface(vertices[:0], faces[:0]), 0.0, 8) == 1).all())  # nothing
