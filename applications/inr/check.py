"""Configurations that cannot mean anything are refused before anything is loaded."""

import torch

from ..shared.errors import InputError
from ..shared.options import require_least, require_positive
from .config import EXACT, FieldConfig
from .models.compiled import what_compiling_lacks

_COUNTS = ("width", "steps", "power_iterations", "max_solve_steps", "cache_mb", "grid_levels", "grid_features")
_POSITIVE = (
    "rate_factor",
    "norm_target",
    "guard_rate",
    "tolerance",
    "gabor_alpha",
    "siren_gain",
    "omega",
    "wire_omega",
    "wire_sigma",
)


def check_field(config: FieldConfig) -> None:
    """What all signals share. **Raises** `InputError`, which names the option."""
    require_least(config, dict.fromkeys(_COUNTS, 1) | {"grid_table": 1, "grid_width": 1, "terms": EXACT, "batch": 0})
    require_positive(config, *_POSITIVE)
    optional = {"depth": 1, "chunk": 0}
    require_least(config, {name: least for name, least in optional.items() if getattr(config, name) is not None})
    require_positive(
        config, *(name for name in ("learning_rate", "gabor_entry_alpha", "scale") if getattr(config, name) is not None)
    )
    require_least(config, {"decay": 0, "finer_bias": 0})
    if config.grid_table > 24:
        raise InputError(f"`--grid-table` is {config.grid_table}; expected at most 24, a table of 16 million nodes.")
    if config.norm == "guard" and not config.guard_rate < 1:
        raise InputError(f"`--guard-rate` is {config.guard_rate}; expected less than 1, for the iteration to converge.")
    for asked in of_step_maps(config):
        if not config.of_the_paper:
            raise InputError(f"`{asked}` is for the families of the paper, not for {config.model}; leave it out.")
        if config.terms == EXACT:
            raise InputError(f"`{asked}` is for truncated gradients, not for --terms {EXACT}; leave one of them out.")


def of_step_maps(config: FieldConfig) -> list[str]:
    """The options given that change how training steps with a truncated gradient evaluate the map."""
    rounded = [f"--precision {config.precision}"] if config.precision != "float32" else []
    return rounded + ["--compile"] * config.compile


def check_device(config: FieldConfig, device: torch.device) -> None:
    """Whether the device can do what is asked for. **Raises** `InputError`."""
    if config.precision == "tf32" and device.type != "cuda":
        raise InputError(f"`--precision tf32` is a mode of CUDA devices, not of {device.type}; bf16 works everywhere.")
    lacking = what_compiling_lacks(device) if config.compile else ""
    if lacking:
        raise InputError(f"`--compile` needs {lacking} for {device.type}; leave it out.")
