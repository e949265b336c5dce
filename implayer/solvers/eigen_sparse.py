"""Forward solvers of sparse eigenproblems: block Lanczos with a shifted factor, and LOBPCG with a preconditioner."""

import abc
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import DeflationError, NotDefiniteError
from ..linear.spectral_span import AbstractComplement, PreconditionedComplement, Rows, ShiftedComplement, Span
from .eigen import Which, require_known
from .eigen_lanczos import lanczos

_SMALL = 80  # rows up to which a matrix is made dense
_LOST = 1e5  # distances to the shift that differ more than this cost the farther pairs too many digits
_MOVED = 1e-3  # by how much a shift is moved then, in units of the farther distance
_MOVES = 3
_BRIEF = 200  # products with the factor within which pairs converge where a shift is good
_FAR = 30.0  # distance of a shift in units of the spread of the wanted pairs from which a closer one pays


@dataclass(frozen=True)
class SparsePencil:
    """One pencil A v = l B v: SciPy matrices or linear operators, B None for the identity or an array for a diagonal.

    `known` (d, n) is B-orthonormal; `start` (k, n) are vectors to begin with.
    """

    A: Any
    B: Any = None
    known: Rows | None = None
    start: Rows | None = None

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.A.shape[0]

    def product(self, z: Rows) -> Rows:
        """A z for rows z."""
        return np.stack([self.A @ one for one in z])

    def weighted(self, z: Rows) -> Rows:
        """B z for rows z."""
        if self.B is None:
            return z
        return z * self.B if isinstance(self.B, np.ndarray) else np.stack([self.B @ one for one in z])

    @property
    def weight(self) -> Any:
        """B as a SciPy matrix."""
        import scipy.sparse as sparse

        if self.B is None:
            return sparse.eye_array(self.n, format="csc")
        return sparse.diags_array(self.B, format="csc") if isinstance(self.B, np.ndarray) else self.B

    def outside(self, z: Rows) -> Rows:
        """z without the known vectors, B-orthogonally."""
        return z if self.known is None else z - (z @ self._known_images.T) @ self.known

    @cached_property
    def _known_images(self) -> Rows:
        assert self.known is not None
        return self.weighted(self.known)

    def beside(self, found: Rows) -> "SparsePencil":
        """The same with found pairs, which are B-orthonormal, known as well."""
        known = found if self.known is None else np.concatenate([self.known, found])
        return replace(self, known=known, start=None)

    def with_known(self, known: Rows, size: float) -> "SparsePencil":
        """The same with known vectors, made B-orthonormal."""
        values, turn = np.linalg.eigh(known @ self.weighted(known).T)
        if not values[0] > 1e-12 * values[-1]:
            raise DeflationError(
                f"`deflate` holds {len(known)} vectors that depend on one another; pass each known vector once."
            )
        known = (turn / np.sqrt(values)).T @ known
        image, weighted = self.product(known), self.weighted(known)
        rest = np.linalg.norm(image - (image @ known.T) @ weighted) / np.linalg.norm(weighted)
        require_known(float(rest / size))
        return replace(self, known=known)


@dataclass(frozen=True)
class Pairs:
    """Pairs of one pencil, the wanted ones first; vectors are rows (p, n), B-orthonormal.

    The first `exact` are good to full precision, the others to a few digits.
    """

    values: Any
    vectors: Rows
    steps: int
    exact: int
    complement: Callable[[Span], AbstractComplement] | None = None  # None where all pairs are here
    converged: bool = True
    known: int = 0  # how many of them, the last ones, were known beforehand
    shift: float | None = None  # where they were sought


class AbstractSparseEigenSolver(abc.ABC):
    """Finds pairs of one `SparsePencil` at a time."""

    @abc.abstractmethod
    def find(self, pencil: SparsePencil, wanted: tuple[int, Which, float | None]) -> Pairs:
        """The wanted pairs, first, and what is known of others."""


