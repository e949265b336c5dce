"""Level sets as a layer: a field on a grid -> its surface, whose vertices know the derivative."""

from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor

from ..adjoints import ImplicitAdjoint
from ..failures import OnFailure
from ..implicit import Earlier, Fence, Limit, attach
from ..modes import forward_mode, is_plain, plain, transform_counts, transforms
from ..solution import Solution
from ..solvers.marching import march
from .level_set_direct import Backward, mean_and_weak, vertices_directly
from .level_set_report import Field, Report, checked, unwrapped
from .level_set_residual import Stencil, differences, frozen_inverse, residual
from .surface import Surface

Gauge = Literal["normal", "edge"]
Inside = Literal["negative", "positive"]
_Method = TypeVar("_Method", bound=Callable[..., Any])


def _never_compiled(method: _Method) -> _Method:
    return torch.compiler.disable(method)  # type: ignore[return-value]  # the type of the method is kept


class LevelSetLayer(torch.nn.Module):
    r"""The layer phi -> surface {y : phi(y) = level} of a field on a grid, in two or three dimensions.

    Vertices lie on grid edges (marching squares and cubes, ambiguities resolved by the interpolant, watertight inside the
    grid). They are differentiated by F(phi, y) = phi_tri(y) - level = 0, one equation for d unknowns, in one of two gauges:

    $$dy = -\frac{n}{|\nabla\phi|}\, d\phi(y) \;\;\text{(normal)}, \qquad
      dy = -\frac{e}{\partial_e \phi}\, d\phi(y) \;\;\text{(edge)}$$

    **Arguments**

    - `level` (default 0): a number, or a tensor () or (B,), which may require grad.
    - `gauge`: "normal" (default), the smallest motion: the same for every way to cut the grid, right for losses that are
      geometric (area-weighted, or on `Surface.sample`). "edge": the derivative of the vertices as they are computed, for
      losses that count vertices; it is longer, by 1 / |n . e|. The normal parts of both are equal.
    - `spacing`, `origin` (defaults 1 and 0): cell size and position of the first grid point, numbers or tensors (d,), which
      may require grad. The vertex at grid coordinates u is at origin + spacing * u.
    - `inside`: "negative" (default) where phi < level is inside, "positive" where phi > level is. Faces look outwards.
    - `ndim`: 3 (default) or 2, the number of axes of a grid.
    - `floor` (default 1e-6): a gradient of phi that is shorter than `floor` times the mean slope along the edges of the
      surface counts as that long; such vertices are counted in `aux["flat"]`. Raise it (1e-2) while fields are still flat
      or rough, to bound how far a vertex may be thought to move.
    - `adjoint`: None is exact to second order; `ImplicitAdjoint(order=3)` for more.
    - `on_failure`: what fields without surface, or with NaN, do: "raise" (default), "warn", "nan" or "ignore".

    **Call**: `layer(phi)`, phi (*grid) -> `Surface`, or (B, *grid) -> list of B. Axis i of phi is coordinate i.

    **Returns** `Surface(vertices, faces)`: in 3-D triangles, counterclockwise as seen from outside; in 2-D segments with the
    inside on their left. A value equal to the level counts as outside, and the vertices of all edges that end there are
    merged into one, whose derivative is that of the first: one-sided. `solve(phi)` gives the `Solution`, whose fields have
    one entry per sample (status DEGENERATE where vertices are merged or flat), and `aux` the counts (B,) `flat`, `ties`
    (merged vertices), `ambiguous` and `tunnels` (cells).

    **Raises** `NoSurfaceError` where the field does not cross the level and `SolveError` where it is not finite, by
    `on_failure` (otherwise the surface is empty; cells that touch NaN are left out); `ShapeError`, `DtypeError`,
    `DeviceError` for input that does not fit; `ImplayerError` under `torch.func.vmap`, as surfaces differ in size.

    **Reference** Zhang et al., "Implicitly Defined Layers in Neural Networks", equation (27); Remelli et al., "MeshSDF",
    NeurIPS 2020.

    **Example**

    ```python
    x, y, z = torch.meshgrid(*[torch.linspace(-1, 1, 32)] * 3, indexing="ij")
    phi = (x.square() + y.square() + z.square()).sqrt() - 0.6
    layer = implayer.LevelSetLayer(spacing=2 / 31, origin=-1.0)
    surface = layer(phi.requires_grad_())
    surface.area().backward()        # the area of a sphere of radius 0.6, and its derivative
    ```
    """

    level: float | Tensor
    spacing: float | Tensor | tuple[float, ...]
    origin: float | Tensor | tuple[float, ...]

    def __init__(
        self,
        level: float | Tensor = 0.0,
        gauge: Gauge = "normal",
        spacing: float | Tensor | tuple[float, ...] = 1.0,
        origin: float | Tensor | tuple[float, ...] = 0.0,
        *,
        inside: Inside = "negative",
        ndim: int = 3,
        floor: float = 1e-6,
        adjoint: ImplicitAdjoint | None = None,
        on_failure: OnFailure = "raise",
    ):
        super().__init__()
        for name, value, known in (
            ("gauge", gauge, Gauge),
            ("inside", inside, Inside),
            ("on_failure", on_failure, OnFailure),
        ):
            if value not in get_args(known):
                raise ValueError(f"`{name}` is {value!r}; expected one of {', '.join(map(repr, get_args(known)))}.")
        if ndim not in (2, 3):
            raise ValueError(f"`ndim` is {ndim!r}; expected 2 or 3.")
        if not isinstance(floor, float | int) or not 0 <= floor < 1:
            raise ValueError(f"`floor` is {floor!r}; expected a small number that is not negative, such as 1e-6.")
        if adjoint is not None and not isinstance(adjoint, ImplicitAdjoint):
            raise TypeError(
                f"`adjoint` is {type(adjoint).__name__}; a level set has no iteration: use `ImplicitAdjoint`."
            )
        self.level = level
        self.spacing, self.origin = spacing, origin
        self.gauge, self.inside, self.ndim, self.floor = gauge, inside, int(ndim), floor
        self.adjoint = adjoint
        self.on_failure: OnFailure = on_failure

    def forward(self, phi: Tensor) -> Surface | list[Surface]:
        """The surface of a grid, or a list of those of a batch."""
        surfaces, _ = self._surfaces(phi)
        return surfaces[0] if phi.ndim == self.ndim else surfaces

    def solve(self, phi: Tensor) -> Solution:
        """The same surfaces and derivatives, with status, residual norm and counts of every sample."""
        surfaces, report = self._surfaces(phi)
        return report.solution(surfaces, phi.ndim == self.ndim)

    @_never_compiled
    def _surfaces(self, phi: Tensor) -> tuple[list[Surface], Report]:
        field = checked(phi, self.ndim, self.level, self.spacing, self.origin)
        raw = Field(*(unwrapped(part) for part in field))
        with plain(raw.phi.device):
            marched = march(raw.phi, raw.level, self.inside == "positive")
            report = Report.of(marched, raw)
        report.enforce(self.on_failure, phi.ndim == self.ndim)
        vertices = self._vertices(field, raw, report)
        return report.split(vertices.to(phi.dtype), self.on_failure == "nan"), report

    def _vertices(self, field: Field, raw: Field, report: Report) -> Tensor:
        """The vertices (vertices, d), with their derivatives where anybody may ask for them."""
        marched, wide = report.marched, self.gauge == "normal"
        traced = forward_mode() or bool(transforms())
        if not (traced or (torch.is_grad_enabled() and any(part.requires_grad for part in field))):
            return vertices_directly(field, raw, report)
        if not len(marched.t):  # has a graph, with derivative zero
            return marched.t.new_zeros(0, self.ndim) + sum(part.reshape(-1)[:0].sum() for part in field)
        with plain(raw.phi.device):
            mean, weak = mean_and_weak(raw, report, self.floor)
        if marched.finite and is_plain(raw.phi.device.type) and not bool(weak.any()):
            backward = Backward(mean, self.floor, wide, lambda *parts: self._attached(Field(*parts), raw, report)[0])
            vertices = vertices_directly(field, raw, report, backward)
        else:
            vertices, weak = self._attached(field, raw, report)
            report.flat = weak
        report.warn(self.on_failure)
        return vertices

    def _attached(self, field: Field, raw: Field, report: Report) -> tuple[Tensor, Tensor]:
        """The vertices (vertices, d) with derivatives of all orders, and which have a gradient below the floor."""
        marched = report.marched
        with plain(raw.phi.device):
            stencil = Stencil.of(marched, raw.phi, self.gauge == "normal")
            w = stencil.start(marched.t)
        x = _equation(field, stencil, report.sample)
        with plain(raw.phi.device):
            across = unwrapped(x["beside"]) if "beside" in x else None
            inverse, weak = frozen_inverse(marched, stencil, across, raw.spacing, report.sample, self.floor)
        order = 2 if self.adjoint is None or self.adjoint.order is None else self.adjoint.order
        everywhere = torch.ones(
            len(w), dtype=torch.bool, device=w.device
        )  # the value stays on its edge, to the last bit
        under = bool(transforms())
        steps = order + sum(transform_counts())
        spared = (
            (lambda part: part) if forward_mode() or under else Earlier.apply
        )  # a first derivative does not go there
        w = attach(lambda v: residual(x, v, spared), w, inverse, steps, hold=everywhere).y
        return _in_space(field, stencil, w if under else Fence.apply(w, w, Limit(steps, steps))), weak


def _in_space(field: Field, stencil: Stencil, w: Tensor) -> Tensor:
    """(vertices, d) origin + spacing * grid coordinates."""
    u = stencil.corner + stencil.turned(w)
    return torch.addcmul(field.origin.unsqueeze(-1), field.spacing.unsqueeze(-1), u).mT


def _equation(field: Field, stencil: Stencil, sample: Tensor | None) -> dict[str, Tensor]:
    """x of the residual: what it needs of the field, live."""
    flat = field.phi.reshape(-1)
    level = field.level if len(field.level) == 1 or sample is None else field.level[sample]
    x = {"values": flat.index_select(0, stencil.ends).view(2, -1), "level": level}
    if stencil.beside is not None:
        x["beside"] = differences(flat, stencil.beside)
    return x
