"""Several processes that share one run, as `torchrun` starts them: which one this is, sums over all, one decision for all."""

import atexit
import functools
import os
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
import torch.distributed as distributed
from torch import Tensor

_Value = TypeVar("_Value")


class Ranks:
    """The processes of a run. With one process, which is the rule, nothing here does anything."""

    def __init__(self, rank: int = 0, count: int = 1):
        self.rank, self.count = rank, count

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """The part of `count` things that is this process's; the parts follow each other."""
        return range(count * self.rank // self.count, count * (self.rank + 1) // self.count)

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Put the sum over all processes in the place of each tensor."""
        if self.count > 1:
            for tensor in tensors:
                distributed.all_reduce(tensor)

    def total(self, figures: dict[str, float]) -> dict[str, float]:
        """The sums over all processes; one that has no such figure adds nothing."""
        total: dict[str, float] = {}
        for part in self.all_of(figures):
            for name, value in part.items():
                total[name] = total.get(name, 0.0) + value
        return total

    def all_of(self, value: _Value) -> list[_Value]:
        """The values of all processes, in their order."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, value)
        return found

    def at_first(self, value: _Value) -> list[_Value] | None:
        """The values of all processes, at the first one; None at the others."""
        if self.count == 1:
            return [value]
        found: list[Any] | None = [None] * self.count if self.first else None
        distributed.gather_object(value, found)
        return found

    def of_first(self, value: _Value) -> _Value:
        """What the first process has to say."""
        if self.count == 1:
            return value
        found = [value]
        distributed.broadcast_object_list(found)
        return found[0]


@functools.cache
def ranks() -> Ranks:
    """The processes that `torchrun` started, which meet now; one alone otherwise."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or "RANK" not in os.environ:
        return Ranks()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    # Threads of the group that still run while the interpreter goes down abort the process, now and then.
    atexit.register(distributed.destroy_process_group)
    return Ranks(distributed.get_rank(), count)
