"""Rays and points as layers on an implicit surface {y : phi(y) = level}: of a grid, or of any field such as a network."""

import math
from collections.abc import Callable
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..adjoints import AbstractAdjoint
from ..errors import DtypeError, ShapeError
from ..failures import OnFailure
from ..layer import ImplicitLayer
from ..linear.base import default_tolerance
from ..problem import Problem
from ..solution import Solution, Status
from ..solvers.newton import Newton
from ..types import Float

FieldFunction = Callable[[Tensor], Tensor]


class GridField(torch.nn.Module):
    r"""The multilinear interpolant of values on a grid, as a field: points (..., d) -> values (...).

    **Arguments**

    - `phi`: (*grid) values, d = 2 or 3 axes. A tensor that requires grad, or a parameter, gets its gradient.
    - `spacing`, `origin`: cell size and position of the first grid point, numbers or tensors (d,).

    Beyond the grid the nearest value on its border counts.
    """

    def __init__(self, phi: Tensor, spacing: float | Tensor = 1.0, origin: float | Tensor = 0.0):
        super().__init__()
        if not isinstance(phi, Tensor) or not phi.is_floating_point():
            found = phi.dtype if isinstance(phi, Tensor) else type(phi).__name__
            raise DtypeError(f"`phi` is {found}; expected a tensor of floating point.")
        if phi.ndim not in (2, 3) or min(phi.shape) < 2:
            raise ShapeError(
                f"`phi` has shape {tuple(phi.shape)}; expected 2 or 3 axes with at least 2 points along each."
            )
        if not isinstance(spacing, Tensor) and not 0 < spacing < math.inf:
            raise ValueError(f"`spacing` is {spacing}; expected positive numbers.")
        self.phi, self.spacing, self.origin = phi, spacing, origin

    def forward(self, points: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
        """The value at every point."""
        if points.shape[-1:] != (self.phi.ndim,):
            raise ShapeError(
                f"`points` have shape {tuple(points.shape)}; expected (..., {self.phi.ndim}) for a grid of "
                f"{self.phi.ndim} axes."
            )
        grid = torch.tensor(self.phi.shape, device=points.device)
        u = (points - self.origin) / self.spacing
        u = torch.minimum(u.clamp(min=0), (grid - 1).to(u.dtype))
        cell = torch.minimum(u.detach().floor().nan_to_num(0.0).long(), grid - 2)  # NaN stays so by the weights
        w = u - cell
        steps = [self.phi.shape[k + 1 :].numel() for k in range(self.phi.ndim)]
        place = (cell * torch.tensor(steps, device=points.device)).sum(-1)
        corners = torch.zeros(1, dtype=torch.int64, device=points.device)
        for step in steps:
            corners = (corners.unsqueeze(-1) + torch.tensor([0, step], device=points.device)).reshape(-1)
        values = self.phi.reshape(-1)[place.unsqueeze(-1) + corners]  # (..., 2^d), the last axis of the grid fastest
        for k in reversed(range(self.phi.ndim)):
            values = values.unflatten(-1, (-1, 2))
            values = values[..., 0] + w[..., k, None] * (values[..., 1] - values[..., 0])
        return values.squeeze(-1)


class RayHits(NamedTuple):
    """Where rays meet a surface.

    - `distance`: (*batch) along the direction, in its units; `far` for rays that miss.
    - `points`: (*batch, d) origin + distance * direction.
    - `hit`: (*batch) whether there is one.
    """

    distance: Tensor
    points: Tensor
    hit: Tensor


class _AlongRay(torch.nn.Module):
    """F(x, t) = phi(origin + t direction) - level."""

    def __init__(self, field: FieldFunction, level: float | Tensor):
        super().__init__()
        self.field, self.level = field, level

    def forward(self, x: dict[str, Tensor], t: Tensor) -> Tensor:
        """(rays,)"""
        return _values(self.field, x["origin"] + t.unsqueeze(-1) * x["direction"]) - self.level


def _values(field: FieldFunction, points: Tensor) -> Tensor:
    found = field(points)
    if not isinstance(found, Tensor):
        raise TypeError(f"the field gives {type(found).__name__}; expected a tensor of values, one for each point.")
    found = found.squeeze(-1) if found.ndim == points.ndim else found
    if found.shape != points.shape[:-1]:
        raise ShapeError(
            f"the field gives {tuple(found.shape)} for points {tuple(points.shape)}; expected {tuple(points.shape[:-1])}, or "
            f"one more axis of size 1."
        )
    return found


def _single(level: float | Tensor) -> float | Tensor:
    if (isinstance(level, Tensor) and level.ndim) or not isinstance(level, Tensor | float | int):
        found = f"has shape {tuple(level.shape)}" if isinstance(level, Tensor) else f"is {level!r}"
        raise ShapeError(f"`level` {found}; expected a number or a tensor ().")
    return level


class RefineBracket:
    """The root between `low` and `high` of x, where F has two signs: the Illinois variant of false position.

    **Reference** Dowell and Jarratt, "A modified regula falsi method", BIT 11, 1971.
    """

    def __init__(self, max_steps: int = 60):
        self.max_steps = max_steps

    def __call__(self, problem: Problem) -> Solution:
        """All rays at once, each frozen where it has arrived."""
        a, b = problem.x["low"], problem.x["high"]
        fa, fb = problem.F(problem.x, a), problem.F(problem.x, b)
        limit = default_tolerance(None, a.dtype) * torch.maximum(fa.abs(), fb.abs())
        steps = torch.zeros(a.shape, dtype=torch.int64, device=a.device)
        t = torch.where(fa.abs() <= fb.abs(), a, b)
        ft = torch.where(fa.abs() <= fb.abs(), fa, fb)
        for _ in range(self.max_steps):
            going = ft.abs() > limit * 1e-3
            if not bool(going.any()):
                break
            slope = torch.where(going, fb - fa, 1.0)
            new = torch.where(going, b - fb * (b - a) / slope, t)
            value = problem.F(problem.x, new)
            opposite = (value < 0) != (fb < 0)
            a, fa = torch.where(opposite, b, a), torch.where(opposite, fb, fa / 2)
            b, fb, t, ft = new, value, new, torch.where(going, value, ft)
            steps += going
        status = torch.where(ft.abs() <= limit, int(Status.CONVERGED), int(Status.MAX_STEPS))
        status = torch.where(ft.isfinite(), status, int(Status.NONFINITE))
        return Solution(t, status, ft.abs(), steps)


class RayLayer(torch.nn.Module):
    r"""The first point of each ray o + t d on an implicit surface:

    $$F(x, t) = \phi(o + t d) - \text{level} = 0,\quad dt = -\frac{d\phi + \nabla\phi \cdot (do + t\,dd)}{\nabla\phi \cdot d}$$

    The ray is sampled, the first change of sign is bracketed and refined; the derivative is implicit.

    **Arguments**

    - `field`: points (..., d) -> values (...) or (..., 1): a `GridField`, a network, any function; its parameters are
      parameters of the layer.
    - `level` (default 0): a number or a tensor () that may require grad.
    - `near`, `far` (defaults 0 and 4): the part of the ray that is searched, in units of `direction`.
    - `samples` (default 128): points on it. A part of the surface that is thinner than the distance between two of them may be
      missed; raise it for thin parts.
    - `adjoint`, `on_failure`: as in `ImplicitLayer`. A ray that misses is no failure; one on which the field is NaN before
      there is a crossing is.

    **Call**: `layer(origins, directions)`, both (*batch, d), which may broadcast.

    **Returns** `RayHits(distance, points, hit)`; rays that miss have `far` and its point, without derivative of `t`.

    **Raises** `ShapeError` for a field or rays that do not fit, `SolveError` by `on_failure`.

    **Reference** Niemeyer et al., "Differentiable volumetric rendering", CVPR 2020, equation (8).

    **Example**

    ```python
    layer = RayLayer(lambda p: p.norm(dim=-1) - 1)
    hits = layer(torch.tensor([[0.0, 0.0, -3.0]]), torch.tensor([[0.0, 0.0, 1.0]]))   # distance 2
    ```
    """

    def __init__(
        self,
        field: FieldFunction,
        level: float | Tensor = 0.0,
        *,
        near: float = 0.0,
        far: float = 4.0,
        samples: int = 128,
        adjoint: AbstractAdjoint | None = None,
        on_failure: OnFailure = "raise",
    ):
        super().__init__()
        if not -math.inf < near < far < math.inf or not isinstance(samples, Integral) or samples < 2:
            raise ValueError(
                f"`near` is {near}, `far` {far}, `samples` {samples}; expected near < far, both finite, and at least 2 samples."
            )
        self.near, self.far, self.samples = near, far, samples
        F = _AlongRay(field, _single(level))
        self.along = ImplicitLayer(F, RefineBracket(), adjoint=adjoint, event_ndim=0, on_failure=on_failure)

    def forward(self, origins: Float[Tensor, "*#batch d"], directions: Float[Tensor, "*#batch d"]) -> RayHits:
        """The first crossings."""
        origins, directions = _matching(origins, directions)
        batch, d = origins.shape[:-1], origins.shape[-1]
        o, v = origins.reshape(-1, d), directions.reshape(-1, d)
        hit, lost, low, high = self._bracket(o.detach(), v.detach())
        index = (hit | lost).nonzero().view(-1)  # what is lost fails there, by `on_failure`
        distance = torch.full((len(o),), float(self.far), dtype=o.dtype, device=o.device)
        if len(index):
            x = {"origin": o[index], "direction": v[index], "low": low[index], "high": high[index]}
            distance = distance.index_put((index,), self.along(x))
        points = o + distance.unsqueeze(-1) * v
        return RayHits(distance.view(batch), points.view(*batch, d), hit.view(batch))

    @torch.no_grad()
    def _bracket(self, o: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(rays,) whether there is a change of sign, or NaN before it, and the ends of the first interval with either."""
        t = torch.linspace(self.near, self.far, self.samples, dtype=o.dtype, device=o.device)
        F: Any = self.along.F
        values = torch.stack([F({"origin": o, "direction": v}, s.expand(len(o))) for s in t], -1)
        inside = values < 0
        change = inside[:, 1:] != inside[:, :-1]
        unknown = values[:, 1:].isnan() | values[:, :-1].isnan()
        first = (change | unknown).to(torch.uint8).argmax(-1)
        lost = unknown.gather(-1, first.unsqueeze(-1)).squeeze(-1)
        return change.any(-1) & ~lost, lost, t[first], t[first + 1]


def _matching(origins: Any, directions: Any) -> tuple[Tensor, Tensor]:
    """The rays (*batch, d), broadcast."""
    for name, part in (("origins", origins), ("directions", directions)):
        if not isinstance(part, Tensor) or not part.is_floating_point() or part.dtype != origins.dtype or not part.ndim:
            found = f"{part.dtype} {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
            raise DtypeError(f"`{name}` are {found}; expected tensors (*batch, d) of one floating-point type.")
    try:
        origins, directions = torch.broadcast_tensors(origins, directions)
    except RuntimeError as error:
        raise ShapeError(
            f"`origins` have shape {tuple(origins.shape)} and `directions` {tuple(directions.shape)}; expected (*batch, d) "
            f"that broadcast."
        ) from error
    return origins, directions


class _OnSurface(torch.nn.Module):
    """F(x, y) = phi(y) - level, one equation for d unknowns."""

    def __init__(self, field: FieldFunction, level: float | Tensor):
        super().__init__()
        self.field, self.level = field, level

    def forward(self, x: Any, y: Tensor) -> Tensor:
        """(points, 1)"""
        del x
        return (_values(self.field, y) - self.level).unsqueeze(-1)


class ProjectionLayer(torch.nn.Module):
    r"""Points brought onto an implicit surface along the gradient, y <- y - phi grad phi / |grad phi|^2, until phi(y) = level.

    The derivative is the smallest motion that follows the surface, dy = -(n / |grad phi|) dphi(y): that of the normal gauge
    of `LevelSetLayer`, at any points. It goes to the field and the level; the points given only say where to begin.

    **Arguments**

    - `field`, `level`: as in `RayLayer`.
    - `forward_solver` (default `Newton()`): any solver for one equation with d unknowns.
    - `adjoint`, `on_failure`: as in `ImplicitLayer`.

    **Call**: `layer(points)` (*batch, d).

    **Returns** (*batch, d) points on the surface; `solve(points)` the `Solution`, with one status per point.

    **Raises** `SolveError` by `on_failure` for points from which the iteration does not arrive, as on a maximum of phi.

    **Reference** Remelli et al., "MeshSDF: Differentiable iso-surface extraction", NeurIPS 2020, theorem 1.

    **Example**

    ```python
    layer = ProjectionLayer(lambda p: p.norm(dim=-1) - 1)
    layer(torch.tensor([[0.0, 0.0, 3.0]]))      # tensor([[0., 0., 1.]])
    ```
    """

    def __init__(
        self,
        field: FieldFunction,
        level: float | Tensor = 0.0,
        *,
        forward_solver: Callable[[Problem], Any] | None = None,
        adjoint: AbstractAdjoint | None = None,
        on_failure: OnFailure = "raise",
    ):
        super().__init__()
        solver = Newton() if forward_solver is None else forward_solver
        F = _OnSurface(field, _single(level))
        self.onto = ImplicitLayer(F, solver, adjoint=adjoint, on_failure=on_failure)

    def forward(self, points: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """The points on the surface."""
        return self.onto(None, points.detach())

    def solve(self, points: Float[Tensor, "*batch d"]) -> Solution:
        """The same with the story of every point."""
        return self.onto.solve(None, points.detach())
