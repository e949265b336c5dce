"""The picture that a command names, and what a run keeps of it."""

from dataclasses import dataclass
from pathlib import Path

from ..shared.application import Material
from ..shared.data import data_root, find_file
from ..shared.errors import InputError
from ..shared.pictures import Picture, camera, read_picture, shrink


@dataclass(frozen=True)
class PictureSource:
    """Where the picture of a run is from, and its size in the fit."""

    source: str
    height: int
    width: int
    channels: int
    max_pixels: int


def load_picture(source: str, size: int, data: Path | None, max_pixels: int) -> Material[PictureSource, Picture]:
    """The picture that `source` names, at most `size` pixels long, and where it was found."""
    if size < 2:
        raise InputError(f"`--size` is {size}; expected at least 2 pixels.")
    if source == "camera" and not Path(source).exists():
        picture, origin = shrink(camera(), size, source), source
    else:
        path = find_file(source, data_root(data), "images/kodak", "images/text", "images", ".").resolve()
        picture, origin = shrink(read_picture(path, max_pixels), size, str(path)), str(path)
    notes = tuple(f"{origin}: {note}" for note in picture.notes)
    height, width, channels = picture.pixels.shape
    return Material(PictureSource(origin, height, width, channels, max_pixels), picture, notes)
