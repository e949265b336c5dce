"""Pictures and videos in NumPy files, and the data tree of the authors, which has its pictures in archives."""

import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from applications.__main__ import main
from applications.shared import arrays
from applications.shared.arrays import divided, in_array
from applications.shared.errors import ArrayReadError, ImageReadError
from applications.shared.pictures import read_picture
from applications.shared.videos import read_video
from tests.applications.runs import SMALL, fit, metrics, same_weights

STACK = np.random.default_rng(0).integers(0, 256, (4, 12, 16, 3), dtype=np.uint8)


@pytest.fixture
def home(tmp_path):
    np.save(tmp_path / "stack.npy", STACK)
    np.savez(tmp_path / "data.npz", train_data=STACK, test_data=STACK[::-1])
    return tmp_path


def test_names(tmp_path):
    assert divided(tmp_path / "a.npz/key/3") == (tmp_path / "a.npz", ("key", "3"))
    assert divided(tmp_path / "a.png") == (tmp_path / "a.png", ()) and not in_array(tmp_path / "a.png")
    (tmp_path / "b.npz").mkdir()
    Image.fromarray(STACK[0]).save(tmp_path / "b.npz" / "a.png")  # a folder of that name is a folder
    assert read_picture(tmp_path / "b.npz" / "a.png").pixels.shape == (12, 16, 3)


@pytest.mark.parametrize(
    ("stored", "white"),
    [
        (STACK[1], 255),
        (STACK[1][..., 0], 255),
        (STACK[1][..., :1], 255),
        (STACK[1].astype(np.uint16) * 257, 65535),
        (STACK[1].astype(np.int64), 255),
        (STACK[1].astype(np.float32), 255),
        (STACK[1] / 255, 1),
        (STACK[1] > 127, 1),
        (np.asfortranarray(STACK[1]), 255),
        (STACK[1].astype(">u2") * 257, 65535),
    ],
)
def test_pictures_of_any_real_type(tmp_path, stored, white):
    np.save(tmp_path / "a.npy", stored)
    pixels = read_picture(tmp_path / "a.npy").pixels
    expected = stored.astype(float) / white
    np.testing.assert_allclose(pixels.numpy(), expected.reshape(12, 16, -1), rtol=1e-6)
    assert pixels.dtype == torch.float32


def test_what_is_inside_of_a_file(home):
    for name in ("stack.npy/2", "data.npz/train_data/2", "data.npz/test_data/1"):
        picture = read_picture(home / name)
        np.testing.assert_array_equal((picture.pixels * 255).round().numpy(), STACK[2])
        assert picture.name == name.replace("/", "-").replace(".npy", "").replace(".npz", "")
    np.savez_compressed(home / "one.npz", whatever=STACK)
    assert torch.equal(read_picture(home / "one.npz/2").pixels, read_picture(home / "one.npz/whatever/2").pixels)
    np.save(home / "rows.npy", STACK[:, :4, :4].reshape(4, 48))  # squares, a row for each
    np.testing.assert_array_equal((read_picture(home / "rows.npy/3").pixels * 255).round().numpy(), STACK[3, :4, :4])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("data.npz", r"holds `train_data`, `test_data`; .*`data.npz/train_data`"),
        ("data.npz/foo", r"has no `foo`; it holds `train_data`"),
        ("data.npz/test_data", r"4 pictures, .* as in `data.npz/test_data/0`"),
        ("data.npz/test_data/4", r"no `4` in an array of \(4, 12, 16, 3\); expected numbers from 0 to 3"),
        ("data.npz/test_data/-1", "no `-1`"),
        ("stack.npy", r"4 pictures, .* as in `stack.npy/0`"),
        ("none.npy/0", "does not exist"),
    ],
)
def test_what_is_not_inside_of_a_file(home, name, words):
    with pytest.raises(ArrayReadError, match=words):
        read_picture(home / name)


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (-STACK[0].astype(float), r"from -255 to -0.*expected floating-point values in \[0, 1\], or whole numbers"),
        (STACK[0] * 1.5, "float64 from"),
        (STACK[0].astype(int) * 2, "int64 from"),
        (np.full((3, 4), np.nan), "NaN or infinity"),
        (np.full((3, 4), np.inf), "NaN or infinity"),
        (np.zeros((3, 4), complex), "complex128"),
        (np.full((3, 4), "a"), "<U1"),
        (np.zeros((0, 4)), r"\(0, 4, 1\)"),
        (np.float64(1), r"array of \(\)"),
        (np.zeros((2, 3, 4, 5, 3)), r"\(2, 3, 4, 5, 3\); expected \(height"),
        (np.array([{}, 1], dtype=object), "damaged"),
    ],
)
def test_entries_that_are_no_picture(tmp_path, stored, words):
    np.save(tmp_path / "a.npy", stored, allow_pickle=True)
    with pytest.raises(ArrayReadError, match=words):
        read_picture(tmp_path / "a.npy")
    np.savez(tmp_path / "a.npz", a=stored, b=1)
    with pytest.raises(ArrayReadError, match=words if stored.dtype != object else "Object arrays"):
        read_picture(tmp_path / "a.npz/a")


