"""Reading and writing sounds. What had to be converted is said; what is damaged is refused with the file's name."""

import io
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import SoundReadError
from .files import write_atomically

MAX_SAMPLES = 50_000_000  # before they are decoded, all channels together: 200 MB
FORMATS = {".wav": ("WAV", "FLOAT"), ".flac": ("FLAC", "PCM_24")}
_LEAST = 2  # samples: a line needs two points to have an extent
_SHORTER = re.compile(r"(\w+)\s*:\s*(\d+) \(should be (\d+)\)")  # how libsndfile says that a file ends too early


@dataclass(frozen=True)
class Sound:
    """Samples of one or several channels.

    **Arguments**

    - `samples`: (samples, channels), in [-1, 1] where the file holds integers.
    - `rate`: samples a second.
    - `name`: of the file, without suffix.
    - `notes`: what was converted on the way.
    """

    samples: Tensor
    rate: int
    name: str
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / self.rate

    def noted(self, note: str, samples: Tensor) -> "Sound":
        """Another sound made of this one."""
        return replace(self, samples=samples, notes=(*self.notes, note))


def read_sound(path: Path, max_samples: int = MAX_SAMPLES, *, start: float = 0.0, seconds: float = 0.0) -> Sound:
    """Any sound that libsndfile reads: WAV, FLAC, OGG, MP3, AIFF; so many `seconds` from `start` on, 0 being all that follows.

    Only that part is decoded, so that it alone need fit into memory.

    **Raises** `SoundReadError`, which names the file: no sound, damaged or shorter than its header says, without samples
    there, with NaN or infinity, or more than `max_samples` by its header, before anything is decoded.
    """
    library = _soundfile()
    try:
        with library.SoundFile(str(path)) as file:
            first, count = _part(path, file.frames, file.samplerate, start, seconds)
            if count * file.channels > max_samples:
                raise SoundReadError(
                    f"`{path}` has {count} samples of {file.channels} channels; at most {max_samples} values are "
                    "decoded. Take a part of it (`--start`, `--seconds`), or pass a larger `--max-samples` if the file can be "
                    "trusted."
                )
            rate, whole, story = file.samplerate, file.frames, str(file.extra_info)
            if first:
                file.seek(first)
            samples = file.read(count, dtype="float32", always_2d=True)
    except library.LibsndfileError as error:
        size = path.stat().st_size if path.exists() else 0
        raise SoundReadError(
            f"`{path}` ({size} bytes) is no sound that can be read, or is damaged: {error.error_string}."
        ) from error
    cut = [
        f"{name} has {found} bytes of {said}" for name, said, found in _SHORTER.findall(story) if int(said) > int(found)
    ]
    if cut or len(samples) < count:
        raise SoundReadError(f"`{path}` ends before its header says ({', '.join(cut) or 'samples are missing'}).")
    if not np.isfinite(samples).all():
        bad = tuple(int(index) for index in np.argwhere(~np.isfinite(samples))[0])
        raise SoundReadError(f"`{path}` holds NaN or infinity, first at sample {first + bad[0]} of channel {bad[1]}.")
    sound = Sound(torch.from_numpy(np.ascontiguousarray(samples)), int(rate), path.stem)
    if count == whole:
        return sound
    used = f"{start:g} to {(first + count) / rate:.4g} of {whole / rate:.4g} seconds are used"
    return sound.noted(used, sound.samples)


def _part(path: Path, whole: int, rate: int, start: float, seconds: float) -> tuple[int, int]:
    """The first sample, and how many."""
    if whole < _LEAST:
        raise SoundReadError(f"`{path}` holds {whole} samples; expected at least {_LEAST}.")
    first = round(start * rate)
    left = whole - first
    if left < _LEAST:
        raise SoundReadError(f"`{path}` lasts {whole / rate:.4g} seconds; `--start` is {start:g}.")
    return first, min(max(round(seconds * rate), _LEAST), left) if seconds else left


def mixed_down(sound: Sound) -> Sound:
    """One channel, the mean of all."""
    channels = sound.samples.shape[1]
    if channels == 1:
        return sound
    return sound.noted(f"{channels} channels are mixed down to one", sound.samples.mean(1, keepdim=True))


def write_sound(path: Path, samples: Tensor, rate: int) -> None:
    """(samples, channels) as WAV (32-bit floating point) or FLAC (24 bits, clipped to [-1, 1]), atomically."""
    if path.suffix.lower() not in FORMATS:
        raise SoundReadError(f"`{path}` cannot be written; expected a name that ends with {' or '.join(FORMATS)}.")
    kind, subtype = FORMATS[path.suffix.lower()]
    array = samples.detach().cpu().to(torch.float32).numpy()
    buffer = io.BytesIO()
    _soundfile().write(buffer, array.clip(-1, 1) if kind == "FLAC" else array, rate, format=kind, subtype=subtype)
    data = buffer.getvalue()
    write_atomically(path, lambda partial: partial.write_bytes(data), len(data))


def _soundfile() -> Any:
    try:
        import soundfile
    except ImportError as error:
        raise SoundReadError("sounds need the package soundfile: pip install 'implayer[apps]'.") from error
    return soundfile
