"""The Jacobian dF/dy of a whole batch as a linear operator, one block a sample, made of vector products."""

import abc
from collections.abc import Callable

import torch
from torch import Tensor

from .errors import BatchCouplingError, ImplayerError
from .graph import is_trusted, jacobian_of_graph, trust
from .problem import quasi_random
from .types import Vectors

_LOOP_ROWS = 2  # below, single products; their vmap costs about as much as three small ones
_CHUNK_BYTES = (
    2**23
)  # rows of J are made in chunks whose intermediates stay in the cache (2.3 times faster at 1024 x 64)


class AbstractOperator(abc.ABC):
    """A linear map per sample: (samples, n) -> (samples, m)."""

    samples: int
    rows: int
    columns: int
    dtype: torch.dtype
    device: torch.device
    sign: int = 1  # the fixed-point map of F is y + sign * F, so its Jacobian is I + sign * J

    @abc.abstractmethod
    def mv(self, v: Vectors) -> Tensor:
        """J v: (samples, n) -> (samples, m)."""

    @abc.abstractmethod
    def rmv(self, u: Vectors) -> Tensor:
        """J' u: (samples, m) -> (samples, n); for complex J with the conjugate transpose."""

    @abc.abstractmethod
    def materialise(self) -> Tensor:
        """J as (samples, m, n)."""

    @property
    def T(self) -> "AbstractOperator":
        """The transposed operator."""
        return TransposedOperator(self)


class TransposedOperator(AbstractOperator):
    """J' of an operator J."""

    def __init__(self, operator: AbstractOperator):
        self.operator, self.sign = operator, operator.sign
        self.samples, self.rows, self.columns = operator.samples, operator.columns, operator.rows
        self.dtype, self.device = operator.dtype, operator.device

    def mv(self, v: Vectors) -> Tensor:
        """J' v."""
        return self.operator.rmv(v)

    def rmv(self, u: Vectors) -> Tensor:
        """J u."""
        return self.operator.mv(u)

    def materialise(self) -> Tensor:
        """J' as (samples, n, m)."""
        return self.operator.materialise().mT

    @property
    def T(self) -> AbstractOperator:
        """J again."""
        return self.operator


class MatrixOperator(AbstractOperator):
    """A Jacobian given as its matrices (samples, m, n)."""

    def __init__(self, matrix: Tensor, sign: int = 1):
        self.matrix, self.sign = matrix, sign
        self.samples, self.rows, self.columns = matrix.shape
        self.dtype, self.device = matrix.dtype, matrix.device

    def mv(self, v: Vectors) -> Tensor:
        """J v."""
        return (v.unsqueeze(-2) @ self.matrix.mT).squeeze(
            -2
        )  # from the left: up to 15 times faster than matrix @ column

    def rmv(self, u: Vectors) -> Tensor:
        """J' u."""
        return (u.unsqueeze(-2) @ _conjugate(self.matrix)).squeeze(-2)

    def materialise(self) -> Tensor:
        """The matrices."""
        return self.matrix


