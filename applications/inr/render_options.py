"""What every command understands that draws the network of a run."""

import dataclasses

from ..shared.options import AbstractRunCommand


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbstractRender(AbstractRunCommand):
    """Options of solves."""

    solve_steps: int | None = None
    """Evaluations of the map at a point at most; None is as in the fit. A few suffice from stored fixed points (export)."""
