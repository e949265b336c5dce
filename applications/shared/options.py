"""Options that the commands of several applications share. Nothing here imports torch: a --help is quick."""

import dataclasses
from contextvars import ContextVar
from typing import Annotated, Any

import tyro

preset: ContextVar[str] = ContextVar("preset", default="default")  # whose values are the defaults of a new run


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How a run is carried out. None of it changes its numbers, except threads and device in the last digits."""

    quiet: bool = False
    """No progress and no summary; errors and warnings remain."""
    threads: int | None = None
    """Of the CPU; None leaves torch's choice. A resumed run uses as many as it started with."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, or auto: a CUDA device where there is one."""
    checkpoint_seconds: float = 10.0
    """Between checkpoints."""


def changes_of(config: type, command: str) -> Any:
    """A dataclass with every field of `config`, each an option that is not given by default."""
    note = tyro.conf.arg(help=f"As for `{command}`.")
    fields = [(field.name, Annotated[field.type | None, note], None) for field in dataclasses.fields(config)]  # type: ignore[operator]
    return dataclasses.make_dataclass("Changes", fields, frozen=True)


def given(changes: Any) -> dict[str, Any]:
    """The options of `changes_of` that were given."""
    return {name: value for name, value in dataclasses.asdict(changes).items() if value is not None}
