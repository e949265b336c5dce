"""`implayer bench qp`: quadratic programs forward and backward, beside qpth, proxsuite and cvxpylayers."""

import gc
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor

from implayer import QPLayer
from implayer.verify.planted import NAMES, Planted, planted

from ..shared.errors import InputError
from .asked import Asked
from .core import prepare

Call = Callable[..., Tensor]


@dataclass(frozen=True)
class Options(Asked):
    """Planted problems with a third of the rows active: milliseconds, errors of y and of the worst of six gradients."""

    sizes: str = "1x10x0x10,64x10x0x10,64x50x10x50,128x100x0x100,1x500x100x500,1x1000x0x1000"
    """Samples x unknowns x equations x inequalities, separated by commas."""
    systems: str = "implayer,qpth,proxsuite,cvxpylayers"
    """Which systems, separated by commas."""
    reps: int = 9
    """Repetitions, of which the median is printed."""
    dtype: str = "float64"
    """float64 or float32."""
    limit: float = 3.0
    """Seconds of one call beyond which a system is called no second time."""


def main(arguments: list[str]) -> int:
    """Run with command-line arguments; returns the exit code."""
    options = tyro.cli(Options, args=arguments, prog="implayer bench qp")
    shapes, names = options.programs("64x50x10x50"), options.names(SYSTEMS)
    if options.dtype not in ("float64", "float32"):
        raise InputError(f"`--dtype` is `{options.dtype}`; expected float64 or float32.")
    prepare(options.checked().threads)
    for samples, n, m, p in shapes:
        print(f"\n{samples} x {n} x {m} x {p}")
        print(f"  {'system':14} {'forward':>9} {'backward':>9} {'total ms':>9}  {'err y':>7}  err gradient")
        case, calls = planted(samples, n, m, p, dtype=getattr(torch, options.dtype)), {}
        for name in names:
            try:
                calls[name] = SYSTEMS[name](case)
            except ImportError as error:
                print(f"  {name}: skipped, {error}")
        found = _measured(calls, case, options)
        for name, (forward, backward, y, gradient) in found.items():
            print(
                f"  {name:14} {forward:9.2f} {backward:9.2f} {forward + backward:9.2f}  {y:7.0e}  {gradient:.0e}",
                flush=True,
            )
        _ratios(found)
    return 0


def _ratios(found: dict[str, tuple[float, float, float, float]]) -> None:
    others = {name: row for name, row in found.items() if name != "implayer"}
    if "implayer" not in found or not others:
        return
    ours = sum(found["implayer"][:2])
    name, row = min(others.items(), key=lambda item: sum(item[1][:2]))
    print(f"  implayer / fastest ({name}): {ours / sum(row[:2]):.2f}")
    exact = {name: row for name, row in others.items() if row[3] <= 1e-7}
    if exact:
        name, row = min(exact.items(), key=lambda item: sum(item[1][:2]))
        print(f"  implayer / fastest with gradients right to 1e-7 ({name}): {ours / sum(row[:2]):.2f}")
    if "qpth" in found:
        print(f"  backward, implayer / qpth: {found['implayer'][1] / found['qpth'][1]:.2f}")


def _measured(calls: dict[str, Call], case: Planted, options: Options) -> dict[str, tuple[float, float, float, float]]:
    """Medians of all systems, which are called in turn, so that other work on the machine meets all of them."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    errors: dict[str, tuple[float, float]] = {}
    for _ in range(options.reps + 1):
        for name, call in calls.items():
            if times[name] and sum(times[name][-1]) > options.limit:
                continue
            leaves = {key: value.clone().requires_grad_(value.numel() > 0) for key, value in case.given.items()}
            gc.collect()
            start = time.perf_counter()
            y = call(*leaves.values())
            middle = time.perf_counter()
            (y * case.weight.to(y.dtype)).sum().backward()
            times[name].append((middle - start, time.perf_counter() - middle))
            gradients = [_error(leaves[key].grad, case.gradients[key]) for key in NAMES if case.given[key].numel()]
            errors[name] = _error(y.detach(), case.y), max(gradients)
    found = {}
    for name, taken in times.items():  # the first call imports and allocates
        forward, backward = (1e3 * statistics.median(part) for part in zip(*(taken[1:] or taken), strict=True))
        found[name] = forward, backward, *errors[name]
    return found


def _error(found: Tensor | None, expected: Tensor) -> float:
    if found is None:
        return 1.0
    return float((found.double() - expected).abs().max() / expected.abs().max())


def ours(case: Planted) -> Call:
    """`QPLayer` with its defaults."""
    del case
    return QPLayer()


def qpth(case: Planted) -> Call:
    """OptNet's batched interior point."""
    from qpth.qp import QPFunction  # type: ignore[import-not-found]

    del case

    def call(Q: Tensor, q: Tensor, A: Tensor, b: Tensor, G: Tensor, h: Tensor) -> Tensor:
        empty = torch.empty(0, dtype=Q.dtype)
        equations = (A, b) if A.shape[1] else (empty, empty)
        return QPFunction(verbose=-1)(Q, q, G, h, *equations)

    return call


def proxsuite(case: Planted) -> Call:
    """The augmented Lagrangian of ProxQP, sample by sample."""
    from proxsuite.torch.qplayer import QPFunction  # type: ignore[import-not-found]

    del case
    return lambda Q, q, A, b, G, h: QPFunction()(Q, q, A, b, G, torch.full_like(h, -1e20), h)[0]


def cvxpylayers(case: Planted) -> Call:
    """Cones, with a square root of Q as parameter."""
    import cvxpy
    from cvxpylayers.torch import CvxpyLayer  # type: ignore[import-not-found]

    n, m, p = case.given["Q"].shape[1], case.given["A"].shape[1], case.given["G"].shape[1]
    y, root, q = cvxpy.Variable(n), cvxpy.Parameter((n, n)), cvxpy.Parameter(n)
    parameters, constraints = [root, q], []
    for rows, shape in (("A", m), ("G", p)):
        if shape:
            matrix, bound = cvxpy.Parameter((shape, n)), cvxpy.Parameter(shape)
            parameters += [matrix, bound]
            constraints.append(matrix @ y == bound if rows == "A" else matrix @ y <= bound)
    problem = cvxpy.Problem(cvxpy.Minimize(0.5 * cvxpy.sum_squares(root @ y) + q @ y), constraints)
    layer = CvxpyLayer(problem, parameters=parameters, variables=[y])

    def call(Q: Tensor, q: Tensor, *rest: Tensor) -> Tensor:
        given = [part for part in rest if part.shape[1]]
        return layer(torch.linalg.cholesky(Q).mT, q, *given)[0]

    return call


SYSTEMS: dict[str, Callable[[Planted], Call]] = {
    "implayer": ours,
    "qpth": qpth,
    "proxsuite": proxsuite,
    "cvxpylayers": cvxpylayers,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
