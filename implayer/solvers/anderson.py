"""Anderson acceleration of the fixed-point iteration, with restarts per sample."""

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from ..problem import VectorProblem
from ..types import Tree, Vectors
from .base import AbstractIterativeSolver, require_square

_GROWTH = 1.0  # an accelerated step that multiplies the residual by more than this is taken back
_DOUBLE = {torch.complex64: torch.complex128, torch.complex128: torch.complex128}


@dataclass(frozen=True)
class Anderson(AbstractIterativeSolver):
    r"""Anderson acceleration (type II) of y + sign * F, the standard solver of equilibria.

    With $f_k = \text{sign}\cdot F(x, y_k)$, $z_k = y_k + \text{damping}\cdot f_k$ and the differences $\Delta f_j$,
    $\Delta z_j$ of the last `memory` steps

    $$y_{k+1} = z_k - \sum_j \gamma_j \Delta z_j,\qquad
      \gamma = \arg\min_\gamma \Big\|f_k - \sum_j \gamma_j \Delta f_j\Big\|^2
      + \text{regularisation}\cdot\sum_j \|\Delta f_j\|^2 \gamma_j^2 .$$

    The small systems are equilibrated and solved in double precision, each sample alone: one with NaN or with a
    singular history does not touch the others. Where an accelerated step makes the residual larger, the sample goes
    back, forgets its history and takes the plain damped step instead.

    **Arguments**

    - `memory` (default 5): differences kept. 5 to 10 is best for most maps; more helps slowly contracting linear ones
      and costs `2 * memory` vectors a sample.
    - `damping` (default 1.0): share of the residual in the step. Lower it to 0.5 or 0.1 where restarts are frequent
      or the map is far from a contraction.
    - `regularisation` (default 1e-10): relative to the squared length of each difference; raise it to 1e-6 when F is
      noisy. It is never less than the rounding error of the dtype.
    - `atol`, `rtol`, `max_steps` (keywords; `max_steps` defaults to 200): see `AbstractIterativeSolver`.

    **Returns** from `solver(problem)`: a `Solution`.

    **Raises** ShapeError where F has not as many equations as unknowns.

    **Reference**: H. F. Walker, P. Ni, "Anderson acceleration for fixed-point iterations", SIAM J. Numer. Anal. 49
    (2011).

        >>> import torch, implayer
        >>> problem = implayer.Problem(lambda x, y: torch.cos(y) - y, None, torch.zeros(1, 1))
        >>> round(implayer.Anderson()(problem).value.item(), 4)
        0.7391
    """

    memory: int = 5
    damping: float | int = 1.0
    regularisation: float | int = 1e-10
    _: KW_ONLY
    max_steps: int = 200

    def init(self, problem: VectorProblem, y: Vectors, r: Tensor) -> Tree:
        """Empty histories."""
        del problem
        require_square(y, r, "Anderson")
        samples, n = y.shape
        return {
            "dz": y.new_zeros(samples, self.memory, n),
            "df": y.new_zeros(samples, self.memory, n),
            "gram": y.new_zeros(samples, self.memory, self.memory),
            "work": y.new_empty(
                samples, self.memory, n
            ),  # a product of that size, allocated anew, costs more than its flops
            "z": y,
            "f": r,
            "norm": torch.full_like(y[:, 0].real, torch.inf),
            "count": 0,
        }

    def step(self, problem: VectorProblem, y: Vectors, r: Tensor, state: Tree) -> tuple[Vectors, Tensor | None, Tree]:
        """One accelerated step; a damped Picard step while there is no history."""
        f = r if problem.sign == 1 else -r
        z = y.add(f, alpha=self.damping)
        norm = torch.linalg.vector_norm(f, dim=-1)
        new = {**state, "z": z, "f": f, "norm": norm, "count": state["count"] + 1}
        if state["count"] == 0 or self.memory == 0:
            return z, None, {**new, "norm": state["norm"]}
        worse = norm > _GROWTH * state["norm"]
        slot = (state["count"] - 1) % self.memory
        used = min(state["count"], self.memory)
        df, dz = f - state["f"], z - state["z"]
        new["df"] = _write(state["df"], slot, df)
        new["dz"] = _write(state["dz"], slot, dz)
        past_f, past_z = new["df"][:, :used], new["dz"][:, :used]
        work = state["work"][:, :used]
        row = _dot(past_f, df, work)
        new["gram"] = _write_cross(state["gram"], slot, used, row)
        weights = self._weights(new["gram"][:, :used, :used], _dot(past_f, f, work))
        y_new = z - _times(past_z, weights.unsqueeze(-1), work).sum(1)
        if bool(worse.any()):
            return self._restart(worse, y_new, state, new)
        return y_new, None, new

    def _weights(self, gram: Tensor, right: Tensor) -> Tensor:
        """(samples, memory) minimiser of the small least-squares problems, columns scaled to length one."""
        double = _DOUBLE.get(gram.dtype, torch.float64)
        diagonal = gram.diagonal(dim1=-2, dim2=-1).real
        positive = diagonal > 0
        scale = torch.where(positive, torch.where(positive, diagonal, 1).rsqrt(), 0).to(torch.float64)
        shift = 1 + max(self.regularisation, torch.finfo(gram.dtype).eps)
        matrix = gram.to(double) * scale.unsqueeze(-1) * scale.unsqueeze(-2)
        matrix.diagonal(dim1=-2, dim2=-1).fill_(shift)
        solved, _ = torch.linalg.solve_ex(matrix, (right.to(double) * scale).unsqueeze(-1))
        return (solved.squeeze(-1) * scale).to(right.dtype)

    def _restart(self, worse: Tensor, y: Tensor, old: Tree, new: Tree) -> tuple[Vectors, None, Tree]:
        keep, column = ~worse, worse.unsqueeze(-1)
        cube = column.unsqueeze(-1)
        state = {
            **new,
            "z": torch.where(column, old["z"], new["z"]),
            "f": torch.where(column, old["f"], new["f"]),
            "norm": new["norm"].where(keep, torch.inf),  # the plain step is kept, whatever it does
        }
        for name in ("dz", "df", "gram"):
            state[name] = torch.where(cube, 0, new[name])
        return torch.where(column, old["z"], y), None, state


def _dot(past: Tensor, vector: Tensor, work: Tensor) -> Tensor:
    """(samples, memory) inner products; on a CPU three times faster than a batched matmul of such thin matrices."""
    return _times(past.conj() if past.is_complex() else past, vector.unsqueeze(1), work).sum(-1)


def _times(a: Tensor, b: Tensor, work: Tensor) -> Tensor:
    return a * b if a.requires_grad or b.requires_grad else torch.mul(a, b, out=work)


def _write(history: Tensor, slot: int, value: Tensor) -> Tensor:
    """The history with one slot replaced: in place, except where a graph is being built (unrolled adjoints)."""
    if value.requires_grad or history.requires_grad:
        history = history.clone()
    history[:, slot] = value
    return history


def _write_cross(gram: Tensor, slot: int, used: int, row: Tensor) -> Tensor:
    if row.requires_grad or gram.requires_grad:
        gram = gram.clone()
    gram[:, :used, slot] = row
    gram[:, slot, :used] = row.conj() if row.is_complex() else row
    return gram
