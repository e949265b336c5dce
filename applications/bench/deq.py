"""`implayer bench deq`: equilibria y = tanh(W y + x) beside TorchDEQ, time and memory."""

import subprocess
import sys
from dataclasses import dataclass

import torch
import tyro

from ..shared.memory import PeakMemory
from .asked import Asked
from .core import prepare, show
from .systems import JAX, TORCH
from .timing import Problem, measure, torch_call

OURS = "implayer Picard + BiCGSTAB"


@dataclass(frozen=True)
class Options(Asked):
    """Forward and backward of an equilibrium to 1e-9, errors, peak memory, and the ratio to TorchDEQ, in one run."""

    sizes: str = "64x256,1024x64"
    systems: str = "implayer Picard + BiCGSTAB,implayer Anderson + GMRES,handwritten,torchdeq,jaxopt,optimistix"
    memory_of: str = ""
    """Used by itself: print the growth of peak memory of one system alone."""


def main(arguments: list[str]) -> int:
    """Run with command-line arguments; returns the exit code."""
    options = tyro.cli(Options, args=arguments, prog="implayer bench deq")
    sizes, systems = options.shapes("64x256"), options.names([*TORCH, *JAX])
    if options.memory_of:
        return _print_memory(options.memory_of, *sizes[0])
    prepare(options.checked().threads)
    for batch, n in sizes:
        print(f"\n{batch} x {n}")
        rows = measure(systems, Problem.make("deq", batch, n), options.reps, print)
        show(rows)
        found = {row.name: row for row in rows}
        if OURS in found and "torchdeq" in found:
            memory = {name: _memory(name, batch, n) for name in (OURS, "torchdeq")}
            print(f"  {OURS} / torchdeq: time {found[OURS].total / found['torchdeq'].total:.2f}, peak memory "
                  f"{memory[OURS]:.1f} against {memory['torchdeq']:.1f} MiB")  # fmt: skip
    return 0


def _memory(name: str, batch: int, n: int) -> float:
    """Growth of peak resident memory over three calls, in a process of its own."""
    command = [sys.executable, "-m", "applications.bench.deq", "--memory-of", name, "--sizes", f"{batch}x{n}"]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def _print_memory(name: str, batch: int, n: int) -> int:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch_call(name, Problem.make("deq", 2, 4))()  # imports and first-call costs are not the system's memory
    problem = Problem.make("deq", batch, n)
    call, memory = torch_call(name, problem), PeakMemory(torch.device("cpu"))
    for _ in range(3):
        call()
    print(memory.pause())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
