"""R45: a picture that is truncated, empty, or none at all is an `ImageReadError` with the name of the file."""

import pytest
from PIL import Image

from applications.shared.errors import ImageReadError
from applications.shared.pictures import read_picture
from tests.applications.runs import fit


def png(path, size=(64, 48)):
    Image.radial_gradient("L").resize(size).save(path, "PNG")
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "header"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_named(tmp_path, capsys, kind, suffix):
    path = tmp_path / f"photo{suffix}"
    whole = png(tmp_path / "good.png")
    data = {"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"no picture", "header": whole[:20]}[kind]
    path.write_bytes(data)
    with pytest.raises(ImageReadError, match=path.name):
        read_picture(path)
    assert fit(tmp_path / "a", picture=str(path)) == 2
    assert path.name in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_a_wrong_extension_is_no_harm(tmp_path):
    data = png(tmp_path / "good.png")
    (tmp_path / "photo.jpg").write_bytes(data)
    assert read_picture(tmp_path / "photo.jpg").pixels.shape == (48, 64, 1)


def test_a_folder(tmp_path, capsys):
    assert fit(tmp_path / "a", picture=str(tmp_path)) == 2
    assert "is a folder" in capsys.readouterr().err
