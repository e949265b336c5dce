"""R46: a picture of too many pixels is refused by its header, before decoding; the limit and its override are named."""

import struct
import zlib

import pytest
from PIL import Image

from applications.shared.errors import ImageReadError
from applications.shared.pictures import read_picture
from tests.applications.runs import fit


def huge(path, side=100_000):
    """A PNG whose header speaks of 10^10 pixels and which holds none."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )
    return path


def test_refused_by_its_header(tmp_path, capsys):
    path = huge(tmp_path / "bomb.png")
    with pytest.raises(ImageReadError, match=r"100000 x 100000 .* at most 100000000 .*--max-pixels"):
        read_picture(path)
    assert fit(tmp_path / "a", picture=str(path)) == 2
    assert "bomb.png" in capsys.readouterr().err


def test_the_limit_is_an_option(tmp_path, capsys):
    Image.linear_gradient("L").resize((20, 20)).save(tmp_path / "a.png")
    assert fit(tmp_path / "a", "--max-pixels", "399", picture=str(tmp_path / "a.png")) == 2
    assert "399" in capsys.readouterr().err
    assert fit(tmp_path / "a", "--max-pixels", "400", picture=str(tmp_path / "a.png")) == 0


def test_the_limit_of_pillow_is_as_before(tmp_path):
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageReadError):
        read_picture(huge(tmp_path / "bomb.png"))
    assert before == Image.MAX_IMAGE_PIXELS
