"""Videos as networks: fit, render between frames, evaluate, go on; damaged files and odd folders are refused."""

import math
import resource
import signal
import tempfile

import numpy as np
import pytest
import torch
from PIL import Image

from applications.__main__ import main
from applications.inr.video.data import colours, points
from applications.shared import videos
from applications.shared.errors import VideoReadError
from applications.shared.videos import read_video, write_video
from tests.applications.runs import metrics, same_weights

SMALL = ["--width", "8", "--size", "16", "--batch", "256", "--quiet", "--threads", "1", "--device", "cpu"]


def moving(count=5, height=12, width=16):
    t, y, x = np.mgrid[:count, :height, :width] / 8
    return np.stack([np.sin(x + t), np.cos(y), np.sin(x + y)], -1) / 2 + 0.5


@pytest.fixture
def clip(tmp_path):
    write_video(tmp_path / "clip.mp4", (torch.from_numpy(frame) for frame in moving()), 10)
    return tmp_path / "clip.mp4"


def fit(path, out, *arguments, steps=6):
    return main(["fit", "video", str(path), "--steps", str(steps), "--out", str(out), *SMALL, *arguments])


def test_points_are_numbered_frame_by_frame():
    frames = torch.arange(2 * 3 * 4 * 3, dtype=torch.uint8).reshape(2, 3, 4, 3)
    numbers = torch.arange(24)
    t, y, x = points(numbers, (2, 3, 4), torch.float64).reshape(2, 3, 4, 3).unbind(-1)
    torch.testing.assert_close(t[:, 1, 2], torch.linspace(-1, 1, 2, dtype=torch.float64))
    torch.testing.assert_close(y[1, :, 2], torch.linspace(-1, 1, 3, dtype=torch.float64))
    torch.testing.assert_close(x[1, 2], torch.linspace(-1, 1, 4, dtype=torch.float64))
    found = colours(torch.tensor([23]), frames)
    torch.testing.assert_close(found[0], frames[1, 2, 3].float() / 127.5 - 1)
    assert points(torch.tensor([1]), (1, 1, 4)).isfinite().all()


def test_round_trip(clip):
    video = read_video(clip, size=16, count=0, every=1)
    assert video.frames.shape == (5, 12, 16, 3) and video.rate == 10
    np.testing.assert_allclose(video.frames.numpy() / 255, moving(), atol=0.12)
    some = read_video(clip, size=8, count=2, every=2)
    assert some.frames.shape == (2, 6, 8, 3) and some.rate == 5 and some.notes == ("16 x 12 is shrunk to 8 x 6",)
    assert read_video(clip, size=16, count=9, every=1).notes == ("5 frames are all that there are",)


def test_a_folder_of_pictures(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, frame in enumerate(moving(3)):
        Image.fromarray((frame * 255).round().astype(np.uint8)).save(folder / f"{number:03}.png")
    video = read_video(folder, size=16, count=0, every=1)
    np.testing.assert_allclose(video.frames.numpy() / 255, moving(3), atol=0.003)
    Image.new("RGB", (8, 8)).save(folder / "003.png")
    with pytest.raises(VideoReadError, match="frame 3 is 8 x 8; expected 16 x 12"):
        read_video(folder, size=16, count=0, every=1)
    (folder / "003.png").write_bytes(b"nothing")
    with pytest.raises(VideoReadError, match=r"003\.png"):
        read_video(folder, size=16, count=0, every=1)


@pytest.mark.parametrize("kind", ["truncated", "empty", "text"])
def test_damaged_files(clip, tmp_path, kind, capsys):
    whole = clip.read_bytes()
    bad = tmp_path / "bad.mp4"
    bad.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"no video"}[kind])
    assert fit(bad, tmp_path / "a") == 2
    assert "bad.mp4" in capsys.readouterr().err and not (tmp_path / "a").exists()
    (tmp_path / "none").mkdir()
    assert fit(tmp_path / "none", tmp_path / "a") == 2
    assert "folder without pictures" in capsys.readouterr().err


def test_what_exceeds_memory_goes_to_a_file(clip, tmp_path, monkeypatch):
    """The command maps it, learns the same from it, draws it, and goes on; nothing is left behind."""
    whole = read_video(clip, size=16, count=0, every=1)
    fit(clip, tmp_path / "a")
    monkeypatch.setattr(videos, "MAX_BYTES", 1500)  # two frames of five
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    mapped = read_video(clip, size=16, count=0, every=1)
    assert torch.equal(mapped.frames, whole.frames)
    assert mapped.notes == (f"5 frames of 16 x 12 are mapped from a file in {tmp_path / 'scratch'}",)
    assert fit(clip, tmp_path / "b", steps=3) == 0
    assert main(["resume", str(tmp_path / "b"), "--steps", "6", "--quiet"]) == 0
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert metrics(tmp_path / "a")["psnr_of_each"] == metrics(tmp_path / "b")["psnr_of_each"]
    assert not list((tmp_path / "scratch").iterdir())


def test_a_disk_without_room_is_said(clip, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(videos, "MAX_BYTES", 1000)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (2000, before[1])
    )  # no file may be larger, as on a disk that is nearly full
    try:
        assert fit(clip, tmp_path / "a") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    said = " ".join(capsys.readouterr().err.split())
    assert "clip.mp4" in said and "File too large" in said and "TMPDIR" in said and "smaller `--size`" in said
    assert not (tmp_path / "a").exists()


def test_a_run(clip, tmp_path, capsys):
    out = tmp_path / "a"
    assert fit(clip, out) == 0
    found = metrics(out)
    for name in ("reconstruction.mp4", "comparison.png", "curves.png", "model.safetensors"):
        assert (out / name).stat().st_size > 100
    assert len(found["psnr_of_each"]) == 5 and found["psnr"] == pytest.approx(np.mean(found["psnr_of_each"]))
    assert main(["eval", str(out), "--threads", "1"]) == 0
    assert f"PSNR {found['psnr']:.2f} +- " in capsys.readouterr().out


def test_rendering(clip, tmp_path):
    out = tmp_path / "a"
    fit(clip, out, steps=2)
    assert main(["render", str(out), "--rate", "20", "--size", "32", "--quiet"]) == 0
    assert read_video(out / "render-32x24.mp4", size=99, count=0, every=1).frames.shape == (9, 24, 32, 3)
    assert main(["render", str(out), "--at", "0.15", "--out", str(tmp_path / "b.png"), "--quiet"]) == 0
    with Image.open(tmp_path / "b.png") as picture:
        assert picture.size == (16, 12)
    assert main(["render", str(out), "--at", "9"]) == 2
    assert main(["render", str(out), "--rate", "0"]) == 2
    assert main(["render", str(out), "--out", "a.avi"]) == 2


def test_a_run_goes_on_as_if_nothing_had_been(clip, tmp_path):
    fit(clip, tmp_path / "whole", "--clip", "0.01", steps=6)
    fit(clip, tmp_path / "part", "--clip", "0.01", steps=3)
    assert main(["resume", str(tmp_path / "part"), "--steps", "6", "--quiet"]) == 0
    assert same_weights(tmp_path / "whole", tmp_path / "part")


def test_it_learns(clip, tmp_path):
    assert fit(clip, tmp_path / "a", "--width", "32", steps=80) == 0
    history = metrics(tmp_path / "a")["history"]["psnr"]
    assert history[-1] > history[0] + 6 and math.isfinite(history[-1])
