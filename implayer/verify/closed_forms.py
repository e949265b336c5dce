"""The formulas of the catalogue: for each problem F, a start, an example, the value, and its first two derivatives.

`tangent(x, y, u)` is linear in u and `curvature(x, y, u, w)` bilinear and symmetric; both come from differentiating
F(x, y(x)) = 0 by hand.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..types import Tree

Example = Callable[[torch.dtype], Tree]


def column(*numbers: float) -> Example:
    """A batch of scalars."""
    return lambda dtype: torch.tensor(numbers, dtype=dtype)


def matrix(rows: list[list[float]]) -> Example:
    """A batch of vectors."""
    return lambda dtype: torch.tensor(rows, dtype=dtype)


def bisect(f: Callable[[Tensor], Tensor], like: Tensor, lower: float, upper: float) -> Tensor:
    """The root of an increasing f, entry by entry, to the last bit."""
    a, b = torch.full_like(like, lower), torch.full_like(like, upper)
    for _ in range(200):
        middle = (a + b) / 2
        below = f(middle) < 0
        a, b = torch.where(below, middle, a), torch.where(below, b, middle)
    return (a + b) / 2


# ------------------------------------------------------ y^5 + 16 y - 32 x^3 + 32 x = 0, "Implicitly Defined Layers" (3)
def curve_F(x: Tensor, y: Tensor) -> Tensor:
    """The residual."""
    return y**5 + 16 * y - 32 * x**3 + 32 * x


def curve_value(x: Tensor) -> Tensor:
    """The one real root."""
    return bisect(lambda y: curve_F(x, y), x, -100.0, 100.0)


def curve_tangent(x: Tensor, y: Tensor, u: Tensor) -> Tensor:
    """y' = (96 x^2 - 32) / (5 y^4 + 16)."""
    return u * (96 * x**2 - 32) / (5 * y**4 + 16)


def curve_curvature(x: Tensor, y: Tensor, u: Tensor, w: Tensor) -> Tensor:
    """y'' = (192 x - 20 y^3 y'^2) / (5 y^4 + 16)."""
    slope = (96 * x**2 - 32) / (5 * y**4 + 16)
    return u * w * (192 * x - 20 * y**3 * slope**2) / (5 * y**4 + 16)


# ---------------------------------------------------------------------- x^2 + |y|^2 = 4, x y_1 = 1, the same paper (28)
def circle_F(x: Tensor, y: Tensor) -> Tensor:
    """The residual; x is (*batch, 1)."""
    s, a, b = x[..., 0], y[..., 0], y[..., 1]
    return torch.stack([s**2 + a**2 + b**2 - 4, s * a - 1], dim=-1)


def circle_initial(x: Tensor) -> Tensor:
    """(1, 1.5)."""
    return torch.cat([torch.ones_like(x), 1.5 * torch.ones_like(x)], dim=-1)


def circle_value(x: Tensor) -> Tensor:
    """y_1 = 1 / x, y_2 = sqrt(4 - x^2 - 1 / x^2)."""
    return torch.cat([1 / x, torch.sqrt(4 - x**2 - x**-2)], dim=-1)


def circle_tangent(x: Tensor, y: Tensor, u: Tensor) -> Tensor:
    """(-1 / x^2, (x^-3 - x) / y_2); at x = 1, y = (1, sqrt 2) that is (-1, 0)."""
    return u * torch.cat([-(x**-2), (x**-3 - x) / y[..., 1:]], dim=-1)


def circle_curvature(x: Tensor, y: Tensor, u: Tensor, w: Tensor) -> Tensor:
    """(2 / x^3, (-1 - 3 x^-4 - y_2'^2) / y_2)."""
    b = y[..., 1:]
    slope = (x**-3 - x) / b
    return u * w * torch.cat([2 * x**-3, (-1 - 3 * x**-4 - slope**2) / b], dim=-1)


# ------------------------------------------------------------------------------------------------------------- y^2 = x
def root_F(x: Tensor, y: Tensor) -> Tensor:
    """The residual."""
    return y**2 - x


def root_initial(x: Tensor) -> Tensor:
    """(1 + x) / 2, above the root: from there secant methods do not cross to the negative one."""
    return (1 + x.detach()) / 2


def root_value(x: Tensor) -> Tensor:
    """The positive root."""
    return torch.sqrt(x)


def root_tangent(x: Tensor, y: Tensor, u: Tensor) -> Tensor:
    """y' = 1 / 2y."""
    return u / (2 * y)


