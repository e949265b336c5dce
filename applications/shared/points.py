"""Tables of points in files, with or without normals."""

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .errors import InputError

TABLES = (".xyz", ".txt", ".csv", ".npy")
HUGE = 1e12  # coordinates beyond it leave no digits for what is of the size of an object


class PointsReadError(InputError):
    """A file holds no table of points, or a damaged one."""


def read_points(path: Path) -> tuple[Tensor, Tensor | None]:
    """(P, 3) points in double precision, and (P, 3) unit normals where rows have six numbers.

    **Raises** `PointsReadError`, which names the file: not a table of real numbers, of another width, empty, not finite, huge,
    or with normals of no length.
    """
    table = _table(path)
    if table.ndim != 2 or not len(table) or table.shape[1] not in (3, 6):
        shape = "is empty" if not table.size else f"holds an array of {table.shape}"
        raise PointsReadError(f"`{path}` {shape}; expected x, y, z, or x, y, z and a normal, in every row.")
    rows = torch.from_numpy(np.ascontiguousarray(table, dtype=np.float64))
    points, normals = rows[:, :3].contiguous(), rows[:, 3:] if rows.shape[1] == 6 else None
    bad, largest = int((~rows.isfinite()).any(-1).sum()), float(points.abs().max())
    if bad:
        raise PointsReadError(f"`{path}`: {bad} of {len(rows)} points are not finite. The file is damaged.")
    if largest > HUGE:
        raise PointsReadError(f"`{path}` has coordinates up to {largest:.1e}; expected at most {HUGE:.0e}. Rescale it.")
    if normals is None:
        return points, None
    lengths = torch.linalg.vector_norm(normals, dim=-1, keepdim=True)
    if not bool((lengths > 0).all()):
        none = int((lengths == 0).sum())
        raise PointsReadError(
            f"`{path}`: {none} of {len(rows)} points have a normal of length zero; expected a direction."
        )
    return points, normals / lengths


def _table(path: Path) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy warns of empty files
            if path.suffix.lower() == ".npy":
                table = np.load(path, allow_pickle=False)
            else:
                table = np.loadtxt(path, delimiter="," if path.suffix.lower() == ".csv" else None, ndmin=2)
        if table.dtype.kind not in "fiu":
            raise ValueError(f"its entries are {table.dtype}")
        return table
    except FileNotFoundError as error:
        raise PointsReadError(f"`{path}` does not exist; expected a table of points.") from error
    except (OSError, ValueError, TypeError, EOFError, AttributeError) as error:
        raise PointsReadError(
            f"`{path}` cannot be read as a table of points: {str(error)[:120].rstrip('.')}. Expected real numbers alone, as "
            f"many in every row, without a line of names above them."
        ) from error
