"""Fit a network to a sound."""

from typing import Any

import torch
from torch import Tensor

from ...shared.application import Material, StoredRun
from ...shared.metrics import psnr
from ...shared.options import Eval, Resume, require_least
from ...shared.run_folder import RunFolder
from ...shared.sounds import Sound, write_sound
from ..cache import Rows
from ..models.networks import AbstractNetwork
from ..signal import AbstractSignalFit, AbstractSignalTask, Network
from ..task import Batch
from ..values import values_of
from .commands import TASK, FitAudio
from .config import AudioConfig, natural_scale
from .data import SoundSource, load_sound, times
from .draw import draw_sounds

Sounds = Material[SoundSource, Sound]
Stored = StoredRun[SoundSource, AudioConfig]


class SoundTask(AbstractSignalTask[Sound]):
    """The samples of one sound, mean square error of values in [-1, 1]."""

    def __init__(self, config: AudioConfig, sound: Sound, device: torch.device):
        self.content = sound
        count, channels = sound.samples.shape
        super().__init__(config, device, inputs=1, outputs=channels, scale=natural_scale(count), count=count)

    def take(self, rows: Rows) -> Batch:
        """Samples by their number."""
        numbers = torch.arange(*rows.indices(self.count)) if isinstance(rows, slice) else rows
        return Batch(times(numbers, self.count).to(self.device), self.content.samples[rows].to(self.device), None, rows)

    def figures(self, loss: float, reported: dict[str, float]) -> dict[str, float]:
        """PSNR of values in [-1, 1] with a peak of 1, not clamped (authors)."""
        del reported
        return {"loss": loss, "psnr": psnr(loss)}


class SoundFit(AbstractSignalFit[AudioConfig, SoundSource, Sound, SoundTask]):
    """A network for one sound."""

    task, command = TASK, f"fit {TASK}"
    config, source = AudioConfig, SoundSource

    def check(self, config: AudioConfig) -> None:
        """Refuse values that cannot mean anything."""
        super().check(config)
        require_least(config, {"seconds": 0, "start": 0})

    def load(self, command: FitAudio) -> Sounds:
        """The sound that the command names."""
        require_least(command, {"max_samples": 2})
        return load_sound(command.sound, command.config, command.data, command.max_samples)

    def find(self, stored: Stored, command: Resume | Eval) -> Sounds:
        """The sound of the run, of the length that it had."""
        return load_sound(stored.source.source, stored.config, command.data, stored.source.max_samples)

    def stem(self, config: AudioConfig, material: Sounds) -> str:
        """Sound and model."""
        return f"{material.content.name}-{config.model}"

    def make_task(self, config: AudioConfig, material: Sounds, device: torch.device) -> SoundTask:
        """The samples of the sound."""
        return SoundTask(config, material.content, device)

    def prepare(self, folder: RunFolder, material: Sounds) -> None:
        """What the network is to become."""
        write_sound(folder.path / "target.wav", material.content.samples * material.source.gain, material.content.rate)

    def samples(self, source: SoundSource) -> tuple[int, str]:
        """Those of all channels."""
        return source.samples * source.channels, "sample"

    def network(self, config: AudioConfig, source: SoundSource) -> Network:
        """Time to the values of the channels."""
        del config
        return Network(1, source.channels, natural_scale(source.samples))

    def reconstruct(
        self, model: AbstractNetwork, stored: Stored, content: Sound, folder: RunFolder | None
    ) -> tuple[dict[str, Any], str]:
        """The sound, and a drawing of it."""
        config, count = stored.config, len(content.samples)
        found, steps = values_of(model, count, lambda index: times(index, count))
        quality = quality_of(found, content.samples)
        if folder is not None:
            write_sound(folder.path / "reconstruction.wav", found * stored.source.gain, content.rate)
            title = f"{config.model} {config.layers}L-{config.width}D, {quality:.2f} dB"
            rows = {"target": content.samples, title: found, "error": found - content.samples}
            draw_sounds(folder.path / "comparison.png", content.rate, rows)
        figures = {"psnr": quality, "solve_steps": steps, "samples": count, "rate": content.rate}
        return figures, f"PSNR {quality:.2f} dB" + (f", solved in at most {steps} steps" if steps else "")

    def next(self, folder: RunFolder, stored: Stored) -> str:
        """Play it."""
        return f"implayer render {folder.path} --rate {2 * stored.source.rate}"


SOUNDS = SoundFit()


def quality_of(found: Tensor, target: Tensor) -> float:
    """PSNR in dB of values in [-1, 1] with a peak of 1, not clamped (authors)."""
    return psnr(float((found - target).square().mean(dtype=torch.float64)))
