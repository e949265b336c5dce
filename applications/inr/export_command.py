"""The command `export`, for all signals that are there as a whole."""

import dataclasses
from pathlib import Path
from typing import Literal

from ..shared.command import Command, imported
from ..shared.options import AbstractRunCommand


def export_command(task: str, application: str, run: str) -> Command:
    """`export` for the runs of an application, given as `module:NAME`."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Export(AbstractRunCommand):
        bits: Literal[8, 16, 32] = 8
        """Of a weight; vectors and input maps keep 32."""
        states_mb: int = 0
        """Also store so many MiB of fixed points at the nodes of a grid, where solves begin; fewer steps, a larger folder."""
        out: Path | None = None
        """A folder; None is a name in the folder of the run."""
        overwrite: bool = False
        """Replace a model that is in --out already."""
        data: Path | None = None
        """Data root; None is where the run found its data."""

    Export.__doc__ = f"""Write the network of a run into a small folder of its own: weights of few bits, a card.

    Prints the PSNR after the rounding and the bits a sample (without stored fixed points). The folder can be drawn and
    evaluated as the run.

    Example: implayer export {run} --bits 8
    """
    return Command(
        ("export",), Export, lambda command: imported("inr.export:export")(imported(application), command), task
    )
