"""Where files come from: a path, or the data root."""

import difflib
import os
from pathlib import Path

from .arrays import divided
from .errors import InputError

VARIABLE = "IMPLAYER_DATA"


def data_root(given: Path | None, *, new: bool = False) -> Path:
    """The folder of `--data`, else of the environment, else a cache folder of the user.

    **Raises** `InputError` where `--data` names no folder, unless a `new` one will do.
    """
    if given is not None:
        if not new and not given.is_dir():
            raise InputError(f"`--data` is `{given}`, which is no folder; expected the data root.")
        return given
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "implayer"


def find_file(name: str, root: Path, *folders: str, what: str = "picture file", folder: bool = False) -> Path:
    """The file of that name: as it is, or in one of the folders of the data root; `folder`: a folder will do too.

    What is named inside of a NumPy file (`data.npz/test_data/3`) stays behind its path. **Raises** `InputError`, which says
    where was looked and names the nearest file.
    """
    path, inside = divided(Path(name).expanduser())
    if path.exists():
        if path.is_dir() and not folder:
            raise InputError(f"`{name}` is a folder; expected a {what}.")
        return path.joinpath(*inside)
    places = [root / folder for folder in folders]
    for place in places:
        if not path.is_absolute() and (place / path).is_file():
            return place.joinpath(path, *inside)
    pictures = what == "picture file"
    known = ["camera"] if pictures else []
    for place in [path.parent, *places]:
        known += [entry.name for entry in place.iterdir() if entry.is_file()] if place.is_dir() else []
    near = difflib.get_close_matches(path.name, known, n=1)
    looked = ", ".join(f"`{place}`" for place in [Path.cwd(), *places])
    hint = f"; perhaps `{near[0]}`" if near else f"; `--data DIR` or {VARIABLE} names the data root"
    raise InputError(
        f"`{name}` was not found in {looked}; expected a {what}{' or `camera`' if pictures else ''}{hint}."
    )
