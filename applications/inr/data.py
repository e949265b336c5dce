"""The picture that a command names, and what a run keeps of it."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from ..shared.application import Material
from ..shared.data import data_root, find_file
from ..shared.errors import InputError
from ..shared.pictures import Picture, camera, read_picture, shrink

FOLDERS = ("images/kodak", "images/text", "images", "image", ".")  # of the data root; the authors have "image"


@dataclass(frozen=True)
class PictureSource:
    """Where the picture of a run is from, and its size in the fit."""

    source: str
    height: int
    width: int
    channels: int
    max_pixels: int
    mask: str | None = None
    scale: float | None = (
        None  # of the input frequencies; runs of an earlier version do not say, theirs is that of all pixels
    )


def load_picture(
    source: str, size: int, data: Path | None, max_pixels: int, mask: Path | None = None
) -> Material[PictureSource, Picture]:
    """The picture that `source` names, at most `size` pixels long, and where it was found.

    `mask` is another picture of the same proportions, black where the pixels of the first one are not known.
    """
    if size < 2:
        raise InputError(f"`--size` is {size}; expected at least 2 pixels.")
    if source == "camera" and not Path(source).exists():
        picture, origin = shrink(camera(), size, source), source
    else:
        path = find_file(source, data_root(data), *FOLDERS).resolve()
        picture, origin = shrink(read_picture(path, max_pixels), size, str(path)), str(path)
    notes = tuple(f"{origin}: {note}" for note in picture.notes)
    height, width, channels = picture.pixels.shape
    hidden = None if mask is None else str(mask.expanduser().resolve())
    if mask is not None:
        picture = replace(picture, known=_known(mask, height, width, max_pixels))
    return Material(PictureSource(origin, height, width, channels, max_pixels, hidden), picture, notes)


def _known(mask: Path, height: int, width: int, max_pixels: int) -> Tensor:
    """(height, width) bool: where the mask, brought to the size of the picture, is nearer to white than to black."""
    grey = read_picture(mask.expanduser(), max_pixels).pixels.mean(-1)
    if abs(grey.shape[0] * width - grey.shape[1] * height) > max(grey.shape) * 2:
        raise InputError(
            f"`--mask {mask}` is {grey.shape[1]} x {grey.shape[0]}; expected the proportions of the picture, "
            f"{width} x {height}."
        )
    known = nn.functional.interpolate(grey[None, None], (height, width), mode="nearest-exact")[0, 0] > 0.5
    if not bool(known.any()) or bool(known.all()):
        raise InputError(f"`--mask {mask}` is all {'white' if bool(known.all()) else 'black'}; expected some of each.")
    return known
