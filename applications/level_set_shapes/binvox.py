"""Voxels in binvox files: an ASCII header, then runs of equal voxels."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..shared.errors import InputError

_LARGEST = 512  # voxels along an axis


def read_binvox(path: Path) -> Tensor:
    """(x, z, y) occupied voxels, so that y, which points up in ShapeNet, is the last axis, as it is in the file.

    **Reference** Min, "binvox voxel file format specification", versions 1 and 2.

    **Raises** `InputError` for a file that is missing, damaged, or of another kind.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"`{path}` cannot be read ({error.strerror}); expected voxels in a binvox file.") from error
    header, found, body = content.partition(b"\ndata\n")
    lines = header.split(b"\n")
    if not found or not lines[0].startswith(b"#binvox"):
        raise InputError(f"`{path}` ({len(content)} bytes) is no binvox file: its header has no `#binvox` and `data`.")
    dim = next((line.split()[1:] for line in lines if line.startswith(b"dim")), [])
    if len(dim) != 3 or not all(part.isdigit() and 1 <= int(part) <= _LARGEST for part in dim):
        raise InputError(f"`{path}` has the sizes {b' '.join(dim)!r}; expected three numbers from 1 to {_LARGEST}.")
    shape = tuple(int(part) for part in dim)
    values, counts = np.frombuffer(body[: len(body) // 2 * 2], dtype=np.uint8).reshape(-1, 2).T
    if counts.sum() != np.prod(shape) or len(body) % 2:
        raise InputError(
            f"`{path}` holds {counts.sum()} voxels; expected {np.prod(shape)}. It is cut short or damaged."
        )
    return torch.from_numpy(np.repeat(values > 0, counts).reshape(shape))
