"""The networks of a comparison: how they are asked for, and how they are made equal."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import get_args

from ...shared.errors import InputError
from ..config import FieldConfig, ModelName
from ..models.build import build_model

_WIDEST = 8192
_NEAR = 0.03  # of the memory that is asked for


@dataclass(frozen=True)
class Entrant:
    """One network of a comparison, with the configuration of its runs but for the seed."""

    name: str
    config: FieldConfig


def parsed(models: str, base: FieldConfig) -> list[Entrant]:
    """`MODEL:DEPTH:WIDTH,...` as configurations that otherwise are `base`. **Raises** `InputError`."""
    found: dict[str, Entrant] = {}
    for text in models.split(","):
        model, *sizes = text.strip().split(":")
        if model not in get_args(ModelName):
            near = difflib.get_close_matches(model, get_args(ModelName), n=1)
            hint = f"; perhaps `{near[0]}`" if near else ""
            raise InputError(f"`--models` holds `{model}`; expected some of {', '.join(get_args(ModelName))}{hint}.")
        if len(sizes) > 2 or not all(size.isdecimal() and int(size) for size in sizes):
            raise InputError(f"`--models` holds `{text.strip()}`; expected MODEL:DEPTH:WIDTH, as fourier-imfn:1:256.")
        numbers = [int(size) for size in sizes]
        config = replace(base, model=model, depth=numbers[0] if numbers else None)
        if len(numbers) == 2:
            config = replace(config, width=numbers[1])
        found[named(config)] = Entrant(named(config), config)
    return list(found.values())


def named(config: FieldConfig) -> str:
    """As the paper names networks: fourier-imfn 1L-256D."""
    return f"{config.model}-{config.layers}L-{config.width}D"


def of_parameters(config: FieldConfig, wanted: int, inputs: int, outputs: int, scale: float) -> FieldConfig:
    """The same network at the width whose number of parameters is nearest to `wanted`."""

    def count(width: int) -> int:
        model = build_model(replace(config, width=width), inputs, outputs, scale)
        return sum(parameter.numel() for parameter in model.parameters())

    low, high = 1, 2
    while high < _WIDEST and count(high) < wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < wanted else (low, middle)
    return replace(config, width=min((low, high), key=lambda width: abs(count(width) - wanted)))


def of_memory(config: FieldConfig, wanted: float, measure: Callable[[FieldConfig], float]) -> FieldConfig:
    """The same network at a width whose memory is near `wanted`, by a few trial runs; memory grows nearly as the width."""
    for _ in range(4):
        found = measure(config)
        if abs(found / wanted - 1) <= _NEAR:
            break
        width = min(max(round(config.width * wanted / max(found, 1e-3)), 1), _WIDEST)
        if width == config.width:
            break
        config = replace(config, width=width)
    return config
