"""Shapes: gradients of distances, whole runs of both signals, and what bad input gets."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from applications.__main__ import main
from applications.inr.solid import fit as fitting
from applications.inr.solid import measure, reproduce
from applications.inr.solid.config import OccupancyConfig, SdfConfig
from applications.inr.solid.data import MeshReadError, load_shape, torus
from applications.inr.solid.field import SpaceField, space_network
from applications.inr.solid.tasks import SdfTask
from applications.shared.errors import InputError
from implayer import Surface
from tests.applications.runs import metrics, same_weights
from tests.applications.test_inr_solid_shapes import anywhere, ball, cube

CPU = torch.device("cpu")
FAST = ["--quiet", "--threads", "1", "--device", "cpu"]
SMALL = [
    "--width", "16", "--batch", "128", "--norm", "spectral", "--test-points", "256", "--mesh", "16", "--picture", "48",
    *FAST,
]  # fmt: skip


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Curves are drawn, and distances measured on as many points as always, by one test alone: they take the most time."""
    if request.node.name != "test_an_occupancy_run":
        monkeypatch.setattr(fitting, "draw_learning", lambda *_: None)
        monkeypatch.setattr(measure, "_SAMPLES", 300)


def write(folder: Path, vertices: Tensor, faces: Tensor, name: str = "mesh.ply") -> Path:
    return Surface(vertices, faces).export(folder / name)


# --------------------------------------------------------------------------------------- the gradient of a distance
def sharp(model: str = "fourier-imfn") -> SdfConfig:
    return SdfConfig(model=model, width=12, depth=1, scale=3.0, tolerance=1e-12, max_solve_steps=400, norm="spectral")  # type: ignore[arg-type]


@pytest.mark.parametrize("model", ["fourier-imfn", "isiren"])
def test_the_eikonal_loss_has_the_exact_gradient(model: str):
    config = sharp(model)
    shape = load_shape("torus", None, extent=0.9).content
    task = SdfTask(config, shape, CPU)
    task.model.double()
    batch = task.draw(24, torch.Generator().manual_seed(0))
    batch = type(batch)(batch.x.double(), batch.target.double())

    def loss() -> Tensor:
        return task.losses(batch, None)[0].mean()

    gradients = torch.autograd.grad(loss(), task.parameters)
    generator = torch.Generator().manual_seed(1)
    direction = [torch.randn(p.shape, dtype=p.dtype, generator=generator) for p in task.parameters]
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
    step, values = 1e-5, []
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, d in zip(task.parameters, direction, strict=True):
                parameter.add_(d, alpha=sign * step)
        values.append(float(loss().detach()))
        with torch.no_grad():
            for parameter, d in zip(task.parameters, direction, strict=True):
                parameter.add_(d, alpha=-sign * step)
    assert abs((values[0] - values[1]) / (2 * step) - slope) < 1e-5 * abs(slope)


@pytest.mark.parametrize("model", ["fourier-imfn", "gabor-imfn", "isiren", "siren"])
def test_the_gradient_of_the_field_is_that_of_its_values(model: str):
    field = SpaceField(space_network(sharp(model)).double(), sharp(model))
    points = anywhere(10, 0.8)
    _, gradients = field.gradient(points)
    for axis, step in enumerate(1e-4 * torch.eye(3, dtype=torch.float64)):
        slope = (field(points + step) - field(points - step)) / 2e-4
        assert (slope - gradients[:, axis]).abs().max() < 1e-6 * max(1.0, float(gradients.abs().max()))


# ------------------------------------------------------------------------------------------------------- whole runs
def fit(kind: str, out: Path, *arguments: str, shape: str = "torus", steps: int = 2) -> int:
    return main(["fit", kind, shape, "--steps", str(steps), "--out", str(out), *SMALL, *arguments])


def test_an_occupancy_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "run"
    learned = ["--scale", "4", "--learning-rate", "0.01", "--width", "32", "--batch", "256"]
    learned += ["--model", "fourier-mfn"]
    assert fit("occupancy", out, *learned, steps=100) == 0
    names = {"config.json", "metrics.json", "model.safetensors", "mesh.ply", "normals.png", "target.png", "curves.png"}
    assert names <= {path.name for path in out.iterdir()}
    found = metrics(out)
    assert found["iou_easy"] > 0.7 and found["accuracy_easy"] > 0.9
    assert found["chamfer_relative"] < 0.05 and abs(found["mesh_volume"] / found["target_volume"] - 1) < 0.3
    vertices, _ = torus()
    mesh = Surface.read(out / "mesh.ply")  # in the units of the shape
    assert (mesh.vertices.amax(0) - vertices.amax(0)).abs().max() < 0.2 and not mesh.defects().open_edges
    capsys.readouterr()
    assert main(["eval", str(out), "--threads", "1"]) == 0
    assert f"IoU {found['iou_easy']:.4f} (uniform points)" in capsys.readouterr().out
    for name in ("a.obj", "b.glb"):
        assert main(["render", str(out), "--resolution", "10", "--out", str(tmp_path / name), *FAST]) == 0
        assert len(Surface.read(tmp_path / name)) > 50
    picture = tmp_path / "n.png"
    arguments = ["--resolution", "16", "--normals", str(picture), "--size", "16", "--exact", *FAST]
    assert main(["render", str(out), *arguments]) == 0 and picture.exists()
    assert not list(out.glob("mesh-*.ply"))  # a picture alone was asked for
    assert main(["render", str(out), "--out", str(tmp_path / "x.stl")]) == 2
    assert main(["render", str(out), "--resolution", "1"]) == 2


