"""`implayer render` for a picture fit."""

from pathlib import Path

from ..shared.application import opened
from ..shared.errors import InputError
from ..shared.files import refuse_irregular
from ..shared.pictures import write_picture
from .commands import Render
from .data import PictureSource
from .draw import draw
from .fit import PICTURES, load_model


def size_of(source: PictureSource, longer_side: int) -> tuple[int, int]:
    """Height and width of a drawing in the proportions of the picture."""
    scale = longer_side / max(source.height, source.width)
    return max(round(source.height * scale), 1), max(round(source.width * scale), 1)


def render(command: Render) -> Path:
    """Draw the model of a run into a PNG."""
    if command.size < 1:
        raise InputError(f"`--size` is {command.size}; expected at least 1 pixel.")
    folder, stored, device = opened(PICTURES, command)
    height, width = size_of(stored.source, command.size)
    target = command.out or folder.path / f"render-{width}x{height}.png"
    refuse_irregular(target)
    if not target.parent.is_dir():
        raise InputError(f"the folder of `--out {target}` does not exist.")
    pixels, _ = draw(load_model(folder, stored, device), height, width, device)
    write_picture(target, pixels)
    if not command.options.quiet:
        print(f"{target}: {width} x {height} pixels")
    return target
