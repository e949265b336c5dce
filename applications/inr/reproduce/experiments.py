"""The experiments of "(Implicit)^2" that compare networks: what is run, what the paper claims of it."""

import difflib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...shared.application import AbstractApplication, carry_on
from ...shared.arrays import name_of, read_array
from ...shared.data import data_root
from ...shared.errors import InputError
from ...shared.figures import Line, Panel, draw_lines
from ...shared.files import write_json
from ...shared.options import RunOptions, require_least
from ...shared.run_folder import versions
from ..audio.commands import FitAudio
from ..audio.config import PAPER as PAPER_SOUND
from ..audio.fit import SOUNDS
from ..commands import FitImage
from ..config import EXACT, FieldConfig, ModelName
from ..config import PAPER as PAPER_PICTURE
from ..fit import PICTURES
from ..video.commands import FitVideo
from ..video.config import PAPER as PAPER_VIDEO
from ..video.fit import VIDEOS
from .commands import Audio, Experiment, Figure4, Figure5, Table1, Table2
from .printed import TABLE_1, TABLE_2
from .report import Claim, as_json, judge, show

FAMILIES: dict[str, tuple[ModelName, ModelName]] = {
    "fourier": ("fourier-mfn", "fourier-imfn"),
    "gabor": ("gabor-mfn", "gabor-imfn"),
    "siren": ("siren-inj", "isiren"),
}
_TABLE_1 = (
    ("natural", "images/kodak", "image/data_div2k.npz"),
    ("text", "images/text", "image/data_2d_text.npz"),
)  # pictures: a folder of the data root, or the archive that the authors have there
_TEST = "test_data"  # what they use of an archive
_TEXT_GAIN = 3.0  # dB, of the Fourier family on sound


@dataclass(frozen=True)
class _Plan:
    """One experiment: on which signals which networks are trained."""

    application: AbstractApplication
    command: type  # the one that starts a run
    place: str  # its field for the signal
    sources: Sequence[str]
    networks: Mapping[str, FieldConfig]


def truncation(command: Figure4) -> None:
    """Figure 4: truncated gradients and the exact one, Fourier, on the camera picture.

    Every step solves to the tolerance, whatever its gradient: one step of the map from the last fixed point, the usual
    recipe, would cost the truncated ones quality that the exact one keeps.
    """
    size, steps, width = _reduced(command, (512, 5000, 256), (64, 300, 128))
    base = replace(PAPER_PICTURE, model="fourier-imfn", width=2 * width, depth=1, size=size, steps=steps, reuse=False)
    named = {"T = 0": 0, "T = 1": 1, "T = 2": 2, "exact": EXACT}
    plan = _Plan(PICTURES, FitImage, "picture", ["camera"], {name: replace(base, terms=t) for name, t in named.items()})
    found, metrics = _carried_out(command, "impsq-fig4", plan)
    claims = [Claim("T = 1 above T = 0", "T = 1", "T = 0")]
    lost, more, least = (statistics.mean(found["exact"]) - statistics.mean(found[f"T = {terms}"]) for terms in range(3))
    _finish(command, "impsq-fig4", found, metrics, claims, {}, _timed(metrics))
    print(f"T = 0 lacks {lost:.2f} dB of the exact gradient, T = 1 {more:.2f} dB, T = 2 {least:.2f} dB")


def camera(command: Figure5) -> None:
    """Figure 5: 18 networks on the camera picture."""
    size, steps, width = _reduced(command, (512, 5000, 256), (128, 200, 128))
    base = replace(PAPER_PICTURE, size=size, steps=steps)
    plan = _Plan(PICTURES, FitImage, "picture", ["camera"], _networks(command, base, width))
    found, metrics = _carried_out(command, "impsq-fig5", plan)
    claims: list[Claim] = []
    for explicit, implicit in _families(command):
        names = _names(explicit, width), _names(implicit, width)
        (narrow, wide, deep), (own, own_wide, _) = names
        claims.append(Claim(f"{own} within 1 dB of {deep} or above", own, deep, -1.0))
        claims += [Claim(f"{own_wide} above {other}", own_wide, other) for other in (narrow, wide, deep)]
    _finish(command, "impsq-fig5", found, metrics, claims, {}, _timed(metrics))


def generalisation(command: Table1) -> None:
    """Table 1: a quarter of the pixels learned, another quarter tested, natural and text pictures."""
    size, steps, width = _reduced(command, (512, 2000, 256), (96, 150, 64))
    for kind, folder, archive in _TABLE_1:
        sources = _pictures(command, folder, archive)
        base = replace(PAPER_PICTURE, size=size, steps=steps, samples="even", chunk=None)
        plan = _Plan(PICTURES, FitImage, "picture", sources, _networks(command, base, width))
        found, metrics = _carried_out(command, f"impsq-table1/{kind}", plan)
        printed = {f"{model} {place}": text for (model, place), text in TABLE_1[kind].items()}
        _finish(
            command, f"impsq-table1/{kind}", found, metrics, _table_claims(command, width),
            _relabelled(printed, width), _timed(metrics),
        )  # fmt: skip


