"""Exponential cones: a projection that torch differentiates, its derivative as numbers, and the parameter of its boundary."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..modes import transforms
from .cone_blocks import AbstractBlock, Tangent


@dataclass(frozen=True, eq=False)
class Exponential(AbstractBlock):
    """Exponential cones, in the parametrisation of their boundary by rho = x / y.

        v = alpha (rho, 1, e^rho) - beta (-1, rho - 1, e^-rho),   alpha = (v_y + (rho - 1) v_x) / g,
        beta = (v_x - rho v_y) / g,   g = rho^2 - rho + 1

    The third row of this equation, times e^-|rho|, is one equation for rho. The projection is alpha (rho, 1, e^rho); for
    rho > 0 it is written as w (rho e^-rho, e^-rho, 1) with w = v_z + beta e^-rho, because alpha is a small difference there.

    Reference: Friberg, "Projection onto the exponential cone: a univariate root-finding problem", 2023.
    """

    index: Int[Tensor, "count dimension"]

    def project(self, v: Float[Tensor, "*batch count d"], rho: Tensor, order: int) -> Tensor:
        """The boundary point, or v inside, 0 in the polar cone, and (x, 0, max(z, 0)) on the face y = 0."""
        return self.project_with_height(v, rho)[0]

    def project_with_height(self, v: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
        """Also (alpha e^rho - beta e^-rho - v_z) e^-|rho|; rho itself where the boundary plays no part."""
        inside, polar, face, curved = exponential_case(v)
        everywhere = bool(curved.all()) if not transforms() else False
        used = rho if everywhere else torch.where(curved, rho, 0.0)
        alpha, beta, _ = _coefficients(v, used)
        positive, small = used > 0, _small(used)
        x, z = v[..., 0], v[..., 2]
        size = torch.where(positive, z + beta * small, alpha)
        y = torch.where(positive, size * small, size)
        boundary = torch.stack([y * used, y, torch.where(positive, size, size * small)], -1)
        square = small * small
        height = torch.where(positive, alpha - square * beta, square * alpha - beta) - z * small
        if everywhere:
            return boundary, height
        flat = torch.stack([x, torch.zeros_like(x), torch.where(z > 0, z, 0.0)], -1)
        rest = torch.where(face.unsqueeze(-1), flat, boundary)
        s = torch.where(inside.unsqueeze(-1), v, torch.where(polar.unsqueeze(-1), 0.0, rest))
        return s, torch.where(curved, height, rho)

    def tangent(self, v: Any, rho: Any) -> Tangent:
        """The derivative is that of (s, height) by (v, rho)."""
        with np.errstate(all="ignore"):
            return _tangent(v, rho)

    def parameter(self, v: Any, s: Any = None) -> Any:
        """The rho (samples, count) that belongs to v, in NumPy; fast where a good guess `s` of the projection is given."""
        with np.errstate(all="ignore"):
            return _rho(v) if s is None else _rho_near(v, s)


def exponential_case(v: Float[Tensor, "*batch 3"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Whether v is in the exponential cone, in its polar cone, projects on the face y = 0, or on the curved boundary.

    Comparisons with NaN are false, so quotients by zero do no harm.
    """
    x, y, z = v.detach().unbind(-1)
    inside = (y > 0) & (y * (x / y).exp() <= z)
    polar = (x > 0) & (x * (y / x).exp() <= -math.e * z)
    face = (x <= 0) & (y <= 0)
    return inside, polar, face, ~(inside | polar | face)