def encrypted(archive):
    """Its directory says so."""
    at = archive.index(b"PK\x01\x02") + 8
    return archive[:at] + b"\x01" + archive[at + 1 :]


@pytest.mark.parametrize(
    ("name", "damaged"),
    [
        *((name, lambda whole: whole[: len(whole) // 2]) for name in ("stack.npy", "data.npz")),
        *((name, lambda whole: b"") for name in ("stack.npy", "data.npz")),
        *((name, lambda whole: b"hello") for name in ("stack.npy", "data.npz")),
        ("data.npz", encrypted),
    ],
)
def test_damaged_files(home, name, damaged, capsys):
    (home / name).write_bytes(damaged((home / name).read_bytes()))
    inside = "/0" if name == "stack.npy" else "/train_data/0"
    assert fit(home / "a", picture=str(home / name) + inside) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert name in said and "damaged" in said and not (home / "a").exists()


def test_too_large(home, monkeypatch):
    with pytest.raises(ImageReadError, match=r"16 x 12 = 192 pixels; at most 191 .*--max-pixels"):
        read_picture(home / "stack.npy/0", 191)
    monkeypatch.setattr(arrays, "MAX_BYTES", 2000)
    assert read_picture(home / "stack.npy/0").pixels.shape == (12, 16, 3)  # mapped
    with pytest.raises(ArrayReadError, match=r"Save it as a \.npy file"):
        read_picture(home / "data.npz/test_data/0")


def test_a_run_on_a_picture_of_an_archive(home, monkeypatch):
    monkeypatch.chdir(home)
    assert fit(home / "whole", picture="data.npz/test_data/1", steps=6) == 0
    Image.fromarray(STACK[2]).save(home / "same.png")
    assert fit(home / "file", picture="same.png", steps=6) == 0
    assert same_weights(home / "whole", home / "file")
    fit(home / "part", picture="data.npz/test_data/1", steps=3)
    assert main(["resume", str(home / "part"), "--steps", "6", "--quiet"]) == 0
    assert same_weights(home / "whole", home / "part")
    assert main(["eval", str(home / "part"), "--threads", "1"]) == 0
    with zipfile.ZipFile(home / "data.npz", "a") as archive:
        archive.writestr("more.npy", b"")
    assert main(["fit", "image", "data.npz/test_data/1", "--steps", "1", *SMALL]) == 0
    assert (home / "runs" / "data-test_data-1-fourier-imfn").is_dir()


@pytest.mark.parametrize("grey", [False, True])
def test_videos(home, grey):
    stored = STACK[..., 0] if grey else STACK
    np.save(home / "clip.npy", stored)
    np.save(home / "half.npy", stored / 255)
    video = read_video(home / "clip.npy", size=16, count=0, every=1)
    np.testing.assert_array_equal(video.frames.numpy(), STACK[..., :1].repeat(3, -1) if grey else STACK)
    assert (video.rate, video.name) == (25.0, "clip")
    assert torch.equal(read_video(home / "half.npy", size=16, count=0, every=1).frames, video.frames)
    assert read_video(home / "clip.npy", size=8, count=2, every=2).frames.shape == (2, 6, 8, 3)
    with pytest.raises(ArrayReadError, match=r"\(12, 16, 3\); expected \(frames, height"):
        read_video(home / "stack.npy/0", size=16, count=0, every=1)


def test_a_video_of_an_array(home):
    command = [
        "fit",
        "video",
        str(home / "data.npz/test_data"),
        "--steps",
        "4",
        "--batch",
        "128",
        "--out",
        str(home / "v"),
    ]
    assert main([*command, *SMALL]) == 0
    assert len(metrics(home / "v")["psnr_of_each"]) == 4
    assert main(["eval", str(home / "v"), "--threads", "1"]) == 0


def test_table_1_on_the_data_of_the_authors(tmp_path, capsys):
    """Their tree: image/data_div2k.npz and image/data_2d_text.npz, of which the pictures of `test_data` are used."""
    (tmp_path / "data" / "image").mkdir(parents=True)
    for name in ("data_div2k", "data_2d_text"):
        np.savez(tmp_path / "data" / "image" / f"{name}.npz", train_data=STACK[:1], test_data=STACK)
    command = ["reproduce", "impsq-table1", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    assert (
        main([*command, "--families", "fourier", "--count", "2", "--size", "16", "--steps", "2", "--width", "4"]) == 0
    )
    assert "4L-4D" in capsys.readouterr().out
    natural = tmp_path / "out" / "natural"
    assert len(list(natural.glob("fourier-imfn-1L-4D-data_div2k-test_data-*-0"))) == 2
    config = (natural / "fourier-imfn-1L-4D-data_div2k-test_data-2-0" / "config.json").read_text()
    assert "image/data_div2k.npz/test_data/2" in config
    assert main([*command[:3], str(tmp_path), "--out", str(tmp_path / "other")]) == 2
    assert "data_div2k.npz" in capsys.readouterr().err
