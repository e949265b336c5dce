"""Fit a network to a picture: the task that the training loop runs, and the commands `fit image` and `resume`."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..shared.checkpoint import (
    load_weights,
    optimizer_tensors,
    restore_optimizer,
    save_tensors,
    under_prefix,
    with_prefix,
)
from ..shared.devices import choose_device, set_threads
from ..shared.errors import CheckpointError, InputError, Interrupted
from ..shared.figures import draw_comparison, draw_curves
from ..shared.metrics import psnr, squared_error
from ..shared.options import RunOptions, given
from ..shared.pictures import Picture, write_picture
from ..shared.progress import Reporter
from ..shared.run_folder import RunFolder, create_run, free_name, open_run, refuse_changes, versions
from ..shared.training import AbstractTask, Record, restore, train
from .commands import FitImage, Resume
from .config import IMPLICIT, ImageConfig
from .grid import grid
from .model import build_model
from .options import TASK, StoredRun, check, load_picture, read_run
from .render import draw


class PictureTask(AbstractTask):
    """All pixels of one picture, mean square error, Adam."""

    remedy = "the map of the layer is no contraction any more: use `--norm spectral`"

    def __init__(self, config: ImageConfig, picture: Picture, device: torch.device):
        self.config, self.device = config, device
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

    def state(self) -> dict[str, Tensor]:
        """Weights, optimiser and fixed points."""
        cached = {str(index): z for index, z in enumerate(self.states) if z is not None}
        return (
            with_prefix("weights", self.model.state_dict())
            | with_prefix("optimizer", optimizer_tensors(self.optimizer))
            | with_prefix("fixed_points", cached)
        )

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The same from a checkpoint."""
        load_weights(self.model, under_prefix("weights", tensors), Path("checkpoint"))
        restore_optimizer(self.optimizer, under_prefix("optimizer", tensors))
        for index, z in under_prefix("fixed_points", tensors).items():
            if int(index) >= len(self.states):
                raise CheckpointError(
                    f"the checkpoint holds {index} chunks of pixels; the configuration makes {len(self.states)}."
                )
            self.states[int(index)] = z.to(self.device)


def fit(command: FitImage) -> RunFolder:
    """Fit a new run. Input and output folder are checked before anything is computed."""
    config, options = command.config, command.options
    check(config)
    picture, origin = load_picture(command.picture, config.size, command.data, command.max_pixels)
    device = choose_device(options.device)
    threads = set_threads(options.threads)
    folder = create_run(command.out or free_name(f"{picture.name}-{config.model}"), overwrite=command.overwrite)
    height, width, channels = picture.pixels.shape
    stored = StoredRun(origin, height, width, channels, command.max_pixels, threads, str(device), config)
    folder.write_config(TASK, stored)
    write_picture(folder.path / "target.png", picture.pixels)
    reporter = Reporter(config.steps, quiet=options.quiet)
    for note in picture.notes:
        reporter.note(f"{origin}: {note}")
    return _run(PictureTask(config, picture, device), folder, Record(), picture, options, reporter)


def resume(command: Resume) -> RunFolder:
    """Go on with a run from its last checkpoint; it ends as it would have without the interruption."""
    folder, options = open_run(command.run), command.options
    stored = read_run(folder)
    changes = given(command.changes)
    lasting = {name: value for name, value in changes.items() if name != "steps"}  # more steps are no other run
    refuse_changes(dataclasses.asdict(stored.config), lasting, allow=command.allow_config_change)
    config = dataclasses.replace(stored.config, **changes)
    check(config)
    set_threads(options.threads or stored.threads)
    picture, _ = load_picture(stored.source, config.size, None, stored.max_pixels)
    if (
        tuple(picture.pixels.shape) != (stored.height, stored.width, stored.channels)
        and not command.allow_config_change
    ):
        raise InputError(f"`{stored.source}` has changed since the run began; `--allow-config-change` accepts that.")
    task = PictureTask(config, picture, choose_device(stored.device if options.device == "auto" else options.device))
    record = restore(task, folder)
    if record.step > config.steps:
        raise InputError(f"`--steps` is {config.steps}, but the run has done {record.step} steps already.")
    folder.write_config(TASK, dataclasses.replace(stored, config=config))
    folder.weights.unlink(missing_ok=True)  # of an earlier stop; until this one the checkpoint speaks for the run
    reporter = Reporter(config.steps, done=record.step, quiet=options.quiet)
    return _run(task, folder, record, picture, options, reporter)


def _run(
    task: PictureTask, folder: RunFolder, record: Record, picture: Picture, options: RunOptions, reporter: Reporter
) -> RunFolder:
    try:
        train(task, folder, record, task.config.steps, checkpoint_seconds=options.checkpoint_seconds, reporter=reporter)
    except Interrupted:
        save_tensors(folder.weights, task.model.state_dict(), {})
        reporter.note(f"interrupted after step {record.step}, saved. Go on with:  implayer resume {folder.path}")
        raise
    save_tensors(folder.weights, task.model.state_dict(), {})
    metrics = _conclude(task, folder, record, picture)
    if not options.quiet:
        print(
            f"{folder.path}: PSNR {metrics['psnr']:.2f} dB, {metrics['step_time_ms']:.0f} ms a step, "
            f"{metrics['peak_memory_mb']:.0f} MiB, {metrics['parameters']} parameters, {metrics['seconds']:.0f} s\n"
            f"next:  implayer render {folder.path} --size {2 * max(picture.pixels.shape[:2])}"
        )
    return folder


def _conclude(task: PictureTask, folder: RunFolder, record: Record, picture: Picture) -> dict[str, Any]:
    """Pictures and figures of a finished run."""
    config, (height, width) = task.config, picture.pixels.shape[:2]
    pixels, solve_steps = draw(task.model, height, width, task.device)
    quality = psnr(squared_error(pixels * 2 - 1, picture.pixels * 2 - 1) / pixels.numel())
    write_picture(folder.path / "reconstruction.png", pixels)
    title = f"{config.model} {config.depth}L-{config.width}D, {quality:.2f} dB"
    draw_comparison(folder.path / "comparison.png", picture.pixels, [(title, pixels)])
    draw_curves(folder.path / "curves.png", record.history)
    metrics = {
        "psnr": quality,
        "psnr_training_output": record.history["psnr"][-1],
        "solve_steps": solve_steps,
        "step_time_ms": record.step_time_ms,
        "peak_memory_mb": record.peak_memory_mb,
        "parameters": sum(parameter.numel() for parameter in task.parameters),
        "steps": record.step,
        "seconds": record.seconds,
        "device": str(task.device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "seed": config.seed,
        "history": record.history,
    }
    folder.write_metrics(metrics)
    return metrics