def _coefficients(v: Tensor, rho: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    g = rho * (rho - 1) + 1
    return (v[..., 1] + (rho - 1) * v[..., 0]) / g, (v[..., 0] - rho * v[..., 1]) / g, g


def _small(rho: Tensor) -> Tensor:
    """e^-|rho|, with the derivative from the left at zero."""
    return torch.where(rho > 0, -rho, rho).exp()


# ------------------------------------------------------------------------------------------------------- as numbers
def _tangent(v: Any, rho: Any) -> Tangent:
    inside, polar, face, curved = _case(v)
    z, rho = v[..., 2], np.where(curved, rho, 0.0)
    alpha, beta, alpha_r, beta_r, small = _parts(v, rho)
    square, positive, g = small * small, rho > 0, rho * (rho - 1) + 1
    w, w_r = z + beta * small, small * (beta_r - beta)
    zero, one = np.zeros_like(rho), np.ones_like(rho)
    last = np.stack([zero, zero, one], -1)
    alpha_v, beta_v = np.stack([(rho - 1) / g, 1 / g, zero], -1), np.stack([1 / g, -rho / g, zero], -1)
    w_v, tiny = small[..., None] * beta_v + last, small[..., None]
    size, size_r = np.where(positive, w, alpha), np.where(positive, w_r, alpha_r)
    high = positive[..., None]
    size_v = np.where(high, w_v, alpha_v)
    direction = np.where(high, np.stack([rho * small, small, one], -1), np.stack([rho, one, small], -1))
    turn = np.where(high, np.stack([small - rho * small, -small, zero], -1), np.stack([one, zero, small], -1))
    jacobian = np.empty((*v.shape[:-1], 4, 4))
    jacobian[..., :3, :3] = direction[..., :, None] * size_v[..., None, :]
    jacobian[..., :3, 3] = size_r[..., None] * direction + size[..., None] * turn
    jacobian[..., 3, :3] = np.where(high, alpha_v - tiny * w_v, tiny * (tiny * alpha_v - last) - beta_v)
    jacobian[..., 3, 3] = np.where(
        positive, alpha_r + small * (w - w_r), square * (2 * alpha + alpha_r) - beta_r - z * small
    )
    height = np.where(positive, alpha - square * beta, square * alpha - beta) - z * small
    s, margin = size[..., None] * direction, np.minimum(np.abs(size), np.where(positive, beta, beta / small))
    if curved.all():
        return Tangent(s, jacobian, np.abs(margin), height)
    kept = np.stack([inside | face, inside, inside | (face & (z > 0)), np.ones_like(inside)], -1)
    jacobian = np.where(curved[..., None, None], jacobian, kept[..., None] * np.eye(4))
    flat = np.where(kept[..., :3], v, 0.0)
    s = np.where(curved[..., None], s, flat)
    return Tangent(
        s, jacobian, np.abs(np.where(curved, margin, _flat_margin(v, inside, polar))), np.where(curved, height, rho)
    )


def _flat_margin(v: Any, inside: Any, polar: Any) -> Any:
    """What keeps the cases apart in which the curved boundary plays no part."""
    x, y, z = v[..., 0], v[..., 1], v[..., 2]
    safe, down = np.where(y > 0, y, 1.0), np.where(x > 0, x, 1.0)
    within = np.where(y > 0, z - safe * np.exp(np.minimum(x / safe, 300)), np.minimum(-x, z))
    under = np.where(x > 0, -math.e * z - down * np.exp(np.minimum(y / down, 300)), np.minimum(-y, -z))
    return np.where(inside, within, np.where(polar, under, np.minimum(np.minimum(-x, -y), np.abs(z))))


def _case(v: Any) -> tuple[Any, Any, Any, Any]:
    """`exponential_case` of numbers."""
    x, y, z = v[..., 0], v[..., 1], v[..., 2]
    inside = (y > 0) & (y * np.exp(x / y) <= z)
    polar = (x > 0) & (x * np.exp(y / x) <= -math.e * z)
    face = (x <= 0) & (y <= 0)
    return inside, polar, face, ~(inside | polar | face)


def _parts(v: Any, rho: Any) -> tuple[Any, Any, Any, Any, Any]:
    """alpha, beta, their derivatives by rho, and e^-|rho|."""
    x, y, slope, g = v[..., 0], v[..., 1], 2 * rho - 1, rho * (rho - 1) + 1
    alpha, beta = (y + (rho - 1) * x) / g, (x - rho * y) / g
    return alpha, beta, (x - alpha * slope) / g, (-y - beta * slope) / g, np.exp(-np.abs(rho))


_SPAN = 800.0  # where one end of the bracket is open, e^-800 is nothing


def _rho(v: Any) -> Any:
    """rho of the projection of v, by bisection of an increasing function; 0 where the boundary plays no part."""
    x, y, z = v[..., 0], v[..., 1], v[..., 2]
    low = np.clip(1 - y / np.where(x > 0, x, 1.0), -1e12, 1e12)
    high = np.clip(x / np.where(y > 0, y, 1.0), -1e12, 1e12)
    low, high = np.where(x > 0, low, high - _SPAN), np.where(y > 0, high, low + _SPAN)
    for _ in range(70):
        middle = (low + high) / 2
        alpha, beta, _, _, small = _parts(v, middle)
        square = small * small
        above = np.where(middle > 0, alpha - square * beta, square * alpha - beta) > z * small
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.where(_case(v)[3], (low + high) / 2, 0.0)


def _rho_near(v: Any, s: Any) -> Any:
    """rho by Newton steps from a guess of the projection; by bisection where they do not arrive."""
    curved, z = _case(v)[3], v[..., 2]
    y = s - v  # beta (-1, rho - 1, e^-rho), which tells rho where s is too small to
    by_slack = np.abs(s[..., 1]) > np.abs(y[..., 0])
    rho = np.where(by_slack, s[..., 0] / s[..., 1], 1 - y[..., 1] / y[..., 0])
    rho = np.where(curved & np.isfinite(rho), rho, 0.0)
    for _ in range(4):
        alpha, beta, alpha_r, beta_r, small = _parts(v, rho)
        square, positive = small * small, rho > 0
        height = np.where(positive, alpha - square * beta, square * alpha - beta) - z * small
        change = np.where(positive, alpha_r + square * (2 * beta - beta_r) + z * small,
                          square * (2 * alpha + alpha_r) - beta_r - z * small)  # fmt: skip
        step = np.where(curved, height / change, 0.0)
        step = np.where(np.isfinite(step), np.clip(step, -1, 1), 0.0)
        rho = rho - step
        if (np.abs(step) <= 1e-6 * (1 + np.abs(rho))).all():
            return rho
    return _rho(v)