def test_a_distance_run_learns_a_slope_of_one(tmp_path: Path):
    out = tmp_path / "run"
    arguments = ["--model", "siren", "--omega", "10", "--depth", "2", "--width", "32", "--batch", "256"]
    arguments += ["--learning-rate", "0.001"]
    assert fit("sdf", out, *arguments, steps=200) == 0
    found = metrics(out)
    assert found["eikonal"] < 0.45 and found["normal_cosine"] > 0.95 and found["iou_easy"] > 0.85
    assert (out / "mesh.ply").exists() and (out / "normals.png").exists()


@pytest.mark.parametrize(
    "kind, arguments",
    [
        ("occupancy", ["--voxels", "--reuse"]),
        ("sdf", ["--model", "fourier-mfn"]),
        pytest.param("sdf", ["--voxels"], marks=pytest.mark.slow),
    ],
)
def test_resumed_runs_end_with_the_same_bits(tmp_path: Path, kind: str, arguments: list[str]):
    arguments = [*arguments, "--batch", "32", "--cache-mb", "1"]
    assert fit(kind, tmp_path / "whole", *arguments, steps=4) == 0
    assert fit(kind, tmp_path / "parts", *arguments, steps=2) == 0
    assert main(["resume", str(tmp_path / "parts"), "--steps", "4", *FAST]) == 0
    assert same_weights(tmp_path / "whole", tmp_path / "parts")
    assert metrics(tmp_path / "whole")["iou_hard"] == metrics(tmp_path / "parts")["iou_hard"]


def test_a_shape_that_changed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = write(tmp_path, *ball())
    assert fit("occupancy", tmp_path / "run", shape=str(path)) == 0
    write(tmp_path, *cube())
    assert main(["resume", str(tmp_path / "run"), "--steps", "3", *FAST]) == 2
    assert "has changed since the run began" in capsys.readouterr().err


def test_points_with_normals(tmp_path: Path):
    points = torch.nn.functional.normalize(anywhere(300), dim=-1).numpy()
    np.save(tmp_path / "ball.npy", np.hstack([0.5 * points + 3, points]))
    np.savetxt(tmp_path / "ball.xyz", np.hstack([0.5 * points + 3, points]))
    a, b = (load_shape(str(tmp_path / f"ball.{kind}"), None, cloud=True) for kind in ("npy", "xyz"))
    assert (a.content.surface.vertices - b.content.surface.vertices).abs().max() < 1e-6
    assert a.content.inside is None and abs(a.source.size - 0.5) < 0.05
    assert fit("sdf", tmp_path / "run", shape=str(tmp_path / "ball.npy")) == 0
    assert "iou_easy" not in metrics(tmp_path / "run") and metrics(tmp_path / "run")["normal_cosine"] <= 1
    assert fit("occupancy", tmp_path / "no", shape=str(tmp_path / "ball.npy")) == 2
    np.savetxt(tmp_path / "few.xyz", points)
    (tmp_path / "empty.xyz").write_text("")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "ball.npy").read_bytes()[:200])
    for name in ("few.xyz", "empty.xyz", "cut.npy"):
        with pytest.raises(InputError, match=name):
            load_shape(str(tmp_path / name), None, cloud=True)


def test_a_mesh_that_encloses_nothing_has_a_surface_alone(tmp_path: Path):
    path = tmp_path / "sheet.obj"
    path.write_text("v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf 1 2 3\nf 1 3 4\n")
    with pytest.raises(MeshReadError, match=r"none of 8192 points .* encloses nothing.*`implayer fit sdf`"):
        load_shape(str(path), None)
    found = load_shape(str(path), None, cloud=True)
    assert found.content.inside is None and not found.content.closed and "encloses nothing" in found.notes[-1]


@pytest.mark.parametrize("ending", ["stl", "glb", "obj"])
def test_kinds_of_files(tmp_path: Path, ending: str):
    trimesh = pytest.importorskip("trimesh")
    vertices, faces = ball()
    path = tmp_path / f"ball.{ending}"
    trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False).export(path)
    shape = load_shape(str(path), None).content
    assert shape.closed and len(shape.surface) == len(faces) and len(shape.surface.vertices) == len(vertices)


