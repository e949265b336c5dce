"""`implayer demo`: one picture, an implicit and an explicit network, the same settings, one table."""

import shutil
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import implayer
from implayer.verify import check_layer

from ..shared.errors import RunFolderError
from ..shared.figures import draw_comparison
from ..shared.options import require_least
from ..shared.pictures import read_picture
from ..shared.process import run_program
from ..shared.run_folder import RunFolder
from .commands import Demo
from .config import ImageConfig
from .grid import grid
from .models.build import build_model
from .models.networks import ImplicitNetwork

_MODELS = {"implicit": ("fourier-imfn", 1), "explicit": ("fourier-mfn", 4)}  # name and depth; all else is equal


def demo(command: Demo) -> int:
    """Fit, check, compare. Each fit has its own process, so that its peak of memory is its own."""
    require_least(command, {"size": 2, "steps": 1} | ({} if command.threads is None else {"threads": 1}))
    if command.out.exists() and not command.out.is_dir():
        raise RunFolderError(f"`--out {command.out}` is no folder; expected a folder, or a name that is free.")
    out, size, steps = command.out, command.size, command.steps
    begin = time.monotonic()
    shown = Console(highlight=False)
    runs = {}
    for kind, (model, depth) in _MODELS.items():
        shown.print(
            f"{kind}: {model}, {depth} layer{'s' if depth > 1 else ''} of width 256, {size} x {size}, {steps} steps"
        )
        runs[kind] = _fit(model, depth, command, out / kind)
        if runs[kind] is None:
            return 1
    shown.print("gradients of the implicit layer:", end=" ")
    shown.print(gradient_check())
    metrics = {kind: run.read_metrics() for kind, run in runs.items() if run is not None}
    shown.print(_table(metrics))
    picture = _picture(out, metrics)
    shown.print(f"picture: {picture}   ({time.monotonic() - begin:.0f} s in all)")
    shown.print(f"next:    implayer fit image YOUR-PICTURE    or    implayer render {out / 'implicit'} --size 1024")
    return 0


def gradient_check() -> str:
    """Check a small instance of the layer that was fitted, with the exact adjoint, and measure the truncated one."""
    torch.set_num_threads(1)
    kind, points = torch.float64, grid(2, 2, dtype=torch.float64)
    model = build_model(ImageConfig(width=6, norm="spectral"), 2, 1, 4.0, kind).eval()
    assert isinstance(model, ImplicitNetwork)
    map = model.map
    solver, start = implayer.Picard(atol=1e-13, rtol=1e-13, max_steps=2000), torch.zeros(4, 6, dtype=kind)
    layer = implayer.FixedPointLayer(map, solver)
    report = check_layer(layer, points, y0=start, orders=2)
    exact = torch.autograd.grad(layer(points, start).square().sum(), list(map.parameters()))
    adjoint = implayer.ImplicitAdjoint(linear_solver=implayer.Neumann(terms=1))
    truncated = implayer.FixedPointLayer(map, solver, adjoint=adjoint)(points, start)
    gradient = torch.autograd.grad(truncated.square().sum(), list(map.parameters()))
    apart = sum((a - b).square().sum() for a, b in zip(gradient, exact, strict=True))
    distance = float(torch.as_tensor(apart / sum(b.square().sum() for b in exact)).sqrt())
    held = sum(result.outcome == "held" for result in report.results)
    checked = f"{held} properties hold on {report.inputs} generated inputs"
    return f"{checked}; training uses T = 1, {distance:.1%} from the exact gradient"


def _fit(model: str, depth: int, options: Demo, out: Path) -> RunFolder | None:
    if out.exists():
        if not (out / "config.json").is_file():
            raise RunFolderError(f"`{out}` is there already and is no run; choose another `--out`.")
        shutil.rmtree(out)
    command = ["fit", "image", "camera", "--model", model, "--depth", str(depth), "--size", str(options.size)]
    command += ["--steps", str(options.steps), "--out", str(out)]
    command += ["--threads", str(options.threads)] if options.threads else []
    command += ["--quiet"] if options.quiet else []
    return RunFolder(out) if run_program(command) == 0 else None


def _table(metrics: dict[str, dict]) -> Table:
    table = Table(title="the same picture, steps, width, learning rate and input scale")
    table.add_column("model")
    for heading in ("PSNR dB", "ms a step", "peak memory MiB", "parameters"):
        table.add_column(heading, justify="right")
    rows = {
        kind: [entry[key] for key in ("psnr", "step_time_ms", "peak_memory_mb", "parameters")]
        for kind, entry in metrics.items()
    }
    for kind, (psnr, step, memory, parameters) in rows.items():
        name, depth = _MODELS[kind]
        table.add_row(
            f"{name} {depth}L-256D ({kind})", f"{psnr:.2f}", f"{step:.0f}", f"{memory:.0f}", f"{parameters:,}"
        )
    implicit, explicit = rows["implicit"], rows["explicit"]
    ratios = [f"{a / b:.2f}" for a, b in zip(implicit[1:], explicit[1:], strict=True)]
    table.add_row("implicit against explicit", f"{implicit[0] - explicit[0]:+.2f}", *ratios, style="bold")
    return table


def _picture(out: Path, metrics: dict[str, dict]) -> Path:
    target = read_picture(out / "implicit" / "target.png").pixels
    results = []
    for kind, (name, depth) in _MODELS.items():
        pixels = read_picture(out / kind / "reconstruction.png").pixels
        results.append((f"{name} {depth}L-256D, {metrics[kind]['psnr']:.2f} dB", pixels))
    draw_comparison(out / "comparison.png", target, results)
    return out / "comparison.png"
