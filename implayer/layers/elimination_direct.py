"""The direct way from parameters to the solution of a quadratic program and back, on numbers, for eager reverse mode."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..implicit import Demand, Postponed
from ..linear.dense import matvec
from ..linear.kkt import KKTInverse, SmallKKTInverse
from ..modes import plain
from ..problem import Problem
from ..solution import Solution, Status
from ..solvers.qp import QPSolver
from .canonical import Canonical
from .cone_gradient import with_batch
from .cone_program import ConeData, Point
from .elimination import Elimination, Way
from .frozen_program import cotangents
from .qp import Found, QPLayer
from .qp_direct import attached_kkt, ordinary_norm
from .qp_form import arranged, kkt_residual

_CPU = torch.device("cpu")
_NUMBERS = 2**18  # of the cotangents of the data that are held at a time


def solve_quadratic(
    canonical: Canonical, layer: QPLayer, tensors: Sequence[Tensor], batched: Sequence[bool], batch: int, duals: bool
) -> Solution | QPLayer:
    """The solution of the cone program, or where there is something to report a layer that knows what was found."""
    elimination, solver = canonical.elimination, layer.kkt.forward_solver
    assert elimination is not None and isinstance(solver, QPSolver)
    with plain(_CPU):
        given, way = elimination.reduced(with_batch(ConeData(*canonical.data(tensors, batched)), batch))
        x, n, _ = arranged(given)
        del given
        found = solver(Problem(kkt_residual, x, None))
        norm, inverse = ordinary_norm(x, found), found.inverse
        if norm is None:
            return QPLayer(solver=Found(solver, found), on_failure=layer.kkt.on_failure)
        assert isinstance(inverse, KKTInverse | SmallKKTInverse)
        small = found.value.reshape(batch, -1)
        z, y = elimination.whole(way, small[:, :n], small[:, n:])
        v = _normal(elimination, y, small[:, :n], inverse, x) if duals else z[:, :0]
    status = torch.full((batch,), int(Status.CONVERGED))
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        gradient = _Gradient(canonical, tuple(batched), batch, elimination, way, inverse, found.value, z, y, duals)
        z, v = Postponed.apply(Demand(gradient.pull, gradient.attached), 2, z, v, *tensors)
    aux = {"redundant": status.bool()}
    return Solution(Point(z, v, z[:, :0]), status, norm.reshape(batch), found.steps.reshape(batch), aux)


def _normal(elimination: Elimination, y: Tensor, x: Tensor, inverse: KKTInverse | SmallKKTInverse, data: Any) -> Tensor:
    """v, slack less multiplier, of all rows."""
    high = data["high"][..., x.shape[-1] :] if "saddle" in data else data["b, h"]
    slack = high - matvec(inverse.rows, x)
    return elimination.rows_in_place(
        -y[:, elimination.rows], torch.where(inverse.held, -y[:, elimination.other_rows], slack)
    )


@dataclass(frozen=True, eq=False)
class _Gradient:
    """From cotangents of the unknowns z and of v to those of the parameters."""

    canonical: Canonical
    batched: tuple[bool, ...]
    batch: int
    elimination: Elimination
    way: Way
    inverse: KKTInverse | SmallKKTInverse
    small: Tensor  # the solution of the small program and its multipliers
    z: Tensor
    y: Tensor
    duals: bool

    def pull(self, g_z: Tensor | None, g_v: Tensor | None) -> list[Tensor]:
        """-dF/d(parameters)' u with J'u = g, for so many samples at a time that their cotangents take little room."""
        canonical, program = self.canonical, self.canonical.program
        x, y, u = self.z.numpy(), self.y.numpy(), self._adjoint(g_z, g_v).neg_().numpy()
        shapes = zip(canonical.shapes, self.batched, strict=True)
        found = [self.z.new_zeros((self.batch, *shape) if own else shape) for shape, own in shapes]
        step = max(_NUMBERS // max(len(program.A.rows), 1), 1)
        for start in range(0, self.batch, step):
            some = slice(start, start + step)
            parts = canonical.pulled(cotangents(program, x[some], y[some], u[some]), self.batched)
            for total, part, own in zip(found, parts, self.batched, strict=True):
                total[some if own else ...] += torch.from_numpy(part)
        return found

    def _adjoint(self, g_z: Tensor | None, g_v: Tensor | None) -> Tensor:
        r"""u = (u_x, u_w, u_1, u_2) with J'u = g, for F of `ConeProgram`, the rows 1 of w = E x + e and the others.

        $$u_w = E u_x - C^{-1} g_1,\quad u_1 = C^{-1} (g_w - D u_w),\quad u_2 = g_2 \text{ where inactive},\quad
          G u_x = -g_2 \text{ where active}$$

        $$(P_{xx} + E^\top D E) u_x + G^\top u_2 = g_x + E^\top (g_w + D C^{-1} g_1)$$
        """
        to, way, inverse = self.elimination, self.way, self.inverse
        g_z = torch.zeros_like(self.z) if g_z is None else g_z
        g_v = torch.zeros_like(self.y) if g_v is None else g_v
        g_x, g_w, g_1, g_2 = g_z[:, to.kept], g_z[:, to.gone], g_v[:, to.rows] / to.factor, g_v[:, to.other_rows]
        right = g_x + matvec(way.E.mT, g_w + way.D * g_1)
        loose = torch.where(inverse.held, 0, g_2)
        if self.duals:
            right = right - matvec(inverse.rows.mT, loose)
        n = right.shape[-1]
        u_x, u_2 = inverse.apply_transposed(torch.cat([right, loose - g_2], -1)).split([n, g_2.shape[-1]], -1)
        u_w = matvec(way.E, u_x) - g_1
        u_1 = (g_w - way.D * u_w) / to.factor
        u_2 = torch.where(inverse.held, u_2, loose)
        return torch.cat([to.in_place(u_x, u_w), to.rows_in_place(u_1, u_2)], -1)

    def attached(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """z and v with derivatives of both orders."""
        data = with_batch(ConeData(*self.canonical.data(tensors, self.batched)), self.batch)
        given, way = self.elimination.reduced(data)
        x, n, _ = arranged(given)
        small = attached_kkt(x, self.small, self.inverse).reshape(self.batch, -1)
        z, y = self.elimination.whole(way, small[:, :n], small[:, n:])
        return z, (data.b - self.canonical.program.A.times(data.A, z) - y if self.duals else z[:, :0])
