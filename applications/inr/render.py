"""`implayer render` for a picture fit."""

import time
from pathlib import Path

from ..shared.errors import InputError
from ..shared.files import require_target
from ..shared.options import require_least
from ..shared.pictures import write_picture
from .commands import Render
from .data import PictureSource
from .draw import Frame, draw_derivative, draw_part
from .fit import PICTURES
from .signal import opened_to_draw


def render(command: Render) -> Path:
    """Draw the model of a run into a PNG."""
    require_least(command, {"size": 2})
    begin = time.perf_counter()
    folder, stored, device = opened_to_draw(PICTURES, command)
    frame = _frame(stored.source, command)
    height, width = len(frame.rows), len(frame.columns)
    suffix = "" if command.what == "values" else f"-{command.what}"
    target = command.out or folder.path / f"render-{width}x{height}{suffix}.png"
    require_target(target, [".png"])
    model = PICTURES.load_model(folder, stored, device)
    if command.what == "values":
        pixels, _ = draw_part(model, frame)
    else:
        pixels = draw_derivative(model, frame, laplacian=command.what == "laplacian")
    write_picture(target, pixels)
    if not command.options.quiet:
        print(f"{target}: {width} x {height} pixels in {time.perf_counter() - begin:.1f} s")
    return target


def _frame(source: PictureSource, command: Render) -> Frame:
    """What is drawn, in the proportions of the picture."""
    scale = command.size / max(source.height, source.width)
    height, width = (max(round(side * scale), 2) for side in (source.height, source.width))
    if command.crop is None:
        return Frame.whole(height, width)
    try:
        left, top, right, bottom = (float(part) for part in command.crop.split(","))
    except ValueError:
        left = top = right = bottom = -1.0
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise InputError(f"`--crop` is `{command.crop}`; expected LEFT,TOP,RIGHT,BOTTOM from 0 to 1, as 0.25,0,0.5,1.")
    rows = range(round(top * height), max(round(bottom * height), round(top * height) + 1))
    columns = range(round(left * width), max(round(right * width), round(left * width) + 1))
    return Frame(height, width, rows, columns)
