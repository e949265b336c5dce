"""Checkpoints: one safetensors file that holds all that training needs to go on exactly, written atomically.

No pickle is ever read: a file of another kind is refused by its form, before anything in it could run.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .errors import CheckpointError, CheckpointWriteError
from .files import write_atomically
from .run_folder import FORMAT


def save_tensors(path: Path, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
    """Write tensors and JSON-able notes to one file.

    **Raises** `CheckpointWriteError` when a tensor is not finite or the disk is full; the old file stays.
    """
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointWriteError(
                f"`{name}` holds NaN or infinity, so `{path}` was not written; the old file is intact."
            )
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": str(FORMAT), "notes": json.dumps(notes, allow_nan=False)}
    size = sum(tensor.nbytes for tensor in whole.values()) + len(metadata["notes"])
    write_atomically(path, lambda partial: save_file(whole, partial, metadata), size)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and notes of a file of `save_tensors`.

    **Raises** `CheckpointError` for a file that is missing, damaged, of another kind, or of a newer version.
    """
    if not path.is_file():
        raise CheckpointError(f"`{path}` is missing; expected a file that a run saved.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            version = int(metadata.get("format", "0"))
            if version > FORMAT:
                raise CheckpointError(
                    f"`{path}` has format {version}, this program reads up to {FORMAT}. Update implayer."
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        return tensors, json.loads(metadata.get("notes", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"`{path}` cannot be read ({error}): it is truncated or damaged, or no safetensors file. "
            "Pickled weights are never loaded."
        ) from error


def load_weights(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Put weights into a module, once they have been found to be its own and finite.

    **Raises** `CheckpointError`, which names what differs.
    """
    expected = module.state_dict()
    faults = [f"`{name}` is missing" for name in expected if name not in tensors]
    faults += [f"`{name}` is unexpected" for name in tensors if name not in expected]
    faults += [
        f"`{name}` has shape {tuple(tensors[name].shape)}, expected {tuple(wanted.shape)}"
        for name, wanted in expected.items()
        if name in tensors and tensors[name].shape != wanted.shape
    ]
    if faults:
        shown = "; ".join(faults[:4]) + (f"; and {len(faults) - 4} more" if len(faults) > 4 else "")
        raise CheckpointError(f"`{path}` belongs to another architecture than `config.json` beside it says: {shown}.")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"`{path}`: the tensor `{name}` holds NaN or infinity; the model is unusable.")
    module.load_state_dict(tensors)


def with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names put under a prefix, so that several parts share one file."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def under_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The part of a file that `with_prefix` put under this prefix."""
    start = prefix + "."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimiser as named tensors (its options are those of the configuration)."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{key}": torch.as_tensor(value) for index, entry in state.items() for key, value in entry.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give an optimiser the state that `optimizer_tensors` took from its like."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