def root_curvature(x: Tensor, y: Tensor, u: Tensor, w: Tensor) -> Tensor:
    """y'' = -1 / 4y^3."""
    return -u * w / (4 * y**3)


# --------------------------------------------------------------------------------------------- y - e sin y = M (Kepler)
def kepler_F(x: Tree, y: Tensor) -> Tensor:
    """The residual: eccentric anomaly y of the mean anomaly M at eccentricity e."""
    return y - x["eccentricity"] * torch.sin(y) - x["mean"]


def kepler_initial(x: Tree) -> Tensor:
    """M."""
    return x["mean"].detach().clone()


def kepler_example(dtype: torch.dtype) -> Tree:
    """Four orbits."""
    mean, eccentricity = [-2.0, 0.3, 1.0, 3.0], [0.1, 0.5, 0.3, 0.8]
    return {"eccentricity": torch.tensor(eccentricity, dtype=dtype), "mean": torch.tensor(mean, dtype=dtype)}


def kepler_value(x: Tree) -> Tensor:
    """By bisection."""
    return bisect(lambda y: kepler_F(x, y), x["mean"], -10.0, 10.0)


def kepler_tangent(x: Tree, y: Tensor, u: Tree) -> Tensor:
    """y' = (M' + e' sin y) / (1 - e cos y)."""
    return (u["mean"] + u["eccentricity"] * torch.sin(y)) / (1 - x["eccentricity"] * torch.cos(y))


def kepler_curvature(x: Tree, y: Tensor, u: Tree, w: Tree) -> Tensor:
    """y'' = (cos y (e' y' + e' y') - e sin y y' y') / (1 - e cos y)."""
    a, b, e = kepler_tangent(x, y, u), kepler_tangent(x, y, w), x["eccentricity"]
    mixed = u["eccentricity"] * b + w["eccentricity"] * a
    return (torch.cos(y) * mixed - e * torch.sin(y) * a * b) / (1 - e * torch.cos(y))


# ---------------------------------------------------------------------------------------------------- y = tanh(w y + b)
def tanh_F(x: Tree, y: Tensor) -> Tensor:
    """The residual f - y of an equilibrium of one unit."""
    return torch.tanh(x["w"] * y + x["b"]) - y


def tanh_initial(x: Tree) -> Tensor:
    """Zero."""
    return torch.zeros_like(x["b"])


def tanh_example(dtype: torch.dtype) -> Tree:
    """Contractions of rate 0.7 and less."""
    return {"b": torch.tensor([0.3, -1.0, 0.5], dtype=dtype), "w": torch.tensor([0.7, 0.5, -0.6], dtype=dtype)}


def tanh_value(x: Tree) -> Tensor:
    """By bisection; |w| < 1."""
    return bisect(lambda y: -tanh_F(x, y), x["b"], -2.0, 2.0)


def tanh_tangent(x: Tree, y: Tensor, u: Tree) -> Tensor:
    """y' = s (w' y + b') / (1 - s w) with s = 1 - y^2."""
    s = 1 - y**2
    return s * (u["w"] * y + u["b"]) / (1 - s * x["w"])


def tanh_curvature(x: Tree, y: Tensor, u: Tree, w: Tree) -> Tensor:
    """y'' = (s (w' y' + w' y') - 2 y s z' z') / (1 - s w) with z = w y + b."""
    s, a, b = 1 - y**2, tanh_tangent(x, y, u), tanh_tangent(x, y, w)
    p, q = (d["w"] * y + x["w"] * t + d["b"] for d, t in ((u, a), (w, b)))
    return (s * (u["w"] * b + w["w"] * a) - 2 * y * s * p * q) / (1 - s * x["w"])


# -------------------------------------------------------------------------------------------------------------- A y = b
def _times(a: Tensor, y: Tensor) -> Tensor:
    return (a @ y.unsqueeze(-1)).squeeze(-1)


def linear_F(x: Tree, y: Tensor) -> Tensor:
    """The residual."""
    return _times(x["A"], y) - x["b"]


def linear_initial(x: Tree) -> Tensor:
    """Zero."""
    return torch.zeros_like(x["b"])


