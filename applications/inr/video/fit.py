"""Fit a network to a video."""

import statistics
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ...shared.application import Material, StoredRun
from ...shared.figures import draw_comparison
from ...shared.metrics import psnr, squared_error
from ...shared.options import Eval, Resume, require_least
from ...shared.run_folder import RunFolder
from ...shared.videos import Video, write_video
from ..cache import Rows
from ..models.networks import AbstractNetwork
from ..signal import AbstractSignalFit, AbstractSignalTask, Network
from ..task import Batch
from ..values import values_of
from .commands import TASK, FitVideo
from .config import VideoConfig, natural_scale
from .data import VideoSource, colours, load_video, points

Videos = Material[VideoSource, Video]
Stored = StoredRun[VideoSource, VideoConfig]
_SHOWN = 3  # frames of the comparison


class VideoTask(AbstractSignalTask[Video]):
    """The pixels of all frames, mean square error."""

    config: VideoConfig

    def __init__(self, config: VideoConfig, video: Video, device: torch.device):
        self.content = video
        frames, height, width, channels = video.frames.shape
        self.shape = (frames, height, width)
        scale, count = natural_scale(max(height, width)), frames * height * width
        super().__init__(config, device, inputs=3, outputs=channels, scale=scale, count=count)

    def take(self, rows: Rows) -> Batch:
        """Pixels by their number, frame by frame."""
        numbers = torch.arange(*rows.indices(self.count)) if isinstance(rows, slice) else rows
        target = colours(numbers, self.content.frames)
        return Batch(points(numbers, self.shape).to(self.device), target.to(self.device), None, rows)

    def synchronise(self) -> None:
        """The gradient is clipped where the configuration asks for it."""
        super().synchronise()
        if self.config.clip:
            torch.nn.utils.clip_grad_value_(self.parameters, self.config.clip)


class VideoFit(AbstractSignalFit[VideoConfig, VideoSource, Video, VideoTask]):
    """A network for one video."""

    task, command = TASK, f"fit {TASK}"
    config, source = VideoConfig, VideoSource

    def check(self, config: VideoConfig) -> None:
        """Refuse values that cannot mean anything."""
        super().check(config)
        require_least(config, {"size": 2, "frames": 0, "every": 1, "clip": 0})

    def load(self, command: FitVideo) -> Videos:
        """The video that the command names."""
        return load_video(command.video, command.config, command.data)

    def find(self, stored: Stored, command: Resume | Eval) -> Videos:
        """The video of the run, of the size that it had."""
        return load_video(stored.source.source, stored.config, command.data)

    def stem(self, config: VideoConfig, material: Videos) -> str:
        """Video and model."""
        return f"{material.content.name}-{config.model}"

    def make_task(self, config: VideoConfig, material: Videos, device: torch.device) -> VideoTask:
        """The pixels of the frames."""
        return VideoTask(config, material.content, device)

    def samples(self, source: VideoSource) -> tuple[int, str]:
        """Pixels of all frames."""
        return source.frames * source.height * source.width, "pixel"

    def network(self, config: VideoConfig, source: VideoSource) -> Network:
        """Time and place to colour."""
        del config
        return Network(3, 3, natural_scale(max(source.height, source.width)))

    def reconstruct(
        self, model: AbstractNetwork, stored: Stored, content: Video, folder: RunFolder | None
    ) -> tuple[dict[str, Any], str]:
        """Every frame, a few of them beside the target."""
        count, height, width, _ = content.frames.shape
        kept = {round(part * (count - 1) / (_SHOWN - 1)) for part in range(_SHOWN)}
        each: list[float] = []
        most = [0]
        shown: list[tuple[str, Tensor, Tensor]] = []

        def drawn() -> Iterator[Tensor]:
            for number, target in enumerate(content.frames):
                frame, steps = draw_frame(model, number, (count, height, width))
                each.append(_quality(frame, target))
                most.append(steps)
                if number in kept:
                    shown.append((f"frame {number}, {each[-1]:.2f} dB", frame, target.to(torch.float32) / 255))
                yield frame

        if folder is None:
            for _ in drawn():
                pass
        else:
            write_video(folder.path / "reconstruction.mp4", drawn(), content.rate)
            draw_comparison(folder.path / "comparison.png", [row[2] for row in shown], [row[:2] for row in shown])
        mean, deviation = statistics.mean(each), statistics.pstdev(each)
        figures = {"psnr": mean, "psnr_deviation": deviation, "psnr_of_each": each, "solve_steps": max(most)}
        return figures, f"PSNR {mean:.2f} +- {deviation:.2f} dB over {count} frames"

    def next(self, folder: RunFolder, stored: Stored) -> str:
        """Draw it larger."""
        return f"implayer render {folder.path} --size {2 * stored.config.size}"


VIDEOS = VideoFit()


def draw_frame(model: AbstractNetwork, number: float, shape: tuple[int, int, int]) -> tuple[Tensor, int]:
    """(height, width, 3) in [0, 1] but not clamped, of a frame or of a moment between frames, and the most solve steps."""
    frames, height, width = shape
    time = number * (2 / max(frames - 1, 1)) - 1

    def place(index: Tensor) -> Tensor:
        found = points(index, (1, height, width))
        found[:, 0] = time
        return found

    values, steps = values_of(model, height * width, place)
    return (values.reshape(height, width, -1) + 1) / 2, steps


def _quality(frame: Tensor, target: Tensor) -> float:
    error = squared_error(frame * 2 - 1, target.to(torch.float32) / 127.5 - 1)
    return psnr(error / target.numel())
