"""`implayer bench core`: the overhead of `ImplicitLayer`, and matrix-free against dense, beside the peers."""

import platform
import sys
import warnings
from dataclasses import dataclass
from importlib import metadata

import torch
import tyro

from .asked import Asked
from .systems import JAX, TORCH
from .timing import Problem, Row, measure


@dataclass(frozen=True)
class Options(Asked):
    """Roots of y + tanh(W y) / 2 - x: milliseconds forward and backward, errors, and ratios, in one run."""

    sizes: str = "1x8,64x8,64x64,1024x64,16x256"
    systems: str = ",".join([*TORCH, *JAX])


def main(arguments: list[str]) -> int:
    """Run with command-line arguments; returns the exit code."""
    options = tyro.cli(Options, args=arguments, prog="implayer bench core")
    sizes, systems = options.shapes("64x8"), options.names([*TORCH, *JAX])
    prepare(options.checked().threads)
    for batch, n in sizes:
        print(f"\n{batch} x {n}")
        rows = measure(systems, Problem.make("root", batch, n), options.reps, print)
        show(rows)
        _ratios(rows)
    return 0


def prepare(threads: int) -> None:
    """Fix the threads and say what is being measured on."""
    warnings.filterwarnings("ignore", category=FutureWarning)  # of peers that no one maintains
    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float64)
    versions = []
    for name in ("torch", "implayer", "torchdeq", "torchopt", "jax", "jaxopt", "optimistix"):
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    print(f"{', '.join(versions)}; Python {platform.python_version()}, {platform.machine()}, {threads} thread(s)")


def show(rows: list[Row]) -> None:
    """The table of one size."""
    print(f"  {'system':30} {'forward':>9} {'backward':>9} {'total ms':>9}  {'err y':>7}  {'err gradient':>12}")
    for row in rows:
        print(
            f"  {row.name:30} {row.forward_ms:9.2f} {row.backward_ms:9.2f} {row.total:9.2f}  {row.value_error:7.0e}"
            f"  {row.gradient_error:12.0e}"
        )


def _ratios(rows: list[Row]) -> None:
    found = {row.name: row for row in rows}
    ours = found.get("implayer Newton")
    for name in ("handwritten-autograd", "handwritten"):
        if ours and name in found:
            gap = ours.total - found[name].total
            print(f"  implayer Newton / {name}: {ours.total / found[name].total:.2f} ({gap:+.2f} ms)")
    exact = [row for row in rows if row.gradient_error <= 1e-9]
    mine = [row for row in exact if row.name.startswith("implayer")]
    for group, names in (("torch system", TORCH), ("compiled JAX system", JAX)):
        others = [row for row in exact if row.name in names and not row.name.startswith("implayer")]
        if mine and others:
            best, peer = min(mine, key=lambda r: r.total), min(others, key=lambda r: r.total)
            print(
                f"  fastest exact of ours ({best.name}) / fastest exact {group} ({peer.name}): {best.total / peer.total:.2f}"
            )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
