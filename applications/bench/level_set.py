"""`implayer bench level-set`: surfaces of grids, forward and backward, beside scikit-image's marching cubes."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import tyro
from torch import Tensor

from implayer.layers.level_set import LevelSetLayer

from ..shared.errors import InputError
from ..shared.memory import PeakMemory
from .asked import Asked
from .core import prepare


@dataclass(frozen=True)
class Options(Asked):
    """Milliseconds of the surface of a grid and of its gradient; the peer has no gradient, its forward time is the unit."""

    sizes: str = "16x1,32x1,64x1,128x1,16x16,32x16,64x16,128x16"
    """Points along each axis x samples, separated by commas."""
    systems: str = "normal,edge,skimage,kaolin"
    """Which systems, separated by commas: our two gauges, and the peers."""
    dtype: str = "float32"
    """float32 or float64."""
    device: str = "cpu"
    """cpu, or cuda for ours."""
    memory_of: str = ""
    """Used by itself: print the growth of peak memory of one system alone."""


Call = Callable[[], tuple[float, float]]  # seconds forward and backward


def fields(n: int, samples: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(samples, n, n, n) distances from a bumpy sphere, of another radius in every sample."""
    line = torch.linspace(-1, 1, n, dtype=torch.float64)
    x, y, z = torch.meshgrid(line, line, line, indexing="ij")
    shape = (x * x + y * y + z * z).sqrt() + 0.03 * (7 * x).sin() * (6 * y).cos()
    radius = torch.linspace(0.55, 0.65, samples, dtype=torch.float64).view(-1, 1, 1, 1)
    return (shape - radius).to(device, dtype)


def _now(phi: Tensor) -> float:
    if phi.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def ours(phi: Tensor, gauge: Any) -> Call:
    """The layer, and the gradient for phi of a fixed cotangent of the vertices."""
    layer, phi = LevelSetLayer(gauge=gauge), phi.clone().requires_grad_()

    def call() -> tuple[float, float]:
        phi.grad = None
        start = _now(phi)
        vertices = [surface.vertices for surface in layer(phi)]
        middle = _now(phi)
        cotangents = [torch.ones_like(part) for part in vertices]
        begin = _now(phi)
        torch.autograd.backward(vertices, cotangents)
        return middle - start, _now(phi) - begin

    return call


def skimage(phi: Tensor) -> Call:
    """Marching cubes of scikit-image, one grid after the other; without gradient."""
    from skimage.measure import marching_cubes

    grids = list(phi.cpu().numpy())

    def call() -> tuple[float, float]:
        start = time.perf_counter()
        for grid in grids:
            marching_cubes(grid, 0.0)
        return time.perf_counter() - start, float("nan")

    return call


def kaolin(phi: Tensor) -> Call:
    """Marching tetrahedra of Kaolin on the same grid, with its gradient (that of the edge gauge)."""
    from kaolin.ops.conversions import marching_tetrahedra  # type: ignore[import-not-found]

    n = phi.shape[1]
    index = torch.arange(n**3, device=phi.device).view(n, n, n)
    corner = index[:-1, :-1, :-1].reshape(-1, 1)
    steps = (1, n, n * n)
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    offsets = [[0, steps[a], steps[a] + steps[b], sum(steps)] for a, b, _ in orders]
    tets = (corner.unsqueeze(1) + torch.tensor(offsets, device=phi.device)).reshape(-1, 4)
    line = torch.arange(n, dtype=phi.dtype, device=phi.device)
    points = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).view(1, -1, 3).expand(len(phi), -1, 3)
    values = phi.reshape(len(phi), -1).clone().requires_grad_()

    def call() -> tuple[float, float]:
        values.grad = None
        start = _now(phi)
        vertices = marching_tetrahedra(points, tets, values)[0]
        middle = _now(phi)
        torch.autograd.backward(vertices, [torch.ones_like(part) for part in vertices])
        return middle - start, _now(phi) - middle

    return call


SYSTEMS: dict[str, Callable[[Tensor], Call]] = {
    "normal": lambda phi: ours(phi, "normal"),
    "edge": lambda phi: ours(phi, "edge"),
    "skimage": skimage,
    "kaolin": kaolin,
}


def main(arguments: list[str]) -> int:
    """Run with command-line arguments; returns the exit code."""
    options = tyro.cli(Options, args=arguments, prog="implayer bench level-set")
    options.checked()
    if options.dtype not in ("float32", "float64") or options.device not in ("cpu", "cuda"):
        raise InputError(
            f"`--dtype` is {options.dtype} and `--device` {options.device}; expected float32 or float64, and cpu or cuda."
        )
    if options.device == "cuda" and not torch.cuda.is_available():
        raise InputError("`--device cuda`: there is no CUDA device here; use `--device cpu`.")
    shapes, names = options.shapes("64x16"), options.names(SYSTEMS)
    if min(shape[0] for shape in shapes) < 4:
        raise InputError("`--sizes` needs at least 4 points along each axis.")
    torch.set_num_threads(options.threads)
    if options.memory_of:
        return _print_memory(options, shapes[0])
    prepare(options.threads)
    for n, samples in shapes:
        _one_size(n, samples, names, options)
    return 0


def _one_size(n: int, samples: int, names: list[str], options: Options) -> None:
    phi = fields(n, samples, getattr(torch, options.dtype), torch.device(options.device))
    calls: dict[str, Call] = {}
    taken: dict[str, list[tuple[float, float]]] = {}
    print(f"\n{n}^3 x {samples}, {options.dtype} on {options.device}")
    for name in names:
        try:
            calls[name] = SYSTEMS[name](phi)
            calls[name]()
        except (ImportError, RuntimeError) as error:
            print(f"  {name}: skipped, {str(error).splitlines()[0][:100]}")
            calls.pop(name, None)
    for _ in range(options.reps):
        for name, call in calls.items():
            taken.setdefault(name, []).append(call())
    medians = {name: [statistics.median(part) for part in zip(*times, strict=True)] for name, times in taken.items()}
    unit = medians["skimage"][0] if "skimage" in medians else float("nan")
    print(f"  {'system':8} {'forward ms':>11} {'/ skimage':>10} {'backward ms':>12} {'/ skimage':>10} {'MiB':>7}")
    for name, (forward, backward) in medians.items():
        memory = _memory(name, n, samples, options) if n >= 64 and options.device == "cpu" else float("nan")
        print(
            f"  {name:8} {1e3 * forward:11.2f} {forward / unit:10.2f} {1e3 * backward:12.2f} {backward / unit:10.2f} "
            f"{memory:7.0f}",
            flush=True,
        )


def _memory(name: str, n: int, samples: int, options: Options) -> float:
    """Growth of peak resident memory of one call, in a process of its own."""
    command = [sys.executable, "-m", "applications.bench.level_set", "--memory-of", name, "--sizes", f"{n}x{samples}"]
    command += ["--dtype", options.dtype]
    trimmed = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed before the call is not reused unseen
    return float(subprocess.run(command, capture_output=True, text=True, check=True, env=trimmed).stdout.split()[-1])


def _print_memory(options: Options, shape: tuple[int, ...]) -> int:
    (name,) = replace(options, systems=options.memory_of).names(SYSTEMS)
    dtype, device = getattr(torch, options.dtype), torch.device("cpu")
    SYSTEMS[name](fields(8, 1, dtype, device))()  # imports and first-call costs are not the system's memory
    phi = fields(shape[0], shape[1], dtype, device)
    call, memory = SYSTEMS[name](phi), PeakMemory(device)
    call()
    print(memory.pause())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
