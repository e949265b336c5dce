"""Voxels to learn from: ModelNet10's, ShapeNet's in the form that 3D-R2N2 published, or generated ones."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from ..shared.data import VARIABLE
from ..shared.errors import InputError
from .binvox import read_binvox
from .config import DataSet
from .grid import SIDE

MODELNET = "levelset/modelnet10_vox32.npz"  # of the data root
VOXELS, RENDERINGS = "ShapeNetVox32", "ShapeNetRendering"
_TRAIN_SHARE = 0.8  # of the shapes of a category in the order of their names, as 3D-R2N2 divides them
_LEAST = 40  # voxels: less is a remnant of a mesh that was not filled
_CATEGORIES = {
    "02691156": "airplane", "02828884": "bench", "02933112": "cabinet", "02958343": "car", "03001627": "chair",
    "03211117": "monitor", "03636649": "lamp", "03691459": "speaker", "04090263": "rifle", "04256520": "sofa",
    "04379243": "table", "04401088": "telephone", "04530566": "vessel",
}  # fmt: skip
_GENERATED = (96, 32)  # training and test shapes
_MADE = ("sofa", "all")  # what they may be called


@dataclass(frozen=True, eq=False)
class Shape:
    """Occupied voxels (32, 32, 32), the last axis up, and where there are pictures of them."""

    name: str
    occupied: Tensor
    pictures: Path | None = None


@dataclass(frozen=True)
class Shapes:
    """Shapes to train on and to test with."""

    name: str
    root: Path | None
    sha256: str
    train: tuple[Shape, ...]
    test: tuple[Shape, ...]
    notes: tuple[str, ...] = ()


def load_shapes(data_set: DataSet, category: str, root: Path) -> Shapes:
    """The shapes that are asked for, without repetitions and without what is nearly empty.

    **Raises** `InputError`, which says what is missing, where it can be had, and where to put it.
    """
    shapenet, modelnet = (root / VOXELS).is_dir(), (root / MODELNET).is_file()
    if data_set == "shapenet" or (data_set == "auto" and shapenet):
        return _clean("shapenet", root, *_shapenet(root, category))
    if data_set == "modelnet" or (data_set == "auto" and modelnet):
        return _clean("modelnet", root, *_modelnet(root / MODELNET, category))
    if category not in _MADE:
        raise InputError(
            f"`--category` is {category}; generated shapes are seats: expected {' or '.join(_MADE)}. {_EXPECTED}."
        )
    note = f"no shapes were found in `{root}`, so generated ones are used: {_EXPECTED}"
    train, test = _GENERATED
    made = [Shape(f"generated-{seed}", _generated(seed)) for seed in range(train + test)]
    found = _clean("generated", None, made[:train], made[train:])
    return found if data_set == "generated" else _noted(found, note)


_EXPECTED = f"`--data DIR` or {VARIABLE} names a data root with {VOXELS}/ and {RENDERINGS}/, or with {MODELNET}"


def _noted(shapes: Shapes, *notes: str) -> Shapes:
    return Shapes(shapes.name, shapes.root, shapes.sha256, shapes.train, shapes.test, (*shapes.notes, *notes))


def _clean(name: str, root: Path | None, train: list[Shape], test: list[Shape]) -> Shapes:
    """Drop what is nearly empty, what repeats (but for the last), and what is tested although it was trained on."""
    total = len(train) + len(test)
    sound = [[shape for shape in part if int(shape.occupied.sum()) >= _LEAST] for part in (train, test)]
    seen: set[bytes] = set()
    kept: list[list[Shape]] = []
    for part in sound:
        new = {bytes(np.packbits(shape.occupied.numpy())): shape for shape in reversed(part)}
        kept.append([new[key] for key in reversed(new) if key not in seen])
        seen |= new.keys()
    if not kept[0] or not kept[1]:
        raise InputError(
            f"`{root}` has {len(kept[0])} shapes to train on and {len(kept[1])} to test with; expected both."
        )
    small, twice = total - sum(map(len, sound)), sum(map(len, sound)) - sum(map(len, kept))
    note = f"{len(kept[0])} shapes to train on, {len(kept[1])} to test with; left out: {twice} repeated, {small} nearly empty"
    digest = hashlib.sha256(b"".join(shape.occupied.numpy().tobytes() for part in kept for shape in part))
    return Shapes(name, root, digest.hexdigest(), tuple(kept[0]), tuple(kept[1]), (note,))


def _modelnet(path: Path, category: str) -> tuple[list[Shape], list[Shape]]:
    try:
        with open(path, "rb") as raw, np.load(raw) as file:
            names = [str(name) for name in file["class_names"]]
            if category not in (*names, "all"):
                raise InputError(f"`--category` is {category}; expected all, or one of {', '.join(names)}.")
            parts = [_unpacked(file[split], file[f"{split}_label"], names, category) for split in ("train", "test")]
    except InputError:
        raise
    except (OSError, KeyError, ValueError, IndexError, BadZipFile, EOFError, NotImplementedError) as error:
        raise InputError(
            f"`{path}` cannot be used ({error}); expected packed voxels `train` and `test`, their labels, and `class_names`. "
            f"{_EXPECTED}."
        ) from error
    return parts[0], parts[1]


def _unpacked(packed: np.ndarray, labels: np.ndarray, names: list[str], category: str) -> list[Shape]:
    voxels = np.unpackbits(packed, axis=1).reshape(-1, SIDE, SIDE, SIDE)
    chosen = [number for number, label in enumerate(labels) if category in ("all", names[label])]
    return [Shape(f"{names[labels[k]]}-{k}", torch.from_numpy(voxels[k]).bool()) for k in chosen]


def _shapenet(root: Path, category: str) -> tuple[list[Shape], list[Shape]]:
    """Voxels/SYNSET/ID/model.binvox with Renderings/SYNSET/ID/rendering/*.png; the first 80 % are for the training."""
    folder = root / VOXELS
    there = {_CATEGORIES.get(path.name, path.name): path for path in _folders(folder)}
    if not there:
        raise InputError(
            f"`{folder}` has no categories; expected SYNSET/ID/model.binvox and, in {RENDERINGS}/, SYNSET/ID/rendering/00.png, "
            f"as in ShapeNetVox32.tgz and ShapeNetRendering.tgz of 3D-R2N2 (cvgl.stanford.edu/data2). {_EXPECTED}."
        )
    if category not in (*there, "all"):
        raise InputError(f"`--category` is {category}; expected all, or one of {', '.join(sorted(there))}.")
    train: list[Shape] = []
    test: list[Shape] = []
    for name, path in there.items():
        if category not in ("all", name):
            continue
        models = _folders(path)
        split = round(_TRAIN_SHARE * len(models))
        train += [_shapenet_shape(model, root) for model in models[:split]]
        test += [_shapenet_shape(model, root) for model in models[split:]]
    return train, test


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir()) if path.is_dir() else []


def _shapenet_shape(model: Path, root: Path) -> Shape:
    pictures = root / RENDERINGS / model.parent.name / model.name / "rendering"
    if not any(pictures.glob("*.png")):
        raise InputError(f"`{pictures}` has no pictures; expected 00.png and so on for each shape of {VOXELS}.")
    occupied = read_binvox(model / "model.binvox")
    if occupied.shape != (SIDE,) * 3:
        raise InputError(
            f"`{model / 'model.binvox'}` is {tuple(occupied.shape)}; expected {SIDE} voxels along each axis."
        )
    return Shape(model.name, occupied, pictures)


def _generated(seed: int) -> Tensor:
    """A seat with a back and two arms of random sizes."""
    random = np.random.default_rng(seed)
    width, depth = random.integers(14, 26), random.integers(8, 14)
    seat, back, arm = random.integers(4, 8), random.integers(3, 9), random.integers(2, 4)
    occupied = np.zeros((SIDE,) * 3, dtype=bool)
    x, y, z = 16 - width // 2, 16 - depth // 2, 6
    occupied[x : x + width, y : y + depth, z : z + seat] = True
    occupied[x : x + width, y : y + 3, z : z + seat + back] = True
    for left in (x, x + width - arm):
        occupied[left : left + arm, y : y + depth, z : z + seat + int(random.integers(0, 4))] = True
    return torch.from_numpy(occupied)