class JacobianOperator(AbstractOperator):
    """dF/dy at a point, by vector-Jacobian products of one taped evaluation of F.

    Reverse mode throughout: forward mode of torch is not thread-safe. J v is the derivative of u -> J' u.
    The samples are independent, so one product serves all of them: J costs as many products as F has rows.
    """

    def __init__(self, residual: Callable[[Tensor], Tensor], y: Vectors, *, sign: int = 1):
        with torch.enable_grad():
            leaf = y.detach().requires_grad_()
            self._adopt(residual(leaf), leaf, sign)

    @classmethod
    def from_tape(cls, r: Tensor, y: Tensor, sign: int = 1) -> "JacobianOperator":
        """The operator of an evaluation r = F(x, y) that is on the tape already; y is a leaf that requires grad."""
        operator = cls.__new__(cls)
        operator._adopt(r, y, sign)
        return operator

    def _adopt(self, r: Tensor, y: Tensor, sign: int) -> None:
        self._r, self._y, self.sign = r, y, sign
        self.samples, self.rows = r.shape
        self.columns = y.shape[1]
        self.dtype, self.device = y.dtype, y.device
        self._linear: tuple[Tensor, Tensor] | None = None

    @property
    def value(self) -> Tensor:
        """F at the point, (samples, m)."""
        return self._r.detach()

    def rmv(self, u: Vectors) -> Tensor:
        """J' u, one vector-Jacobian product."""
        if not self._r.requires_grad:
            return torch.zeros_like(self._y)
        (product,) = torch.autograd.grad(self._r, self._y, u.contiguous(), retain_graph=True, materialize_grads=True)
        return product.detach()

    def mv(self, v: Vectors) -> Tensor:
        """J v, as the derivative of the linear map u -> J' u."""
        if not self._r.requires_grad:
            return torch.zeros_like(self._r)
        if self._linear is None:
            with torch.enable_grad():
                u = torch.zeros_like(self._r).requires_grad_()
                (ju,) = torch.autograd.grad(self._r, self._y, u, create_graph=True, materialize_grads=True)
            self._linear = (u, ju)
        u, ju = self._linear
        if not ju.requires_grad:
            return torch.zeros_like(self._r)
        (product,) = torch.autograd.grad(ju, u, v.contiguous(), retain_graph=True, materialize_grads=True)
        return product.detach()

    def materialise(self) -> Tensor:
        """J as (samples, m, n), in m vector products for the whole batch."""
        if not self._r.requires_grad:
            return torch.zeros(self.samples, self.rows, self.columns, dtype=self.dtype, device=self.device)
        if self.rows <= _LOOP_ROWS:
            return self._row_by_row()
        found = self.formula()
        return self._by_products() if found is None else found

    def formula(self) -> Tensor | None:
        """J as (samples, m, n) without vector products, where the graph of F is simple enough for that (`graph`)."""
        found, kind = jacobian_of_graph(self._r, self._y)
        if found is None or is_trusted(kind) or trust(kind, found, self._by_products()):
            return found
        return None

    def _by_products(self) -> Tensor:
        """The same for any graph, by products with unit vectors."""
        row_bytes = max(self.samples * self.columns * self.dtype.itemsize, 1)
        chunk = min(max(_CHUNK_BYTES // row_bytes, 8), self.rows)
        cotangents = torch.eye(self.rows, dtype=self.dtype, device=self.device).unsqueeze(1)
        cotangents = cotangents.expand(self.rows, self.samples, self.rows)
        try:
            if chunk == self.rows:
                # LAPACK takes 1.4 times as long for matrices whose rows are far apart in memory.
                return _conjugate(self._pulled_back(cotangents)).movedim(0, 1).contiguous()
            out = torch.empty(self.samples, self.rows, self.columns, dtype=self.dtype, device=self.device)
            for first in range(0, self.rows, chunk):
                rows = self._pulled_back(cotangents[first : first + chunk])
                out[:, first : first + chunk] = _conjugate(rows).movedim(0, 1)
            return out
        except RuntimeError:  # an operation inside F has no batched derivative, such as another matrix-free layer
            return self._row_by_row()

    def _pulled_back(self, cotangents: Tensor) -> Tensor:
        (rows,) = torch.autograd.grad(
            self._r, self._y, cotangents, retain_graph=True, is_grads_batched=True, materialize_grads=True
        )
        return rows

    def _row_by_row(self) -> Tensor:
        return torch.stack([_conjugate(self.rmv(self._one_hot(k))) for k in range(self.rows)], dim=1)

    def _one_hot(self, k: int) -> Tensor:
        u = torch.zeros_like(self._r)
        u[:, k] = 1
        return u

    def require_independent_samples(self) -> None:
        """Probe with cotangents on a part of the samples: they must not reach the others.

        One split for each bit of the sample number, so that every pair of samples is separated by one of them.
        """
        weights = 0.5 + quasi_random(self._r.shape, self._r).abs().to(self.dtype)
        number = torch.arange(self.samples, device=self.device)
        halves = [(number >> bit) % 2 == 0 for bit in range(max(self.samples - 1, 0).bit_length())]
        for chosen in [part for half in halves for part in (half, ~half)]:
            product = self.rmv(torch.where(chosen.unsqueeze(-1), weights, torch.zeros_like(weights)))
            leaked = torch.nan_to_num(product)[~chosen]
            if bool((leaked != 0).any()):
                raise BatchCouplingError(
                    "F mixes the samples of a batch: the residual of some samples depends on the unknowns of others. "
                    "Likely causes: (a) BatchNorm in training mode (use `.eval()` or GroupNorm), (b) a mean or sum over a "
                    "batch axis inside F, (c) `event_ndim` is too small, so that an axis of unknowns counts as batch axis."
                )

    def require_holomorphic(self) -> None:
        """For complex unknowns: the derivative must be complex-linear, that is, F must not use y.conj(), |y| and their kind."""
        if not self.dtype.is_complex:
            return
        u = quasi_random(self._r.shape, self._r) + 0.5
        plain, turned = self.rmv(u), self.rmv(1j * u)
        gap = torch.linalg.vector_norm(turned - 1j * plain)
        if bool(gap > 1e-4 * torch.linalg.vector_norm(plain)):
            raise ImplayerError(
                "F is not holomorphic in y (it uses `.conj()`, `.abs()`, `.real` or the like), so dF/dy is no complex matrix. "
                "Write the equation for real and imaginary parts as separate real unknowns."
            )


def _conjugate(rows: Tensor) -> Tensor:
    """Products of torch with a complex J are those with J^H."""
    return rows.conj() if rows.is_complex() else rows
