"""Cones, their projections as differentiable torch operations, and which points have no derivative there.

A cone K is a product of {0}, half-lines, second-order, positive semidefinite and exponential cones, in this order. Every v has
one decomposition v = s - y with s in K, y in the dual cone and s'y = 0 (Moreau); s is the projection of v. Of semidefinite
matrices the upper triangle counts, column by column, off-diagonal entries times sqrt(2).
"""

import abc
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..modes import transforms

_ROOT = math.sqrt(2)


@dataclass(frozen=True)
class Cones:
    """The sizes of a product of cones.

    - `zero`, `nonneg`: numbers of rows.
    - `soc`: the dimension of each second-order cone {(t, u): |u| <= t}.
    - `psd`: the side of each cone of positive semidefinite matrices.
    - `exp`: the number of exponential cones, the closure of {(x, y, z): y > 0, y exp(x / y) <= z}.
    """

    zero: int = 0
    nonneg: int = 0
    soc: tuple[int, ...] = ()
    psd: tuple[int, ...] = ()
    exp: int = 0

    @cached_property
    def size(self) -> int:
        """Number of rows."""
        return self.zero + self.nonneg + sum(self.soc) + sum(_triangle(n) for n in self.psd) + 3 * self.exp

    @property
    def polyhedral(self) -> bool:
        """Whether there are only equalities and inequalities."""
        return not (self.soc or self.psd or self.exp)

    @cached_property
    def blocks(self) -> tuple["AbstractBlock", ...]:
        """The cones that are not half-lines, those of one kind and size together."""
        start, found = self.zero + self.nonneg, {}
        for n in self.soc:
            found.setdefault(("soc", n), []).append(range(start, start + n))
            start += n
        for n in self.psd:
            found.setdefault(("psd", n), []).append(range(start, start + _triangle(n)))
            start += _triangle(n)
        blocks: list[AbstractBlock] = []
        for (kind, n), rows in found.items():
            index = torch.tensor([list(row) for row in rows])
            blocks.append(SecondOrder(index) if kind == "soc" else Semidefinite(index, n))
        if self.exp:
            blocks.append(Exponential(start + torch.arange(3 * self.exp).reshape(-1, 3)))
        return tuple(blocks)

    @cached_property
    def owners(self) -> Tensor:
        """(size,) a number for each row: the same one for all rows of a cone that is not a half-line, ascending."""
        sizes = [1] * (self.zero + self.nonneg) + list(self.soc) + [_triangle(n) for n in self.psd] + [3] * self.exp
        return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes, dtype=torch.int64))

    @cached_property
    def _order(self) -> Tensor:
        """Where each row is found in the concatenation of all blocks."""
        rows = [torch.arange(self.zero + self.nonneg), *[block.index.reshape(-1) for block in self.blocks]]
        return torch.argsort(torch.cat(rows))

    def project(self, v: Float[Tensor, "*batch m"], rho: Float[Tensor, "*batch k"], order: int = 2) -> Tensor:
        """s, the projection of v on K, differentiable `order` times. `rho`: of each exponential cone, of height zero."""
        return self.project_with_height(v, rho, order)[0]

    def project_with_height(self, v: Tensor, rho: Tensor, order: int = 2) -> tuple[Tensor, Tensor]:
        """s, and (*batch, exp) heights: zero where rho belongs to the projection of v on an exponential cone."""
        half = v[..., self.zero : self.zero + self.nonneg]
        parts, height = [torch.zeros_like(v[..., : self.zero]), torch.where(half > 0, half, 0.0)], rho
        for block in self.blocks:
            if isinstance(block, Exponential):
                part, height = block.project_with_height(v[..., block.index], rho)
            else:
                part = block.project(v[..., block.index], rho, order)
            parts.append(part.reshape(*part.shape[:-2], block.index.numel()))
        joined = torch.cat(parts, -1)
        return (joined if len(parts) == 2 else joined[..., self._order]), height

    def margin(self, v: Float[Tensor, "samples m"], rho: Float[Tensor, "samples k"]) -> Float[Tensor, " samples"]:
        """The distance of v, relative to its size, to where the projection has no derivative."""
        half = v[:, self.zero : self.zero + self.nonneg]
        scale = 1 + v.abs().amax(-1) if v.shape[1] else v.new_ones(len(v))
        parts = [half.abs(), *[block.margin(v[:, block.index], rho).flatten(1) for block in self.blocks]]
        joined = torch.cat(parts, -1)
        return joined.amin(-1) / scale if joined.shape[1] else torch.full_like(scale, torch.inf)


