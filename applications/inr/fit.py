"""Fit a network to a picture."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..shared.application import Material, StoredRun
from ..shared.errors import InputError
from ..shared.figures import draw_comparison
from ..shared.metrics import psnr, squared_error
from ..shared.options import Eval, Resume, require_least
from ..shared.pictures import Picture, write_picture
from ..shared.run_folder import RunFolder
from .cache import Rows
from .commands import TASK, FitImage
from .config import ImageConfig
from .data import PictureSource, load_picture
from .draw import draw
from .grid import scale_of
from .models.networks import AbstractNetwork
from .samples import Samples, places, samples_of
from .signal import AbstractSignalFit, AbstractSignalTask, Network
from .task import Batch

Pictures = Material[PictureSource, Picture]
Stored = StoredRun[PictureSource, ImageConfig]

_MANY = 2**17  # pixels, from which on mini-batches are several dB ahead after a minute or three


class PictureTask(AbstractSignalTask[Picture]):
    """The pixels of one picture that are learned from, mean square error."""

    def __init__(self, config: ImageConfig, picture: Picture, device: torch.device):
        self.content, self.samples = picture, samples_of(picture, config)
        self.height, self.width, channels = picture.pixels.shape
        scale, count = self.samples.scale, len(self.samples.values)
        super().__init__(config, device, inputs=2, outputs=channels, scale=scale, count=count)

    def take(self, rows: Rows) -> Batch:
        """Points by their number."""
        numbers = torch.arange(*rows.indices(self.count)) if isinstance(rows, slice) else rows
        x = places(self.samples, self.height, self.width, numbers)
        target = self.samples.values[rows].to(torch.float32) * 2 - 1
        return Batch(x.to(self.device), target.to(self.device), None, rows)


class PictureFit(AbstractSignalFit[ImageConfig, PictureSource, Picture, PictureTask]):
    """A network for one picture."""

    task, command = TASK, f"fit {TASK}"
    config, source = ImageConfig, PictureSource

    def check(self, config: ImageConfig) -> None:
        """Refuse values that cannot mean anything."""
        super().check(config)
        require_least(config, {"block": 1})
        if not 0 < config.keep < 1:
            raise InputError(f"`--keep` is {config.keep}; expected a part of the pixels, between 0 and 1.")

    def load(self, command: FitImage) -> Pictures:
        """The picture that the command names."""
        require_least(command, {"max_pixels": 1})
        if (command.mask is not None) != (command.config.samples == "mask"):
            raise InputError("`--mask FILE` and `--samples mask` belong together.")
        config = command.config
        found = load_picture(command.picture, config.size, command.data, command.max_pixels, command.mask)
        pixels = found.source.height * found.source.width
        if (
            pixels > _MANY and not config.batch and config.chunk is None
        ):  # the recipe of the authors has them on purpose
            note = (
                f"a step takes all of its {pixels} pixels; `--preset tuned` takes some, and gets further in equal time"
            )
            found = replace(found, notes=(*found.notes, f"{found.source.source}: {note}"))
        return _scaled(found, config)

    def find(self, stored: Stored, command: Resume | Eval) -> Pictures:
        """The picture of the run, of the size that it had."""
        source = stored.source
        mask = None if source.mask is None else Path(source.mask)
        found = load_picture(source.source, stored.config.size, command.data, source.max_pixels, mask)
        return _scaled(found, stored.config)

    def same(self, before: PictureSource, now: PictureSource) -> bool:
        """Runs of the first version did not say their scale: it was that of all pixels, which they learned from."""
        return now == (before if before.scale is not None else replace(before, scale=now.scale))

    def stem(self, config: ImageConfig, material: Pictures) -> str:
        """Picture and model."""
        return f"{material.content.name}-{config.model}"

    def make_task(self, config: ImageConfig, material: Pictures, device: torch.device) -> PictureTask:
        """The pixels of the picture."""
        return PictureTask(config, material.content, device)

    def prepare(self, folder: RunFolder, material: Pictures) -> None:
        """What the network is to become."""
        write_picture(folder.path / "target.png", material.content.pixels)

    def samples(self, source: PictureSource) -> tuple[int, str]:
        """Pixels."""
        return source.height * source.width, "pixel"

    def network(self, config: ImageConfig, source: PictureSource) -> Network:
        """Place to colour."""
        del config
        return Network(2, source.channels, source.scale or scale_of(source.height, source.width))

    def reconstruct(
        self, model: AbstractNetwork, stored: Stored, content: Picture, folder: RunFolder | None
    ) -> tuple[dict[str, Any], str]:
        """The picture, its error on what was not learned from, and on all of it."""
        config, target = stored.config, content.pixels
        samples = samples_of(content, config)
        pixels, steps = draw(model, *target.shape[:2])
        quality = _quality(pixels, target, samples.tested)
        figures: dict[str, Any] = {"psnr": quality, "solve_steps": steps}
        said = f"PSNR {quality:.2f} dB"
        if config.samples != "all":
            figures["psnr_of_all_pixels"] = _quality(pixels, target, None)
            said += " of the pixels kept for the test" if samples.tested is not None else " of all pixels"
        if folder is not None:
            write_picture(folder.path / "reconstruction.png", pixels)
            if config.samples != "all":
                write_picture(folder.path / "given.png", _given(samples, target))
            title = f"{config.model} {config.layers}L-{config.width}D, {quality:.2f} dB"
            draw_comparison(folder.path / "comparison.png", target, [(title, pixels)])
        return figures, said + (f", solved in at most {steps} steps" if steps else "")

    def next(self, folder: RunFolder, stored: Stored) -> str:
        """Draw it larger."""
        return f"implayer render {folder.path} --size {2 * max(stored.source.height, stored.source.width)}"


PICTURES = PictureFit()


def _scaled(material: Pictures, config: ImageConfig) -> Pictures:
    """The input scale depends on the pixels that are learned from; drawing the model shall not need them."""
    scale = samples_of(material.content, config).scale
    return replace(material, source=replace(material.source, scale=scale))


def _quality(pixels: Tensor, target: Tensor, tested: Tensor | None) -> float:
    found, wanted = (each.reshape(-1, target.shape[2]) * 2 - 1 for each in (pixels, target))
    if tested is not None:
        found, wanted = found[tested], wanted[tested]
    return psnr(squared_error(found, wanted) / wanted.numel())


def _given(samples: Samples, target: Tensor) -> Tensor:
    """What was learned from, as a picture; the other pixels are grey."""
    height, width, channels = target.shape
    if samples.x is not None:
        rows = int((samples.x[:, 1].diff() > 0).sum()) + 1
        return samples.values.reshape(rows, -1, channels)
    shown = target.new_full((height * width, channels), 0.5)
    shown[samples.rows] = samples.values
    return shown.reshape(height, width, channels)
