"""What came back from a solve: the value and, per sample, its story."""

import enum
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ._records import changed
from ._tree import register_pytree_node
from .types import Tree


class Status(enum.IntEnum):
    """The outcome of one sample; `.meaning` is a sentence about it."""

    CONVERGED = 0
    MAX_STEPS = 1
    NONFINITE = 2
    SINGULAR = 3
    INFEASIBLE = 4
    UNBOUNDED = 5
    DEGENERATE = 6

    @property
    def meaning(self) -> str:
        """What the status says, as the end of a sentence that begins with the samples."""
        return _MEANING[self]


_MEANING = {
    Status.CONVERGED: "reached the tolerance",
    Status.MAX_STEPS: "did not reach the tolerance",
    Status.NONFINITE: "met NaN or infinity",
    Status.SINGULAR: "have a singular Jacobian dF/dy at the solution",
    Status.INFEASIBLE: "have no feasible point",
    Status.UNBOUNDED: "have an objective without lower bound",
    Status.DEGENERATE: "have a degenerate solution: the value is right, its derivative is one-sided or not unique",
}


_NOTES = {"diverged": "diverged", "stalled": "stalled", "unbracketed": "have no change of sign in the bracket"}


@dataclass(frozen=True)
class Solution:
    """The answer of a solver or of `layer.solve`.

    **Arguments** (a solver of your own fills in what it knows; the layer adds the rest)

    - `value`: y, a nest of tensors of shape (*batch, *event).
    - `status`: integer tensor (*batch) with values of `Status`, or a list of members.
    - `residual_norm`: (*batch) Euclidean norm of F(x, value) over all leaves and event axes, unscaled; for more equations
      than unknowns the norm of J'F.
    - `steps`: (*batch) iterations that each sample took.
    - `aux`: dict of further outputs of the solver.
    - `inverse`: a frozen inverse of dF/dy at `value` (`linear_solver.freeze(operator)`), which the adjoint reuses.
    """

    value: Tree
    status: Any = None
    residual_norm: Any = None
    steps: Any = None
    aux: Any = None
    inverse: Any = None

    @property
    def converged(self) -> Tensor:
        """(*batch) True where value and gradient are valid (DEGENERATE counts as converged)."""
        status = torch.as_tensor(self.status)
        return (status == Status.CONVERGED) | (status == Status.DEGENERATE)

    def message(self) -> str:
        """What happened, in words, about all samples that failed."""
        status = torch.as_tensor(self.status).reshape(-1)
        parts = []
        for member in Status:
            index = (status == member).nonzero().reshape(-1)
            if member != Status.CONVERGED and len(index):
                parts.append(f"{len(index)} of {len(status)} samples {member.meaning}{self._details(index, member)}")
        return "; ".join(parts) if parts else f"all {len(status)} samples reached the tolerance"

    def _details(self, index: Tensor, member: Status) -> str:
        shown = ", ".join(str(int(i)) for i in index[:5]) + (", ..." if len(index) > 5 else "")
        text = f" (samples {shown}"
        if self.residual_norm is not None:
            text += f"; largest residual {float(self.residual_norm.detach().reshape(-1)[index].max()):.2g}"
        condition = (self.aux or {}).get("condition")
        if member is Status.SINGULAR and isinstance(condition, Tensor):
            text += f"; condition estimate {float(condition.detach().reshape(-1)[index].max()):.1e}"
        for name, words in _NOTES.items():
            flags = (self.aux or {}).get(name)
            if isinstance(flags, Tensor) and flags.shape == self.converged.shape:
                count = int(flags.reshape(-1)[index].sum())
                text += f"; {count} {words}" if count else ""
        return text + ")"

    def replace(self, **changes: Any) -> "Solution":
        """A copy with some fields changed."""
        return changed(self, **changes)


register_pytree_node(
    Solution,
    lambda s: ([s.value, s.status, s.residual_norm, s.steps, s.aux], None),
    lambda children, _: Solution(*children),
)
