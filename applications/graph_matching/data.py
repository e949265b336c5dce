"""Landmarks: the CMU sequences, CUB's birds, WILLOW's ducks; and pairs of them for training and test."""

import hashlib
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..shared.data import VARIABLE
from ..shared.errors import InputError
from ..shared.pictures import read_picture
from .config import MatchingConfig
from .graphs import GraphError, check_points

FOLDER = "graph_matching"
SOURCES = {
    "cmu_house_hotel_points.npz": "the landmarks XTs of github.com/zhfe99/fgm, data/cmum/cmum.mat, as `house` (111, 30, 2) "
    "and `hotel` (101, 30, 2)",
    "cub200_parts.npz": "the part locations of CUB-200-2011 as `parts` (birds, 15, 3), with `bbox` (birds, 4) and "
    "`part_names`",
    "willow_duck_1.jpg": "a duck of WILLOW-ObjectClass, with its 10 landmarks in willow_duck_1.csv",
}
GAP = 90  # frames between the two of a test pair, the widest of the published figures
TRAINED = (21, 90)  # the frames of a CMU sequence between those of the test pairs: training has none of theirs
UNIT = 50.0  # pixels: exp(-(d1 - d2)^2 / 2500) is the affinity of the benchmark
BIRD_UNIT = 0.15  # of the diagonal of the box
LANDMARKS = ("back", "beak", "belly", "breast", "crown", "forehead", "nape", "tail")  # of birds: those without sides


@dataclass(frozen=True)
class Pairs:
    """Pairs of point sets whose rows correspond."""

    first: Tensor  # (pairs,) into `points`
    second: Tensor  # (pairs,)

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True)
class Landmarks:
    """Point sets with rows that correspond, and which pairs of them train and test."""

    name: str
    points: Tensor  # (sets, n, 2) in pixels, float64
    radius: Tensor  # (sets,) diagonal of the box, pixels: what PCK is measured by
    unit: Tensor  # (sets,) pixels of a unit of length
    train: Pairs
    test: Pairs
    sha256: str
    pictures: dict[int, Tensor]  # set -> (height, width) grey, where there is one
    folder: Path


def load_landmarks(config: MatchingConfig, root: Path) -> Landmarks:
    """The landmarks that a configuration names.

    **Raises** `InputError`, which says what is missing, where it can be had, and where to put it.
    """
    if config.features != "geometry" and config.data_set != "house":
        raise InputError(
            f"`--features {config.features}` needs pictures, which are there for `--data-set house` alone."
        )
    if config.data_set == "cub":
        return _birds(config, root)
    points, sha256 = load_sequence(config.data_set, root)
    pictures = load_frames(root) if config.features != "geometry" else {}
    frames = sorted(pictures) if pictures else range(len(points))
    inner = [frame for frame in frames if TRAINED[0] <= frame < TRAINED[1]]
    train = _pairs([(a, b) for a in inner for b in inner if a < b])
    last = len(points) - 1
    gap = min(GAP, last - 20)  # 21 pairs or, of pictures, every tenth
    test = _pairs([(a, a + gap) for a in frames if a + gap <= last and a + gap in frames])
    unit = torch.full((len(points),), UNIT, dtype=points.dtype)
    return Landmarks(config.data_set, points, _extent(points), unit, train, test, sha256, pictures, root)


def load_sequence(name: str, root: Path) -> tuple[Tensor, str]:
    """(frames, 30, 2) a CMU sequence, and the checksum of its file."""
    content, sha256 = _arrays("cmu_house_hotel_points.npz", root, (name,))
    points = content[name].astype(np.float64)
    for frame, one in enumerate(points):
        check_points(one, f"the landmarks of frame {frame} of {name}")
    return torch.from_numpy(points), sha256


def load_frames(root: Path) -> dict[int, Tensor]:
    """The pictures of the house that are there: frame -> (height, width) in [0, 1]."""
    found = {}
    for path in sorted((root / FOLDER / "cmu_house_images").glob("house*.png")):
        number = re.search(r"\d+$", path.stem)  # house.seqK of the source, or houseK
        if number is not None:
            found[int(number[0])] = read_picture(path).pixels.mean(-1).double()
    if not found:
        raise InputError(
            f"`{root / FOLDER / 'cmu_house_images'}` holds no houseK.png; they are to be had from github.com/zhfe99/fgm, "
            f"data/cmum/house/images. `--data DIR` or {VARIABLE} names the data root."
        )
    return found


