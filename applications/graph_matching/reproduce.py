"""Figures 6 and 7 of "Implicitly Defined Layers in Neural Networks": accuracy over iterations, time over size."""

import gc
import statistics
import time
from typing import Any

import numpy as np
import torch
from torch import nn

from implayer.layers.affinity import Affinity

from ..shared.application import carry_on
from ..shared.devices import set_threads
from ..shared.figures import Line, Panel, draw_lines
from ..shared.files import write_json
from ..shared.options import RunOptions, require_least
from ..shared.run_folder import versions
from .commands import Figure6, Figure7, TrainGraphMatching
from .config import LayerName, MatchingConfig
from .graphs import delaunay
from .model import Side, build_layer, by_length
from .train import MATCHING

LAYERS: dict[str, tuple[LayerName, int]] = {
    "SM": ("sm", 5),
    "SMAC": ("smac", 5),
    "PI(1)": ("pi", 1),
    "PI(5)": ("pi", 5),
    "PI(20)": ("pi", 20),
}
SIZES = (8, 15, 30, 50, 80, 120)
_EVALUATIONS = 10  # of a training
_LIMIT_SECONDS = 20.0  # for all trials of one size


def training_curves(command: Figure6) -> dict[str, dict[str, Any]]:
    """Figure 6: train every layer from the same weights on the same pairs. Interrupted, it goes on when called again."""
    require_least(command, {"steps": 1, "batch": 1, "pairs": 1})
    out = command.folder("idl-fig6")
    options = RunOptions(quiet=command.quiet, threads=command.threads, device="cpu")
    found: dict[str, dict[str, Any]] = {}
    for name, (layer, pi_steps) in LAYERS.items():
        config = MatchingConfig(
            data_set="cub", layer=layer, pi_steps=pi_steps, steps=command.steps, batch=command.batch, seed=command.seed,
            test_pairs=command.pairs, evaluate_every=max(command.steps // _EVALUATIONS, 1), nodes=True,
        )  # fmt: skip
        new = TrainGraphMatching(config=config, options=options, out=out / name, data=command.data)
        found[name] = carry_on(MATCHING, new).read_metrics()
    every = max(command.steps // _EVALUATIONS, 1)
    draw_lines(out / "idl-fig6.png", _curves(found, every))
    kept = ("accuracy", "pck", "alpha", "step_time_ms", "seconds", "seed", "history")
    layers = {name: {key: metrics[key] for key in kept} for name, metrics in found.items()}
    write_json(out / "idl-fig6.json", {"layers": layers, "evaluate_every": every, "versions": versions()})
    for name, metrics in found.items():
        print(
            f"{name:6} PCK({metrics['alpha']:g}) {metrics['pck']:.1f} %, accuracy {metrics['accuracy']:.1f} % after "
            f"{command.steps} steps, {metrics['step_time_ms']:.0f} ms a step"
        )
    print(f"{out / 'idl-fig6.png'}")
    return found


def _curves(found: dict[str, dict[str, Any]], every: int) -> list[Panel]:
    panels = []
    for key, label in (
        ("pck", "landmarks within a tenth of the box's diagonal"),
        ("accuracy", "one-to-one assignment"),
    ):
        lines = []
        for name, metrics in found.items():
            values = metrics["history"][key]
            steps = [float(every * (index + 1)) for index in range(len(values))]
            lines.append(Line(name, steps, values, group=name, dashed=name.startswith("PI")))
        panels.append(Panel(label, "iteration", "per cent of test landmarks", lines))
    return panels


def runtimes(command: Figure7) -> list[dict[str, Any]]:
    """Figure 7: forward and backward of the layers alone on Delaunay graphs, layers in turn."""
    require_least(command, {"trials": 1, "largest": SIZES[0]})
    out = command.folder("idl-fig7")
    threads = set_threads(command.threads)
    layers = {name: build_layer(*LAYERS[name]) for name in ("SM", "SMAC", "PI(5)")}
    rows: list[dict[str, Any]] = []
    for n in (size for size in SIZES if size <= command.largest):
        found = _measured(n, layers, command)
        rows += found
        if not command.quiet:
            said = (f"{row['layer']} {1e3 * row['forward']:.1f} + {1e3 * row['backward']:.1f} ms" for row in found)
            print(f"{n:4} points:  " + ",  ".join(said) + " forward + backward", flush=True)
    write_json(out / "idl-fig7.json", {"threads": threads, "rows": rows, "versions": versions()})
    draw_lines(out / "idl-fig7.png", [_time_panel(rows, part) for part in ("forward", "backward")])
    print(f"{out / 'idl-fig7.png'}")
    return rows


def _measured(n: int, layers: dict[str, nn.Module], command: Figure7) -> list[dict[str, Any]]:
    generator = np.random.default_rng(command.seed)
    points = generator.random((n, 2)) * n**0.5
    moved = points + 0.05 * generator.standard_normal((n, 2))
    first, second = (Side(torch.from_numpy(each), delaunay(each)) for each in (points, moved))
    M = by_length(first, second)
    weight = torch.from_numpy(generator.standard_normal((n, n)))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in layers}
    for layer in layers.values():  # the first call imports and allocates
        _trial(layer, M, weight)
    begin = time.perf_counter()
    for _ in range(command.trials):
        gc.collect()
        for name, layer in layers.items():
            times[name].append(_trial(layer, M, weight))
        if time.perf_counter() - begin > _LIMIT_SECONDS:
            break
    return [
        {
            "layer": name,
            "points": n,
            "unknowns": n * n,
            "stored": 4 * M.edges.numel() + n * n,
            "trials": len(measured),
            "forward": statistics.median(pair[0] for pair in measured),
            "backward": statistics.median(pair[1] for pair in measured),
        }
        for name, measured in times.items()
    ]


def _trial(layer: nn.Module, M: Affinity, weight: torch.Tensor) -> tuple[float, float]:
    edges = M.edges.detach().requires_grad_()
    given = Affinity(M.nodes, edges, M.source, M.target)
    start = time.perf_counter()
    X = layer(given)
    middle = time.perf_counter()
    (X * weight).sum().backward()
    return middle - start, time.perf_counter() - middle


def _time_panel(rows: list[dict[str, Any]], part: str) -> Panel:
    lines = []
    for name in dict.fromkeys(row["layer"] for row in rows):
        chosen = [row for row in rows if row["layer"] == name]
        lines.append(Line(name, [row["points"] for row in chosen], [row[part] for row in chosen], group=name))
    return Panel(part, "points of each graph", "seconds", lines, log_x=True, log_y=True)