@dataclass(frozen=True)
class ShiftInvert(AbstractSparseEigenSolver):
    r"""Block Lanczos for the pairs nearest to a shift, with a sparse factor of $A - \sigma B$ (SuperLU).

    The factor also preconditions the solves of the derivative. One pair more than was asked for is found to a few digits,
    so that the gap next to the last one is known.

    **Arguments**

    - `shift`: $\sigma$; None (default) takes a bound of the spectrum (Gershgorin), just outside of the wanted end, and
      factorises once more where that turns out to be far away. Pass one where you know a better one: outside of the
      spectrum, near its wanted end. For `which="nearest"` it is the shift of the layer. One that is an eigenvalue to five
      digits is moved by a thousandth of the distance to the next pair.
    - `rtol`: residual of a pair of $(A - \sigma B)^{-1} B$, relative to its eigenvalue (default 1e-13).
    - `max_steps`: products with the factor (default 2000); a pair that has not converged then fails its sample.

    **Reference** Grimes, Lewis and Simon, "A shifted block Lanczos algorithm", SIAM J. Matrix Anal. Appl. 15, 1994.
    """

    shift: float | None = None
    rtol: float = 1e-13
    max_steps: int = 2000

    def find(self, pencil: SparsePencil, wanted: tuple[int, Which, float | None]) -> Pairs:
        """The wanted pairs of one pencil and the next one."""
        k, which, shift = wanted
        if pencil.n <= _SMALL or pencil.n < 8 * (k + 1):
            return by_lapack(pencil, which, shift)
        sigma = shift if shift is not None else self.shift
        if sigma is not None:
            return self._chosen(pencil, k, which, sigma)
        sigma = outside_bound(pencil, which)
        found = self._near(pencil, k, which, sigma)
        ends = np.sort(np.abs(found.values - sigma))
        spread = max(ends[-1] - ends[0], 1e-3 * ends[0])
        if ends[0] <= _FAR * spread or not found.converged:
            return found
        closer = found.values[0] + (-spread if which == "smallest" else spread)
        return self._near(replace(pencil, start=found.vectors), k, which, closer, again=True)

    def _chosen(self, pencil: SparsePencil, k: int, which: Which, sigma: float) -> Pairs:
        """Near a shift of the caller, which is moved a little where it is an eigenvalue, or nearly so.

        There all other pairs drown in the rounding of one, whose theta is larger by the ratio of the distances.
        """
        brief = replace(self, max_steps=min(self.max_steps, _BRIEF + 4 * k))
        found = brief._near(pencil, k, which, sigma)
        moved, side = sigma, -1.0 if which == "smallest" else 1.0
        for _ in range(_MOVES):
            distance = np.sort(np.abs(found.values - found.shift))
            if not distance[0] < distance[k] / _LOST < np.inf:
                break
            moved += side * distance[k] * _MOVED
            found = brief._near(pencil, k + 1, which, moved)
        if not found.converged and self.max_steps > brief.max_steps:
            found = self._near(pencil, k if moved == sigma else k + 1, which, moved)
        if moved == sigma:
            return found
        order = _order(found.values[: k + 1], which, sigma)  # by the distance to the shift that was asked for
        return replace(found, values=found.values[order], vectors=found.vectors[order], exact=k)

    def _near(self, pencil: SparsePencil, k: int, which: Which, sigma: float, again: bool = False) -> Pairs:
        """`again` where the start has all copies of repeated eigenvalues."""
        inverse, sigma = factorised(pencil, sigma, 0.1 if which == "nearest" else 0.0)
        theta, vectors, steps, good = self._pairs(pencil, inverse, k, again)
        values, vectors = _ritz(pencil, vectors, k, sigma + 1 / theta)
        if which != "nearest":  # pairs on the wrong side of a shift inside the spectrum come last
            order = np.argsort(values[:k] if which == "smallest" else -values[:k], kind="stable")
            order = np.concatenate([order, np.arange(k, len(values))])
            values, vectors = values[order], vectors[order]
        return Pairs(values, vectors, steps, k, lambda span: ShiftedComplement(span, inverse, sigma), good, shift=sigma)

    def _pairs(
        self, pencil: SparsePencil, inverse: Callable[[Rows], Rows], k: int, again: bool
    ) -> tuple[Any, Rows, int, bool]:
        """Block Lanczos; where an eigenvalue is repeated it goes on in the complement, for a block may not show all copies."""

        def run(pencil: SparsePencil, start: Rows, k: int) -> tuple[Any, Rows, int, bool]:
            return lanczos(
                lambda z: pencil.outside(inverse(pencil.weighted(z))),
                pencil.weighted,
                start,
                k,
                self.rtol,
                self.max_steps,
            )

        narrow = 2 if pencil.start is None else k + 1  # single steps are cheapest, but a start is to be used whole
        width = min(k + 1, max(narrow, components(pencil)), _BLOCK)
        theta, vectors, steps, good = run(pencil, _block(pencil, width), k)
        if again or not (np.diff(np.sort(theta)) <= _REPEATED * abs(theta).max()).any():
            return theta, vectors, steps, good
        while good:
            rest = pencil.beside(vectors[:k])
            one, vector, more, good = run(rest, _block(rest, 2), 1)
            theta, vectors = np.append(theta[:k], one[0]), np.concatenate([vectors[:k], vector[:1]])
            steps, hidden = steps + more, abs(one[0]) > (1 + _REPEATED) * abs(theta[k - 1])
            order = np.argsort(-abs(theta), kind="stable")
            theta, vectors = theta[order], vectors[order]
            if not hidden:
                break
        return theta, vectors, steps, good


