"""Shapes as level sets: voxels, fields and pictures, data, losses, runs, fits of meshes and clouds, the table."""

import json
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from applications.__main__ import main
from applications.level_set_shapes import fit as fitting
from applications.level_set_shapes import train as training
from applications.level_set_shapes.binvox import read_binvox
from applications.level_set_shapes.config import ShapesConfig
from applications.level_set_shapes.data import prepared
from applications.level_set_shapes.fit import figures
from applications.level_set_shapes.grid import SIDE, blocks, signed_distances, surfaces_of
from applications.level_set_shapes.losses import eikonal_loss, field_loss, surface_loss
from applications.level_set_shapes.model import build_model
from applications.level_set_shapes.pictures import drawn, rendered
from applications.level_set_shapes.start import GAPS, start_around
from applications.level_set_shapes.target import Target
from applications.level_set_shapes.task import ShapeTask, iou_of
from applications.level_set_shapes.voxels import MODELNET, RENDERINGS, VOXELS, load_shapes
from applications.shared.errors import InputError
from applications.shared.soundness import repaired
from applications.shared.view import on_cube, shaded
from implayer import LevelSetLayer, Surface
from tests.applications.runs import metrics, same_weights, step_of
from tests.reliability.test_r54_command_line import code_of

FAST = ["--quiet", "--threads", "1", "--device", "cpu"]
SMALL = ["--latent", "4", "--views", "2", "--points", "32", "--batch", "4", "--shapes", "8", *FAST]
TINY = ShapesConfig(latent=4, views=2, points=32, batch=4, shapes=8, data_set="generated")


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Small pictures and few points: they are not what is looked at here."""
    monkeypatch.setattr(training, "_PIXELS", 24)
    monkeypatch.setattr(fitting, "_PIXELS", 24)
    monkeypatch.setattr(fitting, "_SAMPLES", 3000)


def points_of_grid(n: int = SIDE) -> torch.Tensor:
    line = (torch.arange(n) + 0.5) / n
    return torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1)


def ball(radius: float = 0.3, n: int = SIDE) -> torch.Tensor:
    """Occupied voxels of a ball in the middle."""
    return (points_of_grid(n) - 0.5).norm(dim=-1) < radius


def sphere(radius: float = 0.3, n: int = 33) -> Surface:
    """A mesh of it in the unit cube."""
    line = torch.linspace(0, 1, n, dtype=torch.float64)
    x = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1)
    found = LevelSetLayer(spacing=1 / (n - 1))((x - 0.5).norm(dim=-1) - radius)
    assert isinstance(found, Surface)
    return found


# Voxels, fields, pictures


def test_fields_have_the_signs_of_the_voxels_and_are_distances():
    occupied = torch.stack([ball(), points_of_grid()[..., 0] < 0.4, torch.zeros(SIDE, SIDE, SIDE, dtype=torch.bool)])
    phi = signed_distances(occupied)
    assert torch.equal(phi < 0, occupied)
    x = SIDE * points_of_grid()[..., 0]
    middle, edge = slice(8, 24), 0.4 * SIDE  # the plane is between 12.5 and 13.5
    near = (x - round(edge)).abs()[:, middle, middle] < 2
    apart = (phi[1] - (x - round(edge)))[:, middle, middle]
    assert apart[near].abs().max() < 0.3
    radius = SIDE * ((points_of_grid() - 0.5).norm(dim=-1) - 0.3)
    assert (phi[0] - radius)[radius.abs() < 2].abs().mean() < 0.25


def test_surfaces_are_closed_at_the_border_too():
    whole = torch.ones(1, SIDE, SIDE, SIDE, dtype=torch.bool)
    for surface, volume in zip(
        surfaces_of(signed_distances(torch.cat([whole, ball()[None]]))), (1.0, 0.113), strict=True
    ):
        assert not surface.defects()
        assert abs(float(surface.volume()) - volume) < 0.1 * volume
    assert len(surfaces_of(signed_distances(torch.zeros_like(whole)))[0]) == 0


def test_blocks_are_the_voxels():
    occupied = ball(0.3, 12)
    surface = blocks(occupied)
    vertices, place = surface.vertices.unique(dim=0, return_inverse=True)
    joined = Surface(vertices, place[surface.faces])
    assert abs(float(joined.volume()) - float(occupied.double().mean())) < 1e-6
    assert joined.defects().open_edges == joined.defects().inward == 0


def test_pictures_show_the_shape_from_the_side_that_is_asked_for():
    occupied = torch.zeros(SIDE, SIDE, SIDE, dtype=torch.bool)
    occupied[4:28, 14:18, 14:18] = True  # a bar along the first axis
    (surface,) = surfaces_of(signed_distances(occupied[None]))
    along, across = drawn(surface, 4, 0.0)[:2].float()  # the eye on the first axis, then on the second
    wide = [int((picture > 0).any(0).sum()) for picture in (along, across)]
    assert wide[0] <= 8 and wide[1] >= 28
    assert not across[0].any() and not across[-1].any()
    points, normals = sphere().sample(20000, generator=torch.Generator().manual_seed(0))
    picture = shaded(points.float(), normals.float(), on_cube(0.0, 64))
    seen = picture > 0
    assert abs(float(seen.double().sum()) - np.pi * (0.3 * 40) ** 2) < 45  # 40 pixels for the unit
    assert float(picture[:32][seen[:32]].mean()) > float(picture[32:][seen[32:]].mean())  # light from above


# Data


def write_modelnet(root: Path, train: list[torch.Tensor], test: list[torch.Tensor]) -> Path:
    path = root / MODELNET
    path.parent.mkdir(parents=True)
    packed = {
        name: np.packbits(torch.stack(part).numpy().reshape(len(part), -1), axis=1)
        for name, part in (("train", train), ("test", test))
    }
    labels = {f"{name}_label": np.arange(len(part)) % 2 for name, part in packed.items()}
    np.savez(path, **packed, **labels, class_names=np.array(["sofa", "bed"]))
    return root


def test_duplicates_between_the_splits_and_remnants_are_removed(tmp_path):
    a, b, c, d = (ball(0.2 + 0.03 * k) for k in range(4))
    nothing, speck = torch.zeros_like(a), ball(0.03)
    root = write_modelnet(tmp_path, [a, b, a, c, nothing], [b, d, d, speck])
    shapes = load_shapes("auto", "all", root)
    assert shapes.name == "modelnet"
    assert [torch.equal(shape.occupied, x) for shape, x in zip(shapes.train, (b, a, c), strict=True)] == [True] * 3
    assert len(shapes.test) == 1 and torch.equal(shapes.test[0].occupied, d)
    assert "3 repeated, 2 nearly empty" in shapes.notes[0]
    with pytest.raises(InputError, match="sofa, bed"):
        load_shapes("auto", "car", root)
    with pytest.raises(InputError, match="0 to test with"):
        load_shapes("auto", "sofa", write_modelnet(tmp_path / "b", [a, b], [a]))


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut"])
def test_damaged_voxels(tmp_path, content):
    path = tmp_path / MODELNET
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be used"):
        load_shapes("auto", "sofa", tmp_path)


def binvox(occupied: torch.Tensor) -> bytes:
    """The file of voxels (x, z, y)."""
    values = occupied.numpy().astype(np.uint8).ravel()
    body = b"".join(bytes([value, 1]) for value in values)
    n = occupied.shape[0]
    return f"#binvox 1\ndim {n} {n} {n}\ntranslate 0 0 0\nscale 1\ndata\n".encode() + body


def write_shapenet(root: Path, count: int = 5) -> Path:
    """Five cars, each with three renderings of 137 x 137 with transparency."""
    for number in range(count):
        folder = root / VOXELS / "02958343" / f"model{number}"
        folder.mkdir(parents=True)
        occupied = torch.zeros(SIDE, SIDE, SIDE, dtype=torch.bool)
        occupied[4:28, 8 : 20 + number, 10:16] = True
        (folder / "model.binvox").write_bytes(binvox(occupied))
        pictures = root / RENDERINGS / "02958343" / f"model{number}" / "rendering"
        pictures.mkdir(parents=True)
        for view in range(3):
            pixels = np.zeros((137, 137, 4), dtype=np.uint8)
            pixels[40:100, 30:110] = (200, 200, 200, 255)
            pixels[:20] = (255, 255, 255, 0)
            Image.fromarray(pixels).save(pictures / f"{view:02}.png")
    return root


def test_shapenet_form(tmp_path):
    root = write_shapenet(tmp_path)
    shapes = load_shapes("auto", "car", root)
    assert (shapes.name, len(shapes.train), len(shapes.test)) == ("shapenet", 4, 1)
    occupied = shapes.test[0].occupied
    assert occupied[:, :, :10].sum() == 0 and occupied[10, 23, 12] and not occupied[10, 24, 12]
    pictures = rendered(shapes.test[0].pictures, 2)
    assert pictures.shape == (2, 64, 64) and pictures[0, 30, 30] == 200 and pictures[0, 2, 30] == 0
    train, test = prepared(shapes, ShapesConfig(views=3, points=16, category="car"))
    assert train.pictures.shape == (4, 3, 64, 64) and len(test.surfaces) == 1


def test_shapenet_that_is_incomplete(tmp_path):
    (tmp_path / VOXELS).mkdir()
    with pytest.raises(InputError, match=r"ShapeNetRendering\.tgz"):
        load_shapes("auto", "car", tmp_path)
    root = write_shapenet(tmp_path)
    model = root / VOXELS / "02958343" / "model1" / "model.binvox"
    sound = model.read_bytes()
    for content, words in (
        (sound[:-7], "cut short"),
        (b"junk", "no binvox"),
        (sound.replace(b"32", b"3x", 1), "sizes"),
    ):
        model.write_bytes(content)
        with pytest.raises(InputError, match=words):
            load_shapes("auto", "car", root)
    model.write_bytes(sound)
    for path in (root / RENDERINGS / "02958343" / "model2" / "rendering").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="has no pictures"):
        load_shapes("auto", "car", root)


def test_binvox_runs_and_orders(tmp_path):
    path = tmp_path / "a.binvox"
    path.write_bytes(b"#binvox 2\ndim 2 2 2\ndata\n" + bytes([0, 1, 7, 2, 0, 5]))
    found = read_binvox(path)
    assert found.nonzero().tolist() == [[0, 0, 1], [0, 1, 0]]  # the last axis runs fastest


def test_generated_shapes_where_nothing_is(tmp_path):
    shapes = load_shapes("auto", "sofa", tmp_path)
    assert shapes.name == "generated" and "--data DIR" in shapes.notes[-1] and len(shapes.test) > 20


# Losses and heads


def test_surface_loss_sees_distance_and_direction():
    generator = torch.Generator().manual_seed(0)
    phi = torch.stack([SIDE * ((points_of_grid() - 0.5).norm(dim=-1) - radius) for radius in (0.3, 0.25)])
    true = [surface.sample(2000, generator=generator) for surface in surfaces_of(phi)]
    points, normals = (torch.stack(part) for part in zip(*true, strict=True))
    same, turn, empty = surface_loss(phi, points, normals, generator)
    assert float(same) < 0.5 and float(turn) < 0.02 and empty == 0
    phi = (phi + 1.0).requires_grad_()
    apart, _, _ = surface_loss(phi, points, normals, generator)
    assert abs(float(apart.detach()) - 1) < 0.15
    apart.backward()
    assert float(phi.grad.sum()) > 0  # growing phi shrinks the surfaces further
    _, turned, _ = surface_loss(phi, points, -normals, generator)
    assert float(turned.detach()) > 1.9


def test_surface_loss_without_surfaces():
    phi = torch.ones(2, 8, 8, 8, requires_grad=True)
    distance, turn, empty = surface_loss(phi, torch.rand(2, 5, 3), torch.rand(2, 5, 3), torch.Generator())
    (distance + turn).backward()
    assert empty == 2 and float(distance.detach()) == 0 and not phi.grad.any()


def test_field_losses():
    distances = SIDE * ((points_of_grid() - 0.5).norm(dim=-1) - 0.3)[None]
    assert float(eikonal_loss(distances, distances)) < 1e-2 < float(eikonal_loss(2 * distances, distances))
    assert float(field_loss(distances, distances, 2.0)) < 0.1 < float(field_loss(20 * distances, distances, 2.0))
    assert float(field_loss(-distances, distances, 2.0)) > 2


@pytest.mark.parametrize("head", ["voxels", "field", "level-set"])
def test_every_head_learns_one_shape(head):
    config = ShapesConfig(head=head, latent=4, views=1, points=64, batch=4, warm_up=0.6, epochs=30, learning_rate=0.1)
    shapes = load_shapes("generated", "sofa", Path("none"))
    four = type(shapes)("four", None, f"four{head}", shapes.train[:4], shapes.train[:4])
    train, test = prepared(four, config)
    task = ShapeTask(config, train, test, torch.device("cpu"))
    losses = [task.step() for _ in range(30)]
    fields = task.model.field(task.model(train.pictures[:, 0].float() / 255))
    assert float(iou_of(fields, train.occupied).min()) > 0.65
    first = 18 if head == "level-set" else 0  # from where on the loss is the same
    assert losses[-1]["loss"] < losses[first]["loss"] and ("chamfer_voxels" in losses[-1]) == (head == "level-set")


def test_a_level_set_learns_at_first_what_voxels_learn():
    found = {}
    for head, weight in (("voxels", 1.0), ("level-set", -2.0)):
        config = ShapesConfig(head=head, latent=4, views=1, points=64, batch=4, warm_up=0.5, epochs=2)
        shapes = load_shapes("generated", "sofa", Path("none"))
        four = type(shapes)("four", None, "four", shapes.train[:4], shapes.train[:4])
        task = ShapeTask(config, *prepared(four, config), torch.device("cpu"))
        with torch.no_grad():  # logits of the one are -2 phi of the other
            task.model.decoder.weight.mul_(1 / weight), task.model.decoder.bias.mul_(1 / weight)
        found[head] = [task.step(), task.step()]
    assert found["level-set"][0]["loss"] == pytest.approx(found["voxels"][0]["loss"], rel=1e-5)
    assert "chamfer_voxels" in found["level-set"][1]


def test_the_body_is_the_same_for_all_heads():
    weights = [build_model(ShapesConfig(head=head, latent=4)).state_dict() for head in ("voxels", "field", "level-set")]
    assert all(torch.equal(weights[0][name], each[name]) for each in weights for name in each)
    occupied = ball()[None]
    assert float(iou_of(torch.where(occupied, -1.0, 1.0), occupied)) == 1
    assert float(iou_of(torch.ones(1, SIDE, SIDE, SIDE), occupied)) == 0


# Runs


def train(out: Path, *arguments: str, head: str = "level-set", epochs: int = 2, root: Path | None = None) -> int:
    data = ["--data", str(root or out.parent)]
    return main(
        [
            "train",
            "level-set-shapes",
            "--head",
            head,
            "--epochs",
            str(epochs),
            "--out",
            str(out),
            *data,
            *SMALL,
            *arguments,
        ]
    )


def test_what_a_run_leaves(tmp_path, capsys):
    assert train(tmp_path / "a", "--warm-up", "1", head="field") == 0
    found = metrics(tmp_path / "a")
    assert found["steps"] == 4 and found["data_set"] == "generated" and found["test_shapes"] == 8
    assert len(found["iou_of_each"]) == len(found["chamfer_of_each"]) == 8 and 0 < found["chamfer"] <= 1
    names = {path.name for path in (tmp_path / "a").iterdir()}
    pictures = {"curves.png", "shapes.png"}
    assert names == {"config.json", "metrics.json", "model.safetensors", "checkpoint.safetensors", *pictures}
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "a"), "--device", "cpu"]) == 0
    assert f"IoU {found['iou']:.4f}, Chamfer distance {found['chamfer']:.4f}" in capsys.readouterr().out


def test_interrupted_and_resumed_it_ends_as_an_uninterrupted_one(tmp_path, monkeypatch):
    options = ("--checkpoint-seconds", "0", "--warm-up", "0.7", "--learning-rate", "0.01")
    assert train(tmp_path / "whole", *options, epochs=5) == 0
    step = ShapeTask.step

    def interrupted(self):
        if self.done == 8:
            signal.raise_signal(signal.SIGINT)
        return step(self)

    monkeypatch.setattr(ShapeTask, "step", interrupted)
    assert train(tmp_path / "parts", *options, epochs=5) == 130
    assert step_of(tmp_path / "parts") == 9
    assert main(["resume", str(tmp_path / "parts"), "--quiet"]) == 0
    assert same_weights(tmp_path / "whole", tmp_path / "parts")
    assert metrics(tmp_path / "whole")["history"] == metrics(tmp_path / "parts")["history"]


def test_resume_refuses_other_options_and_other_shapes(tmp_path, capsys):
    root = write_modelnet(tmp_path / "data", [ball(0.2 + 0.01 * k) for k in range(8)], [ball(0.1), ball(0.11)])
    options = ("--category", "all")
    assert train(tmp_path / "a", *options, head="voxels", epochs=1, root=root) == 0
    assert main(["resume", str(tmp_path / "a"), "--latent", "5"]) == 2
    assert "`latent` was 4, asked for 5" in capsys.readouterr().err
    other = write_modelnet(tmp_path / "other", [ball(0.2 + 0.02 * k) for k in range(8)], [ball(0.1), ball(0.11)])
    assert main(["resume", str(tmp_path / "a"), "--epochs", "2", "--data", str(other)]) == 2
    assert "not those that the run began with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epochs", "0"], "`--epochs` is 0"),
        (["--batch", "1"], "`--batch` is 1; expected at least 2"),
        (["--shapes", "1"], "`--shapes` must be 0 or at least 2"),
        (["--truncation", "0"], "`--truncation` is 0.0"),
        (["--sharpness", "0"], "`--sharpness` is 0.0"),
        (["--head", "mesh"], "level-set"),
        (["--category", "car"], "`--category` is car; generated shapes are seats"),
    ],
)
def test_wrong_options(tmp_path, capsys, arguments, words):
    command = ["train", "level-set-shapes", "--data", str(tmp_path), "--out", str(tmp_path / "a"), *arguments]
    assert code_of(command) == 2
    captured = capsys.readouterr()
    assert words in captured.err + captured.out and "Traceback" not in captured.err
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_table_1(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "applications.level_set_shapes.reproduce.ShapesConfig",
        lambda **given: ShapesConfig(latent=4, views=2, points=32, batch=4, warm_up=0.5, learning_rate=0.02, **given),
    )
    out = tmp_path / "table"
    arguments = [
        "--epochs",
        "4",
        "--seeds",
        "1",
        "--shapes",
        "8",
        "--data",
        str(tmp_path),
        "--out",
        str(out),
        "--quiet",
    ]
    assert main(["reproduce", "idl-table1", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "0.8680" in printed and "0.0630" in printed and "above voxels on IoU with" in printed
    rows = json.loads((out / "idl-table1.json").read_text())["heads"]
    assert set(rows) == {"voxels", "field", "level-set"} and {row["steps"] for row in rows.values()} == {8}
    assert {path.suffix for path in out.iterdir() if path.is_file()} == {".png", ".json"}
    before = step_of(out / "voxels-0")
    assert main(["reproduce", "idl-table1", *arguments]) == 0 and step_of(out / "voxels-0") == before


# Fits


def test_start_encloses_the_points_and_closes_holes():
    points = sphere(0.3).sample(5000, generator=torch.Generator().manual_seed(0))[0].float()
    start, gap = start_around(points, 33, 0.0)
    assert gap == GAPS[0] and bool((start != 0).all())
    assert bool(start[16, 16, 16] < -3) and bool(start[1, 1, 1] > 3)
    open_ball = points[points[:, 2] > 0.25]
    start, gap = start_around(open_ball, 33, 0.0)
    assert gap > GAPS[0] and bool(start[16, 16, 16] < 0)
    assert bool(start_around(open_ball, 33, GAPS[0])[0][16, 16, 16] > 0)


def fit(shape: Path, out: Path, *arguments: str, grid: int = 24, steps: int = 12) -> int:
    options = ["--grid", str(grid), "--steps", str(steps), "--samples", "512", "--out", str(out)]
    return main(["fit", "shape", str(shape), *options, *FAST, *arguments])


@pytest.fixture(scope="module")
def ball_file(tmp_path_factory) -> Path:
    pytest.importorskip("trimesh")
    surface = sphere(0.3)
    return Surface(10 * surface.vertices + 5, surface.faces).export(tmp_path_factory.mktemp("mesh") / "ball.ply")


@pytest.mark.parametrize("gauge", ["normal", pytest.param("edge", marks=pytest.mark.slow)])
def test_fit_of_a_mesh(ball_file, tmp_path, capsys, gauge):
    out = tmp_path / "a"
    assert fit(ball_file, out, "--gauge", gauge, "--format", "obj", "--learning-rate", "0.2", steps=25) == 0
    found = metrics(out)
    assert found["iou"] > 0.95 and found["volume_error"] < 0.03 and found["normal_consistency"] > 0.97
    assert found["chamfer"] < 0.02 and found["in_doubt"] == 0 and found["notes"] == []
    surface = Surface.read(out / "surface.obj")
    assert not surface.defects() and (surface.vertices.amax(0) - 13).abs().max() < 0.1  # where it was, as large
    names = {path.name for path in out.iterdir()}
    assert {"surface.obj", "comparison.png", "curves.png", "metrics.json", "model.safetensors"} <= names
    assert main(["eval", str(out), "--device", "cpu"]) == 0
    assert f"IoU {found['iou']:.4f}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_fit_goes_on_with_more_steps_but_not_with_another_shape(ball_file, tmp_path):
    assert fit(ball_file, tmp_path / "longer", steps=2) == 0
    assert main(["resume", str(tmp_path / "longer"), "--steps", "4", "--quiet"]) == 0
    assert step_of(tmp_path / "longer") == 4 and metrics(tmp_path / "longer")["iou"] > 0.5
    ball_file_copy = tmp_path / "other.ply"
    ball_file_copy.write_bytes(ball_file.read_bytes())
    assert fit(ball_file_copy, tmp_path / "moved", steps=2) == 0
    surface = sphere(0.2)
    surface.export(ball_file_copy)
    assert main(["resume", str(tmp_path / "moved"), "--steps", "3", "--quiet"]) == 2


@pytest.mark.parametrize("kind", ["xyz", "npy", "ply"])
def test_fit_of_a_cloud(tmp_path, capsys, kind):
    points, normals = sphere(0.3).sample(3000, generator=torch.Generator().manual_seed(0))
    path = tmp_path / f"cloud.{kind}"
    if kind == "xyz":
        np.savetxt(path, points.numpy())
    elif kind == "npy":
        np.save(path, torch.cat([points, normals], 1).numpy())
    else:
        trimesh = pytest.importorskip("trimesh")
        path.write_bytes(trimesh.PointCloud(points.numpy()).export(file_type="ply"))
    assert fit(path, tmp_path / "a", steps=20) == 0
    found = metrics(tmp_path / "a")
    assert found["iou"] is None and found["volume_error"] is None and found["chamfer"] < 0.03
    assert "cloud of 3000 points" in capsys.readouterr().err
    assert abs(float(Surface.read(tmp_path / "a" / "surface.ply").volume()) / 0.1131 - 1) < 0.1


def test_figures_that_have_no_meaning_are_none():
    """IoU with a sheet, which encloses nothing, and the volume of a surface that ends at the wall of the grid."""
    sheet = Surface(torch.tensor([[0.2, 0.2, 0.5], [0.8, 0.2, 0.5], [0.2, 0.8, 0.5]]), torch.tensor([[0, 1, 2]]))
    whole = sphere(0.3, 13)
    field = (points_of_grid(12) - 0.5).norm(dim=-1) - 0.3
    for surface, shape, iou, volume in ((whole, whole, True, True), (whole, sheet, False, False)):
        target = Target("a", shape.vertices, None, repaired(shape.vertices, shape.faces))
        found = figures(target, surface, field)
        assert (found["iou"] is not None) == iou and (found["volume_error"] is not None) == volume
    cut = Surface(whole.vertices, whole.faces[3:])
    target = Target("a", whole.vertices, None, repaired(whole.vertices, whole.faces))
    assert figures(target, cut, field)["volume_error"] is None


def spoiled(ball_file: Path, path: Path, how: str) -> Path:
    surface = sphere(0.3, 17)
    if how == "open":
        surface = Surface(surface.vertices, surface.faces[(surface.corners()[:, :, 2] > 0.28).any(1)])
    elif how == "flipped":
        surface.faces[:40] = surface.faces[:40].flip(1)
    elif how == "inside out":
        surface = Surface(surface.vertices, surface.faces.flip(1))
    elif how == "apart":  # no shared vertices, as in STL
        surface = Surface(surface.corners().reshape(-1, 3), torch.arange(3 * len(surface)).view(-1, 3))
    return surface.export(path)


@pytest.mark.parametrize(
    ("how", "words", "closed"),
    [
        ("open", r"not closed, \d+ edges.*winding number is at least one half.*no volume", False),
        ("flipped", r"\d+ of \d+ faces look to another side than their neighbours: turned", True),
        pytest.param("inside out", "look inwards: all turned", True, marks=pytest.mark.slow),
        pytest.param("apart", r"\d+ of \d+ vertices lie where another does: merged", True, marks=pytest.mark.slow),
    ],
)
def test_fit_of_meshes_with_defects(ball_file, tmp_path, capsys, how, words, closed):
    path = spoiled(ball_file, tmp_path / "ball.ply", how)
    assert fit(path, tmp_path / "a", steps=15) == 0
    assert re.search(words, capsys.readouterr().err, re.DOTALL)
    found = metrics(tmp_path / "a")
    assert found["iou"] > 0.85 and (found["volume_error"] is not None) == closed and found["notes"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.ply", b"", "is empty"),
        ("a.ply", b"ply\nformat binary_little_endian 1.0\nelement vertex 9\n", "a.ply"),
        ("a.obj", b"v 0 0 0\nv 1e30 0 0\nv 0 1 0\nf 1 2 3\n", "coordinates up to 1.0e"),
        ("a.obj", b"v 0 0 0\nv nan 0 0\nv 0 1 0\nf 1 2 3\n", "not finite"),
        ("a.obj", b"v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n", "all at one place"),
        ("a.obj", b"v 0 0 0\nv 1 1 1\nv 2 2 2\nf 1 2 3\n", "has an area"),
        ("a.xyz", b"1 2 3\n4 5 6\n", "at least 16"),
        ("a.xyz", b"1 2\n4 5\n", "expected x, y, z"),
        ("a.xyz", b"one two three\n", "table of points"),
        ("a.xyz", b"1 2 nan\n" * 20, "not finite"),
        ("a.npy", b"\x93NUMPY", "table of points"),
        ("a.csv", b"x,y,z\n1,2,3\n", "without a line of names"),
        ("a.xyz", b"", "is empty"),
        ("a.xyz", b"1 2 3 0 0 0\n" * 20, "20 of 20 points have a normal of length zero"),
        ("a.xyz", b"1e13 2 3\n" * 20, "expected at most 1e+12"),
        ("a.doc", b"solid", "ends with `.doc`"),
    ],
)
def test_shapes_that_cannot_be_fitted(tmp_path, capsys, name, content, words):
    pytest.importorskip("trimesh")
    (tmp_path / name).write_bytes(content)
    assert fit(tmp_path / name, tmp_path / "run") == 2
    assert words in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_wrong_options_of_a_fit(ball_file, tmp_path, capsys):
    for arguments, words in ((["--grid", "8"], "`--grid` is 8"), (["--gap", "30"], "`--gap` 30")):
        assert main(["fit", "shape", str(ball_file), "--out", str(tmp_path / "a"), *arguments]) == 2
        assert words in capsys.readouterr().err
    assert main(["fit", "shape", str(tmp_path / "no.ply"), "--out", str(tmp_path / "a")]) == 2
    assert "mesh or a point cloud" in capsys.readouterr().err and not (tmp_path / "a").exists()


def test_a_surface_that_vanishes_ends_the_fit_with_its_reason(ball_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "applications.level_set_shapes.fit_task.start_around", lambda _, n, __: (torch.ones(n, n, n).float(), 1.5)
    )
    assert fit(ball_file, tmp_path / "a") == 1
    assert "no surface" in capsys.readouterr().err and not list((tmp_path / "a").glob("surface.*"))
