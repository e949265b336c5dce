"""The video that a command names, its pixels as points and colours, and what a run keeps of it."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...shared.application import Material
from ...shared.data import data_root, find_file
from ...shared.videos import Video, read_video
from .config import VideoConfig


@dataclass(frozen=True)
class VideoSource:
    """Where the video of a run is from, and its size in the fit."""

    source: str
    frames: int
    height: int
    width: int
    rate: float


def load_video(source: str, config: VideoConfig, data: Path | None) -> Material[VideoSource, Video]:
    """The video, or the folder of frames, that `source` names."""
    path = find_file(
        source, data_root(data), "video", ".", what="video file or folder of frames", folder=True
    ).resolve()
    video = read_video(path, size=config.size, count=config.frames, every=config.every)
    notes = tuple(f"{path}: {note}" for note in video.notes)
    count, height, width, _ = video.frames.shape
    return Material(VideoSource(str(path), count, height, width, video.rate), video, notes)


def points(index: Tensor, shape: tuple[int, int, int], dtype: torch.dtype = torch.float32) -> Tensor:
    """(points, 3) coordinates t, y, x in [-1, 1], end points included, of pixels numbered frame by frame, row by row."""
    frames, height, width = shape
    parts = (index // (height * width), index // width % height, index % width)
    ends = (frames - 1, height - 1, width - 1)
    columns = [part.to(torch.float64) * (2 / max(end, 1)) - 1 for part, end in zip(parts, ends, strict=True)]
    return torch.stack(columns, -1).to(dtype)


def colours(index: Tensor, frames: Tensor) -> Tensor:
    """(points, 3) in [-1, 1] of the same pixels, float32."""
    return frames.reshape(-1, frames.shape[-1])[index].to(torch.float32) / 127.5 - 1
