"""`implayer bench inr-image`: a step of the implicit network beside explicit ones, under equal settings."""

import platform
from dataclasses import dataclass, replace
from typing import Literal

import torch
import tyro

from ..shared.errors import InputError
from .inr import Row, number, table
from .inr_systems import Asked


@dataclass(frozen=True)
class Options:
    """Grey camera picture: time of a step, growth of memory, PSNR; each system in a process of its own."""

    size: int = 256
    """Pixels on a side."""
    width: int = 256
    """Entries of the hidden state."""
    steps: int = 12
    """Steps of each run; 200 and more to compare PSNR."""
    seeds: int = 1
    """Runs of each system, of which the median is shown."""
    threads: int = 1
    """Of torch."""
    norm: Literal["none", "spectral"] = "none"
    """Bound on the hidden maps (plain torch: without)."""
    chunk: int = 0
    """Pixels at a time; 0 is all, as the paper."""
    huge_pages: bool = True
    """All systems ask for huge pages where all pixels are taken at once: half of a step goes into page faults otherwise."""
    compile: bool = False
    """Our networks also with compiled training steps."""


def main(arguments: list[str]) -> int:
    """Run with command-line arguments; returns the exit code."""
    options = tyro.cli(Options, args=arguments, prog="implayer bench inr-image")
    for name in ("size", "width", "steps", "seeds", "threads"):
        number(name, str(getattr(options, name)))
    if options.chunk < 0:
        raise InputError(f"`--chunk` is {options.chunk}; expected a number of pixels, or 0 for all at once.")
    print(
        f"camera {options.size} x {options.size}, width {options.width}, norm {options.norm}, {options.steps} steps, "
        f"{options.seeds} seed(s), {options.threads} thread(s), torch {torch.__version__}, {platform.machine()}"
    )
    base = Asked(
        "ours", size=options.size, width=options.width, norm=options.norm, chunk=options.chunk,
        marks=(options.steps,), threads=options.threads, huge_pages=options.huge_pages and not options.chunk,
    )  # fmt: skip
    explicit = replace(base, model="fourier-mfn", depth=4)
    systems = {"implicit": base, "explicit": explicit, "plain torch": replace(explicit, system="plain")}
    pairs = [("implicit", "explicit"), ("explicit", "plain torch")]
    if options.compile:
        ours = {f"{name}, compiled": replace(systems[name], compile=True) for name in ("implicit", "explicit")}
        systems |= ours
        pairs += [(name, "plain torch") for name in ours] + [tuple(ours)]
    rows = table(systems, options.seeds)
    for one, other in pairs:
        _ratio(f"{one} / {other}", rows[one], rows[other])
    return 0


def _ratio(label: str, ours: Row, other: Row) -> None:
    time, cpu, memory = (ours[key] / other[key] for key in ("ms", "cpu", "mib"))
    gains = ", ".join(f"PSNR {ours[mark] - other[mark]:+.2f} dB" for mark in ours if mark.startswith("psnr"))
    print(f"  {label}: time {time:.2f} (CPU {cpu:.2f}), memory {memory:.2f}, {gains}")
