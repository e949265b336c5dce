"""`implayer bench cvxpy`: `CvxpyLayer` beside cvxpylayers, on dense quadratic programs and on examples with cones."""

import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cvxpy as cp
import torch
import tyro
from torch import Tensor

from implayer import CvxpyLayer
from implayer.verify.planted import planted

from ..shared.memory import PeakMemory
from .asked import Asked
from .core import prepare


@dataclass(frozen=True)
class Options(Asked):
    """Time forward and backward, growth of peak memory, error of the gradient; each system in a process of its own."""

    sizes: str = "128x100x0x100,1x500x100x500"
    """Dense quadratic programs: samples x unknowns x equations x inequalities, separated by commas; empty for none."""
    systems: str = "implayer,cvxpylayers"
    """Which systems, separated by commas."""
    reps: int = 9
    """Repetitions, of which the median is printed."""
    examples: str = "soc,sdp,entropy,logistic"
    """Examples with cones, separated by commas; empty for none."""
    batches: str = "1,16"
    """Batch sizes of the examples."""
    limit: float = 3.0
    """Seconds of one call beyond which a system is called only once more."""
    child: str = ""
    """For the program itself: the one case and system that this process runs."""


def main(arguments: list[str]) -> int:
    """Run with command-line arguments; returns the exit code."""
    options = tyro.cli(Options, args=arguments, prog="implayer bench cvxpy")
    if options.child:
        torch.set_num_threads(options.threads)
        torch.set_default_dtype(torch.float64)
        case, system = options.child.split("/")
        print(json.dumps(_measured(case, system, options)))
        return 0
    systems = options.names(SYSTEMS)
    cases = ["x".join(map(str, shape)) for shape in options.programs("128x100x0x100")] if options.sizes else []
    examples = options.names(EXAMPLES, "examples") if options.examples else []
    batches = [batch for (batch,) in options.shapes("16", "batches")] if examples else []
    prepare(options.checked().threads)
    cases += [f"{name}:{batch}" for name in examples for batch in batches]
    for case in cases:
        print(f"\n{case.replace(':', ', batch ')}")
        print(f"  {'system':14} {'forward':>9} {'backward':>9} {'total ms':>9} {'+MB':>7}  err gradient")
        found = {}
        for name in systems:
            row = _in_a_process(replace(options, child=f"{case}/{name}"))
            if "skipped" in row:
                print(f"  {name}: skipped, {row['skipped']}", flush=True)
                continue
            found[name] = row
            total = row["forward"] + row["backward"]
            times = f"{row['forward']:9.2f} {row['backward']:9.2f} {total:9.2f}"
            print(f"  {name:14} {times} {row['memory']:7.0f}  {row['error']:.0e}", flush=True)
        _ratios(found)
    return 0


def _ratios(found: dict[str, dict[str, Any]]) -> None:
    if len(found) < 2 or "implayer" not in found:
        return
    ours = found.pop("implayer")
    for name, row in found.items():
        time_ratio = (ours["forward"] + ours["backward"]) / (row["forward"] + row["backward"])
        memory = ours["memory"] / max(row["memory"], 1e-9)
        print(f"  implayer / {name}: time {time_ratio:.3f}, memory {memory:.3f}", flush=True)


