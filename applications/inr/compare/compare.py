"""`implayer compare`: runs of several networks, each in a process of its own, and what comes out of them."""

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ...shared.errors import InputError
from ...shared.figures import Line, Panel, draw_comparison, draw_lines
from ...shared.files import write_json
from ...shared.options import require_least
from ...shared.pictures import read_picture
from ...shared.process import run_program
from ...shared.run_folder import CONFIG, METRICS, RunFolder, create_run, free_name, versions
from ..config import FieldConfig
from .entrants import Entrant, named, of_memory, of_parameters, parsed
from .scores import SCORES, Score

_PILOT_STEPS = 12  # of a run that only measures time or memory
_COLUMNS = {
    "parameters": "parameters",
    "steps": "steps",
    "step_time_ms": "ms a step",
    "seconds": "s",
    "peak_memory_mb": "MiB",
}


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What every run of a comparison is started with."""

    command: Any
    signal: str
    source: str
    more: Sequence[str]
    out: Path

    def run(self, name: str, config: FieldConfig) -> dict[str, Any] | None:
        """The figures of a run, which is done now, or gone on with, or done already; None where it failed."""
        path = self.out / name
        options = ["--quiet"] if self.command.options.quiet else []
        options += ["--device", self.command.options.device]
        options += ["--threads", str(self.command.options.threads)] if self.command.options.threads else []
        if (path / CONFIG).exists():
            stored = RunFolder(path).read_config()[1].get("config")
            if stored != dataclasses.asdict(config):
                raise InputError(f"`{path}` holds a run with other values; choose another `--out`.")
            if (path / METRICS).exists():
                return RunFolder(path).read_metrics()
            code = run_program(["resume", str(path), *options])
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            values = path.with_suffix(".json")
            write_json(values, dataclasses.asdict(config))
            data = ["--data", str(self.command.data)] if self.command.data else []
            place = ["--config", str(values), "--out", str(path)]
            code = run_program(["fit", self.signal, self.source, *place, *self.more, *data, *options])
        if code == 130:
            raise KeyboardInterrupt
        if code == 2:  # wrong for one is wrong for all
            raise InputError("a run cannot be started; the message above says why.")
        return RunFolder(path).read_metrics() if code == 0 else None

    def pilot(self, config: FieldConfig) -> dict[str, Any]:
        """The figures of a short run."""
        found = self.run(f"pilots/{named(config)}", replace(config, steps=_PILOT_STEPS))
        if found is None:
            raise InputError(f"a trial run of {named(config)} failed, so that nothing can be made equal to it.")
        return found


def compare(command: Any, signal: str, source: str, more: Sequence[str]) -> dict[str, Any]:
    """Run, compare, draw. Called again with the same `--out`, it goes on with what is there."""
    require_least(command, {"seeds": 1})
    command.require_defaults()
    entrants = parsed(command.models, command.config)
    stem = f"compare-{Path(source).stem}"
    out = command.out or free_name(stem)
    if (out / CONFIG).exists():
        raise InputError(f"`--out {out}` holds a run; choose another folder for a comparison.")
    create_run(out)
    asked = _Asked(command, signal, source, more, out)
    entrants = [entrants[0], *(_equal(entrant, entrants[0], asked, command.equal) for entrant in entrants[1:])]
    found: dict[str, list[dict[str, Any]]] = {}
    for entrant in entrants:
        runs = [
            asked.run(f"{entrant.name}/seed-{seed}", replace(entrant.config, seed=seed))
            for seed in range(command.config.seed, command.config.seed + command.seeds)
        ]
        found[entrant.name] = [run for run in runs if run is not None and SCORES[signal].name in run]
    rows = {name: _row(runs, SCORES[signal]) for name, runs in found.items() if runs}
    if not rows:
        raise InputError("no run came to an end with a result; the messages above and its `metrics.json` say why.")
    _report(out, signal, command, rows, found)
    return rows


def _equal(entrant: Entrant, first: Entrant, asked: _Asked, equal: str) -> Entrant:
    """The entrant with the width or the steps that make it equal to the first."""
    config = entrant.config
    if equal == "time":
        ours, theirs = (asked.pilot(each.config)["step_time_ms"] for each in (entrant, first))
        config = replace(config, steps=max(round(first.config.steps * theirs / ours), 1))
    elif equal == "memory":
        wanted = asked.pilot(first.config)["peak_memory_mb"]
        config = of_memory(config, wanted, lambda tried: asked.pilot(tried)["peak_memory_mb"])
    elif equal == "parameters":
        pilot = asked.pilot(first.config)
        config = of_parameters(config, pilot["parameters"], *pilot["network"])
    return Entrant(named(config), config)


def _row(runs: list[dict[str, Any]], score: Score) -> dict[str, Any]:
    """Medians over the seeds."""
    scores = sorted(run[score.name] for run in runs)
    row = {name: statistics.median(run[name] for run in runs) for name in _COLUMNS}
    return row | {
        score.name: statistics.median(scores),
        f"{score.name}_least": scores[0],
        f"{score.name}_most": scores[-1],
        "runs": len(runs),
    }


def _report(
    out: Path, signal: str, command: Any, rows: dict[str, dict[str, Any]], found: dict[str, list[dict[str, Any]]]
) -> None:
    first, score = next(iter(rows.values())), SCORES[signal]
    table = Table(title=f"{signal}, equal {command.equal}, medians of {command.seeds} seeds")
    table.add_column("network")
    for heading in (score.heading, "range", *_COLUMNS.values(), "time ratio"):
        table.add_column(heading, justify="right")
    for name, row in rows.items():
        cells = [f"{row[key]:,.0f}" if row[key] >= 10 else f"{row[key]:.2g}" for key in _COLUMNS]
        ratio = f"{row['step_time_ms'] / first['step_time_ms']:.2f}"
        least, middle, most = (f"{row[score.name + end]:.{score.digits}f}" for end in ("_least", "", "_most"))
        table.add_row(name, middle, f"{least} .. {most}", *cells, ratio)
    Console(highlight=False, width=120).print(table)
    write_json(out / "compare.json", {"signal": signal, "equal": command.equal, "rows": rows, "versions": versions()})
    _draw(out, rows, found, score)
    drawn = ["curves.png", "comparison.png"] if _pictures(out, rows, found, score) else ["curves.png"]
    print(", ".join(str(out / name) for name in drawn))


def _draw(out: Path, rows: dict[str, dict[str, Any]], found: dict[str, list[dict[str, Any]]], score: Score) -> None:
    steps, seconds = [], []
    for name in rows:
        histories = [run["history"][score.curve] for run in found[name]]
        middle = [statistics.median(values) for values in zip(*histories, strict=False)]
        x = list(range(1, len(middle) + 1))
        steps.append(Line(name, x, middle, group=name, thin=True))
        seconds.append(
            Line(name, [step * rows[name]["step_time_ms"] / 1e3 for step in x], middle, group=name, thin=True)
        )
    panels = [
        Panel(score.title, axis, score.unit, lines, log_y=score.log)
        for axis, lines in (("step", steps), ("seconds", seconds))
    ]
    draw_lines(out / "curves.png", panels)


def _pictures(out: Path, rows: dict[str, dict[str, Any]], found: dict[str, list[dict[str, Any]]], score: Score) -> bool:
    """For each network the picture of the seed that is nearest to the median. **Returns** whether there are any."""
    targets, shown = [], []
    for name, row in rows.items():
        near = min(found[name], key=lambda run: abs(run[score.name] - row[score.name]))
        folder = out / name / f"seed-{near['seed']}"
        picture, target = folder / str(score.picture), folder / "target.png"
        if (
            picture.exists() and target.exists()
        ):  # a cloud of points has no target, a field without a surface no normals
            title = f"{name}, {score.heading} {near[score.name]:.{score.digits}f}"
            targets.append(read_picture(target).pixels)
            shown.append((title, read_picture(picture).pixels))
    if shown:
        draw_comparison(out / "comparison.png", targets, shown)
    return bool(shown)