_REPEATED = 1e-8


def _ritz(pencil: SparsePencil, vectors: Rows, k: int, guess: Any) -> tuple[Any, Rows]:
    """The wanted pairs in their span, by products with A: those with the factor have its rounding."""
    from scipy.linalg import eigh

    wanted = vectors[:k]
    small = wanted @ pencil.product(wanted).T
    values, turn = eigh((small + small.T) / 2, wanted @ pencil.weighted(wanted).T)
    place = np.argsort(np.argsort(guess[:k], kind="stable"), kind="stable")
    vectors[:k] = (turn.T @ wanted)[place]
    return np.concatenate([values[place], guess[k:]]), vectors


_BLOCK = 8


def components(pencil: SparsePencil) -> int:
    """Into how many parts the pencil falls apart: so often an eigenvalue may be repeated, and so wide has a block to be."""
    import scipy.sparse as sparse
    from scipy.sparse.csgraph import connected_components

    pattern = sparse.csr_array((pencil.A.data != 0, pencil.A.indices, pencil.A.indptr), shape=pencil.A.shape)
    if pencil.B is not None and not isinstance(pencil.B, np.ndarray):
        pattern = pattern + (pencil.B != 0)
    return int(connected_components(pattern, directed=False, return_labels=False))


@dataclass(frozen=True)
class LOBPCG(AbstractSparseEigenSolver):
    """Locally optimal block preconditioned conjugate gradients: products alone, for either end of the spectrum.

    **Arguments**

    - `preconditioner`: a callable on columns (n, j), positive definite and near A^-1 (multigrid, incomplete factors), for
      forward and derivative alike; None is slow where the spread is many times the gap.
    - `rtol`: residual of a pair relative to the size of A; None is 1e-10.
    - `max_steps`: 2000 by default; a pair that has not converged then fails its sample.

    **Reference** Knyazev, "Toward the Optimal Preconditioned Eigensolver", SIAM J. Sci. Comput. 23, 2001.
    """

    preconditioner: Callable[[Any], Any] | None = None
    rtol: float | None = None
    max_steps: int = 2000

    def find(self, pencil: SparsePencil, wanted: tuple[int, Which, float | None]) -> Pairs:
        """The wanted pairs of one pencil and the next one."""
        from scipy.sparse.linalg import lobpcg

        k, which, shift = wanted
        if shift is not None:
            raise ValueError(
                "`LOBPCG` finds the ends of a spectrum; for pairs nearest to a shift pass `ShiftInvert()`."
            )
        if pencil.n <= _SMALL or pencil.n < 8 * (k + 1):
            return by_lapack(pencil, which, None)
        block = np.linalg.qr(_block(pencil, k + 1).T)[0]
        size = np.linalg.norm(pencil.A @ block) / np.sqrt(k + 1)
        known = None if pencil.known is None else pencil.known.T
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what has not converged is found by its residual
            values, vectors = lobpcg(
                pencil.A, block, None if pencil.B is None else pencil.weight, self.preconditioner, known,
                tol=(self.rtol or 1e-10) * size, maxiter=self.max_steps, largest=which == "largest",
            )  # fmt: skip
        order = _order(values, which, None)
        sign = -1.0 if which == "largest" else 1.0
        by_rows = (
            None if self.preconditioner is None else lambda r, M=self.preconditioner: np.ascontiguousarray(M(r.T).T)
        )
        vectors = np.ascontiguousarray(vectors[:, order].T)
        return Pairs(values[order], vectors, 0, k, lambda span: PreconditionedComplement(span, by_rows, sign))


