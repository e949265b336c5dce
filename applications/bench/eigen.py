"""`implayer bench eigen`: normalised cuts of picture graphs, forward and backward, beside a SciPy floor and the peers."""

import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sparse
import scipy.sparse.linalg as sparse_linalg
import torch
import tyro
from torch import Tensor

from implayer.layers.eigen import EigenLayer

from ..shared.errors import InputError
from ..shared.memory import PeakMemory
from .asked import Asked
from .core import prepare

PAIRS = 3


@dataclass(frozen=True)
class Options(Asked):
    """Three lowest pairs of the normalised cut of a grid with learned weights: seconds, errors, memory, ratios."""

    sizes: str = "16,32,64,128,256,512"
    """Sides of the pictures, separated by commas; a graph has side^2 nodes. Empty for none."""
    systems: str = "implayer,floor,eigh,torch.lobpcg,xitorch"
    """Which systems, separated by commas."""
    reps: int = 3
    """Repetitions, of which the median is printed."""
    batches: str = "64x32x3,64x32x32"
    """Dense batches: samples x n x pairs, separated by commas; empty for none."""
    limit: float = 20.0
    """Seconds of one call beyond which a system gets no larger graph."""
    memory_of: str = ""
    """Used by itself: print the growth of peak memory of one system alone."""


