"""`implayer render` and `implayer eval` for a picture fit."""

from pathlib import Path

import torch

from ..shared.application import StoredRun, load_trained, opened
from ..shared.errors import InputError
from ..shared.files import refuse_irregular
from ..shared.metrics import psnr, squared_error
from ..shared.pictures import write_picture
from ..shared.run_folder import RunFolder
from .commands import Eval, Render
from .config import ImageConfig
from .data import PictureSource, load_picture
from .draw import draw
from .fit import PICTURES
from .model import AbstractNetwork, build_model

Stored = StoredRun[PictureSource, ImageConfig]


def load_model(folder: RunFolder, stored: Stored, device: torch.device) -> AbstractNetwork:
    """The fitted network of a run."""
    source = stored.source
    model = build_model(stored.config, source.channels, max(source.height, source.width))
    load_trained(folder, model, device)
    return model


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


def evaluate(command: Eval) -> dict[str, float]:
    """The PSNR of a run, computed anew from its saved weights and the picture."""
    folder, stored, device = opened(PICTURES, command)
    source = stored.source
    picture = load_picture(source.source, stored.config.size, None, source.max_pixels).content
    pixels, steps = draw(load_model(folder, stored, device), source.height, source.width, device)
    quality = psnr(squared_error(pixels * 2 - 1, picture.pixels * 2 - 1) / pixels.numel())
    figures = {"psnr": quality, "solve_steps": float(steps)}
    if not command.options.quiet:
        print(f"{folder.path}: PSNR {quality:.2f} dB" + (f", solved in at most {steps} steps" if steps else ""))
        print(f"next:  implayer render {folder.path} --size {2 * max(source.height, source.width)}")
    return figures
