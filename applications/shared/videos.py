"""Reading and writing videos, frame by frame. What had to be converted is said; what is damaged is refused."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .errors import ImageReadError, VideoReadError
from .files import write_atomically
from .pictures import read_picture

MAX_BYTES = 2_000_000_000  # of the decoded frames that are kept in memory; more are kept in a file
_FOLDER_RATE = 25.0  # frames a second of a folder of pictures, which does not say
_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")


@dataclass(frozen=True)
class Video:
    """Frames of one size.

    **Arguments**

    - `frames`: (frames, height, width, 3) uint8, in memory or a file that is mapped.
    - `rate`: frames a second.
    - `name`: of the file, without suffix.
    - `notes`: what was converted on the way.
    """

    frames: Tensor
    rate: float
    name: str
    notes: tuple[str, ...] = ()


def read_video(path: Path, *, size: int, count: int, every: int, spill: Path | None = None) -> Video:
    """A video file, or a folder of pictures in the order of their names.

    **Arguments**

    - `size`: longer side in pixels; larger frames are shrunk. `count`: the first so many frames, 0 for all.
      `every`: take every so many frames.
    - `spill`: a file for the decoded frames where they are more than two gigabytes; None refuses that.

    **Raises** `VideoReadError`, which names the file: no video, damaged, without frames, or too large.
    """
    frames, rate, promised = _folder(path) if path.is_dir() else _decoded(path)
    kept = _Kept(path, count or -(-promised // every), spill)
    notes: tuple[str, ...] = ()
    seen = 0
    for index, image in enumerate(frames):
        seen = index + 1
        if index % every == 0:
            small = _shrunk(image, size)
            if not index and small.size != image.size:
                notes = (f"{image.size[0]} x {image.size[1]} is shrunk to {small.size[0]} x {small.size[1]}",)
            kept.add(np.asarray(small.convert("RGB")))
            if kept.count == count:
                break
    if not kept.count:
        raise VideoReadError(f"`{path}` holds no frames that can be read.")
    if count > kept.count:
        notes = (*notes, f"{kept.count} frames are all that there are")
    elif not count and seen < promised - every:
        raise VideoReadError(f"`{path}` ends after {seen} of {promised} frames; it is damaged.")
    return Video(kept.frames(), rate / every, path.stem, notes)


class _Kept:
    """Frames in memory, or in a mapped file where `expected` of them are too many for it."""

    def __init__(self, path: Path, expected: int, spill: Path | None):
        self._path, self._expected, self._spill = path, expected, spill
        self._list: list[np.ndarray] = []
        self._file: np.memmap | None = None
        self._shape: tuple[int, ...] = ()
        self.count = 0

    def add(self, frame: np.ndarray) -> None:
        if not self.count:
            self._shape = frame.shape
            if frame.nbytes * self._expected > MAX_BYTES:
                self._file = self._mapped()
        if frame.shape != self._shape:
            raise VideoReadError(
                f"`{self._path}`: frame {self.count} is {frame.shape[1]} x {frame.shape[0]}; expected "
                f"{self._shape[1]} x {self._shape[0]} as the first one."
            )
        if self._file is None:
            self._list.append(frame)
        elif self.count < len(self._file):
            self._file[self.count] = frame
        self.count += 1

    def frames(self) -> Tensor:
        return torch.from_numpy(np.stack(self._list) if self._file is None else self._file[: self.count])

    def _mapped(self) -> np.memmap:
        shape = (self._expected, *self._shape)
        if self._spill is None:
            raise VideoReadError(
                f"`{self._path}` is {shape[0]} frames of {shape[2]} x {shape[1]}, {np.prod(shape) / 1e9:.1f} GB; at most "
                f"{MAX_BYTES / 1e9:g} GB are kept in memory. Use a smaller `--size` or `--frames`."
            )
        return np.memmap(self._spill, np.uint8, "w+", shape=shape)


def write_video(path: Path, frames: Iterable[Tensor], rate: float) -> int:
    """(height, width, 3) frames in [0, 1] as H.264 in MP4, atomically; returns their number. Odd sides lose a line."""
    if path.suffix.lower() != ".mp4":
        raise VideoReadError(f"`{path}` cannot be written; expected a name that ends with .mp4.")
    written = 0

    def encode(partial: Path) -> None:
        nonlocal written
        av = _av()
        with av.open(str(partial), "w", format="mp4") as container:
            stream: Any = None
            for frame in frames:
                array = (frame.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
                array = np.ascontiguousarray(array[: len(array) // 2 * 2, : array.shape[1] // 2 * 2])
                if stream is None:
                    stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000))
                    stream.height, stream.width, stream.pix_fmt = *array.shape[:2], "yuv420p"
                    stream.options = {"crf": "12"}
                container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
                written += 1
            if stream is not None:
                container.mux(stream.encode())

    write_atomically(path, encode)
    return written


def _decoded(path: Path) -> tuple[Iterator[Image.Image], float, int]:
    av = _av()
    try:
        container = av.open(str(path))
        stream = container.streams.video[0]
        rate, promised = float(stream.average_rate or _FOLDER_RATE), int(stream.frames)
    except (av.FFmpegError, IndexError, ValueError) as error:
        size = path.stat().st_size if path.is_file() else 0
        reason = getattr(error, "strerror", None) or error
        raise VideoReadError(
            f"`{path}` ({size} bytes) is no video that can be read, or is damaged: {reason}."
        ) from error

    def frames() -> Iterator[Image.Image]:
        with container:
            try:
                for frame in container.decode(stream):
                    yield frame.to_image()
            except av.FFmpegError as error:
                raise VideoReadError(f"`{path}` is damaged: {error}.") from error

    return frames(), rate, promised


def _folder(path: Path) -> tuple[Iterator[Image.Image], float, int]:
    names = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in _PICTURES)
    if not names:
        raise VideoReadError(f"`{path}` is a folder without pictures; expected a video file, or frames as pictures.")

    def frames() -> Iterator[Image.Image]:
        for name in names:
            try:
                pixels = read_picture(name).pixels
            except ImageReadError as error:
                raise VideoReadError(f"frame `{name.name}`: {error}") from error
            array = (pixels.expand(-1, -1, 3) * 255).round().to(torch.uint8).numpy()
            yield Image.fromarray(array)

    return frames(), _FOLDER_RATE, len(names)


def _shrunk(image: Image.Image, size: int) -> Image.Image:
    longer = max(image.size)
    if longer <= size:
        return image
    width, height = (max(round(side * size / longer), 2) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise VideoReadError("videos need the package av: pip install 'implayer[video]'.") from error
    return av
