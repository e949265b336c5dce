"""Figures 3 and 4 of "Implicitly Defined Layers in Neural Networks": learning curves, and time over parameters."""

import gc
import statistics
import time
from typing import Any

import torch

from ..shared.application import carry_on
from ..shared.devices import set_threads
from ..shared.figures import Line, Panel, draw_lines
from ..shared.files import write_json
from ..shared.options import RunOptions, require_least
from ..shared.run_folder import versions
from .commands import Figure3, Figure4, TrainMnistQP
from .config import LayerName, MnistConfig
from .model import QuadraticScores
from .solvers import installed
from .train import DIGITS, draw_learning

LAYERS: tuple[LayerName, ...] = ("implicit", "qpth")
PAPER_ACCURACY = 98.14
SIZES = (5, 10, 20, 50, 100)  # unknowns, with as many inequalities
BATCHES = (1, 64)  # one problem alone, and a batch of the training
_LIMIT_SECONDS = 30.0  # for all trials of one size


def learning_curves(command: Figure3) -> None:
    """Figure 3: train with our layer and with qpth from the same weights. Interrupted, it goes on when called again."""
    require_least(command, {"epochs": 1})
    out, epochs = command.folder("idl-fig3"), command.epochs
    options = RunOptions(quiet=command.quiet, threads=command.threads, device="cpu")
    histories: dict[str, Any] = {}
    found: dict[str, dict[str, Any]] = {}
    for layer in _present():
        config = MnistConfig(layer=layer, epochs=epochs, samples=command.samples, seed=command.seed)
        new = TrainMnistQP(config=config, options=options, out=out / layer, data=command.data)
        found[layer] = carry_on(DIGITS, new).read_metrics()
        histories[layer] = found[layer]["history"]
    draw_learning(out / "idl-fig3.png", histories, next(iter(found.values()))["steps_of_an_epoch"])
    kept = ("accuracy", "test_loss", "step_time_ms", "seconds", "degenerate", "unsolved", "data_set", "seed", "history")
    layers = {layer: {name: metrics[name] for name in kept} for layer, metrics in found.items()}
    write_json(out / "idl-fig3.json", {"paper_accuracy": PAPER_ACCURACY, "layers": layers, "versions": versions()})
    for layer, metrics in found.items():
        print(
            f"{layer:9} test accuracy {metrics['accuracy']:.2f} % after {epochs} epochs (paper: {PAPER_ACCURACY} after "
            f"15), {metrics['step_time_ms']:.1f} ms a step"
        )
    print(f"{out / 'idl-fig3.png'}")


def runtimes(command: Figure4) -> None:
    """Figure 4: forward and backward of the layer alone, systems in turn, over the number of its parameters."""
    require_least(command, {"trials": 1})
    out = command.folder("idl-fig4")
    threads = set_threads(command.threads)
    layers, rows = _present(), []
    for batch in BATCHES:
        for n in SIZES:
            found = _measured(n, batch, layers, command.trials, command.seed)
            rows += found
            if not command.quiet:
                print(f"batch {batch:2}, {found[0]['parameters']:5} parameters:  " + _sentence(found), flush=True)
    write_json(out / "idl-fig4.json", {"threads": threads, "rows": rows, "versions": versions()})
    draw_lines(out / "idl-fig4.png", [_panel(rows, batch, layers) for batch in BATCHES])
    print(f"{out / 'idl-fig4.png'}")


def _present() -> list[LayerName]:
    layers: list[LayerName] = [layer for layer in LAYERS if installed(layer)]
    for layer in LAYERS:
        if layer not in layers:
            print(f"{layer} is not installed, so it is left out: `pip install {layer}` brings it in")
    return layers


def _measured(n: int, batch: int, layers: list[LayerName], trials: int, seed: int) -> list[dict[str, Any]]:
    torch.manual_seed(seed)
    models: dict[LayerName, QuadraticScores] = {layers[0]: QuadraticScores(n, n, 0, 1e-4, layers[0])}
    for layer in layers[1:]:
        models[layer] = QuadraticScores(n, n, 0, 1e-4, layer)
        models[layer].load_state_dict(models[layers[0]].state_dict())
    features, weight = torch.rand(batch, n, dtype=torch.float64), torch.randn(batch, n, dtype=torch.float64)
    times: dict[LayerName, list[tuple[float, float]]] = {layer: [] for layer in layers}
    for model in models.values():  # the first call imports and allocates
        _trial(model, features, weight)
    begin = time.perf_counter()
    for _ in range(trials):
        gc.collect()
        for layer, model in models.items():
            times[layer].append(_trial(model, features, weight))
        if time.perf_counter() - begin > _LIMIT_SECONDS:
            break
    return [_row(layer, models[layer], batch, n, times[layer]) for layer in layers]


def _trial(model: QuadraticScores, features: torch.Tensor, weight: torch.Tensor) -> tuple[float, float]:
    given = features.clone().requires_grad_()
    model.zero_grad()
    start = time.perf_counter()
    z = model(given, given[:, :0]).z
    middle = time.perf_counter()
    (z * weight).sum().backward()
    return middle - start, time.perf_counter() - middle


def _row(layer: str, model: QuadraticScores, batch: int, n: int, times: list[tuple[float, float]]) -> dict[str, Any]:
    forward, backward = zip(*times, strict=True)
    return {
        "layer": layer,
        "batch": batch,
        "unknowns": n,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trials": len(times),
        "forward_seconds": statistics.mean(forward),
        "backward_seconds": statistics.mean(backward),
        "forward_median": statistics.median(forward),
        "backward_median": statistics.median(backward),
    }


def _sentence(found: list[dict[str, Any]]) -> str:
    parts = [
        f"{row['layer']} {1e3 * row['forward_median']:.2f} + {1e3 * row['backward_median']:.2f} ms" for row in found
    ]
    return ",  ".join(parts) + " forward + backward"


def _panel(rows: list[dict[str, Any]], batch: int, layers: list[LayerName]) -> Panel:
    lines = []
    for layer in layers:
        chosen = [row for row in rows if row["layer"] == layer and row["batch"] == batch]
        for part in ("forward", "backward"):
            x, y = [row["parameters"] for row in chosen], [row[f"{part}_median"] for row in chosen]
            lines.append(Line(f"{layer}, {part}", x, y, dashed=part == "backward", group=layer))
    title = "one problem" if batch == 1 else f"{batch} problems"
    return Panel(title, "trainable parameters of the layer", "seconds", lines, log_x=True, log_y=True)
