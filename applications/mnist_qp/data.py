"""Digits: MNIST from the data root or its mirrors, else the small ones that come with scikit-learn."""

import gzip
import hashlib
import importlib
import math
import sys
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..shared.data import VARIABLE
from ..shared.errors import InputError
from ..shared.files import write_atomically
from .config import DataSet

MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
FOLDERS = ("mnist", "MNIST/raw", ".")  # of the data root; the second is that of torchvision
# Of the unpacked files: a copy may have been packed anew.
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
_SECONDS = 20.0  # that a mirror may be silent
_LARGEST = 2**28  # bytes of an unpacked file; the largest of MNIST has 47 million
_DIGITS_TEST = 360  # of scikit-learn's 1797 digits, the last ones: written by other people than the first


@dataclass(frozen=True)
class Digits:
    """Pictures as (samples, pixels) of uint8, and their labels 0..9."""

    name: str
    folder: Path | None
    sha256: str
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    notes: tuple[str, ...] = ()

    def statistics(self) -> tuple[float, float]:
        """Mean and deviation of the training pixels in [0, 1]: 0.1307 and 0.3081 for MNIST."""
        counts = torch.bincount(self.train.reshape(-1), minlength=256).double()
        values = torch.arange(256, dtype=torch.float64) / 255
        mean = float((counts * values).sum() / counts.sum())
        return mean, math.sqrt(float((counts * (values - mean) ** 2).sum() / counts.sum()))


def load_digits(data_set: DataSet, root: Path) -> Digits:
    """The digits that are asked for, from `root`, from a mirror, or from scikit-learn.

    **Raises** `InputError`, which says what is missing, where it can be had, and where to put it.
    """
    if data_set == "digits":
        return _embedded(())
    folder = _folder(root)
    if folder is not None:
        return _mnist(folder)
    trouble = _download(root / "mnist")
    if trouble is None:
        return _mnist(root / "mnist")
    if data_set == "mnist":
        raise InputError(_missing(root, trouble))
    try:
        return _embedded(("MNIST was not found, so scikit-learn's digits of 8 x 8 pixels are used",))
    except InputError as error:
        raise InputError(
            _missing(root, trouble) + " Or `pip install scikit-learn`, whose small digits then serve."
        ) from error


def _missing(root: Path, trouble: str) -> str:
    return (
        f"MNIST was not found in `{root}` and could not be downloaded ({trouble}). Expected are the files "
        f"{', '.join(f'{name}.gz' for name in SHA256)}, to be had from {MIRRORS[0]}: put them into "
        f"`{root / 'mnist'}`, or name another data root by `--data DIR` or {VARIABLE}."
    )


def _folder(root: Path) -> Path | None:
    """Where in the data root all four files are."""
    places = (root / name for name in FOLDERS)
    return next((place for place in places if all(_file(place, name) is not None for name in SHA256)), None)


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)


def _mnist(folder: Path) -> Digits:
    parts, hashes = [], {}
    for name in SHA256:
        path = _file(folder, name)
        assert path is not None
        content = _unpacked(path)
        hashes[name] = hashlib.sha256(content).hexdigest()
        parts.append(_idx(path, content))
    train, train_labels, test, test_labels = parts
    for images, labels, kind in ((train, train_labels, "train"), (test, test_labels, "t10k")):
        if len(images) != len(labels) or images.ndim != 3 or labels.ndim != 1:
            raise InputError(
                f"`{folder}`: the {kind} files hold arrays of {tuple(images.shape)} and {tuple(labels.shape)}; expected "
                "pictures and as many labels."
            )
        if not len(labels) or int(labels.max()) > 9:
            raise InputError(f"`{folder}`: the labels of the {kind} files are no digits from 0 to 9.")
    if train.shape[1:] != test.shape[1:]:
        raise InputError(f"`{folder}`: the training pictures are {tuple(train.shape[1:])}, the others are not.")
    notes = () if hashes == SHA256 else (f"`{folder}` holds other digits than MNIST, so figures do not compare",)
    total = hashlib.sha256("".join(hashes.values()).encode()).hexdigest()
    return Digits(
        "mnist", folder, total, train.flatten(1), train_labels.long(), test.flatten(1), test_labels.long(), notes
    )


def _unpacked(path: Path) -> bytes:
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read(_LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"`{path}` is damaged ({error}); remove it, and it is downloaded anew.") from error
    if len(content) > _LARGEST:
        raise InputError(f"`{path}` unpacks to more than {_LARGEST} bytes; expected a file of MNIST.")
    return content


def _idx(path: Path, content: bytes) -> Tensor:
    """The array of an idx file of bytes: 0, 0, 8, axes, then each size as four bytes, then the values."""
    axes = content[3] if len(content) > 4 and content[:3] == b"\0\0\x08" else 0
    start = 4 + 4 * axes
    shape = [int.from_bytes(content[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(axes)]
    if not axes or len(content) - start != math.prod(shape):
        raise InputError(
            f"`{path}` is no idx file of bytes, or is cut short: {len(content)} bytes for an array of {shape}."
        )
    return torch.frombuffer(bytearray(content[start:]), dtype=torch.uint8).reshape(shape)


def _download(folder: Path) -> str | None:
    """Fetch what is missing of the four files; returns what went wrong, or None."""
    told = False
    for name, expected in SHA256.items():
        if _file(folder, name) is not None:
            continue
        trouble = ""
        for mirror in MIRRORS:
            try:
                packed = fetch(f"{mirror}{name}.gz")
                found = hashlib.sha256(gzip.decompress(packed)).hexdigest()
            except (OSError, EOFError, zlib.error, ValueError) as error:
                trouble = f"{mirror}: {error}"
                continue
            if found == expected:
                trouble = ""
                break
            trouble = f"{mirror}{name}.gz has the checksum {found[:12]}..., expected {expected[:12]}..."
        if trouble:
            return trouble
        if not told:
            print(f"downloading MNIST to {folder}", file=sys.stderr, flush=True)
            told = True
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            return f"`{folder}` cannot be made: {error.strerror}"
        _write(folder / f"{name}.gz", packed)
    return None


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda partial: partial.write_bytes(content), len(content))


def _from_network(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=_SECONDS) as answer:
        return answer.read(_LARGEST)


fetch: Callable[[str], bytes] = _from_network  # tests put another one in its place


def _embedded(notes: tuple[str, ...]) -> Digits:
    try:
        digits = importlib.import_module("sklearn.datasets").load_digits()  # an optional package
    except ImportError as error:
        raise InputError(
            "`--data-set digits` needs the package `scikit-learn`, which is not installed: `pip install scikit-learn`; "
            "or put MNIST into the data root and take `--data-set mnist`."
        ) from error
    images = (torch.as_tensor(digits.data, dtype=torch.float64) * (255 / 16)).round().to(torch.uint8)
    labels = torch.as_tensor(digits.target).long()
    total = hashlib.sha256(images.numpy().tobytes()).hexdigest()
    train, test = slice(0, len(labels) - _DIGITS_TEST), slice(len(labels) - _DIGITS_TEST, None)
    return Digits("digits", None, total, images[train], labels[train], images[test], labels[test], notes)
