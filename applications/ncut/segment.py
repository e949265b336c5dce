"""Cut a photograph with a trained network."""

from pathlib import Path

import torch
from torch import Tensor

from implayer.errors import SolveError

from ..shared.application import load_trained, opened
from ..shared.data import data_root, find_file
from ..shared.errors import ImageReadError, InputError
from ..shared.options import AbstractRunCommand, require_least
from ..shared.pictures import read_picture, write_picture
from .commands import Segment
from .data import LEAST_SIDE, colours, working_size
from .draw import overlay
from .model import build_model
from .task import predicted
from .train import CUTS

_LARGEST_SIZE = 1024  # pixels: a cut of more nodes takes minutes and gigabytes
_FOLDERS = ("ncut/bsds500/test", "ncut/bsds500/train", "ncut/camvid/test", "images/kodak", "images")


def segment(command: Segment) -> Path:
    """Write the mask and the overlay of a picture. Returns the path of the mask."""
    require_least(command, {"size": LEAST_SIDE, "max_pixels": 1})
    _require_place(command.out)
    if command.size > _LARGEST_SIZE:
        raise InputError(f"`--size` is {command.size}; expected at most {_LARGEST_SIZE}.")
    path = find_file(command.picture, data_root(command.data), *_FOLDERS)
    picture = read_picture(path, command.max_pixels)
    pixels = colours(picture.pixels, path)
    height, width = pixels.shape[1:]
    if min(working_size(height, width, command.size)) < LEAST_SIDE:
        raise ImageReadError(
            f"`{path}` is {width} x {height} pixels; with a longer side of `--size {command.size}` the other has fewer than "
            f"{LEAST_SIDE}. Cut it into parts that are less elongated, or pass a larger `--size`."
        )
    folder, stored, device = opened(CUTS, AbstractRunCommand(run=command.model, options=command.options))
    model = build_model(stored.config)
    load_trained(folder, model, device)
    mask = predicted(model, pixels, device, command.size)
    if mask is None:
        raise SolveError(f"the normalised cut of `{path}` did not converge; another `--size` may help.")
    out = command.out or Path(f"{picture.name}-mask.png")
    out = out if out.suffix.lower() == ".png" else out.with_name(f"{out.name}.png")
    laid_over = out.with_name(f"{out.stem}-overlay.png")
    write_picture(out, mask.unsqueeze(-1).float())
    write_picture(laid_over, overlay(pixels, mask))
    if not command.options.quiet:
        print(_sentence(path, mask, (out, laid_over), picture.notes))
    return out


def _require_place(out: Path | None) -> None:
    """Refuse a name that cannot be written to, before the picture is cut."""
    if out is not None and out.is_dir():
        raise InputError(f"`--out {out}` is a folder; expected the name of a PNG file, such as `{out / 'mask.png'}`.")
    if out is not None and not out.parent.is_dir():
        raise InputError(f"`--out {out}`: there is no folder `{out.parent}`. Make it, or choose another name.")


def _sentence(path: Path, mask: Tensor, written: tuple[Path, Path], notes: tuple[str, ...]) -> str:
    share = 100 * float(mask.to(torch.float64).mean())
    lines = [f"{path}: {note}" for note in notes]
    lines.append(f"{path}: {share:.1f} % foreground; {written[0]} and {written[1]}")
    return "\n".join(lines)
