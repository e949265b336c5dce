"""What the commands for pictures share: what is stored of a run, and checks of what the user gave."""

import dataclasses
from pathlib import Path

from ..shared.data import data_root, find_file
from ..shared.errors import InputError, RunFolderError
from ..shared.pictures import Picture, camera, read_picture, shrink
from ..shared.run_folder import RunFolder
from .config import ImageConfig

TASK = "image"


@dataclasses.dataclass(frozen=True)
class StoredRun:
    """What `config.json` keeps of a picture fit."""

    source: str
    height: int
    width: int
    channels: int
    max_pixels: int
    threads: int
    device: str
    config: ImageConfig


def read_run(folder: RunFolder) -> StoredRun:
    """The configuration of a picture fit."""
    task, fields = folder.read_config()
    if task != TASK:
        raise RunFolderError(f"`{folder.path}` holds a run of `{task}`; expected one of `fit image`.")
    try:
        return StoredRun(**{**fields, "config": ImageConfig(**fields["config"])})
    except (TypeError, KeyError) as error:
        raise RunFolderError(f"`config.json` in `{folder.path}` is not that of a picture fit ({error}).") from error


def check(config: ImageConfig) -> None:
    """Refuse values that cannot mean anything, by name."""
    least = {"width": 1, "depth": 1, "steps": 1, "power_iterations": 1, "terms": 0, "max_solve_steps": 1, "chunk": 0}
    for name, smallest in least.items():
        if getattr(config, name) < smallest:
            raise InputError(f"`--{name.replace('_', '-')}` is {getattr(config, name)}; expected at least {smallest}.")
    for name in ("learning_rate", "norm_target", "tolerance"):
        if not getattr(config, name) > 0:
            raise InputError(f"`--{name.replace('_', '-')}` is {getattr(config, name)}; expected a positive number.")


def load_picture(source: str, size: int, data: Path | None, max_pixels: int) -> tuple[Picture, str]:
    """The picture that `source` names, at most `size` pixels long, and where it was found."""
    if size < 2:
        raise InputError(f"`--size` is {size}; expected at least 2 pixels.")
    if source == "camera" and not Path(source).exists():
        return shrink(camera(), size, source), source
    path = find_file(source, data_root(data), "images/kodak", "images/text", "images", ".").resolve()
    return shrink(read_picture(path, max_pixels), size, str(path)), str(path)
