"""Where a run computes."""

import torch

from .errors import InputError


def choose_device(name: str) -> torch.device:
    """The device of that name, if it is there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"`--device {name}` cannot be used ({str(error).splitlines()[0]}); `cpu` always can."
        ) from error
    return device


def set_threads(threads: int | None) -> int:
    """Use that many threads of the CPU; returns how many are used."""
    if threads is not None:
        if threads < 1:
            raise InputError(f"`--threads` is {threads}; expected at least 1.")
        torch.set_num_threads(threads)
    return torch.get_num_threads()
