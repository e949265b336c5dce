"""Reading and writing videos, frame by frame. What had to be converted is said; what is damaged is refused."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .arrays import in_array, largest_value, name_of, pictures_in, read_array
from .errors import ImageReadError, VideoReadError
from .files import write_atomically
from .pictures import read_picture

MAX_BYTES = 2_000_000_000  # of the decoded frames that are kept in memory; more are kept in a file that is mapped
_USUAL_RATE = 25.0  # frames a second of a folder of pictures and of an array, which do not say
_EIGHT_BITS = 255.0  # what white is in a frame
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


def read_video(path: Path, *, size: int, count: int, every: int) -> Video:
    """A video file, a folder of pictures in the order of their names, or an array of a NumPy file (`arrays.py`).

    Decoded frames of more than two gigabytes go into a file without a name in the folder of temporary files (TMPDIR), which
    is mapped, and gone when the program ends.

    **Arguments**

    - `size`: longer side in pixels; larger frames are shrunk. `count`: the first so many frames, 0 for all.
      `every`: take every so many frames.

    **Raises** `VideoReadError`, which names the file: no video, damaged, without frames, or too large for the disk.
    `ArrayReadError` of NumPy files.
    """
    array = in_array(path)
    frames, rate, promised, notes = _array(path) if array else _folder(path) if path.is_dir() else _decoded(path)
    with contextlib.closing(_Kept(path)) as kept:
        seen = 0
        for index, image in enumerate(frames):
            seen = index + 1
            if index % every == 0:
                small = _shrunk(image, size)
                if not index and small.size != image.size:
                    notes += (f"{image.size[0]} x {image.size[1]} is shrunk to {small.size[0]} x {small.size[1]}",)
                kept.add(np.asarray(small.convert("RGB")))
                if kept.count == count:
                    break
        if not kept.count:
            raise VideoReadError(f"`{path}` holds no frames that can be read.")
        if count > kept.count:
            notes += (f"{kept.count} frames are all that there are",)
        elif not count and seen < promised - every:
            raise VideoReadError(f"`{path}` ends after {seen} of {promised} frames; it is damaged.")
        stored, where = kept.frames()
    return Video(stored, rate / every, name_of(path) if array else path.stem, notes + where)


class _Kept:
    """Frames in memory; in a mapped file as soon as they are too many for it."""

    def __init__(self, path: Path):
        self._path = path
        self._list: list[np.ndarray] = []
        self._file: IO[bytes] | None = None
        self._shape: tuple[int, ...] = ()
        self.count = 0

    def add(self, frame: np.ndarray) -> None:
        if not self.count:
            self._shape = frame.shape
        if frame.shape != self._shape:
            raise VideoReadError(
                f"`{self._path}`: frame {self.count} is {frame.shape[1]} x {frame.shape[0]}; expected "
                f"{self._shape[1]} x {self._shape[0]} as the first one."
            )
        self.count += 1
        self._list.append(frame)
        if self._file is not None or frame.nbytes * self.count > MAX_BYTES:
            self._write()

    def frames(self) -> tuple[Tensor, tuple[str, ...]]:
        """All of them, and a note where they are in a file."""
        if self._file is None:
            return torch.from_numpy(np.stack(self._list)), ()
        shape = (self.count, *self._shape)
        note = f"{shape[0]} frames of {shape[2]} x {shape[1]} are mapped from a file in {tempfile.gettempdir()}"
        return torch.from_numpy(np.memmap(self._file, np.uint8, "c", shape=shape)), (note,)

    def close(self) -> None:
        """The map outlives the file."""
        if self._file is not None:
            self._file.close()

    def _write(self) -> None:
        """Written, not mapped for writing: a disk that is full is then an error and no signal."""
        try:
            self._file = self._file or tempfile.TemporaryFile()
            for frame in self._list:
                self._file.write(frame.data)
            self._file.flush()
        except OSError as error:
            with contextlib.suppress(OSError):  # what is left in the buffer has no room either
                self.close()
            place = tempfile.gettempdir()
            raise VideoReadError(
                f"`{self._path}`: more than {MAX_BYTES / 1e9:g} GB of frames go into a file in {place}, which could not be "
                f"written ({error}); {shutil.disk_usage(place).free / 1e9:.1f} GB are free there. TMPDIR names another folder; "
                "or use a smaller `--size` or `--frames`."
            ) from error
        self._list = []


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


_Source = tuple[Iterator[Image.Image], float, int, tuple[str, ...]]  # frames, rate, how many are promised, notes


def _decoded(path: Path) -> _Source:
    av = _av()
    try:
        container = av.open(str(path))
        stream = container.streams.video[0]
        rate, promised = float(stream.average_rate or _USUAL_RATE), int(stream.frames)
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

    return frames(), rate, promised, ()


def _folder(path: Path) -> _Source:
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

    return frames(), _USUAL_RATE, len(names), ()


def _array(path: Path) -> _Source:
    array = pictures_in(read_array(path), path, many=True)
    white, note = largest_value(array, path)

    def frames() -> Iterator[Image.Image]:
        for frame in array:
            eight = (
                frame if white == _EIGHT_BITS and frame.dtype == np.uint8 else np.rint(frame * (_EIGHT_BITS / white))
            )
            yield Image.fromarray(np.broadcast_to(eight.astype(np.uint8), (*frame.shape[:2], 3)))

    return frames(), _USUAL_RATE, len(array), (note,) if note else ()


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
