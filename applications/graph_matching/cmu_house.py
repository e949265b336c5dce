"""The CMU house and hotel: spectral matching of 30 landmarks over the gap between frames, beside published figures."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from implayer.layers.matching import SpectralMatchingLayer

from ..shared.application import load_trained
from ..shared.data import data_root
from ..shared.devices import set_threads
from ..shared.errors import InputError
from ..shared.figures import Line, Panel, draw_lines
from ..shared.files import write_json
from ..shared.options import require_least
from ..shared.progress import Reporter
from ..shared.run_folder import open_run, versions
from .commands import CmuHouse
from .data import UNIT, load_sequence
from .graphs import assignment, delaunay
from .model import Side, build_model, by_length
from .train import MATCHING

GAPS = range(0, 100, 10)
# Accuracies over the gaps from the result files of Zhou and De la Torre's "Factorized Graph Matching"; 30 of 30 landmarks.
# Their SMAC balances and orthonormalises M; ours is the plain projection, as the paper's equations (21) to (23) have it.
PUBLISHED = {
    "SM": (1, 0.985, 0.979, 0.957, 0.931, 0.914, 0.890, 0.826, 0.749, 0.637),
    "SMAC": (1, 0.999, 1, 0.998, 0.999, 1, 0.991, 0.976, 0.923, 0.889),
}
HOTEL_MEANS = {"SM": 0.595, "SMAC": 0.723}  # over the gaps, from the same files

Match = Callable[[Side, Side], Tensor]


def cmu_house(command: CmuHouse) -> dict[str, dict[str, list[float]]]:
    """Accuracies over the gaps of SM and SMAC with the usual affinity, and of a learned one, on the house and the hotel."""
    require_least(command, {"every": 1})
    sequences = {name: load_sequence(name, data_root(command.data))[0] for name in ("house", "hotel")}
    out = command.folder("cmu-house")
    threads = set_threads(command.threads)
    methods = _methods(command.learned)
    with Reporter(len(GAPS) * len(sequences), quiet=command.quiet) as reporter, torch.no_grad():
        found = {name: _curves(name, points, methods, command, reporter) for name, points in sequences.items()}
    published = {f"{name}, published": list(map(float, values)) for name, values in PUBLISHED.items()}
    content = {"gaps": list(GAPS), "ours": found["house"], "published": published, "hotel": found["hotel"]}
    write_json(out / "cmu-house.json", {**content, "every": command.every, "threads": threads, "versions": versions()})
    draw_lines(out / "cmu-house.png", _panels(found))
    rows = {f"{name}, ours": values for name, values in found["house"].items()} | published
    print(table(rows | {f"{name}, hotel, ours": values for name, values in found["hotel"].items()}))
    means = ", ".join(f"{name} {value:.3f}" for name, value in HOTEL_MEANS.items())
    print(f"published means of the hotel: {means}\n{out / 'cmu-house.png'}")
    return found


def _curves(
    sequence: str, points: Tensor, methods: dict[str, Match], command: CmuHouse, reporter: Reporter
) -> dict[str, list[float]]:
    graphs = [Side(one / UNIT, delaunay(one.numpy(), f"the landmarks of frame {k}")) for k, one in enumerate(points)]
    shuffled = torch.randperm(points.shape[1], generator=torch.Generator().manual_seed(command.seed))
    found: dict[str, list[float]] = {name: [] for name in methods}
    for gap in GAPS:
        pairs = _pairs(len(points), gap, 1 if gap == GAPS[-1] else command.every)
        for name, match in methods.items():
            found[name].append(_accuracy(match, [(graphs[a], graphs[b]) for a, b in pairs], shuffled))
        latest = "  ".join(f"{name} {values[-1]:.3f}" for name, values in found.items())
        done = GAPS.index(gap) + 1 + (len(GAPS) if sequence == "hotel" else 0)
        reporter.update(done, f"{sequence}, gap {gap}: {latest}")
    return found


def _methods(learned: Path | None) -> dict[str, Match]:
    sm, smac = SpectralMatchingLayer("norm"), SpectralMatchingLayer("one-to-one")
    methods: dict[str, Match] = {
        "SM": lambda first, second: sm(by_length(first, second)),
        "SMAC": lambda first, second: smac(by_length(first, second)),
    }
    if learned is not None:
        folder = open_run(learned)
        config = MATCHING.read(folder).config
        if config.data_set != "house" or config.features != "geometry":
            raise InputError(f"`--learned {learned}` is a run on {config.data_set} with {config.features}; expected "
                             "one on the house with geometry alone.")  # fmt: skip
        model = build_model(config)
        load_trained(folder, model, torch.device("cpu"))
        methods[f"{config.layer.upper()}, learned"] = lambda first, second: model.layer(model.affinity(first, second))
    return methods


def _pairs(frames: int, gap: int, every: int) -> list[tuple[int, int]]:
    return [(first, first + gap) for first in range(0, frames - gap, every)]


def _accuracy(match: Match, pairs: list[tuple[Side, Side]], shuffled: Tensor) -> float:
    """The mean part of landmarks that are matched rightly. Those of the second frame are shuffled: ties help nobody."""
    place = shuffled.argsort()
    right = [
        (assignment(match(first, Side(second.points[shuffled], place[second.edges]))) == place).double().mean()
        for first, second in pairs
    ]
    return float(torch.stack(right).mean())


def table(rows: dict[str, list[float]]) -> str:
    """Accuracies over the gaps, one method a line."""
    width = max(map(len, rows))
    lines = [" ".join([" " * width, *(f"{gap:5d}" for gap in GAPS), "  mean"])]
    for name, values in rows.items():
        figures = [*values, sum(values) / len(values)]
        lines.append(" ".join([name.ljust(width), *(f"{value:5.3f}" for value in figures)]))
    return "\n".join(lines)


def _panels(found: dict[str, dict[str, list[float]]]) -> list[Panel]:
    """The accuracies of the house, ours on top of the published ones; how far apart they are; and those of the hotel."""
    gaps, house = [float(gap) for gap in GAPS], found["house"]
    lines = [Line(f"{name}, published", gaps, values, group=name, pale=True) for name, values in PUBLISHED.items()]
    lines += [Line(name, gaps, values, group=name) for name, values in house.items()]
    apart = [
        Line(name, gaps, [ours - theirs for ours, theirs in zip(house[name], values, strict=True)], group=name)
        for name, values in PUBLISHED.items()
    ]
    between, hotel = "frames between the two", found["hotel"]
    return [
        Panel("CMU house, 30 landmarks", between, "part matched rightly", lines),
        Panel("ours minus published", between, "part matched rightly", apart),
        Panel("CMU hotel", between, "part matched rightly", [Line(n, gaps, v, group=n) for n, v in hotel.items()]),
    ]
