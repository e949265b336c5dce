"""Figure 10 of "Implicitly Defined Layers in Neural Networks": learning curves, with a table of IoU and overlays."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..shared.application import carry_on, load_trained
from ..shared.data import data_root
from ..shared.devices import set_threads
from ..shared.files import write_json
from ..shared.options import RunOptions
from ..shared.pictures import write_picture
from ..shared.run_folder import RunFolder, versions
from .baselines import Baseline, HandcraftedCut, evaluate, spectral_clustering
from .commands import Figure10, TrainNCut
from .config import PAPER, ModelName, NCutConfig
from .data import Example, Scenes, load_scenes, spread
from .draw import SHOWN, contact_sheet
from .model import CutSegmenter, build_model
from .task import Tested, predicted
from .train import CUTS, draw_learning

MODELS: tuple[ModelName, ...] = ("ncut", "cnn")
PRINTED = {"learned": 85.0, "by hand": 70.0}  # per cent, of HazySky, read off its figure 10
_COLOURS, _REACHES = (0.05, 0.1, 0.2), ((2.0, 3.0), (4.0, 5.0))  # tried on training pictures: sigmas, and the radius
_TRIED = 12  # of them
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class _Row:
    """One method: its name, its figures, its masks of the pictures that are shown, and where a run of it is."""

    name: str
    tested: Tested
    masks: list[Tensor | None]
    metrics: dict[str, Any]


def learning_curves(command: Figure10) -> None:
    """Train the cut and the plain network, run the baselines. Interrupted, it goes on when called again."""
    chosen = ("epochs", "pictures", "height", "width", "reaches", "seed")
    config = replace(PAPER, **{name: getattr(command, name) for name in chosen})
    CUTS.check(config)
    options = RunOptions(quiet=command.quiet, threads=command.threads, device="cpu")
    set_threads(command.threads)
    scenes = load_scenes(config.data_set, data_root(command.data), given=command.data is not None)
    out = command.folder("idl-fig10")
    shown = spread(spread(scenes.test, config.pictures), SHOWN)
    folders = {name: _trained(out / name, replace(config, model=name), options, command.data) for name in MODELS}
    rows = [_of_run(folder, shown) for folder in folders.values()]
    rows += _baselines(scenes, config, shown, _prior(folders["ncut"], config))
    histories = {row.name: row.metrics["history"] for row in rows if row.metrics}
    levels = {row.name: row.tested.iou for row in rows if not row.metrics}
    draw_learning(out / "idl-fig10.png", histories, rows[0].metrics["steps_of_an_epoch"], levels)
    masks = [[row.masks[index] for row in rows] for index in range(len(shown))]
    write_picture(out / "idl-fig10-masks.png", contact_sheet(shown, masks))
    _write(out / "idl-fig10.json", rows, scenes, config)
    print(_table(rows))
    print(
        f"{out / 'idl-fig10.png'}, {out / 'idl-fig10-masks.png'} (columns: picture, truth, then the rows of the table)"
    )


def _trained(path: Path, config: NCutConfig, options: RunOptions, data: Path | None) -> RunFolder:
    return carry_on(CUTS, TrainNCut(config=config, options=options, out=path, data=data))


def _prior(folder: RunFolder, config: NCutConfig) -> Tensor:
    model = build_model(replace(config, model="ncut"))
    load_trained(folder, model, _CPU)
    assert isinstance(model, CutSegmenter)
    return model.prior


def _of_run(folder: RunFolder, shown: tuple[Example, ...]) -> _Row:
    stored = NCutConfig(**folder.read_config()[1]["config"])
    model = build_model(stored)
    load_trained(folder, model, _CPU)
    metrics = folder.read_metrics()
    each = metrics["iou_of_each"]
    tested = Tested(metrics["iou"], metrics["pixel_accuracy"], metrics["test_unsolved"], tuple(each))
    masks = [predicted(model, example.pixels, _CPU, stored.test_size) for example in shown]
    return _Row("normalised cut, learned" if stored.model == "ncut" else "plain network", tested, masks, metrics)


def _baselines(scenes: Scenes, config: NCutConfig, shown: tuple[Example, ...], prior: Tensor) -> list[_Row]:
    """The normalised cut by hand, with the sigmas that are best on training pictures, and scikit-learn's."""
    examples, tried = spread(scenes.test, config.pictures), spread(scenes.train, _TRIED)
    longer = max(config.height, config.width)
    choices = [(colour, reach, radius) for colour in _COLOURS for reach, radius in _REACHES]
    best = max(choices, key=lambda choice: evaluate(HandcraftedCut(*choice), tried, prior, longer).iou)
    found: dict[str, Baseline] = {f"normalised cut by hand {best}": HandcraftedCut(*best)}
    clustering = spectral_clustering(*best)
    if clustering is None:
        print("scikit-learn is not installed, so it is left out: `pip install scikit-learn` brings it in")
    else:
        found["spectral clustering, scikit-learn"] = clustering
    return [_of_baseline(name, each, examples, shown, prior, longer) for name, each in found.items()]


def _of_baseline(
    name: str, baseline: Baseline, examples: tuple[Example, ...], shown: tuple[Example, ...], prior: Tensor, longer: int
) -> _Row:
    masks: list[Tensor | None] = [baseline(example.pixels, prior, longer) for example in shown]
    return _Row(name, evaluate(baseline, examples, prior, longer), masks, {})


def _write(path: Path, rows: list[_Row], scenes: Scenes, config: NCutConfig) -> None:
    kept = ("parameters", "step_time_ms", "seconds", "unsolved", "degenerate", "history")
    methods = {
        row.name: {"iou": row.tested.iou, "pixel_accuracy": row.tested.accuracy, "iou_of_each": list(row.tested.each)}
        | {name: row.metrics[name] for name in kept if name in row.metrics}
        for row in rows
    }
    about = {"data_set": scenes.name, "config": vars(config), "paper_hazysky": PRINTED, "versions": versions()}
    write_json(path, {"methods": methods} | about)


def _table(rows: list[_Row]) -> str:
    lines = [f"{'':44} IoU %   pixels %   parameters   training s"]
    for row in rows:
        trained = f"{row.metrics['parameters']:12d} {row.metrics['seconds']:12.0f}" if row.metrics else ""
        lines.append(f"{row.name:44} {row.tested.iou:5.2f} {row.tested.accuracy:10.2f} {trained}")
    return "\n".join(lines)