class AbstractBlock(abc.ABC):
    """Cones of one kind and size; `index` (count, dimension) says where their entries are among all rows."""

    index: Int[Tensor, "count dimension"]

    @abc.abstractmethod
    def project(self, v: Float[Tensor, "*batch count d"], rho: Tensor, order: int) -> Tensor:
        """The projection of every cone's part of v."""

    @abc.abstractmethod
    def jacobian(self, v: Float[Tensor, "samples count d"], rho: Tensor) -> Tensor:
        """(samples, count, d, d) derivative of the projection."""

    @abc.abstractmethod
    def margin(self, v: Float[Tensor, "samples count d"], rho: Tensor) -> Tensor:
        """(samples, count, ...) distances to where the projection has no derivative."""


@dataclass(frozen=True, eq=False)
class SecondOrder(AbstractBlock):
    """Second-order cones (t, u), |u| <= t."""

    index: Int[Tensor, "count dimension"]

    def project(self, v: Float[Tensor, "*batch count d"], rho: Tensor, order: int) -> Tensor:
        """(t + |u|) / 2 (1, u / |u|) between the cone and its polar."""
        del rho, order
        t, u, r, inside, polar = _split_cone(v)
        mean = (t + r) / 2
        between = torch.cat([mean, u * (mean / r)], -1)
        return torch.where(inside, v, torch.where(polar, 0.0, between))

    def jacobian(self, v: Float[Tensor, "samples count d"], rho: Tensor) -> Tensor:
        """Half of [[1, w'], [w, (1 + t/r) I - t/r w w']] with w = u / r."""
        del rho
        t, u, r, inside, polar = _split_cone(v)
        w, ratio, one = u / r, (t / r).unsqueeze(-1), torch.eye(v.shape[-1], dtype=v.dtype)
        body = (1 + ratio) * one[1:, 1:] - ratio * w.unsqueeze(-1) * w.unsqueeze(-2)
        lower = torch.cat([w.unsqueeze(-1), body], -1)
        upper = torch.cat([torch.ones_like(t), w], -1).unsqueeze(-2)
        between = torch.cat([upper, lower], -2) / 2
        return torch.where(inside.unsqueeze(-1), one, torch.where(polar.unsqueeze(-1), 0.0, between))

    def margin(self, v: Float[Tensor, "samples count d"], rho: Tensor) -> Tensor:
        """| |t| - |u| |."""
        del rho
        t = v[..., 0]
        return (t.abs() - torch.linalg.vector_norm(v[..., 1:], dim=-1)).abs()


