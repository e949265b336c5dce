"""`implayer doctor`: what a report of a fault should contain, and what is missing here."""

import importlib.metadata
import importlib.util
import os
import platform
from pathlib import Path

import torch

from .shared.data import VARIABLE, data_root

_PACKAGES = ("implayer", "torch", "numpy", "scipy", "cvxpy", "hypothesis", "safetensors", "tyro", "rich")
_EXTRAS = {
    "apps": {"matplotlib": "matplotlib", "pillow": "PIL", "scikit-image": "skimage", "soundfile": "soundfile"},
    "meshes": {"trimesh": "trimesh"},
    "qp": {"daqp": "daqp"},
    "video": {"av": "av"},
}
_SETS = {
    "images/kodak": "Kodak pictures",
    "images/text": "text pictures",
    "audio": "sounds",
    "video": "videos",
    "meshes": "meshes",
    "levelset": "shapes as voxels",
    "mnist": "MNIST digits",
    "graph_matching": "landmarks",
    "ncut/camvid/train": "road scenes",
}


def doctor(data: Path | None) -> int:
    """Print the findings; 0 where everything needed is there."""
    print(f"python        {platform.python_version()} on {platform.platform()}")
    for name in _PACKAGES:
        print(f"{name:13} {_version(name)}")
    missing = False
    for extra, packages in _EXTRAS.items():
        absent = [name for name, module in packages.items() if importlib.util.find_spec(module) is None]
        missing = missing or bool(absent)
        print(
            f"extra {extra:7} "
            + (f"lacks {', '.join(absent)}: pip install 'implayer[{extra}]'" if absent else "complete")
        )
    print(f"devices       cpu ({torch.get_num_threads()} threads of {os.cpu_count()} cores){_accelerators()}")
    root = data_root(data, new=True)
    print(f"data root     {root}" + ("" if root.is_dir() else f" (not there; `--data` or {VARIABLE} names another)"))
    for folder, name in _SETS.items():
        count = sum(1 for entry in (root / folder).iterdir() if entry.is_file()) if (root / folder).is_dir() else 0
        print(f"  {name:18} {f'{count} files' if count else 'not found'}")
    return int(missing)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _accelerators() -> str:
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return "".join(f", {name}" for name in names) or "; no GPU"