def sound(command: Audio) -> None:
    """Section 4.2: `bach`, full batch, no bound on the weights."""
    _, steps, width = _reduced(command, (0, 3000, 256), (0, 300, 128))
    start, seconds = (0.0, 0.0) if command.full else (2.0, 0.5)  # the clip begins with half a second of near silence
    base = replace(PAPER_SOUND, steps=steps, start=start, seconds=seconds, chunk=None)
    plan = _Plan(SOUNDS, FitAudio, "sound", ["gt_bach.wav"], _networks(command, base, width))
    found, metrics = _carried_out(command, "impsq-audio", plan)
    claims = []
    for explicit, implicit in _families(command):
        (narrow, wide, deep), (own, own_wide, _) = _names(explicit, width), _names(implicit, width)
        claims += [Claim(f"{own} above {narrow}", own, narrow), Claim(f"{own_wide} above {wide}", own_wide, wide)]
        margin = _TEXT_GAIN if explicit == "fourier-mfn" else 0.0
        more = f" by {margin:g} dB" if margin else ""
        claims.append(Claim(f"{own} above {deep}{more}", own, deep, margin))
    printed = _relabelled({"fourier-imfn 1L-256D": "43.79", "fourier-mfn 4L-256D": "35.42"}, width)
    _finish(command, "impsq-audio", found, metrics, claims, printed, _timed(metrics))


def video(command: Table2) -> None:
    """Table 2: `bikes` in the place of `cat`, for `bikes` alone can be had."""
    size, steps, width = _reduced(command, (512, 10_000, 1024), (64, 300, 128))
    count = command.count or (250 if command.full else 16)
    batch = PAPER_VIDEO.batch if command.full else 8192
    base = replace(PAPER_VIDEO, size=size, steps=steps, frames=count, batch=batch)
    plan = _Plan(VIDEOS, FitVideo, "video", ["bikes.mp4"], _networks(command, base, width))
    found, metrics = _carried_out(command, "impsq-table2", plan)
    claims = []
    for explicit, implicit in _families(command):
        theirs, ours = _names(explicit, width), _names(implicit, width)
        claims += [Claim(f"{a} above {b}", a, b) for a, b in zip(ours[:2], theirs[:2], strict=True)]
    printed = {f"{model} {place}": text for (model, place), text in TABLE_2.items()}
    _finish(command, "impsq-table2", found, metrics, claims, _relabelled(printed, width), _timed(metrics))


# ----------------------------------------------------------------------------------------------------- what is run
def _reduced(command: Experiment, paper: tuple[int, int, int], small: tuple[int, int, int]) -> tuple[int, int, int]:
    """Size, steps and width: as asked for, else of the paper or reduced."""
    require_least(command, {"seeds": 1})
    asked = (command.size, command.steps, command.width)
    for name, value in zip(("size", "steps", "width"), asked, strict=True):
        if value is not None and value < 2:
            raise InputError(f"`--{name}` is {value}; expected at least 2.")
    given = paper if command.full else small
    size, steps, width = (default if value is None else value for value, default in zip(asked, given, strict=True))
    return size, steps, width


def _families(command: Experiment) -> list[tuple[ModelName, ModelName]]:
    found = []
    for name in command.families.split(","):
        if name.strip() not in FAMILIES:
            near = difflib.get_close_matches(name, FAMILIES, n=1)
            hint = f"; perhaps `{near[0]}`" if near else ""
            raise InputError(f"`--families` holds `{name}`; expected some of {', '.join(FAMILIES)}{hint}.")
        found.append(FAMILIES[name.strip()])
    return found


def _names(model: str, width: int) -> tuple[str, str, str]:
    """Of the three networks of a model: narrow, wide, deep."""
    return f"{model} 1L-{width}D", f"{model} 1L-{2 * width}D", f"{model} 4L-{width}D"