def linear_example(symmetric: bool) -> Example:
    """Two systems of three equations, of condition about 3."""

    def example(dtype: torch.dtype) -> Tree:
        a = torch.tensor(
            [[[3.0, 1.0, 0.5], [-1.0, 2.0, 0.3], [0.2, 0.7, 4.0]], [[2.0, -0.5, 0.1], [0.4, 3.0, 1.0], [0.9, 0.0, 2.5]]]
        )
        b = torch.tensor([[1.0, -2.0, 0.5], [0.3, 1.0, 2.0]])
        a = (a + a.mT) / 2 if symmetric else a
        return {"A": a.to(dtype), "b": b.to(dtype)}

    return example


def linear_value(x: Tree) -> Tensor:
    """A^-1 b."""
    return torch.linalg.solve(x["A"], x["b"])


def linear_tangent(x: Tree, y: Tensor, u: Tree) -> Tensor:
    """y' = A^-1 (b' - A' y)."""
    return torch.linalg.solve(x["A"], u["b"] - _times(u["A"], y))


def linear_curvature(x: Tree, y: Tensor, u: Tree, w: Tree) -> Tensor:
    """y'' = -A^-1 (A' y' + A' y')."""
    a, b = linear_tangent(x, y, u), linear_tangent(x, y, w)
    return -torch.linalg.solve(x["A"], _times(u["A"], b) + _times(w["A"], a))


# ---------------------------------------------------------------------------------------------------------- y = W y + b
def affine_F(x: Tree, y: Tensor) -> Tensor:
    """The residual f - y."""
    return _times(x["W"], y) + x["b"] - y


def affine_initial(x: Tree) -> Tensor:
    """Zero."""
    return torch.zeros_like(x["b"])


def affine_example(dtype: torch.dtype) -> Tree:
    """A rotation and a shear of norm below 0.7."""
    w = [[[0.5, 0.2], [-0.3, 0.4]], [[0.3, 0.5], [0.0, -0.4]]]
    return {"W": torch.tensor(w, dtype=dtype), "b": torch.tensor([[1.0, -1.0], [0.5, 2.0]], dtype=dtype)}


def _affine_solve(x: Tree, r: Tensor) -> Tensor:
    w = x["W"]
    return torch.linalg.solve(torch.eye(w.shape[-1], dtype=w.dtype, device=w.device) - w, r)


def affine_value(x: Tree) -> Tensor:
    """(I - W)^-1 b."""
    return _affine_solve(x, x["b"])


def affine_tangent(x: Tree, y: Tensor, u: Tree) -> Tensor:
    """y' = (I - W)^-1 (W' y + b')."""
    return _affine_solve(x, _times(u["W"], y) + u["b"])


def affine_curvature(x: Tree, y: Tensor, u: Tree, w: Tree) -> Tensor:
    """y'' = (I - W)^-1 (W' y' + W' y')."""
    a, b = affine_tangent(x, y, u), affine_tangent(x, y, w)
    return _affine_solve(x, _times(u["W"], b) + _times(w["W"], a))


# -------------------------------------------------------- (r cos t, r sin t) = (p, q): a nest of unknowns and equations
def polar_F(x: Tree, y: Tree) -> Tree:
    """The residual, a nest as y is."""
    radius, angle = y["radius"], y["angle"]
    return {"p": radius * torch.cos(angle) - x["p"], "q": radius * torch.sin(angle) - x["q"]}


def polar_initial(x: Tree) -> Tree:
    """Near the solution."""
    y = polar_value({name: t.detach() for name, t in x.items()})
    return {"radius": 1.2 * y["radius"], "angle": y["angle"] + 0.1}


def polar_example(dtype: torch.dtype) -> Tree:
    """Points away from the origin and from the cut."""
    return {"p": torch.tensor([1.0, -0.5, 2.0], dtype=dtype), "q": torch.tensor([0.5, 1.5, -1.0], dtype=dtype)}


def polar_value(x: Tree) -> Tree:
    """Radius and angle."""
    return {"radius": torch.hypot(x["p"], x["q"]), "angle": torch.atan2(x["q"], x["p"])}


def polar_tangent(x: Tree, y: Tree, u: Tree) -> Tree:
    """r' = (p p' + q q') / r, t' = (p q' - q p') / r^2."""
    r = y["radius"]
    radius = (x["p"] * u["p"] + x["q"] * u["q"]) / r
    return {"radius": radius, "angle": (x["p"] * u["q"] - x["q"] * u["p"]) / r**2}


