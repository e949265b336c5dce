"""A cone program of given numbers, for the solver: residuals, Jacobians and cotangents in NumPy, without a graph."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class FrozenProgram:
    """The equation F(data, z) = 0 of `ConeProgram` for data (P, q, A, b), each an array (samples, size)."""

    program: Any
    data: tuple[Any, Any, Any, Any]

    def chosen(self, index: Any) -> "FrozenProgram":
        """The programs of some samples alone."""
        P, q, A, b = (part[index] for part in self.data)
        return FrozenProgram(self.program, (P, q, A, b))

    def at(self, z: Any) -> "FrozenPoint":
        """The residual at z (samples, size), and what its Jacobian is made of."""
        program, (_, q, _, b) = self.program, self.data
        n, m = program.n, program.cones.size
        x, v, rho = z[:, :n], z[:, n : n + m], z[:, n + m :]
        s, height, entries, margin = program.cones.tangent(v, rho)
        Px, Ay, Ax = self._products(x, s - v)
        return FrozenPoint(self, z, np.concatenate([Px + q + Ay, Ax + s - b, height], -1), s, entries, margin)

    def start(self, x: Any, s: Any, y: Any) -> Any:
        """The vector z (samples, size) of primal, slack and multiplier."""
        v = s - y
        return np.concatenate([x, v, self.program.cones.parameter(v, s)], -1)

    @cached_property
    def dense(self) -> tuple[Any, Any]:
        """P and A as (samples, n, n) and (samples, m, n)."""
        found = []
        for pattern, values in ((self.program.P, self.data[0]), (self.program.A, self.data[2])):
            matrix = np.zeros((len(values), *pattern.shape))
            matrix[:, pattern.rows.numpy(), pattern.columns.numpy()] = values
            found.append(matrix)
        return found[0], found[1]

    @cached_property
    def sparse(self) -> list[tuple[Any, Any]]:
        """P and A of each sample as matrices of SciPy."""
        P, A = self.program.P, self.program.A
        return [(P.sparse(p), A.sparse(a)) for p, a in zip(self.data[0], self.data[2], strict=True)]

    def _products(self, x: Any, y: Any) -> tuple[Any, Any, Any]:
        """Px, A'y and Ax."""
        if self.program.is_sparse:
            parts = [(P @ x[i], A.T @ y[i], A @ x[i]) for i, (P, A) in enumerate(self.sparse)]
            Px, Ay, Ax = (np.stack(part) for part in zip(*parts, strict=True))
            return Px, Ay, Ax
        P, A = self.dense
        Px = (P @ x[..., None])[..., 0] if len(self.program.P.rows) else 0.0
        return Px, (y[:, None] @ A)[:, 0], (A @ x[..., None])[..., 0]


@dataclass(frozen=True, eq=False)
class FrozenPoint:
    """F at z: the residual `r` (samples, size), the projection `s`, and the distance `margin` (samples,) to a kink."""

    frozen: FrozenProgram
    z: Any
    r: Any
    s: Any
    entries: Any
    margin: Any

    @cached_property
    def norm(self) -> Any:
        """(samples,) of the residual."""
        return np.sqrt((self.r * self.r).sum(-1))

    def jacobian(self) -> Any:
        """dF/dz as (samples, size, size)."""
        program, (P, A) = self.frozen.program, self.frozen.dense
        n, m = program.n, program.cones.size
        rows, columns = program.cones.places
        found = np.zeros((len(self.z), program.size, program.size))
        found[:, n + rows, n + columns] = self.entries
        dual = found[:, n : n + m, n:].copy()
        place = np.arange(m)
        dual[:, place, place] -= 1.0
        found[:, :n, :n] = P
        found[:, :n, n:] = np.swapaxes(A, -1, -2) @ dual
        found[:, n : n + m, :n] = A
        return found

    def sparse_jacobians(self) -> list[Any]:
        """The same as one SciPy matrix for each sample."""
        import scipy.sparse as sparse

        program = self.frozen.program
        n, m, k = program.n, program.cones.size, program.cones.exp
        unit, found = sparse.eye_array(m, m + k, format="csr"), []
        for (P, A), entries in zip(self.frozen.sparse, self.entries, strict=True):
            slopes = sparse.csr_array((entries, program.cones.places), shape=(m + k, m + k))
            lower = sparse.hstack([sparse.vstack([A, sparse.csr_array((k, n))]), slopes])
            found.append(sparse.vstack([sparse.hstack([P, A.T @ (slopes[:m] - unit)]), lower]).tocsc())
        return found

    def cotangents(self, u: Any) -> tuple[Any, Any, Any, Any]:
        """u'dF/d(P, q, A, b) for the stored entries, each (samples, size)."""
        n, m = self.frozen.program.n, self.frozen.program.cones.size
        return cotangents(self.frozen.program, self.z[:, :n], self.s - self.z[:, n : n + m], u)

    def pull(self, u: Any) -> Any:
        """(samples,) the norm of the derivative of u'F with respect to the data that parameters enter."""
        pairs = zip(self.cotangents(u), self.frozen.program.live, strict=True)
        return np.linalg.norm(np.concatenate([part * live.numpy() for part, live in pairs], -1), axis=-1)

    def size(self) -> Any:
        """(samples,) size of the terms whose sum is the residual."""
        program = self.frozen.program
        n, m = program.n, program.cones.size
        bare = FrozenProgram(program, tuple(np.abs(part) for part in self.frozen.data))  # type: ignore[arg-type]
        x, v = np.abs(self.z[:, :n]), np.abs(self.z[:, n : n + m])
        Px, Av, Ax = bare._products(x, v)
        return np.linalg.norm(np.concatenate([Px + bare.data[1] + Av, Ax + bare.data[3] + v], -1), axis=-1)


def cotangents(program: Any, x: Any, y: Any, u: Any) -> tuple[Any, Any, Any, Any]:
    """u'dF/d(P, q, A, b) at primal x and multipliers y, for the stored entries; each (samples, size)."""
    u_x, u_v = u[:, : program.n], u[:, program.n : program.n + program.cones.size]
    rows, columns = program.A.rows.numpy(), program.A.columns.numpy()
    A = u_x[:, columns] * y[:, rows] + u_v[:, rows] * x[:, columns]
    return u_x[:, program.P.rows.numpy()] * x[:, program.P.columns.numpy()], u_x, A, -u_v
