"""Table 1 and figure 11 of "Implicitly Defined Layers in Neural Networks": voxels against level sets."""

import statistics
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from ..shared.application import carry_on, load_trained
from ..shared.data import data_root
from ..shared.devices import set_threads
from ..shared.files import write_json
from ..shared.options import RunOptions, require_least
from ..shared.pictures import write_picture
from ..shared.run_folder import RunFolder, versions
from .commands import Table1, TrainShapes
from .config import Head, ShapesConfig
from .data import prepared
from .model import build_model
from .task import predicted
from .train import SHAPES, draw_learning, shape_sheet
from .voxels import load_shapes

HEADS: tuple[Head, ...] = ("voxels", "field", "level-set")
PAPER = {"voxels": (0.8144, 0.0630), "level-set": (0.8680, 0.0359)}  # IoU and Chamfer distance, cars of ShapeNet


def table_1(command: Table1) -> None:
    """Train the three heads with every seed, from the same shapes and in the same number of steps.

    Interrupted, it goes on when called again.
    """
    require_least(command, {"epochs": 1, "seeds": 1, "shapes": 0})
    data_root(command.data)  # which has to be there before anything is made
    out = command.folder("idl-table1")
    set_threads(command.threads)
    found: dict[str, list[dict[str, Any]]] = {head: [] for head in HEADS}
    for seed in range(command.seed, command.seed + command.seeds):
        for head in HEADS:
            metrics = _trained(out / f"{head}-{seed}", _config(command, head, seed), command).read_metrics()
            found[head].append(metrics)
            if not command.quiet:
                print(
                    f"{head}, seed {seed}: IoU {metrics['iou']:.4f}, Chamfer distance {metrics['chamfer']:.4f}",
                    flush=True,
                )
    first = {head: metrics[0] for head, metrics in found.items()}
    histories = {head: metrics["history"] for head, metrics in first.items()}
    draw_learning(out / "idl-table1-curves.png", histories, first["voxels"]["steps_of_an_epoch"])
    _draw_shapes(out, command)
    rows = {head: _row(head, metrics) for head, metrics in found.items()}
    kept = {"epochs": command.epochs, "category": command.category, "threads": torch.get_num_threads()}
    write_json(out / "idl-table1.json", {"heads": rows, **kept, "versions": versions()})
    Console(highlight=False).print(_table(rows, command))
    print(_verdict(rows))
    print(f"{out / 'idl-table1.png'}")


def _config(command: Table1, head: Head, seed: int) -> ShapesConfig:
    return ShapesConfig(
        head=head, category=command.category, epochs=command.epochs, shapes=command.shapes, seed=seed
    )  # fmt: skip


def _trained(path: Path, config: ShapesConfig, command: Table1) -> RunFolder:
    options = RunOptions(quiet=command.quiet, threads=command.threads, device="cpu")
    return carry_on(SHAPES, TrainShapes(config=config, options=options, out=path, data=command.data))


def _draw_shapes(out: Path, command: Table1) -> None:
    """Figure 11: true shapes, pictures, level sets, voxels, of the first seed."""
    device, fields = torch.device("cpu"), []
    shapes = load_shapes("auto", command.category, data_root(command.data))
    for head in ("level-set", "voxels"):
        config = _config(command, head, command.seed)
        model, examples = build_model(config), prepared(shapes, config)[1]
        load_trained(RunFolder(out / f"{head}-{command.seed}"), model, device)
        fields.append(predicted(model, examples.pictures[:, 0], device))
    write_picture(out / "idl-table1.png", shape_sheet(examples, fields))


def _row(head: str, metrics: list[dict[str, Any]]) -> dict[str, Any]:
    iou, chamfer = ([each[name] for each in metrics] for name in ("iou", "chamfer"))
    return {
        "iou": statistics.mean(iou), "chamfer": statistics.mean(chamfer), "iou_of_seeds": iou, "chamfer_of_seeds": chamfer,
        "empty": sum(each["empty"] for each in metrics), "seconds": statistics.mean(each["seconds"] for each in metrics),
        "step_time_ms": statistics.mean(each["step_time_ms"] for each in metrics), "steps": metrics[0]["steps"],
        "test_shapes": metrics[0]["test_shapes"], "train_shapes": metrics[0]["train_shapes"],
        "data_set": metrics[0]["data_set"], "paper": PAPER.get(head),
    }  # fmt: skip


def _table(rows: dict[str, dict[str, Any]], command: Table1) -> Table:
    one = rows["voxels"]
    title = f"{command.category} of {one['data_set']}: {one['train_shapes']} to train on, {one['test_shapes']} tested, "
    table = Table(title=f"{title}{one['steps']} steps, {command.seeds} seeds (paper: cars of ShapeNet)")
    for name in ("head", "IoU", "Chamfer distance", "paper", "s"):
        table.add_column(name, justify="left" if name == "head" else "right", no_wrap=True)
    for head, row in rows.items():
        printed = " / ".join(f"{value:.4f}" for value in row["paper"] or ())
        ours = [_with_spread(row[f"{name}_of_seeds"]) for name in ("iou", "chamfer")]
        table.add_row(head, *ours, printed, f"{row['seconds']:.0f}")
    return table


def _with_spread(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


def _verdict(rows: dict[str, dict[str, Any]]) -> str:
    """Whether the ordering of the paper holds, and with how many seeds."""
    ours, theirs = rows["level-set"], rows["voxels"]
    pairs = zip(ours["iou_of_seeds"], theirs["iou_of_seeds"], strict=True)
    above = sum(a > b for a, b in pairs)
    below = sum(a < b for a, b in zip(ours["chamfer_of_seeds"], theirs["chamfer_of_seeds"], strict=True))
    count = len(ours["iou_of_seeds"])
    return f"level set above voxels on IoU with {above} of {count} seeds, below on Chamfer distance with {below} of {count}"
