"""Draw a fitted network at any resolution, in tiles, so that memory stays flat."""

from pathlib import Path

import torch
from torch import Tensor

from ..shared.checkpoint import load_tensors, load_weights, under_prefix
from ..shared.devices import choose_device, set_threads
from ..shared.errors import InputError
from ..shared.files import refuse_irregular
from ..shared.metrics import psnr, squared_error
from ..shared.pictures import write_picture
from ..shared.run_folder import RunFolder, open_run
from .commands import Eval, Render
from .grid import grid
from .model import TILE, AbstractNetwork, build_model
from .options import StoredRun, load_picture, read_run


@torch.no_grad()
def draw(model: AbstractNetwork, height: int, width: int, device: torch.device) -> tuple[Tensor, int]:
    """(height, width, channels) in [0, 1] but not clamped, and the most steps that a solve took."""
    training, dtype = model.training, model.readout.weight.dtype
    model.eval()
    rows, most, parts = max(TILE // width, 1), 0, []
    for first in range(0, height, rows):
        solution = model.state(grid(height, width, slice(first, first + rows), dtype).to(device))
        parts.append(model.readout(solution.value).cpu())
        most = max(most, 0 if solution.steps is None else int(solution.steps.max()))
    model.train(training)
    return (torch.cat(parts).reshape(height, width, -1) + 1) / 2, most


def load_model(folder: RunFolder, stored: StoredRun, device: torch.device) -> AbstractNetwork:
    """The fitted network of a run, of its last checkpoint where it did not come to its end."""
    model = build_model(stored.config, stored.channels, max(stored.height, stored.width))
    finished = folder.weights.exists()
    path = folder.weights if finished else folder.checkpoint
    tensors, _ = load_tensors(path)
    load_weights(model, tensors if finished else under_prefix("task.weights", tensors), path)
    return model.to(device).eval()


def size_of(stored: StoredRun, longer_side: int) -> tuple[int, int]:
    """Height and width of a drawing in the proportions of the picture."""
    scale = longer_side / max(stored.height, stored.width)
    return max(round(stored.height * scale), 1), max(round(stored.width * scale), 1)


def render(command: Render) -> Path:
    """Draw the model of a run into a PNG."""
    size, options = command.size, command.options
    if size < 1:
        raise InputError(f"`--size` is {size}; expected at least 1 pixel.")
    folder = open_run(command.run)
    stored = read_run(folder)
    height, width = size_of(stored, size)
    target = command.out or folder.path / f"render-{width}x{height}.png"
    refuse_irregular(target)
    if not target.parent.is_dir():
        raise InputError(f"the folder of `--out {target}` does not exist.")
    set_threads(options.threads)
    device = choose_device(options.device)
    pixels, _ = draw(load_model(folder, stored, device), height, width, device)
    write_picture(target, pixels)
    if not options.quiet:
        print(f"{target}: {width} x {height} pixels")
    return target


def evaluate(command: Eval) -> dict[str, float]:
    """The PSNR of a run, computed anew from its saved weights and the picture."""
    folder, options = open_run(command.run), command.options
    stored = read_run(folder)
    set_threads(options.threads)
    device = choose_device(options.device)
    picture, _ = load_picture(stored.source, stored.config.size, None, stored.max_pixels)
    pixels, steps = draw(load_model(folder, stored, device), stored.height, stored.width, device)
    quality = psnr(squared_error(pixels * 2 - 1, picture.pixels * 2 - 1) / pixels.numel())
    figures = {"psnr": quality, "solve_steps": float(steps)}
    if not options.quiet:
        print(f"{folder.path}: PSNR {quality:.2f} dB" + (f", solved in at most {steps} steps" if steps else ""))
        print(f"next:  implayer render {folder.path} --size {2 * max(stored.height, stored.width)}")
    return figures