# ------------------------------------------------------------------------------------------------------------ faults
def test_r50_broken_meshes_are_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    good = write(tmp_path, *ball()).read_bytes()
    vertices, faces = cube()
    flat = vertices * torch.tensor([1.0, 0.0, 0.0])
    files = {
        "truncated.ply": good[: len(good) // 3],
        "nofaces.obj": b"v 0 0 0\nv 1 0 0\nv 0 1 0\n",
        "huge.obj": b"v 0 0 0\nv 1e30 0 0\nv 0 1 0\nf 1 2 3\n",
        "flat.ply": write(tmp_path, flat, faces, "flat.ply").read_bytes(),
        "text.stl": b"no mesh at all",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        for kind in ("occupancy", "sdf"):
            assert fit(kind, tmp_path / "run", shape=str(tmp_path / name)) == 2
            assert name in capsys.readouterr().err and not (tmp_path / "run").exists()
    assert fit("occupancy", tmp_path / "run", shape="nothing.ply") == 2
    assert "expected a mesh" in capsys.readouterr().err


def test_r50_unsound_meshes_are_counted_and_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    vertices, faces = ball()
    other = torch.cat([vertices, vertices + 0.4]), torch.cat([faces, faces + len(vertices)])
    cases = {
        "open": (vertices, faces[5:], "edges have a face on one side alone"),
        "flipped": (vertices, torch.cat([faces[:4].flip(-1), faces[4:]]), "4 of "),
        "doubled": (vertices[faces].reshape(-1, 3), torch.arange(3 * len(faces)).view(-1, 3), "lie where another does"),
        "crossing": (*other, "cuts itself"),
    }
    for name, (points, triangles, told) in cases.items():
        path = write(tmp_path, points, triangles, f"{name}.ply")
        notes = "".join(load_shape(str(path), None).notes)
        assert told in notes and f"{name}.ply" in notes
    assert fit("occupancy", tmp_path / "run", "--model", "fourier-mfn", shape=str(tmp_path / "open.ply"), steps=1) == 0
    assert "edges have a face on one side alone" in capsys.readouterr().err
    assert metrics(tmp_path / "run")["iou_easy"] >= 0
    assert "winding number is at least one half" in "".join(load_shape(str(tmp_path / "open.ply"), None).notes)


def test_r51_no_zero_level(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "run"
    assert fit("occupancy", out, "--model", "siren", "--depth", "1") == 0
    weights = load_file(out / "model.safetensors")
    save_file(weights | {"readout.bias": torch.tensor([-50.0])}, out / "model.safetensors")
    target = tmp_path / "none.ply"
    capsys.readouterr()
    assert main(["render", str(out), "--resolution", "8", "--out", str(target), *FAST]) == 1
    assert "no surface, field range [-5" in capsys.readouterr().err and not target.exists()
    assert main(["eval", str(out), "--threads", "1"]) == 0
    assert "no surface, field range [-5" in capsys.readouterr().out


def test_r51_a_run_without_surface_ends_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(SpaceField, "__call__", lambda self, points: torch.full((len(points),), -3.0))
    out = tmp_path / "run"
    assert fit("occupancy", out) == 0
    assert metrics(out)["surface_found"].startswith("no surface, field range [-3, -3]")
    assert not (out / "mesh.ply").exists() and not (out / "normals.png").exists()
    assert metrics(out)["recall_easy"] == 0.0


@pytest.mark.parametrize("wrong", [["--near", "2"], ["--mesh", "1"], ["--test-tolerance", "0"], ["--batch", "0"]])
def test_values_that_mean_nothing(tmp_path: Path, wrong: list[str], capsys: pytest.CaptureFixture[str]):
    assert fit("occupancy", tmp_path / "run", *wrong) == 2
    assert f"`{wrong[0]}` is" in capsys.readouterr().err


def test_figure_9_at_a_toy_size(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    small = {name: (model, depth, 16) for name, (model, depth, _) in reproduce.NETWORKS.items()}
    monkeypatch.setattr(reproduce, "NETWORKS", small)
    size = [
        "--steps",
        "1",
        "--batch",
        "32",
        "--mesh",
        "8",
        "--test-points",
        "64",
        "--shape",
        "torus",
        "--picture",
        "32",
    ]
    command = ["reproduce", "impsq-fig9", "--out", str(tmp_path), *size, "--threads", "1", "--quiet"]
    assert main(command) == 0
    assert (tmp_path / "impsq-fig9.png").exists()
    found = json.loads((tmp_path / "impsq-fig9.json").read_text())["networks"]
    assert found["explicit 1L-512D"]["parameters"] == found["implicit 1L-512D"]["parameters"]
    assert "implicit 1L-512D above both others; here" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fit", "asked", "said"),
    [
        (fitting.OCCUPANCIES, OccupancyConfig(reuse=True), "needs fixed points"),
        (fitting.DISTANCES, SdfConfig(reuse=True), "needs fixed points"),
        (fitting.DISTANCES, SdfConfig(reuse=True, voxels=True), "a solve at every step"),
    ],
)
def test_shapes_reuse_what_there_is(fit, asked, said):
    with pytest.raises(InputError, match=said):
        fit.check(asked)
