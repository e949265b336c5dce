"""Pictures in NumPy files, named like files in folders: FILE.npy, FILE.npy/INDEX, FILE.npz/KEY/INDEX."""

import math
import zipfile
import zlib
from pathlib import Path

import numpy as np

from .errors import ArrayReadError

SUFFIXES = (".npy", ".npz")
MAX_BYTES = 4_000_000_000  # of an array of an archive, which is unpacked as a whole; that of a .npy file is mapped
_WIDEST = 255.0


def divided(path: Path) -> tuple[Path, tuple[str, ...]]:
    """The file, and what is named inside of it: `data.npz/test_data/3` is `data.npz` and (`test_data`, `3`)."""
    parts = path.parts
    for count, part in enumerate(parts, 1):
        if Path(part).suffix.lower() in SUFFIXES and not Path(*parts[:count]).is_dir():
            return Path(*parts[:count]), parts[count:]
    return path, ()


def in_array(path: Path) -> bool:
    """Whether the path names a NumPy file, or something inside of one."""
    return divided(path)[0].suffix.lower() in SUFFIXES


def name_of(path: Path) -> str:
    """What a run is called after: `data-test_data-3`."""
    file, inside = divided(path)
    return "-".join((file.stem, *inside))


def read_array(path: Path) -> np.ndarray:
    """The array that `path` names, of a `.npy` file mapped into memory.

    **Raises** `ArrayReadError`, which names the file and what it holds: damaged, of Python objects, an archive without that
    key, an index beyond the array, or an archive's array of more than `MAX_BYTES`.
    """
    file, inside = divided(path)
    try:
        if file.suffix.lower() == ".npz":
            array, inside = _of_archive(file, inside)
        else:
            array = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise ArrayReadError(f"`{file}` does not exist; expected a NumPy file.") from error
    except ArrayReadError:
        raise
    # RuntimeError: what Python's zip reader raises of encrypted files and unknown compression
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        size = file.stat().st_size if file.is_file() else 0
        reason = str(error).split("\n")[0][:150].rstrip(".")
        raise ArrayReadError(
            f"`{file}` ({size} bytes) is no NumPy file that can be read, or is damaged: {reason}."
        ) from error
    for place in inside:
        if not place.isdecimal() or array.ndim == 0 or int(place) >= len(array):
            least = f"numbers from 0 to {len(array) - 1}" if array.ndim and len(array) else "no number at all"
            raise ArrayReadError(f"`{path}`: there is no `{place}` in an array of {array.shape}; expected {least}.")
        array = array[int(place)]
    return array


def _of_archive(file: Path, inside: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    if file.exists() and not zipfile.is_zipfile(file):
        raise zipfile.BadZipFile("it is no zip archive")
    with np.load(file, allow_pickle=False) as archive:
        names = archive.files
        if len(names) == 1 and names[0] not in inside[:1]:  # it need not be named
            inside = (names[0], *inside)
        if not inside or inside[0] not in names:
            asked = f"has no `{inside[0]}`; it " if inside else ""
            first = f", as in `{file.name}/{names[0]}`" if names else ""
            raise ArrayReadError(
                f"`{file}` {asked}holds {', '.join(f'`{name}`' for name in names) or 'nothing'}; expected one of them "
                f"after the name of the file{first}."
            )
        size = archive.zip.getinfo(f"{inside[0]}.npy").file_size
        if size > MAX_BYTES:
            raise ArrayReadError(
                f"`{file}/{inside[0]}` takes {size / 1e9:.1f} GB; at most {MAX_BYTES / 1e9:g} GB of an archive are unpacked. "
                "Save it as a .npy file, which is mapped."
            )
        return archive[inside[0]], inside[1:]


def pictures_in(array: np.ndarray, path: Path, *, many: bool) -> np.ndarray:
    """(height, width, 1 or 3), or with `many` (count, height, width, 1 or 3), of an array with or without channels.

    A row of 3 n^2 numbers is a colour picture of n x n. **Raises** `ArrayReadError` where the shape says something else.
    """
    side = math.isqrt(array.size // 3)
    if not many and array.ndim == 1 and array.size == 3 * side * side:
        array = array.reshape(side, side, 3)
    axes = 3 if many else 2
    if array.ndim == axes and not (many and array.shape[-1] in (1, 3)):
        array = array[..., None]
    if array.ndim == axes + 1 and array.shape[-1] in (1, 3) and array.size:
        return array
    if not many and array.ndim in (3, 4) and array.size:
        raise ArrayReadError(
            f"`{path}` holds {len(array)} pictures, {array.shape}; append the number of one, 0 to {len(array) - 1}, as in "
            f"`{divided(path)[0].name}/{'/'.join((*divided(path)[1], '0'))}`."
        )
    expected = ("(frames, " if many else "(") + "height, width, channels), the channels being 1, 3 or left out"
    raise ArrayReadError(f"`{path}` holds an array of {array.shape}; expected {expected}.")


def largest_value(array: np.ndarray, path: Path) -> tuple[float, str]:
    """The number that stands for white, 1, 255 or 65535, and a remark where that had to be inferred.

    **Raises** `ArrayReadError` where the entries are no real numbers, not finite, negative, or larger than any of these.
    """
    kind = array.dtype.kind
    if kind == "b":
        return 1.0, ""
    if array.dtype in (np.uint8, np.uint16):
        return float(np.iinfo(array.dtype).max), ""
    if kind not in "iuf":
        raise ArrayReadError(f"`{path}` holds entries of type {array.dtype}; expected real numbers.")
    parts = array if array.ndim > 3 else array[None]  # frame by frame, for a mapped video need not fit into memory
    low, high, whole = math.inf, -math.inf, True
    for part in parts:
        least, most = float(part.min()), float(part.max())
        if not math.isfinite(least + most):
            raise ArrayReadError(f"`{path}` holds NaN or infinity.")
        low, high = min(low, least), max(high, most)
        whole = whole and (kind != "f" or bool((part == np.floor(part)).all()))
    if low >= 0 and high <= 1 and kind == "f":
        return 1.0, ""
    if low >= 0 and high <= _WIDEST and whole:
        return _WIDEST, f"{array.dtype} of whole numbers up to {high:g} is read as 8 bits"
    raise ArrayReadError(
        f"`{path}` holds {array.dtype} from {low:.4g} to {high:.4g}; expected floating-point values in [0, 1], or whole "
        "numbers from 0 to 255."
    )
