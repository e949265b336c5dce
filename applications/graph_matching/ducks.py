"""Figure 8 of "Implicitly Defined Layers in Neural Networks": landmarks matched between two pictures."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from implayer.layers.affinity import Affinity

from ..shared.data import data_root
from ..shared.devices import set_threads
from ..shared.files import write_atomically, write_json
from ..shared.run_folder import versions
from .commands import Figure8
from .data import load_ducks
from .graphs import assignment, delaunay
from .model import Side, build_layer, by_length, gaussian

_UNIT = 0.5  # of affinities, in units of the spread of the landmarks
_RIGHT, _WRONG = "tab:green", "tab:red"
_BETWEEN = 12  # white pixels between the pictures


def by_vector(first: Side, second: Side) -> Affinity:
    """exp(-|e - f|^2) for edge vectors e and f, which feel directions as well as lengths."""
    one, two = first.vectors(), second.vectors()
    nodes = one.new_zeros(first.points.shape[-2], second.points.shape[-2])
    return Affinity(nodes, gaussian(one, two), first.edges, second.edges, gaussian(one, -two))


def ducks(command: Figure8) -> dict[str, int]:
    """Figure 8: SM, SMAC and five power iterations, with an affinity of lengths and with one of vectors."""
    pictures, points = load_ducks(data_root(command.data))
    out = command.folder("idl-fig8")
    set_threads(command.threads)
    order = torch.randperm(points.shape[1], generator=torch.Generator().manual_seed(command.seed))
    place = order.argsort()  # where landmark i of the first duck is among the shuffled ones of the second
    first, second = _side(points[0]), _side(points[1][order])
    found: dict[str, Tensor] = {}
    for kind, affinity in (("lengths", by_length), ("vectors", by_vector)):
        M = affinity(first, second)
        for name, layer in (
            ("SM", build_layer("sm", 5)),
            ("SMAC", build_layer("smac", 5)),
            ("PI(5)", build_layer("pi", 5)),
        ):
            found[f"{name}, edge {kind}"] = assignment(layer(M))
    right = {name: int((chosen == place).sum()) for name, chosen in found.items()}
    _draw(out / "idl-fig8.png", pictures, points, {name: order[chosen] for name, chosen in found.items()})
    write_json(out / "idl-fig8.json", {"landmarks": len(place), "right": right, "versions": versions()})
    for name, count in right.items():
        print(f"{name}: {count} of {len(place)} landmarks")
    print(f"{out / 'idl-fig8.png'}")
    return right


def _side(points: Tensor) -> Side:
    centred = points - points.mean(0)
    spread = centred.square().sum(-1).mean().sqrt()
    return Side(centred / (_UNIT * spread), delaunay(points.numpy(), "the landmarks"))


def _draw(path: Path, pictures: list[Tensor], points: Tensor, matches: dict[str, Tensor]) -> None:
    """Both pictures beside each other for every method, with a line from each landmark to where it was matched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = max(len(picture) for picture in pictures)
    padded = [np.pad(p.numpy(), ((0, height - len(p)), (0, 0), (0, 0)), constant_values=1) for p in pictures]
    both = np.concatenate([padded[0], np.ones((height, _BETWEEN, 3), padded[0].dtype), padded[1]], 1)
    shift = np.array([pictures[0].shape[1] + _BETWEEN, 0])
    one, two = points[0].numpy(), points[1].numpy() + shift
    figure = Figure(figsize=(15, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(2, len(matches) // 2)
    for place, (name, chosen) in zip(axes.flat, matches.items(), strict=True):
        place.imshow(both)
        for node, other in enumerate(chosen.tolist()):
            colour = _RIGHT if node == other else _WRONG
            place.plot([one[node, 0], two[other, 0]], [one[node, 1], two[other, 1]], "o-", color=colour, markersize=3)
        place.set_title(f"{name}: {int((chosen == torch.arange(len(chosen))).sum())} of {len(chosen)} right")
        place.axis("off")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    data = buffer.getvalue()
    write_atomically(path, lambda partial: partial.write_bytes(data), len(data))
