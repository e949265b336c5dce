"""`implayer render` for a video fit."""

import time
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from ...shared.errors import InputError
from ...shared.files import require_target
from ...shared.options import require_least
from ...shared.pictures import write_picture
from ...shared.videos import write_video
from ..signal import opened_to_draw
from .commands import RenderVideo
from .data import VideoSource
from .fit import VIDEOS, draw_frame


def render(command: RenderVideo) -> Path:
    """Draw the model of a run into a video, or one moment of it into a picture."""
    require_least(command, {"size": 2} if command.size is not None else {})
    begin = time.perf_counter()
    folder, stored, device = opened_to_draw(VIDEOS, command)
    source = stored.source
    shape = _shape(source, command.size)
    moments = _moments(source, command)
    single = command.at is not None
    name = f"render-{shape[2]}x{shape[1]}.{'png' if single else 'mp4'}"
    target = command.out or folder.path / name
    require_target(target, [".png"] if single else [".mp4"])
    model = VIDEOS.load_model(folder, stored, device)

    def frames() -> Iterator[Tensor]:
        for moment in moments:
            yield draw_frame(model, moment, shape)[0]

    if single:
        write_picture(target, next(frames()))
    else:
        write_video(target, frames(), command.rate or source.rate)
    if not command.options.quiet:
        took = time.perf_counter() - begin
        print(f"{target}: {len(moments)} frames of {shape[2]} x {shape[1]} pixels in {took:.1f} s")
    return target


def _shape(source: VideoSource, size: int | None) -> tuple[int, int, int]:
    scale = 1.0 if size is None else size / max(source.height, source.width)
    return source.frames, max(round(source.height * scale), 2), max(round(source.width * scale), 2)


def _moments(source: VideoSource, command: RenderVideo) -> list[float]:
    """In frames of the fit, from 0 to the last one."""
    last = (source.frames - 1) / source.rate
    if command.at is not None:
        if not 0 <= command.at <= last:
            raise InputError(f"`--at` is {command.at:g}; expected a second from 0 to {last:.4g}.")
        return [command.at * source.rate]
    rate = source.rate if command.rate is None else command.rate
    if not 0 < rate < float("inf"):
        raise InputError(f"`--rate` is {rate:g}; expected a positive number of frames a second.")
    return [index * source.rate / rate for index in range(int(last * rate + 1e-9) + 1)]
