"""R50: meshes that are truncated, open, flipped, self-intersecting, empty, huge or repeated: refused or counted."""

import pytest
import torch

from implayer.errors import DtypeError, ShapeError
from implayer.layers.level_set import LevelSetLayer
from implayer.layers.surface import Surface
from implayer.layers.surface_check import require_faces, require_points
from implayer.layers.surface_file import MeshFileError


@pytest.fixture
def ball() -> Surface:
    x = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, 9)] * 3, indexing="ij"))
    return LevelSetLayer(spacing=0.25, origin=-1.0)(x.square().sum(0).sqrt() - 0.6)


def test_a_sound_mesh(ball: Surface):
    assert not ball.defects() and str(ball.defects()) == "none"


def test_counts(ball: Surface):
    vertices, faces = ball.vertices, ball.faces
    assert Surface(vertices, faces[1:]).defects().open_edges == 3
    turned = faces.clone()
    turned[0] = turned[0].flip(0)
    assert Surface(vertices, turned).defects().flipped == 3
    inside_out = Surface(vertices, faces.flip(-1)).defects()
    assert inside_out.inward == 1 and inside_out.flipped == 0 and inside_out.crossing == 0
    assert Surface(torch.cat([vertices, vertices[:2]]), faces).defects().repeated == 2
    assert Surface(torch.cat([vertices, vertices[:2]]), faces).defects().unused == 2
    assert Surface(vertices, torch.cat([faces, faces[:1, [0, 0, 1]]])).defects().degenerate == 1
    assert Surface(vertices, torch.cat([faces, faces[:1] + 10**6])).defects().outside_range == 1
    assert Surface(vertices * 1e30, faces).defects().huge == vertices.numel() - int((vertices.abs() < 1e-18).sum())
    assert Surface(vertices.index_fill(0, torch.tensor([3]), torch.nan), faces).defects().not_finite == 3


def test_self_intersection(ball: Surface):
    count = len(ball.vertices)
    two = Surface(torch.cat([ball.vertices, ball.vertices + 0.3]), torch.cat([ball.faces, ball.faces + count]))
    assert two.defects().crossing > 10
    apart = Surface(torch.cat([ball.vertices, ball.vertices + 3]), torch.cat([ball.faces, ball.faces + count]))
    assert not apart.defects()


def test_winding_number_of_an_open_mesh_is_between(ball: Surface):
    points = torch.tensor([[0.0, 0.0, 0.0], [0.9, 0.9, 0.9], [0.0, 0.1, 0.2]])
    assert (ball.winding_number(points) - torch.tensor([1.0, 0.0, 1.0])).abs().max() < 1e-12
    half = Surface(ball.vertices, ball.faces[ball.normals()[:, 0] > 0])
    assert (half.winding_number(points[:1]) - 0.5).abs() < 0.05


@pytest.mark.parametrize("ending", ["ply", "obj", "glb"])
def test_round_trip_and_truncation(ball: Surface, ending: str, tmp_path):
    pytest.importorskip("trimesh")
    path = ball.export(tmp_path / f"ball.{ending}")
    again = Surface.read(path, dtype=torch.float64)
    assert len(again.faces) == len(ball.faces)
    assert abs(float(again.volume()) - float(ball.volume())) < 1e-5
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]
    data = path.read_bytes()
    for part in (0, 3, len(data) // 3):
        path.write_bytes(data[:part])
        with pytest.raises(MeshFileError, match=f"ball.{ending}"):
            Surface.read(path)


def test_files_that_hold_no_sound_mesh(tmp_path):
    pytest.importorskip("trimesh")
    path = tmp_path / "mesh.obj"
    corners = "v 0 0 0\nv 1 0 0\nv 0 1 0\n"
    for text, message in (
        (corners, "no faces"),
        ("v 0 0 0\nv 1e30 0 0\nv 0 1 0\nf 1 2 3\n", r"coordinates up to 1.0e\+30"),
        ("v 0 0 0\nv nan 0 0\nv 0 1 0\nf 1 2 3\n", "not finite"),
        (corners + "f 1 2 9\n", "mesh.obj"),
    ):
        path.write_text(text)
        with pytest.raises(MeshFileError, match=message):
            Surface.read(path)
    with pytest.raises(FileNotFoundError, match="there is no mesh file"):
        Surface.read(tmp_path / "nothing.ply")


def test_what_cannot_be_written(ball: Surface, tmp_path):
    with pytest.raises(ValueError, match="expected one of"):
        ball.export(tmp_path / "ball.stl")
    with pytest.raises(ShapeError, match="not finite"):
        Surface(ball.vertices * torch.nan, ball.faces).export(tmp_path / "ball.ply")
    with pytest.raises(ShapeError, match="curve"):
        Surface(torch.eye(2), torch.tensor([[0, 1]])).export(tmp_path / "ball.ply")
    assert not list(tmp_path.iterdir())


def test_what_is_no_surface_is_refused(ball: Surface, tmp_path):
    points, faces = ball.vertices, ball.faces
    for vertices, numbers, error in (
        (points[:, :2], faces, ShapeError), (points, faces[:, [0, 1, 2, 2]], ShapeError), (points[:, 0], faces, ShapeError),
        (points.int(), faces, DtypeError), (points, faces.float(), DtypeError), ([[0.0]], faces, TypeError),
    ):  # fmt: skip
        with pytest.raises(error, match="expected"):
            require_faces(vertices, numbers)
    for asked, error in (
        (points[0], ShapeError),
        (points[:, :2], ShapeError),
        (points.int(), DtypeError),
        (None, TypeError),
    ):
        with pytest.raises(error, match="`distance`"):
            require_points(asked, 3, "distance")
    with pytest.raises(ShapeError, match="as many dimensions"):
        ball.chamfer(Surface(points[:, :2], faces[:, :2]))
    with pytest.raises(ValueError, match="`count` is 0"):
        ball.sample(0)
    with pytest.raises(ShapeError, match="the area inf"):
        Surface(points.float() * 1e30, faces).sample(3)
    with pytest.raises(ShapeError, match="1 of 248 faces name vertices"):
        Surface(points, faces.index_fill(0, torch.tensor([3]), 10**6)).export(tmp_path / "a.ply")
    assert not list(tmp_path.iterdir())
    (tmp_path / "mesh.doc").write_text("x")
    with pytest.raises(MeshFileError, match=r"ends with `.doc`; expected a mesh"):
        Surface.read(tmp_path / "mesh.doc")
    with pytest.raises(DtypeError, match="`dtype`"):
        Surface.read(tmp_path / "mesh.doc", dtype=torch.int32)
