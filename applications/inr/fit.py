"""Fit a network to a picture: the task that the training loop runs, and the commands `fit image` and `resume`."""

import torch
from torch import Tensor

from ..shared.application import AbstractApplication, Conclusion, Material, StoredRun, load_trained
from ..shared.checkpoint import under_prefix, with_prefix
from ..shared.errors import CheckpointError, InputError
from ..shared.figures import draw_comparison, draw_curves
from ..shared.metrics import psnr, squared_error
from ..shared.options import Eval, Resume, require_least, require_positive
from ..shared.pictures import Picture, write_picture
from ..shared.run_folder import RunFolder
from ..shared.training import AbstractTask, Record
from .commands import TASK, FitImage
from .config import IMPLICIT, ImageConfig
from .data import PictureSource, load_picture
from .draw import draw
from .grid import grid
from .model import AbstractNetwork, build_model

Pictures = Material[PictureSource, Picture]


class PictureTask(AbstractTask):
    """All pixels of one picture, mean square error, Adam."""

    model: AbstractNetwork
    remedy = "the map of the layer is no contraction any more: use `--norm spectral`"

    def __init__(self, config: ImageConfig, picture: Picture, device: torch.device):
        self.config, self.device, self.picture = config, device, picture
        self.seed, self.total_steps = config.seed, config.steps
        height, width, channels = picture.pixels.shape
        self.model = build_model(config, channels, max(height, width)).to(device).eval()
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.learning_rate)
        self.coordinates = grid(height, width).to(device)
        self.target = (picture.pixels.reshape(-1, channels) * 2 - 1).to(device, torch.float32)
        self.chunk = config.chunk or len(self.target)
        self.kept = torch.float16 if config.half_states else torch.float32
        self.states: list[Tensor | None] = [None] * -(-len(self.target) // self.chunk)  # fixed points, one a chunk

    def step(self) -> dict[str, float]:
        """One step over all pixels, a chunk at a time: the gradient is that of the whole."""
        self.model.follow_weights()
        total: list[Tensor] | None = None
        loss = error = 0.0
        for index in range(len(self.states)):
            gradient, chunk_loss, chunk_error = self._chunk(index)
            loss, error = loss + chunk_loss, error + chunk_error
            if total is None:
                total = gradient
            else:
                for whole, part in zip(total, gradient, strict=True):
                    whole.add_(part)
            del gradient
        for parameter, value in zip(self.parameters, total or (), strict=True):
            parameter.grad = value
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {"loss": loss, "psnr": psnr(error / self.target.numel())}

    def _chunk(self, index: int) -> tuple[list[Tensor], float, float]:
        rows = slice(index * self.chunk, (index + 1) * self.chunk)
        x, target = self.coordinates[rows], self.target[rows]
        start, self.states[index] = self.states[index], None
        z = self.model.improved(x, None if start is None else start.to(x.dtype)).value
        del start
        if self.config.model in IMPLICIT:
            self.states[index] = z.detach().to(self.kept)
        output = self.model.readout(z)
        del z
        loss = (output - target).square().sum() / self.target.numel()
        # Not `backward()`: it would also form the unused gradient of the start.
        gradient = list(torch.autograd.grad(loss, self.parameters))
        return gradient, float(loss.detach()), squared_error(output, target)

    def further_state(self) -> dict[str, Tensor]:
        """The fixed points."""
        return with_prefix("fixed_points", {str(index): z for index, z in enumerate(self.states) if z is not None})

    def restore_further(self, tensors: dict[str, Tensor]) -> None:
        """The same from a checkpoint."""
        for index, z in under_prefix("fixed_points", tensors).items():
            if int(index) >= len(self.states):
                raise CheckpointError(
                    f"the checkpoint holds {index} chunks of pixels; the configuration makes {len(self.states)}."
                )
            self.states[int(index)] = z.to(self.device)


class PictureFit(AbstractApplication[ImageConfig, PictureSource, Picture, PictureTask]):
    """A network for one picture."""

    task, command, length = TASK, "fit image", "steps"
    config, source = ImageConfig, PictureSource

    def check(self, config: ImageConfig) -> None:
        """Refuse values that cannot mean anything."""
        counts = ("width", "depth", "steps", "power_iterations", "max_solve_steps")
        require_least(config, dict.fromkeys(counts, 1) | {"terms": 0, "chunk": 0})
        require_positive(config, "learning_rate", "norm_target", "tolerance")

    def load(self, command: FitImage) -> Pictures:
        """The picture that the command names."""
        require_least(command, {"max_pixels": 1})
        return load_picture(command.picture, command.config.size, command.data, command.max_pixels)

    def load_again(self, stored: StoredRun[PictureSource, ImageConfig], command: Resume) -> Pictures:
        """The picture of the run, of the size that it had."""
        source = stored.source
        found = load_picture(source.source, stored.config.size, command.data, source.max_pixels)
        before = (source.height, source.width, source.channels)
        if tuple(found.content.pixels.shape) != before and not command.allow_config_change:
            raise InputError(
                f"`{source.source}` has changed since the run began; `--allow-config-change` accepts that."
            )
        return found

    def stem(self, config: ImageConfig, material: Pictures) -> str:
        """Picture and model."""
        return f"{material.content.name}-{config.model}"

    def make_task(self, config: ImageConfig, material: Pictures, device: torch.device) -> PictureTask:
        """All pixels of the picture."""
        return PictureTask(config, material.content, device)

    def prepare(self, folder: RunFolder, material: Pictures) -> None:
        """What the network is to become."""
        write_picture(folder.path / "target.png", material.content.pixels)

    def conclude(self, task: PictureTask, folder: RunFolder, record: Record) -> Conclusion:
        """The picture by a full solve, its error, the curves."""
        config, target = task.config, task.picture.pixels
        pixels, solve_steps = draw(task.model, target.shape[0], target.shape[1], task.device)
        quality = psnr(squared_error(pixels * 2 - 1, target * 2 - 1) / pixels.numel())
        write_picture(folder.path / "reconstruction.png", pixels)
        title = f"{config.model} {config.depth}L-{config.width}D, {quality:.2f} dB"
        draw_comparison(folder.path / "comparison.png", target, [(title, pixels)])
        draw_curves(folder.path / "curves.png", record.history)
        metrics = {
            "psnr": quality,
            "psnr_training_output": record.history["psnr"][-1],
            "solve_steps": solve_steps,
        }
        parameters = sum(parameter.numel() for parameter in task.parameters)
        sentence = (
            f"PSNR {quality:.2f} dB, {record.step_time_ms:.0f} ms a step, {record.peak_memory_mb:.0f} MiB, "
            f"{parameters} parameters, {record.seconds:.0f} s"
        )
        return Conclusion(metrics, sentence, _next(folder, *target.shape[:2]))

    def evaluate(
        self, folder: RunFolder, stored: StoredRun[PictureSource, ImageConfig], command: Eval, device: torch.device
    ) -> Conclusion:
        """The PSNR by a full solve."""
        source = stored.source
        picture = load_picture(source.source, stored.config.size, command.data, source.max_pixels).content
        pixels, steps = draw(load_model(folder, stored, device), source.height, source.width, device)
        quality = psnr(squared_error(pixels * 2 - 1, picture.pixels * 2 - 1) / pixels.numel())
        figures = {"psnr": quality, "solve_steps": float(steps)}
        solved = f", solved in at most {steps} steps" if steps else ""
        return Conclusion(figures, f"PSNR {quality:.2f} dB{solved}", _next(folder, source.height, source.width))


PICTURES = PictureFit()


def load_model(
    folder: RunFolder, stored: StoredRun[PictureSource, ImageConfig], device: torch.device
) -> AbstractNetwork:
    """The fitted network of a run."""
    source = stored.source
    model = build_model(stored.config, source.channels, max(source.height, source.width))
    load_trained(folder, model, device)
    return model


def _next(folder: RunFolder, height: int, width: int) -> str:
    return f"implayer render {folder.path} --size {2 * max(height, width)}"