def polar_curvature(x: Tree, y: Tree, u: Tree, w: Tree) -> Tree:
    """r'' = r t' t', t'' = -(r' t' + t' r') / r."""
    a, b, r = polar_tangent(x, y, u), polar_tangent(x, y, w), y["radius"]
    dot = u["p"] * w["p"] + u["q"] * w["q"]
    angle = -(a["radius"] * b["angle"] + a["angle"] * b["radius"]) / r
    return {"radius": (dot - a["radius"] * b["radius"]) / r, "angle": angle}


# ------------------------------------------------------------ min (y - a)^2 + (y^2 - b)^2: the residual does not vanish
def squares_F(x: Tensor, y: Tensor) -> Tensor:
    """Two equations for one unknown; x = (a, b)."""
    return torch.cat([y - x[..., :1], y**2 - x[..., 1:]], dim=-1)


def squares_initial(x: Tensor) -> Tensor:
    """Zero."""
    return torch.zeros_like(x[..., :1])


def squares_example(dtype: torch.dtype) -> Tensor:
    """b < 1/2, so that the minimum is the only stationary point."""
    return torch.tensor([[1.0, 0.3], [-2.0, -1.0], [0.7, 0.1]], dtype=dtype)


def squares_value(x: Tensor) -> Tensor:
    """The root of 2 y^3 + (1 - 2b) y - a."""
    a, b = x[..., :1], x[..., 1:]
    return bisect(lambda y: 2 * y**3 + (1 - 2 * b) * y - a, a, -100.0, 100.0)


def squares_tangent(x: Tensor, y: Tensor, u: Tensor) -> Tensor:
    """y' = (a' + 2 y b') / (6 y^2 + 1 - 2b). Gauss-Newton would have 4 y^2 + 1 below, which is wrong."""
    return (u[..., :1] + 2 * y * u[..., 1:]) / (6 * y**2 + 1 - 2 * x[..., 1:])


def squares_curvature(x: Tensor, y: Tensor, u: Tensor, w: Tensor) -> Tensor:
    """y'' = (2 (b' y' + b' y') - 12 y y' y') / (6 y^2 + 1 - 2b)."""
    a, b = squares_tangent(x, y, u), squares_tangent(x, y, w)
    return (2 * (u[..., 1:] * b + w[..., 1:] * a) - 12 * y * a * b) / (6 * y**2 + 1 - 2 * x[..., 1:])


# ------------------------------------------------------------- |y - c| = r: one equation for two unknowns, minimal norm
_ANGLE = 0.5


def sphere_F(x: Tree, y: Tensor) -> Tensor:
    """The residual, (*batch, 1)."""
    return ((y - x["centre"]) ** 2).sum(-1, keepdim=True) - x["radius"] ** 2


def sphere_initial(x: Tree) -> Tensor:
    """A point on the ray from the centre on which Newton's minimal-norm steps stay."""
    ray = torch.tensor([math.cos(_ANGLE), math.sin(_ANGLE)], dtype=x["centre"].dtype, device=x["centre"].device)
    return (x["centre"] + 2 * x["radius"] * ray).detach()


def sphere_example(dtype: torch.dtype) -> Tree:
    """Two circles."""
    centre = torch.tensor([[0.5, -1.0], [1.0, 2.0]], dtype=dtype)
    return {"centre": centre, "radius": torch.tensor([[1.5], [0.8]], dtype=dtype)}


def sphere_value(x: Tree) -> Tensor:
    """c + r n, n the direction of the start."""
    ray = torch.tensor([math.cos(_ANGLE), math.sin(_ANGLE)], dtype=x["centre"].dtype, device=x["centre"].device)
    return x["centre"] + x["radius"] * ray


def _normal(x: Tree, y: Tensor) -> Tensor:
    return (y - x["centre"]) / x["radius"]


def _outward(x: Tree, y: Tensor, u: Tree) -> Any:
    return (_normal(x, y) * u["centre"]).sum(-1, keepdim=True)


def sphere_tangent(x: Tree, y: Tensor, u: Tree) -> Tensor:
    """y' = n (r' + n.c'): the shortest displacement that keeps the equation."""
    return _normal(x, y) * (u["radius"] + _outward(x, y, u))


def sphere_curvature(x: Tree, y: Tensor, u: Tree, w: Tree) -> Tensor:
    """y'' = -n (c'.c' - (n.c')(n.c')) / r: y moves on the line y* + t n with n frozen at y*."""
    cross = (u["centre"] * w["centre"]).sum(-1, keepdim=True) - _outward(x, y, u) * _outward(x, y, w)
    return -_normal(x, y) * cross / x["radius"]