@dataclass(frozen=True)
class Graph:
    """A grid with 4 neighbours: edges, weights that came from differences of a feature, and the loss of the pairs."""

    edges: Tensor  # (2, m)
    weights: Tensor  # (m,)
    values: Tensor  # (3,) of the loss
    vectors: Tensor  # (n, 3) of the loss

    @property
    def n(self) -> int:
        """Number of nodes."""
        return len(self.vectors)

    @staticmethod
    def grid(side: int) -> "Graph":
        """A smooth picture with noise, from one seed."""
        generator = torch.Generator().manual_seed(0)
        index = torch.arange(side * side).reshape(side, side)
        across = torch.stack([index[:, :-1].flatten(), index[:, 1:].flatten()])
        down = torch.stack([index[:-1].flatten(), index[1:].flatten()])
        edges = torch.cat([across, down], 1)
        t = torch.linspace(0, 3, side)
        picture = torch.sin(t)[:, None] * torch.cos(2 * t)[None] + 0.3 * torch.randn(side, side, generator=generator)
        jump = (picture.flatten()[edges[0]] - picture.flatten()[edges[1]]).square()
        n = side * side
        return Graph(
            edges,
            1e-4 + torch.exp(-4 * jump),
            torch.tensor([0.0, 1.0, 2.0]),
            torch.randn(n, PAIRS, generator=generator),
        )

    def loss(self, values: Tensor, vectors: Tensor) -> Tensor:
        """Any loss of all pairs; squares, so that signs do not matter."""
        return (values * self.values).sum() + (vectors.square() * self.vectors).sum()

    def laplacian(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """D - W as a sparse tensor, and the diagonal of D."""
        i, j = self.edges
        degree = torch.zeros(self.n, dtype=w.dtype).index_add(0, i, w).index_add(0, j, w)
        nodes = torch.arange(self.n)
        index = torch.stack([torch.cat([i, j, nodes]), torch.cat([j, i, nodes])])
        values = torch.cat([-w, -w, degree])
        return torch.sparse_coo_tensor(index, values, (self.n, self.n), check_invariants=False).coalesce(), degree


Sample = tuple[float, float, Tensor]
Call = Callable[[], Sample]


def _timed(forward: Callable[[Tensor], tuple[Tensor, Tensor]], graph: Graph) -> Call:
    def call() -> Sample:
        w = graph.weights.clone().requires_grad_()
        start = time.perf_counter()
        values, vectors = forward(w)
        middle = time.perf_counter()
        (gradient,) = torch.autograd.grad(graph.loss(values, vectors), w)
        return middle - start, time.perf_counter() - middle, gradient

    return call


def ours(graph: Graph) -> Call:
    """`EigenLayer` with its defaults on a sparse pencil."""
    layer = EigenLayer(PAIRS)
    return _timed(lambda w: layer(*graph.laplacian(w)), graph)


def eigh(graph: Graph) -> Call:
    """All pairs of the dense normalised Laplacian by torch."""

    def forward(w: Tensor) -> tuple[Tensor, Tensor]:
        laplacian, degree = graph.laplacian(w)
        root = degree.rsqrt()
        values, vectors = torch.linalg.eigh(root[:, None] * laplacian.to_dense() * root)
        return values[:PAIRS], vectors[:, :PAIRS] * root[:, None]

    return _timed(forward, graph)


def torch_lobpcg(graph: Graph) -> Call:
    """`torch.lobpcg` on the dense normalised Laplacian, for it differentiates nothing else."""

    def forward(w: Tensor) -> tuple[Tensor, Tensor]:
        laplacian, degree = graph.laplacian(w)
        root = degree.rsqrt()
        torch.manual_seed(0)
        dense = root[:, None] * laplacian.to_dense() * root
        values, vectors = torch.lobpcg(dense, PAIRS, largest=False, niter=1000, tol=1e-10)
        return values, vectors * root[:, None]

    return _timed(forward, graph)


def xitorch(graph: Graph) -> Call:
    """`xitorch.linalg.symeig` with its defaults."""
    import xitorch as package  # type: ignore[import-not-found]
    import xitorch.linalg as linalg  # type: ignore[import-not-found]

    def forward(w: Tensor) -> tuple[Tensor, Tensor]:
        laplacian, degree = graph.laplacian(w)
        matrix = package.LinearOperator.m(laplacian.to_dense(), is_hermitian=True)
        weight = package.LinearOperator.m(torch.diag(degree), is_hermitian=True)
        return linalg.symeig(matrix, PAIRS, "lowest", weight)

    return _timed(forward, graph)


def floor(graph: Graph) -> Call:
    """What NumPy and SciPy alone need, for this problem: one factor, Lanczos, and preconditioned CG."""

    def call() -> Sample:
        start = time.perf_counter()
        i, j = graph.edges.numpy()
        w, n = graph.weights.numpy(), graph.n
        degree = np.bincount(i, w, n) + np.bincount(j, w, n)
        adjacency = sparse.coo_array((np.concatenate([w, w]), (np.concatenate([i, j]), np.concatenate([j, i]))), (n, n))
        weight = sparse.dia_array((degree[None], [0]), shape=(n, n)).tocsc()
        laplacian = (weight - adjacency).tocsc()
        shift = -1e-6
        options = {"SymmetricMode": True}
        lu = sparse_linalg.splu(laplacian - shift * weight, "MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
        inverse = sparse_linalg.LinearOperator((n, n), matvec=lu.solve, dtype=np.float64)  # type: ignore[call-arg]
        ramp = 0.5 + np.modf(np.arange(1, n + 1) * 0.6180339887)[0]
        values, vectors = sparse_linalg.eigsh(laplacian, PAIRS, weight, shift, "LM", ramp, OPinv=inverse)
        middle = time.perf_counter()
        slope = 2 * vectors * graph.vectors.numpy()
        p, m = _floor_adjoint(laplacian, degree, lu, values, vectors, slope, graph.values.numpy())
        gradient = _floor_gradient(i, j, values, vectors, p, m)
        return middle - start, time.perf_counter() - middle, torch.from_numpy(gradient)

    return call


def _floor_adjoint(laplacian: Any, degree: Any, lu: Any, values: Any, v: Any, gv: Any, gl: Any) -> tuple[Any, Any]:
    """[p; m] of the bordered systems of all pairs."""
    image = degree[:, None] * v
    inner = v.T @ gv
    gaps = values[:, None] - values
    np.fill_diagonal(gaps, np.inf)
    p, m = v @ (inner / gaps) - v * gl, -np.diag(inner)
    rhs = gv - image @ inner
    x, r = np.zeros_like(rhs), rhs
    z = lu.solve(r)
    z -= v @ (image.T @ z)
    d, rho, size = z, np.einsum("ij,ij->j", r, z), np.linalg.norm(rhs, axis=0)
    while (np.linalg.norm(r, axis=0) > 1e-11 * size).any():
        q = laplacian @ d - degree[:, None] * d * values
        alpha = rho / np.einsum("ij,ij->j", d, q)
        x, r = x + alpha * d, r - alpha * q
        z = lu.solve(r)
        z -= v @ (image.T @ z)
        rho, old = np.einsum("ij,ij->j", r, z), rho
        d = z + rho / old * d
    return p + x, m


def _floor_gradient(i: Any, j: Any, values: Any, v: Any, p: Any, m: Any) -> Any:
    """dL/dw of every edge: A = D - W and B = D, of which an edge is in both ends of D."""
    slope_a = -(p[i] - p[j]) * (v[i] - v[j])
    ends = values * (p[i] * v[i] + p[j] * v[j]) + 0.5 * m * (v[i] ** 2 + v[j] ** 2)
    return (slope_a + ends).sum(1)


SYSTEMS: dict[str, Callable[[Graph], Call]] = {
    "implayer": ours,
    "floor": floor,
    "eigh": eigh,
    "torch.lobpcg": torch_lobpcg,
    "xitorch": xitorch,
}
MOST = {"eigh": 2500, "torch.lobpcg": 2500, "xitorch": 2500}  # nodes beyond which a dense matrix is not tried


def main(arguments: list[str]) -> int:
    """Run with command-line arguments; returns the exit code."""
    options = tyro.cli(Options, args=arguments, prog="implayer bench eigen")
    sides = [side for (side,) in options.shapes("128")] if options.sizes else []
    if options.memory_of:
        return _print_memory(options.memory_of, sides[0])
    names = options.names(SYSTEMS)
    batches = options.shapes("64x32x3", "batches") if options.batches else []
    for samples, n, k in batches:
        if not 1 <= k <= n:
            raise InputError(f"`--batches` holds `{samples}x{n}x{k}`: {k} pairs of {n} rows; expected 1 to {n}.")
    prepare(options.checked().threads)
    for side in sides:
        names = _one_size(side, names, options)
    for samples, n, k in batches:
        _dense_batch(samples, n, k, options.reps)
    return 0


def _one_size(side: int, names: list[str], options: Options) -> list[str]:
    """Measure and print one graph; returns the systems that may go on."""
    graph = Graph.grid(side)
    print(f"\n{side} x {side} pixels, n = {graph.n}")
    print(f"  {'system':14} {'forward':>9} {'backward':>9} {'total s':>9} {'MiB':>6}   error of the gradient")
    calls, samples = {}, {}
    for name in names:
        if graph.n > MOST.get(name, graph.n):
            print(f"  {name}: stops at {MOST[name]} nodes")
            continue
        try:
            calls[name] = SYSTEMS[name](graph)
            samples[name] = [calls[name]()]
        except (ImportError, RuntimeError, ValueError) as error:
            print(f"  {name}: skipped, {str(error).splitlines()[0][:100]}")
            calls.pop(name, None)
    for _ in range(options.reps):
        for name, call in calls.items():
            if sum(samples[name][0][:2]) < options.limit:
                gc.collect()
                samples[name].append(call())
    _show(side, samples)
    return [name for name in names if name not in samples or sum(samples[name][-1][:2]) < options.limit]


def _show(side: int, samples: dict[str, list[Sample]]) -> None:
    reference = next((samples[name][-1][2] for name in ("floor", "eigh", "implayer") if name in samples), None)
    totals = {}
    for name, taken in samples.items():
        forward, backward = (statistics.median(part) for part in zip(*[s[:2] for s in taken[1:] or taken], strict=True))
        totals[name] = forward + backward
        assert reference is not None
        error = float((taken[-1][2] - reference).norm() / reference.norm())
        memory = _memory(name, side) if side >= 128 else float("nan")
        print(f"  {name:14} {forward:9.4f} {backward:9.4f} {totals[name]:9.4f} {memory:6.0f}   {error:.0e}", flush=True)
    if "implayer" in totals:
        ratios = [f"{name} {totals['implayer'] / total:.2f}" for name, total in totals.items() if name != "implayer"]
        print(f"  implayer / {', '.join(ratios)}")


def _memory(name: str, side: int) -> float:
    """Growth of peak resident memory of one call, in a process of its own."""
    command = [sys.executable, "-m", "applications.bench.eigen", "--memory-of", name, "--sizes", str(side)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def _print_memory(name: str, side: int) -> int:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    SYSTEMS[name](Graph.grid(16))()  # imports and first-call costs are not the system's memory
    graph = Graph.grid(side)
    call, memory = SYSTEMS[name](graph), PeakMemory(torch.device("cpu"))
    call()
    print(memory.pause())
    return 0


def _dense_batch(samples: int, n: int, k: int, reps: int) -> None:
    """A batch of dense matrices beside `torch.linalg.eigh` with autograd, taken in turn."""
    generator = torch.Generator().manual_seed(0)
    m = torch.randn(samples, n, n, generator=generator)
    weight, layer = torch.randn(samples, n, k, generator=generator), EigenLayer(k)

    def theirs(A: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(A)
        return values[..., :k], vectors[..., :k]

    taken: dict[str, list[tuple[float, float]]] = {"implayer": [], "eigh": []}
    for _ in range(30 * reps + 1):
        for name, call in (("implayer", layer), ("eigh", theirs)):
            A = (m + m.mT).requires_grad_()
            start = time.perf_counter()
            values, vectors = call(A)
            middle = time.perf_counter()
            (values.sum() + (weight * vectors.square()).sum()).backward()
            taken[name].append((middle - start, time.perf_counter() - middle))
    print(f"\ndense batch, {samples} x ({n} x {n}), {k} pairs: milliseconds forward and backward")
    totals = {}
    for name, times in taken.items():
        forward, backward = (1e3 * statistics.median(part) for part in zip(*times[1:], strict=True))
        totals[name] = forward + backward
        print(f"  {name:14} {forward:9.2f} {backward:9.2f} {totals[name]:9.2f}")
    print(f"  implayer / eigh: {totals['implayer'] / totals['eigh']:.2f}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
