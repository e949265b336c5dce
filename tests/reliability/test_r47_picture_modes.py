"""R47: 16-bit, palette, alpha, grey, CMYK and animated pictures are converted by a stated rule."""

import numpy as np
import pytest
import torch
from PIL import Image

from applications.shared.errors import ImageReadError
from applications.shared.pictures import read_picture

RGB = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]


def read(tmp_path, image, suffix=".png", **options):
    path = tmp_path / f"p{suffix}"
    image.save(path, **options)
    return read_picture(path)


def close(picture, expected, tolerance=1e-6):
    expected = torch.as_tensor(np.asarray(expected, dtype=np.float32))
    return picture.pixels.shape == expected.shape and bool((picture.pixels - expected).abs().max() <= tolerance)


def test_grey_stays_grey(tmp_path):
    assert close(read(tmp_path, Image.fromarray(GREY)), GREY[:, :, None] / 255)


def test_colour_stays_colour(tmp_path):
    assert close(read(tmp_path, Image.fromarray(RGB)), RGB / 255)


def test_black_and_white(tmp_path):
    assert close(read(tmp_path, Image.fromarray(GREY > 128)), (GREY[:, :, None] > 128).astype(float))


def test_sixteen_bits_are_kept(tmp_path):
    values = (GREY.astype(np.uint16) * 257 + 3).clip(0, 65535).astype(np.uint16)
    picture = read(tmp_path, Image.fromarray(values))
    assert close(picture, values[:, :, None] / 65535, 1e-7) and "16-bit grey" in picture.notes


def test_palette(tmp_path):
    image = Image.fromarray(RGB).quantize(16)
    picture = read(tmp_path, image)
    assert close(picture, np.asarray(image.convert("RGB")) / 255) and "palette colours become RGB" in picture.notes


@pytest.mark.parametrize("grey", [False, True])
def test_alpha_over_white(tmp_path, grey):
    alpha = RGB[:, :, 1]
    colours = GREY[:, :, None] if grey else RGB
    image = Image.merge(
        "LA" if grey else "RGBA", [Image.fromarray(plane) for plane in [*np.moveaxis(colours, -1, 0), alpha]]
    )
    picture = read(tmp_path, image)
    share = alpha[:, :, None] / 255
    assert (
        close(picture, share * colours / 255 + 1 - share, 1.5 / 255)
        and "transparency is laid over white" in picture.notes
    )


def test_transparent_grey_of_a_palette_entry(tmp_path):
    image = Image.fromarray(GREY)
    picture = read(tmp_path, image, transparency=int(GREY[0, 0]))
    assert picture.channels == 1 and float(picture.pixels[0, 0]) == 1.0


def test_cmyk(tmp_path):
    image = Image.fromarray(np.full((6, 5, 3), (200, 30, 60), np.uint8)).convert("CMYK")
    picture = read(tmp_path, image, ".tif")
    assert close(picture, np.full((6, 5, 3), (200, 30, 60)) / 255, 2 / 255) and "CMYK becomes RGB" in picture.notes


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.fromarray(np.full((6, 5), value, np.uint8)) for value in (10, 200)]
    picture = read(tmp_path, frames[0], ".gif", save_all=True, append_images=frames[1:])
    assert float(picture.pixels.max()) == pytest.approx(10 / 255) and "the first of 2 frames is used" in picture.notes


def test_orientation_of_the_camera(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    picture = read(tmp_path, Image.fromarray(RGB), exif=exif)
    assert picture.pixels.shape == (5, 6, 3) and "turned as the camera noted" in picture.notes


def test_floating_point_outside_the_range_is_refused(tmp_path):
    with pytest.raises(ImageReadError, match=r"outside \[0, 1\]"):
        read(tmp_path, Image.fromarray(np.full((4, 4), 7.0, np.float32)), ".tif")
