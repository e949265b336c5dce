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

MAX_SAMPLES = 50_000_000  # of a file before it is decoded, all channels together: 200 MB
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


def read_sound(path: Path, max_samples: int = MAX_SAMPLES) -> Sound:
    """Any sound that libsndfile reads: WAV, FLAC, OGG, MP3, AIFF.

    **Raises** `SoundReadError`, which names the file: no sound, damaged or shorter than its header says, without samples,
    with NaN or infinity, or more than `max_samples` by its header, before anything is decoded.
    """
    library = _soundfile()
    try:
        with library.SoundFile(str(path)) as file:
            count = file.frames * file.channels
            if count > max_samples:
                raise SoundReadError(
                    f"`{path}` has {file.frames} samples of {file.channels} channels; at most {max_samples} values are "
                    "decoded. Cut it, or pass a larger `--max-samples` if the file can be trusted."
                )
            rate, promised, story = file.samplerate, file.frames, str(file.extra_info)
            samples = file.read(dtype="float32", always_2d=True)
    except library.LibsndfileError as error:
        size = path.stat().st_size if path.exists() else 0
        raise SoundReadError(
            f"`{path}` ({size} bytes) is no sound that can be read, or is damaged: {error.error_string}."
        ) from error
    cut = [
        f"{name} has {found} bytes of {said}" for name, said, found in _SHORTER.findall(story) if int(said) > int(found)
    ]
    if cut or len(samples) < promised:
        raise SoundReadError(f"`{path}` ends before its header says ({', '.join(cut) or 'samples are missing'}).")
    if len(samples) < _LEAST:
        raise SoundReadError(f"`{path}` holds {len(samples)} samples; expected at least {_LEAST}.")
    if not np.isfinite(samples).all():
        first = tuple(int(index) for index in np.argwhere(~np.isfinite(samples))[0])
        raise SoundReadError(f"`{path}` holds NaN or infinity, first at sample {first[0]} of channel {first[1]}.")
    return Sound(torch.from_numpy(np.ascontiguousarray(samples)), int(rate), path.stem)


def mixed_down(sound: Sound) -> Sound:
    """One channel, the mean of all."""
    channels = sound.samples.shape[1]
    if channels == 1:
        return sound
    return sound.noted(f"{channels} channels are mixed down to one", sound.samples.mean(1, keepdim=True))


def cut(sound: Sound, seconds: float, start: float = 0.0) -> Sound:
    """So many seconds from `start` on; 0 is all that follows. **Raises** `SoundReadError` where nothing does."""
    first = round(start * sound.rate)
    left = len(sound.samples) - first
    if left < _LEAST:
        raise SoundReadError(f"`{sound.name}` lasts {sound.seconds:.4g} seconds; `--start` is {start:g}.")
    count = min(max(round(seconds * sound.rate), _LEAST), left) if seconds else left
    if count == len(sound.samples):
        return sound
    used = f"{start:g} to {(first + count) / sound.rate:.4g} of {sound.seconds:.4g} seconds are used"
    return sound.noted(used, sound.samples[first : first + count])


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
