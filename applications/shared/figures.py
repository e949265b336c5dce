"""Figures of a run, drawn without a display."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from .files import write_atomically

_ERROR_RANGE = (
    0.1  # of the colour scale of error maps, in units of the full range: equal for all runs, so that they compare
)

_LETTER, _HANDLE = 0.075, 0.6  # inches of a letter of a legend, and of what stands before the words


@dataclass(frozen=True)
class Line:
    """One curve; those of a group share a colour."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    group: str
    dashed: bool = False
    pale: bool = False  # and wide, so that another curve on top of it leaves it visible
    thin: bool = False  # without marks at its points


@dataclass(frozen=True)
class Panel:
    """Curves in one pair of axes."""

    title: str
    xlabel: str
    ylabel: str
    lines: Sequence[Line]
    log_x: bool = False
    log_y: bool = False
    integer_x: bool = False


def draw_lines(path: Path, panels: Sequence[Panel]) -> None:
    """Panels side by side over one legend."""
    wide = 4.8 * len(panels)
    figure, axes = subplots(1, len(panels), (wide, 4))
    groups = list(dict.fromkeys(line.group for panel in panels for line in panel.lines))
    labels: dict[str, Any] = {}
    for panel, each in zip(panels, axes if len(panels) > 1 else [axes], strict=True):
        for line in panel.lines:
            width, alpha = (4, 0.4) if line.pale else (1.2, 1)
            colour = f"C{groups.index(line.group)}"
            marker, style = "" if line.dashed or line.thin else "o", "--" if line.dashed else "-"
            (drawn,) = each.plot(line.x, line.y, style, marker=marker, color=colour, linewidth=width, alpha=alpha)
            drawn.set_markersize(3 * width**0.5)
            labels[line.label] = drawn
        each.set(xlabel=panel.xlabel, ylabel=panel.ylabel, title=panel.title)
        for axis, log in ((each.xaxis, panel.log_x), (each.yaxis, panel.log_y)):
            _scale(axis, log=log, integer=panel.integer_x and axis is each.xaxis)
        each.grid(alpha=0.3)
    # Not "best": that looks at every point of every curve.
    columns = min(int(wide / (_LETTER * max(map(len, labels), default=0) + _HANDLE)), 4)
    figure.legend(
        labels.values(),
        labels.keys(),
        loc="outside lower center",
        ncols=max(columns, 1),
        fontsize="small",
        handlelength=3,
    )
    save_figure(figure, path)


def _scale(axis: Any, *, log: bool, integer: bool) -> None:
    """Ticks at whole numbers where `integer`; logarithmic ones written as plain numbers, 1, 2, 5 where they are few."""
    from matplotlib import ticker

    if integer:
        axis.set_major_locator(ticker.MaxNLocator(integer=True))
    if not log:
        return
    getattr(axis.axes, f"set_{axis.axis_name}scale")("log")
    low, high = axis.get_view_interval()
    leading = "25" if high < 20 * low else ""
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in leading else ""))


def draw_curves(path: Path, history: dict[str, list[float]]) -> None:
    """Loss (logarithmic) and PSNR of the training output over the steps."""
    figure, (left, right) = subplots(1, 2, (9, 3.2))
    steps = np.arange(1, len(history["loss"]) + 1)
    left.semilogy(steps, history["loss"], color="tab:blue", linewidth=1)
    left.set(xlabel="step", ylabel="mean square error", title="loss")
    right.plot(steps, history["psnr"], color="tab:red", linewidth=1)
    right.set(xlabel="step", ylabel="dB", title="PSNR of the training output")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    save_figure(figure, path)


def draw_comparison(path: Path, target: Tensor | Sequence[Tensor], results: Sequence[tuple[str, Tensor]]) -> None:
    """Each result between the target and its error map (mean absolute error of a pixel); (height, width, channels).

    `target` is that of all results, or one for each.
    """
    targets = [target] * len(results) if isinstance(target, Tensor) else target
    figure, axes = subplots(len(results), 3, (9.6, 3.3 * len(results)))
    rows = axes if len(results) > 1 else [axes]
    for row, wanted, (title, pixels) in zip(rows, targets, results, strict=True):
        _show(row[0], wanted, "target")
        _show(row[1], pixels, title)
        error = (pixels.clamp(0, 1) - wanted).abs().mean(-1)
        shown = row[2].imshow(error.numpy(), cmap="magma", vmin=0, vmax=_ERROR_RANGE)
        row[2].set_title(f"absolute error, mean {float(error.mean()):.4f}")
        row[2].axis("off")
        figure.colorbar(shown, ax=row[2], fraction=0.046, extend="max")
    save_figure(figure, path)


def _show(axes: Any, pixels: Tensor, title: str) -> None:
    array = pixels.clamp(0, 1).numpy()
    axes.imshow(array[:, :, 0] if array.shape[2] == 1 else array, cmap="gray", vmin=0, vmax=1)
    axes.set_title(title)
    axes.axis("off")


def subplots(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    """A figure of `size` inches without a window, and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, and only here needed
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns)


def save_figure(figure: Any, path: Path) -> None:
    """As a PNG, atomically."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    data = buffer.getvalue()
    write_atomically(path, lambda partial: partial.write_bytes(data), len(data))
