"""A sound and what became of it, as curves and spectrograms."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...shared.figures import save_figure, subplots

_WINDOW = 512  # samples of a spectrum
_SHOWN = 4000  # columns of a curve: more points than a picture has pixels are drawn as their range
_FLOOR_DB = -90.0


def draw_sounds(path: Path, rate: int, rows: dict[str, Tensor]) -> None:
    """One row each, (samples, channels), of which the first channel is drawn: the curve, and its spectrogram."""
    figure, axes = subplots(len(rows), 2, (11, 2.4 * len(rows)))
    for (left, right), (title, samples) in zip(axes, rows.items(), strict=True):
        values = samples[:, 0].double().numpy()
        _curve(left, values, rate)
        left.set(title=title, ylim=(-1.05, 1.05), xlabel="seconds")
        shown = _spectrogram(right, values, rate)
        right.set(title="spectrogram, dB", xlabel="seconds", ylabel="kHz")
        figure.colorbar(shown, ax=right)
    save_figure(figure, path)


def _curve(axes: Any, values: np.ndarray, rate: int) -> None:
    each = -(-len(values) // _SHOWN)
    columns = np.pad(values, (0, -len(values) % each), mode="edge").reshape(-1, each)
    seconds = np.arange(len(columns)) * each / rate
    axes.fill_between(seconds, columns.min(1), columns.max(1), step="post", linewidth=0.3, color="tab:blue")
    axes.grid(alpha=0.3)


def _spectrogram(axes: Any, values: np.ndarray, rate: int) -> Any:
    window = min(_WINDOW, len(values))
    step = max(window // 2, 1)
    starts = np.arange(0, len(values) - window + 1, step)
    parts = values[starts[:, None] + np.arange(window)] * np.hanning(window + 2)[1:-1]
    power = np.abs(np.fft.rfft(parts, axis=1)).T * 2 / window
    decibels = 20 * np.log10(np.maximum(power, 10 ** (_FLOOR_DB / 20)))
    extent = (0.0, len(values) / rate, 0.0, rate / 2000)
    return axes.imshow(decibels, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=_FLOOR_DB, vmax=0)