def _networks(command: Experiment, base: FieldConfig, width: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for family in _families(command):
        for model in family:
            for name, (depth, each) in zip(_names(model, width), ((1, width), (1, 2 * width), (4, width)), strict=True):
                found[name] = replace(base, model=model, depth=depth, width=each)
    return found


def _relabelled(printed: Mapping[str, str], width: int) -> dict[str, str]:
    """What the paper says of its widths stands beside ours."""
    found = {}
    for name, text in printed.items():
        model, place = name.split(" ")
        depth = place.partition("L")[0]
        wide = place in ("1L-512D", "1L-2048D")
        found[f"{model} {depth}L-{2 * width if wide else width}D"] = text
    return found


def _table_claims(command: Experiment, width: int) -> list[Claim]:
    claims = []
    for explicit, implicit in _families(command):
        (narrow, wide, deep), (own, own_wide, own_deep) = _names(explicit, width), _names(implicit, width)
        claims += [
            Claim(f"{own} above {narrow}", own, narrow),
            Claim(f"{own_wide} above {wide}", own_wide, wide),
            Claim(f"{own_wide} above {deep}", own_wide, deep),
            Claim(f"{own_deep} gains nothing: {deep} within 0.3 dB or above", deep, own_deep, -0.3),
        ]
    return claims


def _pictures(command: Experiment, folder: str, archive: str) -> list[str]:
    root = data_root(command.data)
    names = sorted(str(path) for path in (root / folder).glob("*.png"))
    if not names and (root / archive).is_file():
        names = [str(root / archive / _TEST / str(index)) for index in range(len(read_array(root / archive / _TEST)))]
    count = command.count or (16 if command.full else 4)
    if not names:
        raise InputError(
            f"`{root / folder}` holds no pictures; `--data DIR` names a data root with {folder}/, or with {archive} of the "
            "authors."
        )
    return names[:: max(len(names) // count, 1)][:count]


def _carried_out(command: Experiment, name: str, plan: _Plan) -> tuple[dict[str, list[float]], dict[str, list[Any]]]:
    """The scores and all figures of every network. What is there already is not done again."""
    out = _folder(command, name)
    metrics: dict[str, list[Any]] = {}
    for network, config in plan.networks.items():
        for source in plan.sources:
            for seed in range(command.seed, command.seed + command.seeds):
                path = out / f"{network} {name_of(Path(source))} {seed}".replace(" ", "-")
                options = RunOptions(quiet=True, threads=command.threads)
                new = plan.command(
                    **{plan.place: source},
                    config=replace(config, seed=seed),
                    options=options,
                    out=path,
                    data=command.data,
                )
                metrics.setdefault(network, []).append(carry_on(plan.application, new).read_metrics())
        if not command.quiet:
            mean = statistics.mean(run["psnr"] for run in metrics[network])
            print(f"{network:28} {mean:6.2f} dB", flush=True)
    return {network: [run["psnr"] for run in runs] for network, runs in metrics.items()}, metrics


def _folder(command: Experiment, name: str) -> Path:
    """That of the experiment, or of a part of it: "experiment/part"."""
    experiment, _, part = name.partition("/")
    return command.folder(experiment) / part


def _timed(metrics: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, float]]:
    """Columns beside the score."""
    columns = {"ms a step": "step_time_ms", "parameters": "parameters"}
    return {
        heading: {name: statistics.median(run[key] for run in runs) for name, runs in metrics.items()}
        for heading, key in columns.items()
    }


def _curves(metrics: Mapping[str, Sequence[Any]]) -> list[Panel]:
    """PSNR of the training output over the steps: a panel for each family, implicit networks solid, explicit ones dashed."""
    panels: dict[str, list[Line]] = {}
    for network, runs in metrics.items():
        middle = [statistics.mean(values) for values in zip(*(run["history"]["psnr"] for run in runs), strict=True)]
        model, _, size = network.partition(" ")
        family = next((name for name, pair in FAMILIES.items() if model in pair), "")
        explicit = bool(family) and model == FAMILIES[family][0]
        label = f"{'explicit' if explicit else 'implicit'} {size}" if family else network
        line = Line(
            label, range(1, len(middle) + 1), middle, group=size if family else network, dashed=explicit, thin=True
        )
        panels.setdefault(family, []).append(line)
    return [
        Panel(f"PSNR of the training output{', ' * bool(family)}{family}", "step", "dB", lines)
        for family, lines in panels.items()
    ]


def _finish(
    command: Experiment,
    name: str,
    found: dict[str, list[float]],
    metrics: dict[str, list[Any]],
    claims: list[Claim],
    printed: Mapping[str, str],
    further: Mapping[str, Mapping[str, float]],
) -> None:
    out = _folder(command, name)
    judged = [judge(claim, found) for claim in claims]
    show(name, found, judged, printed=printed, further=further)
    short = name.replace("/", "-")
    draw_lines(out / f"{short}.png", _curves(metrics))
    rows = {
        network: {"psnr": scores, **{k: c[network] for k, c in further.items()}} for network, scores in found.items()
    }
    write_json(
        out / f"{short}.json",
        {"rows": rows, "paper": dict(printed), "claims": as_json(judged), "full": command.full, "versions": versions()},
    )
    print(f"{out / f'{short}.png'}")
