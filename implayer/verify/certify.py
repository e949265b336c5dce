"""`certify`: evidence, sample by sample, that one value and its gradient can be trusted."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import _tree
from ..adjoints import AbstractAdjoint
from ..errors import SolveError
from ..layer import ImplicitLayer
from ..linear.lsmr import LSMR
from ..operators import JacobianOperator
from ..problem import Layout, Problem
from ..residuals import equation
from ..solution import Solution
from ..types import Residual, Tree
from .spectrum import Spectrum
from .trial import equation_of

_FACTORISE = 512  # unknowns up to which J is made dense
_CURVATURE_DIRECTIONS = 3
_SAFETY = 2.0  # curvature is seen along a few directions only


@dataclass(frozen=True)
class Certificate:
    """What is known about a value and its gradient; every field is a tensor of the batch shape.

    **Attributes**

    - `residual_norm`: |r|, with r = F(x, y), or J'F where F has more rows than unknowns.
    - `adjoint_residual_norm`: |v - J'w| / |v| for a random cotangent v and the w that the layer's own adjoint computes.
      An approximate adjoint (Neumann, JacobianFree) shows here.
    - `condition`: of J = dr/dy after its rows and columns were scaled to norm one, the part that scaling cannot cure.
    - `contraction`: spectral radius of I + sign * J, the factor by which an iteration y + sign * F shrinks an error per
      step; below one, it converges. NaN where F is not square. Given for every layer, fixed point or not.
    - `gradient_error_bound`: relative; see `certify`.
    - `valid`: converged, all bounds small (1e-6 in float64, 1e-2 in float32), condition below 1e12 (1e6).
    """

    residual_norm: Tensor
    adjoint_residual_norm: Tensor
    condition: Tensor
    contraction: Tensor
    gradient_error_bound: Tensor
    valid: Tensor

    def __str__(self) -> str:
        count = self.valid.numel()
        names = ("residual_norm", "adjoint_residual_norm", "condition", "contraction", "gradient_error_bound")
        lines = [
            f"Certificate: {int(self.valid.sum())} of {count} samples valid",
            f"  {'':<22}{'median':>10}{'largest':>10}",
        ]
        for name in names:
            values = getattr(self, name).detach().double().reshape(-1)
            if count:
                worst = (
                    values[0] if bool(values.isnan().all()) else torch.where(values.isnan(), torch.inf, values).max()
                )
                lines.append(f"  {name:<22}{float(values.nanmedian()):>10.1e}{float(worst):>10.1e}")
        bad = (~self.valid.reshape(-1)).nonzero().reshape(-1).tolist()
        if bad:
            lines.append(f"  not valid: samples {', '.join(map(str, bad[:10]))}{', ...' if len(bad) > 10 else ''}")
        return "\n".join(lines)


def certify(
    layer: Callable[..., Tree], x: Tree, y0: Tree = None, *, F: Residual | None = None, seed: int = 0
) -> Certificate:
    r"""Bound the error of a layer's gradient at one input, sample by sample.

    Let r(y) = F(x, y), or J'F where F has more rows than unknowns, J = dr/dy at the value y of the layer,
    beta = |J^+| (2-norm), eta = |J^+ r| the Newton step, and L a bound of the change of J, |J(a) - J(b)| <= L |a - b|.

    - **Value** (Newton-Kantorovich): with h = beta L eta < 1/2 there is exactly one solution y* near y, and

          |y - y*| <= rho = 2 eta / (1 + sqrt(1 - 2h)).

    - **Gradient**: J'w = v has to be solved for w, of which the gradient is -F_x' w. With s = v - J'w the residual of
      the layer's own adjoint solve and theta = beta L rho < 1,

          bound = beta |s| / |w|  +  theta / (1 - theta)  +  L_x rho  +  eps n cond(J):

      the error of the linear solve, that of J and of F_x at y instead of y*, and rounding, all relative to |F_x| |w|.

    **Assumptions.** L and L_x (the relative change of F_x) are not proven: they are twice the largest second difference
    along the Newton step and two random directions, so a J that bends only elsewhere is not seen. Beyond 512 unknowns
    beta, the condition and the contraction are estimates from below, by power steps and LSMR solves. Where h >= 1/2
    nothing can be said: the bound is infinite. The bound holds for |gradient error| / (|F_x| |w|), not for each entry.

    **Arguments**

    - `layer`: an `ImplicitLayer`, or any layer together with its `F`.
    - `x`, `y0`: the input, as the layer takes it.
    - `F`: the residual, where the layer does not know its own. Then the adjoint is measured by the layer's gradient
      with respect to x instead, |g - g_exact| / |g_exact|, one number for the whole batch.
    - `seed`: of the random cotangent and directions.

    **Returns** a `Certificate`. A sample that failed is not valid; it raises nothing, under every `on_failure`.

    **Reference** Ortega and Rheinboldt, "Iterative Solution of Nonlinear Equations in Several Variables", 12.6.2.

    >>> import torch, implayer
    >>> F = lambda x, y: y**3 + y - x
    >>> root = implayer.ImplicitLayer(F, implayer.Newton(), initial=torch.zeros_like, event_ndim=0)
    >>> bool(implayer.verify.certify(root, torch.tensor([2.0, 10.0], dtype=torch.float64)).valid.all())
    True
    """
    F = equation_of(layer, F)
    if F is None:
        raise ValueError("`layer` does not know its equation: pass `F=`, a callable (x, y) -> residual.")
    x = _tree.map_tensors(torch.Tensor.detach, x)
    value, converged = _value(layer, x, y0)
    event_ndim, sign = int(getattr(layer, "event_ndim", 1)), int(getattr(layer, "sign", 1))
    problem = Problem(F, x, value, event_ndim, sign)
    layout = Layout.of(value, event_ndim, "y")
    evidence = _Evidence(layer, problem, layout, y0, seed)
    return evidence.certificate(converged)


def _value(layer: Any, x: Tree, y0: Tree) -> tuple[Tree, Tensor | None]:
    """The value, and which samples the layer itself believes in; failures of samples are no errors here."""
    live = _tree.map_tensors(lambda t: t.clone().requires_grad_() if _tree.differentiable(t) else t, x)
    solution: Any = None
    try:
        if isinstance(layer, ImplicitLayer):
            solution = _quiet(layer).solve(live, y0)
            y = solution.value
        else:
            y = layer(live) if y0 is None else layer(live, y0)
    except SolveError as error:
        solution = error.solution
        y = getattr(solution, "value", None)
        if y is None:
            raise
    converged = solution.converged if isinstance(solution, Solution) else None
    return _tree.map_tensors(torch.Tensor.detach, y), converged


def _quiet(layer: Any, F: Residual | None = None) -> Any:
    """The same layer with `on_failure="ignore"`, and with another F if one is given."""
    if not isinstance(layer, ImplicitLayer):
        return layer
    clone = ImplicitLayer(
        layer.F if F is None else F, layer.forward_solver, adjoint=layer.adjoint, initial=layer.initial,
        on_failure="ignore", event_ndim=layer.event_ndim, gauge=layer.gauge if F is None else None, sign=layer.sign,
    )  # fmt: skip
    return clone


class _Evidence:
    """The quantities of the bound, all on vectors with the samples first."""

    def __init__(self, layer: Any, problem: Problem, layout: Layout, y0: Tree, seed: int):
        self.layer, self.problem, self.layout, self.y0 = layer, problem, layout, y0
        self.generator = torch.Generator().manual_seed(seed)
        self.y = torch.nan_to_num(layout.pack(problem.y0), nan=0.0, posinf=0.0, neginf=0.0)
        self.finite = torch.isfinite(layout.pack(problem.y0)).all(-1)
        self.rows = equation(problem, layout, layout.n)(self.y).shape[1]
        self.residual = equation(problem, layout, self.rows)
        self.operator = JacobianOperator(self.residual, self.y, sign=problem.sign)
        self.finite &= torch.isfinite(self.operator.value).all(-1)
        self.small = max(self.operator.rows, self.operator.columns) <= _FACTORISE
        self.eps = torch.finfo(layout.dtype).eps

    def certificate(self, converged: Tensor | None) -> Certificate:
        """All fields."""
        if not self.y.numel():
            return self._empty()
        r = torch.nan_to_num(self.operator.value)
        spectrum = Spectrum.of(self.operator, self._matrix(), self.generator)
        step = spectrum.solve(r)
        eta, beta = torch.linalg.vector_norm(step, dim=-1), spectrum.inverse_norm
        curvature, drift = self._curvature(step, spectrum)
        h = beta * curvature * eta
        inside = h < 0.5
        rho = 2 * eta / (1 + torch.sqrt((1 - 2 * h).clamp(min=0)))
        theta = beta * curvature * rho
        adjoint, share = self._adjoint(spectrum)
        rounding = self.eps * self.operator.columns * spectrum.condition
        bound = share + theta / (1 - theta) + drift * rho + rounding
        bound = torch.where(inside & (theta < 1) & self.finite, bound, torch.inf)
        single = self.layout.dtype == torch.float32
        limit, worst = (1e-2, 1e6) if single else (1e-6, 1e12)
        valid = self.finite & (bound <= limit) & (adjoint <= limit) & (spectrum.condition <= worst)
        if converged is not None:
            valid &= converged.reshape(-1)
        norm = torch.where(self.finite, torch.linalg.vector_norm(self.operator.value, dim=-1), torch.nan)
        fields = (norm, adjoint, spectrum.condition, spectrum.contraction, bound, valid)
        return Certificate(*(field.detach().reshape(self.layout.batch) for field in fields))

    def _empty(self) -> Certificate:
        zero = torch.zeros(self.layout.batch, dtype=self.layout.dtype, device=self.layout.device)
        return Certificate(zero, zero, zero + 1, zero, zero, torch.ones_like(zero, dtype=torch.bool))

    def _matrix(self) -> Tensor | None:
        """J, with the identity in the place of samples that are not finite; None where it is too large."""
        if not self.small:
            return None
        matrix = self.operator.materialise()
        eye = torch.eye(self.operator.rows, self.operator.columns, dtype=matrix.dtype, device=matrix.device)
        self.finite &= torch.isfinite(matrix).all(-1).all(-1)
        return torch.where(self.finite.reshape(-1, 1, 1), matrix, eye)

    # ----------------------------------------------------------------------------------------------- second differences
    def _curvature(self, step: Tensor, spectrum: Spectrum) -> tuple[Tensor, Tensor]:
        """L: |J(y + e d) - J(y - e d)| / 2e for unit directions d, and the same for F_x relative to |F_x|."""
        size = 1 + torch.linalg.vector_norm(self.y, dim=-1, keepdim=True)
        length = self.eps ** (1 / 3) * size
        bend, drift = torch.zeros_like(size[:, 0]), torch.zeros_like(size[:, 0])
        for k in range(_CURVATURE_DIRECTIONS):
            d = step if k == 0 else self._normal(self.y)
            norm = torch.linalg.vector_norm(d, dim=-1, keepdim=True)
            d = d / torch.where(norm > 0, norm, 1)
            above, below = self.y + length * d, self.y - length * d
            bend = torch.maximum(bend, self._change(above, below) / (2 * length[:, 0]))
            drift = torch.maximum(drift, self._drift(above, below) / (2 * length[:, 0]))
        bend, drift = (torch.nan_to_num(t, nan=torch.inf, posinf=torch.inf) for t in (bend, drift))
        # what rounding alone shows of a J that does not change at all is no curvature
        noise = self.eps * spectrum.norm / length[:, 0]
        return _SAFETY * torch.where(bend <= 4 * noise, torch.zeros_like(bend), bend), _SAFETY * drift

    def _change(self, above: Tensor, below: Tensor) -> Tensor:
        first, second = JacobianOperator(self.residual, above), JacobianOperator(self.residual, below)
        if self.small:
            change = torch.nan_to_num(first.materialise() - second.materialise(), nan=torch.inf)
            return torch.linalg.matrix_norm(change)
        v = self._normal(self.y)
        gap = torch.linalg.vector_norm(first.mv(v) - second.mv(v), dim=-1)
        return gap / torch.linalg.vector_norm(v, dim=-1) * self.operator.columns**0.5

    def _drift(self, above: Tensor, below: Tensor) -> Tensor:
        """|F_x(y + e d) u - F_x(y - e d) u| / |F_x(y) u| for a random direction u of x."""
        u = [self._normal(leaf) for leaf in _tree.leaves(self.problem.x) if _tree.differentiable(leaf)]
        if not u:
            return torch.zeros_like(above[:, 0])
        middle = torch.linalg.vector_norm(self._along_x(self.y, u), dim=-1)
        gap = torch.linalg.vector_norm(self._along_x(above, u) - self._along_x(below, u), dim=-1)
        return torch.where(gap > 8 * self.eps * middle, gap / middle.clamp(min=1e-30), torch.zeros_like(gap))

    def _along_x(self, y: Tensor, u: list[Tensor]) -> Tensor:
        """F_x u, as the derivative of w -> F_x' w."""
        with torch.enable_grad():
            live = _tree.map_tensors(
                lambda t: t.detach().requires_grad_() if _tree.differentiable(t) else t, self.problem.x
            )
            leaves = [t for t in _tree.leaves(live) if _tree.differentiable(t)]
            problem = Problem(self.problem.F, live, self.problem.y0, self.problem.event_ndim)
            r = equation(problem, self.layout, self.rows)(y)
            w = torch.zeros_like(r).requires_grad_()
            back = torch.autograd.grad(r, leaves, w, create_graph=True, allow_unused=True)
            pairs = [(b, d) for b, d in zip(back, u, strict=True) if b is not None and b.requires_grad]
            if not pairs:
                return torch.zeros_like(r)
            (found,) = torch.autograd.grad([b for b, _ in pairs], w, [d for _, d in pairs], materialize_grads=True)
        return found.detach()

    def _normal(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator, dtype=torch.float64).to(like)

    # ------------------------------------------------------------------------------------------------ the adjoint
    def _adjoint(self, spectrum: Spectrum) -> tuple[Tensor, Tensor]:
        """(|s| / |v|, beta |s| / |w|) with the w of the layer's own adjoint."""
        v = self._normal(self.y)
        if self.operator.rows < self.operator.columns:
            v = self.operator.rmv(self._normal(self.operator.value))  # only the range of J' has a derivative
        w = self._own_adjoint(v)
        if w is None:
            gap = self._gradient_gap(v, spectrum)
            return gap, gap
        s = v - self.operator.rmv(w)
        norms = [torch.linalg.vector_norm(t, dim=-1) for t in (s, v, w)]
        size = torch.where(norms[2] > 0, norms[2], torch.linalg.vector_norm(spectrum.rsolve(v), dim=-1))
        return norms[0] / norms[1].clamp(min=1e-300), spectrum.inverse_norm * norms[0] / size.clamp(min=1e-300)

    def _own_adjoint(self, v: Tensor) -> Tensor | None:
        """w = J^-T v as the layer computes it: minus the gradient of <v, y> in a constant p that is added to F."""
        if not isinstance(self.layer, ImplicitLayer):
            return None
        if self.rows > self.layout.n:
            return self._frozen_adjoint(v)
        parts, spec = _tree.flatten(_tree.map_tensors(torch.zeros_like, self.problem.residual(self.problem.y0)))
        shifts = [t.requires_grad_() if isinstance(t, Tensor) else t for t in parts]
        F = self.problem.F

        def shifted(x: Tree, y: Tree) -> Tree:
            summed = [a + p if isinstance(p, Tensor) else a for a, p in zip(_tree.leaves(F(x, y)), shifts, strict=True)]
            return _tree.unflatten(summed, spec)

        moved = [p for p in shifts if isinstance(p, Tensor)]
        try:
            with torch.enable_grad():
                y = self.layout.pack(_quiet(self.layer, shifted)(self.problem.x, self.y0))
                g = torch.autograd.grad(y, moved, v, allow_unused=True) if y.requires_grad else [None] * len(moved)
        except SolveError:
            return torch.full_like(self.operator.value, torch.nan)
        found = [torch.zeros_like(p) if t is None else t for p, t in zip(moved, g, strict=True)]
        return -torch.cat([t.reshape(self.layout.samples, -1) for t in found], dim=-1)

    def _frozen_adjoint(self, v: Tensor) -> Tensor:
        """For least squares a shift of F is not one of J'F: ask the linear solver of the adjoint itself."""
        adjoint: AbstractAdjoint = self.layer.adjoint
        linear_solver = getattr(adjoint, "linear_solver", None) or LSMR()
        try:
            return linear_solver.freeze(self.operator).rsolve(v)[0]
        except SolveError:
            return torch.full_like(v, torch.nan)

    def _gradient_gap(self, v: Tensor, spectrum: Spectrum) -> Tensor:
        """|g - g_exact| / |g_exact| of a layer that only shows its gradient in x."""
        live = _tree.map_tensors(lambda t: t.clone().requires_grad_() if _tree.differentiable(t) else t, self.problem.x)
        leaves = [t for t in _tree.leaves(live) if _tree.differentiable(t)]
        y = self.layout.pack(self.layer(live) if self.y0 is None else self.layer(live, self.y0))
        problem = Problem(self.problem.F, live, self.problem.y0, self.problem.event_ndim)
        r = equation(problem, self.layout, self.rows)(self.y)
        w = spectrum.rsolve(v)
        exact = torch.autograd.grad(r, leaves, -w, allow_unused=True, materialize_grads=True)
        found = (
            torch.autograd.grad(y, leaves, v, allow_unused=True, materialize_grads=True)
            if y.requires_grad
            else [torch.zeros_like(t) for t in leaves]
        )
        a, b = (torch.cat([t.reshape(-1) for t in part]) for part in (found, exact))
        gap = torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b).clamp(min=1e-300)
        return gap.expand(self.layout.samples)