def _split_cone(v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """t, u, |u| (1 where it does not matter, whose derivative is safe), and whether v is in the cone or its polar."""
    t, u = v[..., :1], v[..., 1:]
    square = (u * u).sum(-1, keepdim=True)
    sides = square.detach().sqrt()
    inside, polar = sides <= t, sides <= -t
    return t, u, torch.where(inside | polar, 1.0, square).sqrt(), inside, polar


@dataclass(frozen=True, eq=False)
class Semidefinite(AbstractBlock):
    """Positive semidefinite matrices of one side n, as scaled triangles."""

    index: Int[Tensor, "count dimension"]
    n: int

    def project(self, v: Float[Tensor, "*batch count d"], rho: Tensor, order: int) -> Tensor:
        """(X + |X|) / 2, where |X| is the root W of W^2 = X^2.

        Eigenvectors are not differentiable where eigenvalues repeat, |X| is. Chord steps with the frozen inverse of
        H -> |X| H + H |X| give W its derivatives, one order a step; its value is that of the decomposition.
        """
        del rho
        matrix = self.matrix(v)
        values, vectors = torch.linalg.eigh(matrix.detach())
        inner = vectors.mT @ matrix @ vectors  # diagonal in value, so that products with it lose nothing
        size = values.abs()
        pairs = size.unsqueeze(-1) + size.unsqueeze(-2)
        weight = torch.where(pairs > 0, 1 / torch.where(pairs > 0, pairs, 1.0), 0.0)
        root, square = torch.diag_embed(size), inner @ inner
        for _ in range(order):
            gap = root @ root - square
            root = root - weight * (gap - gap.detach())
        inner = inner - inner.detach() + torch.diag_embed(values)
        return self.vector(vectors @ ((inner + root) / 2) @ vectors.mT)

    def jacobian(self, v: Float[Tensor, "samples count d"], rho: Tensor) -> Tensor:
        """Q diag(gamma) Q', Q the rotation of triangles by the eigenvectors, gamma the divided differences of max(., 0)."""
        del rho
        values, vectors = torch.linalg.eigh(self.matrix(v))
        size, positive = values.abs(), values.clamp_min(0)
        pairs = size.unsqueeze(-1) + size.unsqueeze(-2)
        gamma = (positive.unsqueeze(-1) + positive.unsqueeze(-2)) / torch.where(pairs > 0, pairs, 1.0)
        i, j = self._places
        scale = torch.where(i == j, 0.5, 1 / _ROOT)
        left, right = vectors[..., i], vectors[..., j]  # (..., n, d)
        products = left.unsqueeze(-3) * right.unsqueeze(-2)  # (..., n, n, d)
        rotation = self.vector((scale * (products + products.transpose(-3, -2))).movedim(-1, -3)).mT
        return (rotation * gamma[..., i, j].unsqueeze(-2)) @ rotation.mT

    def margin(self, v: Float[Tensor, "samples count d"], rho: Tensor) -> Tensor:
        """The moduli of all eigenvalues."""
        del rho
        return torch.linalg.eigvalsh(self.matrix(v)).abs()

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        column = torch.cat([torch.full((k + 1,), k) for k in range(self.n)])
        row = torch.cat([torch.arange(k + 1) for k in range(self.n)])
        return row, column

    @cached_property
    def _spread(self) -> tuple[Tensor, Tensor]:
        """For each entry of the matrix its place in the triangle, and the factor."""
        i, j = self._places
        place = torch.zeros(self.n, self.n, dtype=torch.int64)
        place[i, j] = place[j, i] = torch.arange(len(i))
        factor = torch.full((self.n, self.n), 1 / _ROOT, dtype=torch.float64)
        return place.reshape(-1), factor.fill_diagonal_(1.0)

    def matrix(self, v: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n n"]:
        """The symmetric matrix of a scaled triangle."""
        place, factor = self._spread
        return v[..., place].reshape(*v.shape[:-1], self.n, self.n) * factor.to(v.dtype)

    def vector(self, matrix: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch d"]:
        """The scaled triangle of a symmetric matrix, of which both triangles are averaged."""
        i, j = self._places
        half = torch.where(i == j, 0.5, 1 / _ROOT).to(matrix.dtype)
        return (matrix[..., i, j] + matrix[..., j, i]) * half


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

    def jacobian(self, v: Float[Tensor, "samples count d"], rho: Tensor) -> Tensor:
        """Of (s, height) with respect to (v, rho): (samples, count, 4, 4)."""
        inside, _, face, curved = exponential_case(v)
        rho = torch.where(curved, rho, 0.0)
        alpha, beta, g = _coefficients(v, rho)
        one, zero, slope, small = torch.ones_like(rho), torch.zeros_like(rho), 2 * rho - 1, _small(rho)
        last = torch.stack([zero, zero, one], -1)
        alpha_v = torch.stack([(rho - 1) / g, 1 / g, zero], -1)
        beta_v = torch.stack([1 / g, -rho / g, zero], -1)
        alpha_r, beta_r = (v[..., 0] - alpha * slope) / g, (-v[..., 1] - beta * slope) / g
        w, w_v, w_r = v[..., 2] + beta * small, small.unsqueeze(-1) * beta_v + last, small * (beta_r - beta)
        high = _rows(torch.stack([rho * small, small, one], -1), torch.stack([small - rho * small, -small, zero], -1),
                     w, w_v, w_r, alpha_v - small.unsqueeze(-1) * w_v, alpha_r + small * (w - w_r))  # fmt: skip
        square = small * small
        low = _rows(torch.stack([rho, one, small], -1), torch.stack([one, zero, small], -1), alpha, alpha_v, alpha_r,
                    square.unsqueeze(-1) * alpha_v - beta_v - small.unsqueeze(-1) * last,
                    square * (2 * alpha + alpha_r) - beta_r - v[..., 2] * small)  # fmt: skip
        kept = torch.stack([inside | face, inside, inside | (face & (v[..., 2] > 0)), torch.ones_like(inside)], -1)
        boundary = torch.where((rho > 0)[..., None, None], high, low)
        return torch.where(curved[..., None, None], boundary, torch.diag_embed(kept.to(v.dtype)))

    def margin(self, v: Float[Tensor, "samples count d"], rho: Tensor) -> Tensor:
        """alpha and beta on the boundary, and what keeps the other cases apart."""
        inside, polar, face, _ = exponential_case(v)
        alpha, beta, _ = _coefficients(v, rho)
        x, y, z = v.unbind(-1)
        safe = torch.where(y > 0, y, 1.0)
        within = torch.where(y > 0, z - safe * (x / safe).clamp_max(300).exp(), torch.minimum(-x, z))
        flat = torch.minimum(torch.minimum(-x, -y), z.abs())
        down = torch.where(x > 0, x, 1.0)
        under = torch.where(x > 0, -math.e * z - down * (y / down).clamp_max(300).exp(), torch.minimum(-y, -z))
        rest = torch.where(polar, under, torch.where(face, flat, torch.minimum(alpha, beta)))
        return torch.where(inside, within, rest).abs()


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


def _height(v: Tensor, rho: Tensor) -> Tensor:
    alpha, beta, _ = _coefficients(v, rho)
    small = _small(rho)
    square = small * small
    return torch.where(rho > 0, alpha - square * beta, square * alpha - beta) - v[..., 2] * small


def _rows(direction: Tensor, turn: Tensor, size: Tensor, size_v: Tensor, size_r: Tensor, height_v: Tensor,
          height_r: Tensor) -> Tensor:  # fmt: skip
    """The derivative of (size * direction, height) with respect to (v, rho)."""
    by_rho = size_r.unsqueeze(-1) * direction + size.unsqueeze(-1) * turn
    top = torch.cat([direction.unsqueeze(-1) * size_v.unsqueeze(-2), by_rho.unsqueeze(-1)], -1)
    bottom = torch.cat([height_v, height_r.unsqueeze(-1)], -1).unsqueeze(-2)
    return torch.cat([top, bottom], -2)


_SPAN = 800.0  # where one end of the bracket is open, e^-800 is nothing


def _rho(v: Float[Tensor, "*batch 3"]) -> Tensor:
    """rho of the projection of v, by bisection of an increasing function; 0 where the boundary plays no part."""
    x, y, _ = v.unbind(-1)
    curved = exponential_case(v)[3]
    low = (1 - y / torch.where(x > 0, x, 1.0)).clamp(-1e12, 1e12)
    high = (x / torch.where(y > 0, y, 1.0)).clamp(-1e12, 1e12)
    low, high = torch.where(x > 0, low, high - _SPAN), torch.where(y > 0, high, low + _SPAN)
    for _ in range(70):
        middle = (low + high) / 2
        above = _height(v, middle) > 0
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return torch.where(curved, (low + high) / 2, 0.0)


def exponential_parameter(
    cones: Cones, v: Float[Tensor, "samples m"], s: Float[Tensor, "samples m"] | None = None
) -> Float[Tensor, "samples k"]:
    """The rho that belongs to v for every exponential cone; fast where a good guess `s` of the projection is given."""
    for block in cones.blocks:
        if isinstance(block, Exponential):
            part = v[:, block.index]
            return _rho(part) if s is None else _rho_near(part, s[:, block.index])
    return v.new_zeros(len(v), 0)


def _rho_near(v: Float[Tensor, "samples count 3"], s: Float[Tensor, "samples count 3"]) -> Tensor:
    """rho by Newton steps from a guess of the projection; by bisection where they do not arrive."""
    curved = exponential_case(v)[3]
    y = s - v  # beta (-1, rho - 1, e^-rho), which tells rho where s is too small to
    by_slack = s[..., 1].abs() > y[..., 0].abs()
    rho = torch.where(by_slack, s[..., 0] / s[..., 1], 1 - y[..., 1] / y[..., 0])
    rho = torch.where(curved & torch.isfinite(rho), rho, 0.0)
    for _ in range(3):
        alpha, beta, g = _coefficients(v, rho)
        slope, small = 2 * rho - 1, _small(rho)
        square = small * small
        alpha_r, beta_r = (v[..., 0] - alpha * slope) / g, (-v[..., 1] - beta * slope) / g
        change = torch.where(
            rho > 0,
            alpha_r + square * (2 * beta - beta_r) + v[..., 2] * small,
            square * (2 * alpha + alpha_r) - beta_r - v[..., 2] * small,
        )
        step = torch.where(curved, _height(v, rho) / change, 0.0)
        rho = rho - torch.where(torch.isfinite(step), step.clamp(-1, 1), 0.0)
    return rho if bool((step.abs() <= 1e-6 * (1 + rho.abs())).all()) else _rho(v)


def _triangle(n: int) -> int:
    return n * (n + 1) // 2
