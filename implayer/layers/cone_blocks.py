"""Second-order and semidefinite cones: projections that torch differentiates, and their derivatives as numbers."""

import abc
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

_ROOT = math.sqrt(2)


class Tangent(NamedTuple):
    """Of cones of one kind, in NumPy: the projection, its derivative, and how far its kinks are."""

    s: Any  # (samples, count, d)
    jacobian: Any  # (samples, count, d, d); of (s, height) by (v, rho) for exponential cones
    margin: Any  # (samples, count, ...)
    height: Any = None  # (samples, count), for exponential cones


class AbstractBlock(abc.ABC):
    """Cones of one kind and size; `index` (count, dimension) says where their entries are among all rows."""

    index: Int[Tensor, "count dimension"]

    @abc.abstractmethod
    def project(self, v: Float[Tensor, "*batch count d"], rho: Tensor, order: int) -> Tensor:
        """The projection of every cone's part of v."""

    @abc.abstractmethod
    def tangent(self, v: Any, rho: Any) -> "Tangent":
        """The projection of v (samples, count, d) and its derivative, in NumPy."""


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

    def tangent(self, v: Any, rho: Any) -> Tangent:
        """The derivative is half of [[1, w'], [w, (1 + t/r) I - t/r w w']] with w = u / r between the cone and its polar."""
        del rho
        t, u = v[..., :1], v[..., 1:]
        size = np.sqrt((u * u).sum(-1, keepdims=True))
        inside, polar = size <= t, size <= -t
        r = np.where(inside | polar, 1.0, size)
        w, ratio, mean, one = u / r, (t / r)[..., None], (t + r) / 2, np.eye(v.shape[-1])
        between = np.empty((*v.shape, v.shape[-1]))
        between[..., 0, 0] = 1.0
        between[..., 0, 1:] = between[..., 1:, 0] = w
        between[..., 1:, 1:] = (1 + ratio) * one[1:, 1:] - ratio * w[..., :, None] * w[..., None, :]
        s = np.where(inside, v, np.where(polar, 0.0, np.concatenate([mean, w * mean], -1)))
        jacobian = np.where(inside[..., None], one, np.where(polar[..., None], 0.0, between / 2))
        return Tangent(s, jacobian, np.abs(np.abs(t) - size))


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

    def tangent(self, v: Any, rho: Any) -> Tangent:
        """Q diag(gamma) Q', Q the rotation of triangles by the eigenvectors, gamma the divided differences of max(., 0)."""
        del rho
        place, factor = (part.numpy() for part in self.spread)
        i, j = (part.numpy() for part in self._places)
        values, vectors = np.linalg.eigh((v[..., place] * factor.reshape(-1)).reshape(*v.shape[:-1], self.n, self.n))
        size, positive, half = np.abs(values), np.maximum(values, 0), np.where(i == j, 0.5, 1 / _ROOT)
        pairs = size[..., i] + size[..., j]
        gamma = (positive[..., i] + positive[..., j]) / np.where(pairs > 0, pairs, 1.0)
        left, right = vectors[..., i], vectors[..., j]  # (..., n, d)
        rotation = left[..., i, :] * right[..., j, :] + right[..., i, :] * left[..., j, :]
        rotation = 2 * half[:, None] * half * rotation
        matrix = (vectors * positive[..., None, :]) @ np.swapaxes(vectors, -1, -2)
        jacobian = (rotation * gamma[..., None, :]) @ np.swapaxes(rotation, -1, -2)
        return Tangent(2 * half * matrix[..., i, j], jacobian, size)

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        column = np.concatenate([np.full(k + 1, k) for k in range(self.n)])
        row = np.concatenate([np.arange(k + 1) for k in range(self.n)])
        return torch.from_numpy(row), torch.from_numpy(column)

    @cached_property
    def spread(self) -> tuple[Tensor, Tensor]:
        """For each entry of the matrix its place in the triangle, and the factor."""
        i, j = (part.numpy() for part in self._places)
        place, factor = np.zeros((self.n, self.n), dtype=np.int64), np.full((self.n, self.n), 1 / _ROOT)
        place[i, j] = place[j, i] = np.arange(len(i))
        np.fill_diagonal(factor, 1.0)
        return torch.from_numpy(place.reshape(-1)), torch.from_numpy(factor)

    def matrix(self, v: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n n"]:
        """The symmetric matrix of a scaled triangle."""
        place, factor = self.spread
        return v[..., place].reshape(*v.shape[:-1], self.n, self.n) * factor.to(v.dtype)

    def vector(self, matrix: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch d"]:
        """The scaled triangle of a symmetric matrix, of which both triangles are averaged."""
        i, j = self._places
        half = torch.where(i == j, 0.5, 1 / _ROOT).to(matrix.dtype)
        return (matrix[..., i, j] + matrix[..., j, i]) * half