def factorised(pencil: SparsePencil, sigma: float, pivoting: float) -> tuple[Callable[[Rows], Rows], float]:
    """(A - sigma B)^-1 on rows, and sigma; `pivoting` is 0 outside of the spectrum, where the matrix is definite."""
    from scipy.sparse.linalg import splu

    weight, options = pencil.weight, {"SymmetricMode": True}
    for offset in (1e-8, 1e-6):
        shifted = (pencil.A - sigma * weight).tocsc()
        try:
            return _by_rows(splu(shifted, "MMD_AT_PLUS_A", diag_pivot_thresh=pivoting, options=options)), sigma
        except RuntimeError:  # the shift is an eigenvalue to the last digit
            sigma = sigma + offset * (abs(sigma) + float(abs(shifted).max()))
    raise NotDefiniteError(
        f"A - {sigma:g} B is singular: A and B have null vectors in common, so (A, B) has no spectrum."
    )


def _by_rows(lu: Any) -> Callable[[Rows], Rows]:
    return lambda z: lu.solve(z.T).T


def outside_bound(pencil: SparsePencil, which: Which) -> float:
    """A shift outside of the spectrum at its wanted end, by the discs of Gershgorin."""
    low, high = discs(pencil.A)
    step = 1e-6 * (max(high - low, abs(low), abs(high)) or 1.0)
    if pencil.B is None:
        return low - step if which == "smallest" else high + step
    weak, strong = discs(pencil.weight)
    if which == "smallest" and low >= -1e-6 * step and strong > 0:  # A is positive semidefinite, as a Laplacian is
        return -step / strong
    if weak <= 0:
        raise NotDefiniteError(
            f"the discs of Gershgorin do not show that `B` is positive definite (they reach down to {weak:.2e}), nor where "
            f"the spectrum of (A, B) ends. Pass `solver=ShiftInvert(shift=...)` with a number outside of the spectrum."
        )
    end = min(low / weak, low / strong) if which == "smallest" else max(high / weak, high / strong)
    return end - step / weak if which == "smallest" else end + step / weak


def discs(matrix: Any) -> tuple[float, float]:
    """Bounds of the eigenvalues of a symmetric matrix."""
    diagonal = matrix.diagonal()
    radius = np.asarray(abs(matrix).sum(axis=1)).ravel() - abs(diagonal)
    return float((diagonal - radius).min()), float((diagonal + radius).max())


def by_lapack(pencil: SparsePencil, which: Which, shift: float | None) -> Pairs:
    """All pairs of a small pencil; those known beforehand are left out."""
    from scipy.linalg import eigh

    identity = np.eye(pencil.n)
    A = np.asarray(pencil.A @ identity)
    B = None if pencil.B is None else np.asarray(pencil.weight @ identity)
    try:
        values, vectors = eigh((A + A.T) / 2, B)
    except np.linalg.LinAlgError:
        raise NotDefiniteError("`B` is not positive definite: it has no Cholesky factor.") from None
    order = _order(values, which, shift)
    if pencil.known is not None:
        images = pencil.weighted(pencil.known)
        far = 4 * np.linalg.norm(values) + 1
        _, vectors = eigh((A + A.T) / 2 + far * images.T @ images, B)
        values = np.einsum("ij,ij->j", vectors, A @ vectors)
        inside = ((images @ vectors) ** 2).sum(0) > 0.5
        order = _order(values, which, shift)
        order = order[np.argsort(inside[order], kind="stable")]
    return Pairs(values[order], np.ascontiguousarray(vectors[:, order].T), 1, pencil.n)


def _order(values: Any, which: Which, shift: float | None) -> Any:
    if which == "nearest":
        assert shift is not None
        return np.argsort(abs(values - shift), kind="stable")
    return np.argsort(values if which == "smallest" else -values, kind="stable")


def _block(pencil: SparsePencil, count: int) -> Rows:
    """`count` rows without pattern, the given ones first."""
    rest = np.modf(np.sin(np.arange(1, pencil.n * count + 1) * 12.9898) * 43758.5453)[0].reshape(count, pencil.n)
    if pencil.start is not None:
        given = min(len(pencil.start), count)
        rest[:given] = pencil.start[:given]
    return pencil.outside(rest)