def _in_a_process(options: Options) -> dict[str, Any]:
    """What a fresh process measures, so that the peak of one system is not that of another."""
    words = [f"--{name}={getattr(options, name)}" for name in ("child", "reps", "threads", "limit")]
    command = [sys.executable, "-W", "ignore", "-m", "applications", "bench", "cvxpy", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"skipped": (done.stderr.strip().splitlines() or ["it failed"])[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def _measured(case: str, system: str, options: Options) -> dict[str, Any]:
    try:
        make = SYSTEMS[system]()
    except ImportError as error:
        return {"skipped": str(error)}
    problem = _case(case)
    memory, times, leaves = PeakMemory(torch.device("cpu")), [], []
    layer = make(problem.problem, problem.parameters, problem.variables)
    for _ in range(options.reps + 1):
        leaves = [value.clone().requires_grad_() for value in problem.given]
        gc.collect()
        start = time.perf_counter()
        (y,) = layer(*problem.arguments(leaves, system))
        middle = time.perf_counter()
        (y * problem.weight).sum().backward()
        times.append((middle - start, time.perf_counter() - middle))
        if sum(times[-1]) > options.limit and len(times) > 1:
            break
    peak = memory.pause()
    forward, backward = (1e3 * statistics.median(part) for part in zip(*times[1:], strict=True))
    return {"forward": forward, "backward": backward, "memory": peak, "error": problem.error(leaves)}


# ------------------------------------------------------------------------------------------------------- the systems
def _ours() -> Callable[..., Any]:
    return CvxpyLayer


def _theirs() -> Callable[..., Any]:
    from cvxpylayers.torch import CvxpyLayer as Peer  # type: ignore[import-not-found]

    return Peer


SYSTEMS: dict[str, Callable[[], Callable[..., Any]]] = {"implayer": _ours, "cvxpylayers": _theirs}


# --------------------------------------------------------------------------------------------------------- the cases
@dataclass(frozen=True)
class Case:
    """A problem, the tensors given for its parameters, and the weights of the sum that is differentiated."""

    problem: Any
    parameters: list[Any]
    variables: list[Any]
    given: list[Tensor]
    weight: Tensor
    exact: list[Tensor] | None = None
    root: bool = False  # the first tensor is Q of which the problem has a square root

    def arguments(self, leaves: list[Tensor], system: str) -> list[Tensor]:
        """What a system is called with."""
        del system
        return [torch.linalg.cholesky(leaves[0]).mT, *leaves[1:]] if self.root else leaves

    def error(self, leaves: list[Tensor]) -> float:
        """Largest error of a gradient, relative to its largest entry; beside differences where no exact one is known."""
        if self.exact is not None:
            pairs = zip([leaf.grad for leaf in leaves if leaf.grad is not None], self.exact, strict=True)
            return max(float((found - exact).abs().max() / exact.abs().max()) for found, exact in pairs)
        torch.manual_seed(1)
        directions = [torch.randn_like(value) for value in self.given]
        with torch.no_grad():
            slopes = [self._slope(k, direction) for k, direction in enumerate(directions)]
        found = [
            float((leaf.grad * d).sum()) for leaf, d in zip(leaves, directions, strict=True) if leaf.grad is not None
        ]
        size = max(abs(slope) for slope in slopes)
        return max(abs(a - b) for a, b in zip(found, slopes, strict=True)) / size

    def _slope(self, k: int, direction: Tensor, h: float = 2e-5) -> float:
        """The derivative along a direction, by differences of the sixth order, in steps that cross no kink here."""
        layer, total = CvxpyLayer(self.problem, self.parameters, self.variables), 0.0
        for step, factor in ((1, 45), (2, -9), (3, 1)):
            for sign in (1, -1):
                moved = [v + sign * step * h * direction if i == k else v for i, v in enumerate(self.given)]
                total += sign * factor * float((layer(*moved)[0] * self.weight).sum())
        return total / (60 * h)


def _case(name: str) -> Case:
    if ":" in name:
        example, batch = name.split(":")
        torch.manual_seed(0)
        return EXAMPLES[example](int(batch))
    samples, n, m, p = (int(part) for part in name.split("x"))
    return _quadratic(samples, n, m, p)


def _quadratic(samples: int, n: int, m: int, p: int) -> Case:
    """A planted program, whose Q comes in through a square root, as cvxpylayers needs it."""
    case = planted(samples, n, m, p)
    y, root, q = cp.Variable(n), cp.Parameter((n, n)), cp.Parameter(n)
    parameters, constraints, names = [root, q], [], ["Q", "q"]
    for matrix, bound, rows in (("A", "b", m), ("G", "h", p)):
        if rows:
            parameters += [cp.Parameter((rows, n)), cp.Parameter(rows)]
            value, limit = parameters[-2] @ y, parameters[-1]
            constraints.append(value == limit if matrix == "A" else value <= limit)
            names += [matrix, bound]
    objective = cp.Minimize(0.5 * cp.sum_squares(root @ y) + q @ y)
    given, exact = [case.given[name] for name in names], [case.gradients[name] for name in names]
    return Case(cp.Problem(objective, constraints), parameters, [y], given, case.weight, exact, root=True)


def _batched(batch: int, *tensors: Tensor) -> list[Tensor]:
    return [t if batch == 1 else t + 0.05 * torch.randn(batch, *t.shape) for t in tensors]


def _cones(problem: Any, parameters: list[Any], x: Any, given: list[Tensor]) -> Case:
    batch = given[0].shape[: given[0].ndim - parameters[0].ndim]
    return Case(problem, parameters, [x], given, torch.randn(*batch, *x.shape))


def _soc(batch: int) -> Case:
    """A robust linear program."""
    x, a, F, c = cp.Variable(4), cp.Parameter((5, 4)), cp.Parameter((3, 4)), cp.Parameter(4)
    problem = cp.Problem(cp.Minimize(c @ x), [a @ x + cp.norm(F @ x) <= 1, cp.norm(x) <= 3])
    return _cones(problem, [a, F, c], x, _batched(batch, torch.randn(5, 4), torch.randn(3, 4), torch.randn(4)))


def _sdp(batch: int) -> Case:
    """A semidefinite program."""
    X, C, A = cp.Variable((3, 3), symmetric=True), cp.Parameter((3, 3)), cp.Parameter((3, 3))
    constraints: list[Any] = [X >> 0, cp.trace(A @ X) == 1, cp.trace(X) == 2]
    problem = cp.Problem(cp.Minimize(cp.trace(C @ X)), constraints)
    root = torch.randn(3, 3)
    side = torch.diag(torch.tensor([1.0, 0.2, -1.0])) + 0.1 * torch.randn(3, 3)
    return _cones(problem, [C, A], X, _batched(batch, root @ root.mT, side))


def _entropy(batch: int) -> Case:
    """Entropy maximisation: six exponential cones."""
    x, A, b = cp.Variable(6), cp.Parameter((2, 6)), cp.Parameter(2)
    constraints: list[Any] = [A @ x == b, cp.sum(x) == 1]
    problem = cp.Problem(cp.Maximize(cp.sum(cp.entr(x))), constraints)
    matrix = torch.randn(2, 6)
    return _cones(problem, [A, b], x, _batched(batch, matrix, matrix @ torch.softmax(torch.randn(6), 0)))


def _logistic(batch: int) -> Case:
    """Logistic regression with a penalty: thirty exponential cones."""
    beta, X = cp.Variable(3), cp.Parameter((15, 3))
    labels = [float(i % 2) for i in range(15)]
    gain = cp.sum(cp.multiply(labels, X @ beta) - cp.logistic(X @ beta)) / 15
    problem = cp.Problem(cp.Maximize(gain - 0.1 * cp.sum_squares(beta)))
    return _cones(problem, [X], beta, _batched(batch, torch.randn(15, 3)))


EXAMPLES: dict[str, Callable[[int], Case]] = {
    "soc": _soc,
    "sdp": _sdp,
    "entropy": _entropy,
    "logistic": _logistic,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
