"""Files that are either the old one or the new one, never half of one."""

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .errors import CheckpointWriteError, InputError, RunFolderError

PARTIAL = ".partial"  # the suffix of a file that is being written; a stray one is what a kill left behind


def write_atomically(path: Path, write: Callable[[Path], object], size: int = 0) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in the place of `path` in one step.

    **Arguments**

    - `path`: the final name. A link, a folder or a device is refused: renaming would replace it.
    - `write`: receives the temporary path.
    - `size`: bytes expected, for the message when the disk is full.

    **Raises** `CheckpointWriteError`; the old file is then intact and no partial one remains.
    """
    refuse_irregular(path)
    partial = path.with_name(path.name + PARTIAL)
    try:
        write(partial)
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(partial, 0o666 & ~_umask())  # safetensors leaves 0600 whatever the umask says
        os.replace(partial, path)
    except Exception as error:  # safetensors reports a full disk by an exception of its own
        written = partial.stat().st_size if partial.exists() else 0
        partial.unlink(missing_ok=True)
        free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
        needed = max(size, written)
        full = free <= needed or "space" in str(error).lower() or "quota" in str(error).lower()
        raise CheckpointWriteError(
            f"`{path}` could not be written ({error}): {needed} bytes needed, {free} bytes free there."
            f" What was saved before is intact; {'free some space' if full else 'mend that'} and go on with `implayer resume`."
        ) from error


def write_json(path: Path, value: Any) -> None:
    """`value` as readable JSON, atomically. NaN and infinity are refused, for they are no JSON."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"), len(text))


def require_target(path: Path, suffixes: Iterable[str]) -> None:
    """A file of one of these kinds may be written at `path`. Raises `InputError` before anything is computed for it."""
    if path.suffix.lower() not in suffixes:
        raise InputError(f"`--out {path}` cannot be written; expected a name that ends with {' or '.join(suffixes)}.")
    refuse_irregular(path)
    if not path.absolute().parent.is_dir():
        raise InputError(f"the folder of `--out {path}` does not exist.")


def refuse_irregular(path: Path) -> None:
    """A file may be written where nothing or a regular file is."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        kind = "a link" if path.is_symlink() else "a folder" if path.is_dir() else "a device or pipe"
        raise RunFolderError(f"`{path}` is {kind}; expected a regular file or nothing there. Choose another `--out`.")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
