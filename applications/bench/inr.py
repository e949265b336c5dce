"""`implayer bench inr`: a training step of coordinate networks beside the authors' programs and an explicit network."""

import platform
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro

from ..shared.errors import InputError
from .inr_systems import Asked, measured

_FAMILIES: tuple[Any, ...] = ("fourier-imfn", "isiren", "gabor-imfn")
Row = dict[str, float]


@dataclass(frozen=True)
class Options:
    """The grey camera picture: time of a step, growth of memory, PSNR, and the ratios that count."""

    official: str | None = None
    """A checkout of the authors' programs (github.com/locuslab/ImpSq); None leaves them out."""
    size: int = 256
    """Pixels on a side; the input scale is 256 size / 512."""
    width: int = 256
    """Entries of the hidden state."""
    marks: str = "9"
    """Steps after which PSNR is measured, by a full solve; the last one ends a run. 200,500 compares quality."""
    seeds: int = 1
    """Runs of each system, of which the median is shown."""
    threads: int = 1
    """Of torch."""
    models: str = ",".join(_FAMILIES)
    """Which of the implicit models are set beside the authors'."""
    explicit: bool = True
    """Also our explicit network of four layers, and the same in plain torch."""
    growth: bool = True
    """Also the memory of 512 x 512 beside that of 2048 x 2048, at width 64."""


def main(arguments: list[str]) -> int:
    """Run with command-line arguments; returns the exit code."""
    options = tyro.cli(Options, args=arguments, prog="implayer bench inr")
    marks = tuple(number("marks", each) for each in options.marks.split(","))
    for name in ("size", "width", "seeds", "threads"):
        number(name, str(getattr(options, name)))
    models = _models(options.models)
    if options.official is not None and not Path(options.official).is_dir():
        raise InputError(f"`--official {options.official}` is no folder; expected a checkout of locuslab/ImpSq.")
    base = Asked("ours", size=options.size, width=options.width, marks=marks, threads=options.threads)
    print(f"camera {options.size} x {options.size}, {options.seeds} seed(s), {options.threads} thread(s)")
    print(
        f"torch {torch.__version__}, {platform.machine()}; every system in a process of its own, memory by its growth"
    )
    if options.official is not None:
        for model in models:
            _beside_authors(replace(base, model=model, norm="spectral", authors=True), options)
    if options.explicit:
        _beside_explicit(base, options)
    if options.growth:
        _growth(replace(base, width=64, marks=(2,), quality=False), options.seeds)
    return 0


def _beside_authors(base: Asked, options: Options) -> None:
    """Equal mathematics: spectral bound 0.97, five power iterations, T = 1, states in full precision."""
    theirs = replace(base, system="authors", official=options.official)
    halves = replace(base, authors=False)
    rows = table({"ours": base, "ours, half-precision states": halves, "authors": theirs}, options.seeds)
    _ratio("ours / authors", rows["ours"], rows["authors"], {"time": 0.55, "memory": 0.33, "psnr": 0.0})


def _beside_explicit(base: Asked, options: Options) -> None:
    explicit = replace(base, model="fourier-mfn", depth=4)
    asked = {
        "implicit": base,
        "explicit at once": replace(explicit, chunk=0),
        "explicit": explicit,
        "plain": replace(explicit, system="plain"),
    }
    rows = table(asked, options.seeds)
    goals = {"time": 0.38, "memory": 0.33, "psnr": 0.0}
    _ratio("implicit / explicit, all at once", rows["implicit"], rows["explicit at once"], goals)
    _ratio("implicit / explicit, in chunks, too", rows["implicit"], rows["explicit"], {"time": 0.38, "psnr": 0.0})
    _ratio("explicit, all at once / plain torch", rows["explicit at once"], rows["plain"], {"time": 1.05})


def _growth(base: Asked, seeds: int) -> None:
    """Activations are those of a chunk: what grows with the picture is the cache of fixed points alone."""
    sides = (512, 2048)
    rows = table({str(side): replace(base, size=side) for side in sides}, seeds)
    caches = [side**2 * (base.width * 2 + 4) / 2**20 for side in sides]  # half precision, and 4 bytes for the owner
    small, large = (row["mib"] - cache for row, cache in zip(rows.values(), caches, strict=True))
    print(
        f"  beyond the cache of {caches[0]:.0f} and {caches[1]:.0f} MiB: {small:.0f} and {large:.0f} MiB "
        f"[within 10 %: {'reached' if abs(large - small) <= 0.1 * small else 'missed'}]"
    )


def table(asked: dict[str, Asked], seeds: int) -> dict[str, Row]:
    """Measure, print and return medians; seed by seed, so that all systems meet the same moods of a shared machine."""
    found: dict[str, list[Row]] = {name: [] for name in asked}
    for seed in range(seeds):
        for name, each in asked.items():
            found[name].append(measured(replace(each, seed=seed)))
    rows = {name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()}
    marks = [key for key in next(iter(rows.values())) if key.startswith("psnr")]
    print(f"\n  {'system':50} {'ms a step':>10} {'CPU ms':>8} {'MiB':>7} {'parameters':>11} " + " ".join(marks))
    for name, row in rows.items():
        half = ", half-precision states" if "half" in name else ""
        quality = " ".join(f"{row[mark]:{len(mark)}.2f}" for mark in marks)
        label = f"{asked[name].label}{half}, {asked[name].size}^2"
        print(f"  {label:50} {row['ms']:10.0f} {row['cpu']:8.0f} {row['mib']:7.0f} {row['parameters']:11.0f} {quality}")
    return rows


def _ratio(label: str, ours: Row, other: Row, goals: dict[str, float]) -> None:
    time, cpu, memory = (ours[key] / other[key] for key in ("ms", "cpu", "mib"))
    gains = {mark: ours[mark] - other[mark] for mark in ours if mark.startswith("psnr")}
    found = {"time": cpu, "memory": memory, "psnr": -min(gains.values())}
    missed = [name for name, goal in goals.items() if not found[name] <= goal]
    said = ", ".join(f"{name} {gain:+.2f} dB" for name, gain in gains.items())
    verdict = f"misses {', '.join(missed)}" if missed else "reached"
    wanted = ", ".join(f"{name} <= {goal:g}" for name, goal in goals.items() if name != "psnr")
    print(f"  {label}: time {time:.2f} (CPU {cpu:.2f}), memory {memory:.2f}, {said}  [{wanted}: {verdict}]")


def number(name: str, text: str) -> int:
    """The number from 1 on that an option holds, or a complaint."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise InputError(f"`--{name}` holds `{text}`; expected a number from 1 on.")
    return int(text)


def _models(text: str) -> list[Any]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in _FAMILIES:
            raise InputError(f"`--models` holds `{name}`; expected some of {', '.join(_FAMILIES)}.")
    return names
