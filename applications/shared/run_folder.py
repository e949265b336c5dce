"""The folder of a run: configuration, figures, weights, pictures, checkpoint."""

import dataclasses
import difflib
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

from .errors import ConfigChangedError, RunFolderError
from .files import PARTIAL, refuse_irregular, write_json

CONFIG, METRICS, WEIGHTS, CHECKPOINT = "config.json", "metrics.json", "model.safetensors", "checkpoint.safetensors"
FORMAT = 1  # of config.json and checkpoints; raised when an old program could misread a new run


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The paths of a run."""

    path: Path

    @property
    def checkpoint(self) -> Path:
        """Everything that training needs to go on exactly."""
        return self.path / CHECKPOINT

    @property
    def weights(self) -> Path:
        """The weights alone, of a finished or saved run."""
        return self.path / WEIGHTS

    def write_config(self, task: str, fields: dict[str, Any]) -> None:
        """The configuration of a run of `task`."""
        write_json(self.path / CONFIG, {"format": FORMAT, "task": task, "config": fields, "versions": versions()})

    def read_config(self) -> tuple[str, dict[str, Any]]:
        """The task and the fields of its configuration."""
        stored = self._read(CONFIG)
        if stored.get("format", 0) > FORMAT:
            raise RunFolderError(
                f"`{self.path / CONFIG}` has format {stored['format']}, this program reads up to {FORMAT}. "
                "Update implayer."
            )
        try:
            return str(stored["task"]), dict(stored["config"])
        except (KeyError, TypeError, ValueError) as error:
            raise RunFolderError(f"`{self.path / CONFIG}` is not that of a run ({error}).") from error

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        """The figures of the run."""
        write_json(self.path / METRICS, metrics)

    def read_metrics(self) -> dict[str, Any]:
        """The figures of the run, as far as it has any."""
        return self._read(METRICS) if (self.path / METRICS).exists() else {}

    def _read(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RunFolderError(
                f"`{self.path}` holds no run: `{name}` is missing. Expected a folder that `implayer fit` or `train` wrote."
            ) from error
        except (OSError, ValueError) as error:
            raise RunFolderError(f"`{self.path / name}` cannot be read: {error}.") from error
        if not isinstance(found, dict):
            raise RunFolderError(f"`{self.path / name}` holds a {type(found).__name__}; expected the object of a run.")
        return found


def create_run(out: Path, *, overwrite: bool = False) -> RunFolder:
    """Make the folder of a new run, and find out before training whether it can be written to."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        kind = "a link" if out.is_symlink() else "no folder"
        raise RunFolderError(f"`--out {out}` is {kind}; expected a folder, or a name that is free.")
    if (out / CONFIG).exists() and not overwrite:
        raise RunFolderError(
            f"`--out {out}` holds a run already. Go on with it by `implayer resume {out}`, choose another `--out`, "
            "or replace it by `--overwrite`."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".probe{PARTIAL}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise RunFolderError(
            f"`--out {out}` cannot be written to ({error.strerror}). Choose another folder."
        ) from error
    for name in (CONFIG, METRICS, WEIGHTS, CHECKPOINT):
        refuse_irregular(out / name)
        if overwrite:
            (out / name).unlink(missing_ok=True)
    remove_strays(out)
    return RunFolder(out)


def open_run(path: Path) -> RunFolder:
    """An existing run. What a killed process left half written is removed."""
    if not path.is_dir():
        raise RunFolderError(
            f"`{path}` is no folder; expected a run that `implayer fit` or `train` wrote{_neighbours(path)}."
        )
    if os.access(path, os.W_OK):
        remove_strays(path)
    return RunFolder(path)


def free_name(stem: str) -> Path:
    """`runs/stem`, or `runs/stem-2`, ... when runs of that name exist."""
    base = Path("runs") / stem
    path, number = base, 1
    while path.exists():
        number += 1
        path = base.with_name(f"{stem}-{number}")
    return path


def remove_strays(path: Path) -> None:
    """Remove temporary files of a process that was killed while it wrote."""
    for stray in path.glob(f"*{PARTIAL}"):
        if stray.is_file() and not stray.is_symlink():
            stray.unlink(missing_ok=True)


def refuse_changes(stored: dict[str, Any], asked: dict[str, Any], *, allow: bool) -> None:
    """Compare the stored configuration with the one asked for."""
    changed = {name: (stored.get(name), value) for name, value in asked.items() if stored.get(name) != value}
    if changed and not allow:
        listing = "; ".join(f"`{name}` was {old!r}, asked for {new!r}" for name, (old, new) in changed.items())
        raise ConfigChangedError(
            f"the configuration differs from that of the run: {listing}. Leave these options out, or pass "
            "`--allow-config-change` if the run shall go on with the new ones."
        )


def versions() -> dict[str, str]:
    """Of what decides the numbers of a run."""
    found = {"python": platform.python_version()}
    for name in ("implayer", "torch", "numpy", "pillow"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _neighbours(path: Path) -> str:
    parent = path.parent if path.parent.is_dir() else Path("runs")
    names = [str(entry) for entry in parent.iterdir() if entry.is_dir()] if parent.is_dir() else []
    near = difflib.get_close_matches(str(path), names, n=1)
    return f"; perhaps `{near[0]}`" if near else ""