def load_ducks(root: Path) -> tuple[list[Tensor], Tensor]:
    """Two pictures (height, width, 3) and their landmarks (2, 10, 2) in pixels."""
    pictures, points = [], []
    for number in (1, 2):
        path = _file(f"willow_duck_{number}.jpg", root, "willow_duck_1.jpg")
        pictures.append(read_picture(path).pixels)
        try:
            points.append(np.loadtxt(path.with_suffix(".csv"), delimiter=",", skiprows=1, ndmin=2))
        except (OSError, ValueError) as error:
            raise InputError(f"`{path.with_suffix('.csv')}` holds no landmarks: {error}.") from error
        check_points(points[-1], f"the landmarks of `{path.name}`")
    if len(points[0]) != len(points[1]):
        raise GraphError(f"the ducks have {len(points[0])} and {len(points[1])} landmarks; expected as many.")
    return pictures, torch.from_numpy(np.stack(points))


def _birds(config: MatchingConfig, root: Path) -> Landmarks:
    content, sha256 = _arrays("cub200_parts.npz", root, ("parts", "bbox", "part_names"))
    names = [str(name) for name in content["part_names"]]
    missing = [name for name in LANDMARKS if name not in names]
    if missing:
        raise InputError(f"`cub200_parts.npz` knows no landmark {missing[0]!r}; expected {', '.join(LANDMARKS)}.")
    parts = content["parts"][:, [names.index(name) for name in LANDMARKS]].astype(np.float64)
    spread = np.linalg.svd(parts[..., :2] - parts[..., :2].mean(1, keepdims=True), compute_uv=False)
    apart = [len(np.unique(one[:, :2], axis=0)) == len(LANDMARKS) for one in parts]
    good = (parts[..., 2] > 0).all(1) & np.isfinite(parts).all((1, 2)) & (spread[:, 1] > 1e-3 * spread[:, 0]) & apart
    if good.sum() < 20:
        raise InputError(f"`cub200_parts.npz` has {good.sum()} birds that show all of {', '.join(LANDMARKS)}.")
    points = torch.from_numpy(parts[good][..., :2])
    box = torch.from_numpy(content["bbox"][good][:, 2:].astype(np.float64))
    generator = torch.Generator().manual_seed(config.seed)
    order = torch.randperm(len(points), generator=generator)
    cut = len(points) * 9 // 10  # birds are split, not pairs: no test bird was seen
    pairs = []
    for birds, count in ((order[:cut], config.train_pairs), (order[cut:], config.test_pairs)):
        first = torch.randint(len(birds), (count,), generator=generator)
        other = torch.randint(1, len(birds), (count,), generator=generator)
        pairs.append(Pairs(birds[first], birds[(first + other) % len(birds)]))
    radius = box.square().sum(-1).sqrt()
    return Landmarks("cub", points, radius, BIRD_UNIT * radius, pairs[0], pairs[1], sha256, {}, root)


def _pairs(pairs: list[tuple[int, int]]) -> Pairs:
    if not pairs:
        raise InputError("the sequence is too short for pairs of frames to train and to test.")
    first, second = torch.tensor(pairs).unbind(-1)
    return Pairs(first, second)


def _extent(points: Tensor) -> Tensor:
    """(sets,) the diagonal of the bounding box of each set."""
    return (points.amax(1) - points.amin(1)).square().sum(-1).sqrt()


def _file(name: str, root: Path, known: str | None = None) -> Path:
    path = root / FOLDER / name
    if not path.is_file():
        raise InputError(
            f"`{path}` was not found. It is {SOURCES[known or name]}; put it there, or name another data root by "
            f"`--data DIR` or {VARIABLE}."
        )
    return path


def _arrays(name: str, root: Path, keys: tuple[str, ...]) -> tuple[dict[str, np.ndarray], str]:
    path = _file(name, root)
    try:
        raw = path.read_bytes()
        with np.load(path, allow_pickle=False) as file:
            content = {key: file[key] for key in keys}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"`{path}` is damaged or lacks {', '.join(keys)} ({error}).") from error
    return content, hashlib.sha256(raw).hexdigest()
