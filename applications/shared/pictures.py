"""Reading and writing pictures. What had to be converted is said; what is damaged is refused with the file's name."""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .arrays import in_array, largest_value, name_of, pictures_in, read_array
from .errors import ImageReadError
from .files import write_atomically

MAX_PIXELS = 100_000_000  # of a file before it is decoded: about 300 MB of memory for a colour picture
_MIN_SIDE = 2  # a grid needs two points on a side to have an extent


@dataclass(frozen=True)
class Picture:
    """A picture of floating-point values in [0, 1].

    **Arguments**

    - `pixels`: (height, width, channels), one channel for grey and three for colour.
    - `name`: of the file, without suffix.
    - `notes`: what was converted on the way.
    - `known`: (height, width) bool, which pixels are known; None is all of them.
    """

    pixels: Tensor
    name: str
    notes: tuple[str, ...] = ()
    known: Tensor | None = None

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return self.pixels.shape[2]


def camera() -> Picture:
    """The 512 x 512 grey picture that comes with scikit-image."""
    try:
        from skimage import data
    except ImportError as error:
        raise ImageReadError("`camera` needs scikit-image: pip install 'implayer[apps]'.") from error
    return Picture(torch.from_numpy(data.camera().astype(np.float32) / 255).unsqueeze(-1), "camera")


def read_picture(path: Path, max_pixels: int = MAX_PIXELS) -> Picture:
    """Any picture that Pillow reads, in grey or colour.

    Alpha is laid over white; CMYK and other colour spaces become RGB; 16-bit grey keeps its 16 bits; the first frame of
    an animation is used; the orientation noted by the camera is applied. Also a picture in a NumPy file (`arrays.py`).

    **Raises** `ImageReadError`, which names the file: not a picture, damaged, or more than `max_pixels` by its header,
    before anything is decoded. `ArrayReadError` of NumPy files.
    """
    if in_array(path):
        return _from_array(path, max_pixels)
    with _opened(path) as image:
        width, height = image.size
        _require_at_most(max_pixels, path, width, height)
        notes = []
        if getattr(image, "n_frames", 1) > 1:
            notes.append(f"the first of {getattr(image, 'n_frames', 1)} frames is used")
        if ";16" in str(getattr(image, "tile", "")) and image.mode in ("RGB", "RGBA"):
            notes.append("16 bits a channel are read as 8")
        image.load()
        turned = ImageOps.exif_transpose(image)
        if turned.size != image.size or image.getexif().get(0x0112, 1) != 1:
            notes.append("turned as the camera noted")
        pixels, conversion = _values(turned, path)
    if not np.isfinite(pixels).all():
        raise ImageReadError(f"`{path}` holds NaN or infinity.")
    return Picture(torch.from_numpy(np.ascontiguousarray(pixels)), path.stem, (*notes, *conversion))


def _from_array(path: Path, max_pixels: int) -> Picture:
    array = pictures_in(read_array(path), path, many=False)
    _require_at_most(max_pixels, path, array.shape[1], array.shape[0])
    white, note = largest_value(array, path)
    pixels = array.astype(np.float32) / np.float32(white)
    return Picture(torch.from_numpy(pixels), name_of(path), (note,) if note else ())


def _require_at_most(max_pixels: int, path: Path, width: int, height: int) -> None:
    if width * height > max_pixels:
        raise ImageReadError(
            f"`{path}` is {width} x {height} = {width * height} pixels; at most {max_pixels} are decoded. "
            "Pass a larger `--max-pixels` if the file can be trusted."
        )


def shrink(picture: Picture, longer_side: int, origin: str) -> Picture:
    """At most `longer_side` pixels on the longer side, by area-weighted interpolation; never enlarged."""
    height, width = picture.pixels.shape[:2]
    notes, pixels = picture.notes, picture.pixels
    if max(height, width) < longer_side:
        notes = (*notes, f"{width} x {height} is smaller than `--size {longer_side}` and is used as it is")
    elif max(height, width) > longer_side:
        scale = longer_side / max(height, width)
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        planes = [
            np.asarray(Image.fromarray(pixels[:, :, c].numpy()).resize(size, Image.Resampling.BICUBIC))
            for c in range(picture.channels)
        ]
        pixels = torch.from_numpy(np.stack(planes, -1)).clamp(0, 1)
    if min(pixels.shape[:2]) < _MIN_SIDE:
        raise ImageReadError(
            f"`{origin}` is {pixels.shape[1]} x {pixels.shape[0]} pixels at this size; each side needs at least "
            f"{_MIN_SIDE}."
        )
    return Picture(pixels, picture.name, notes)


def write_picture(path: Path, pixels: Tensor) -> None:
    """(height, width, channels) in [0, 1] as an 8-bit PNG, atomically."""
    array = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(buffer, "PNG")
    data = buffer.getvalue()
    write_atomically(path, lambda partial: partial.write_bytes(data), len(data))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Pillow's own limit is replaced by ours, which names its override; all its complaints become one kind."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path) as image:
            yield image
    except ImageReadError:
        raise
    except FileNotFoundError as error:
        raise ImageReadError(f"`{path}` does not exist; expected a picture file.") from error
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
        size = path.stat().st_size if path.exists() else 0
        raise ImageReadError(
            f"`{path}` ({size} bytes) is no picture that can be read, or is damaged: {error}."
        ) from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _values(image: Image.Image, path: Path) -> tuple[np.ndarray, list[str]]:
    """(height, width, 1 or 3) in [0, 1] as float32, and what was converted."""
    mode, notes = image.mode, []
    if mode.startswith("I"):  # 16-bit grey; Pillow may hand it over as 32-bit integers
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ImageReadError(f"`{path}` holds integers outside 0 ... 65535; expected 8 or 16 bits a channel.")
        return (values[:, :, None] / 65535).astype(np.float32), ["16-bit grey"]
    if mode == "F":
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 1):
            raise ImageReadError(f"`{path}` holds floating-point values outside [0, 1]; scale them first.")
        return values[:, :, None].astype(np.float32), notes
    if "A" in image.getbands() or mode in ("La", "RGBa") or "transparency" in image.info:
        grey = mode in ("LA", "La", "L", "1")
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image).convert("L" if grey else "RGB")
        notes.append("transparency is laid over white")
    elif mode in ("1", "L"):
        image = image.convert("L")
    elif mode != "RGB":
        image = image.convert("RGB")
        notes.append("palette colours become RGB" if mode == "P" else f"{mode} becomes RGB")
    values = np.asarray(image).astype(np.float32) / 255
    return values.reshape(*values.shape[:2], -1), notes
