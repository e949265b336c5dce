"""Fixed points stored beside the weights of a network: where its solves begin when it is drawn."""

import torch

from ..shared.checkpoint import load_tensors, save_tensors
from ..shared.errors import CheckpointError, InputError
from ..shared.run_folder import RunFolder
from .cache import VoxelCache
from .models.networks import TILE, AbstractNetwork, ImplicitNetwork

STATES = "states.safetensors"


def solve_states(model: AbstractNetwork, inputs: int, budget_mb: int) -> VoxelCache:
    """The fixed points at the nodes of a grid on [-1, 1]^inputs, in half precision, as many as the memory holds."""
    cache = _empty(model, inputs, budget_mb)
    for numbers in torch.arange(cache.count, device=cache.lower.device).split(TILE):
        x = cache.nodes(numbers)
        cache.keep(x, model.solved(x))
    return cache


def store_states(folder: RunFolder, model: AbstractNetwork, inputs: int, budget_mb: int) -> int:
    """Write them beside the weights. **Returns** their bytes. **Raises** `InputError` where there is nothing to store."""
    if not model.implicit:
        raise InputError("`--states-mb` stores fixed points, but the network of this run has none.")
    path = folder.path / STATES
    save_tensors(path, solve_states(model, inputs, budget_mb).tensors(), {"budget_mb": budget_mb})
    return path.stat().st_size


def recall_states(folder: RunFolder, model: AbstractNetwork, inputs: int) -> None:
    """Let the solves of a network begin at the stored fixed points of its folder, if there are any."""
    path = folder.path / STATES
    if not isinstance(model, ImplicitNetwork) or not path.exists():
        return
    tensors, notes = load_tensors(path)
    budget = notes.get("budget_mb")
    if not isinstance(budget, int) or budget < 1:
        raise CheckpointError(f"`{path}` does not say how much memory its fixed points take.")
    cache = _empty(model, inputs, budget)
    cache.restore(tensors)
    model.stored = cache


def _empty(model: AbstractNetwork, inputs: int, budget_mb: int) -> VoxelCache:
    corner = torch.ones(inputs, dtype=torch.float32, device=next(model.parameters()).device)
    return VoxelCache(-corner, corner, model.width, dtype=torch.float16, budget_mb=budget_mb, pace=1.0)
