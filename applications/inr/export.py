"""`implayer export`: a fitted network as a small folder of its own, with what it costs and what it is worth."""

from pathlib import Path
from typing import Any

from ..shared.application import opened
from ..shared.checkpoint import load_tensors, save_tensors, under_prefix
from ..shared.errors import RunFolderError
from ..shared.files import write_atomically
from ..shared.options import Eval, require_least
from ..shared.quantise import quantised
from ..shared.run_folder import CONFIG, RunFolder, versions
from .signal import AbstractSignalFit
from .states import STATES, store_states


def export(application: AbstractSignalFit, command: Any) -> RunFolder:
    """Write the weights of a run with fewer bits, a card, and nothing else. It can be drawn and evaluated as the run."""
    require_least(command, {"states_mb": 0})
    folder, stored, device = opened(application, command)
    target = RunFolder(command.out or folder.path / f"export-{command.bits}")
    if (target.path / CONFIG).exists() and not command.overwrite:
        raise RunFolderError(f"`--out {target.path}` holds a model already; choose another name, or use `--overwrite`.")
    if target.path.resolve() == folder.path.resolve():
        raise RunFolderError(f"`--out {target.path}` is the run itself; choose another folder.")
    finished = folder.weights.exists()
    tensors, _ = load_tensors(folder.weights if finished else folder.checkpoint)
    weights = tensors if finished else under_prefix("task.weights", tensors)
    try:
        target.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"`--out {target.path}` cannot be written to ({error.strerror}).") from error
    save_tensors(target.weights, quantised(weights, command.bits), {"bits": command.bits})
    application.write(target, stored)
    (target.path / STATES).unlink(missing_ok=True)
    kept = 0
    if command.states_mb:
        inputs = application.network(stored.config, stored.source).inputs
        kept = store_states(target, application.load_model(target, stored, device), inputs, command.states_mb)
    before, after = (
        application.evaluate(place, stored, Eval(run=place.path, options=command.options, data=command.data), device)
        for place in (folder, target)
    )
    size = target.weights.stat().st_size
    count, unit = application.samples(stored.source)
    figures = {"psnr": after.metrics["psnr"], "psnr_before": before.metrics["psnr"], "bytes": size}
    figures |= {"bits_per_sample": 8 * size / count, "weight_bits": command.bits, "state_bytes": kept}
    figures |= {"solve_steps": after.metrics["solve_steps"], "solve_steps_before": before.metrics["solve_steps"]}
    target.write_metrics(figures)
    _write_card(target, application, stored, figures, unit)
    if not command.options.quiet:
        print(
            f"{target.weights}: {size} bytes, {figures['bits_per_sample']:.3g} bits a {unit}, "
            f"{figures['psnr']:.2f} dB (before: {figures['psnr_before']:.2f}){_states(figures)}\n"
            f"next:  {application.next(target, stored)}"
        )
    return target


def _states(figures: dict[str, Any]) -> str:
    if not figures["state_bytes"]:
        return ""
    steps = f"{figures['solve_steps']} steps at most instead of {figures['solve_steps_before']}"
    return f"; {figures['state_bytes']} bytes of fixed points, from which solves take {steps}"


def _write_card(
    target: RunFolder, application: AbstractSignalFit, stored: Any, figures: dict[str, Any], unit: str
) -> None:
    config = stored.config
    lines = [
        f"# {config.model} {config.layers}L-{config.width}D",
        "",
        f"A network that represents `{Path(stored.source.source).name}`, fitted by `implayer {application.command}`.",
        "",
        "| | |",
        "|---|---|",
        f"| PSNR | {figures['psnr']:.2f} dB ({figures['psnr_before']:.2f} dB before the weights were rounded) |",
        f"| weights | {figures['weight_bits']} bits, {figures['bytes']} bytes |",
        *([f"| stored fixed points | {figures['state_bytes']} bytes |"] if figures["state_bytes"] else []),
        f"| bits a {unit} | {figures['bits_per_sample']:.4g} |",
        f"| trained | {config.steps} steps, seed {config.seed} |",
        f"| written by | {', '.join(f'{name} {version}' for name, version in versions().items())} |",
        "",
        f"Use it as a run: `{application.next(RunFolder(Path('FOLDER')), stored)}`. `config.json` holds the configuration,",
        "`model.safetensors` the weights; no pickle is involved.",
        "",
    ]
    text = "\n".join(lines)
    write_atomically(target.path / "card.md", lambda partial: partial.write_text(text, encoding="utf-8"), len(text))
