"""A CVXPY problem, once and for all, as affine maps from its parameters to the data of a cone program.

    minimise 1/2 x'Px + q'x   subject to   A x + s = b,  s in K

P, q, A and b are affine in the parameters of a DPP problem. CVXPY finds the maps at construction; here they become gathers and
sums of torch, whose derivatives of every kind come by themselves. A quadratic objective stays one.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ImplayerError
from ..modes import forward_mode, transforms
from .cone_program import ConeData, ConeProgram, Pattern
from .cones import Cones
from .disciplined import require_dpp
from .elimination import Elimination, eliminate

_DUAL_KINDS = ("Zero", "NonNeg", "SOC", "SvecPSD", "ExpCone")  # the order in which CVXPY stacks constraints


@dataclass(frozen=True, eq=False)
class Term:
    """coefficient * parameter[column], added to the rows; `rows` None where they are all rows in order."""

    rows: Tensor | None
    columns: Tensor
    coefficients: Tensor

    def added(self, total: Tensor, parameter: Tensor, own: bool) -> Tensor:
        """(*batch, size) plus this term of a parameter (*batch, entries); `own`: it may be changed where it stands."""
        values = parameter.index_select(-1, self.columns) * self.coefficients
        if self.rows is None:
            return total + values
        (batch,) = torch.broadcast_shapes(values.shape[:-1], total.shape[:-1])
        if own and total.shape == (batch, total.shape[-1]) and not (transforms() or forward_mode()):
            return total.index_add_(-1, self.rows, values.expand(batch, -1))
        return total.expand(batch, -1).index_add(-1, self.rows, values.expand(batch, -1))


@dataclass(frozen=True, eq=False)
class AffineMap:
    """constant + sum of terms, one for each parameter that counts (None for the others)."""

    constant: Tensor
    terms: tuple[Term | None, ...]

    @property
    def live(self) -> Tensor:
        """(size,) whether any parameter enters."""
        live = torch.zeros(len(self.constant), dtype=torch.bool)
        for term in self.terms:
            if term is not None:
                live[slice(None) if term.rows is None else term.rows] = True
        return live

    def __call__(self, parameters: Sequence[Tensor]) -> Tensor:
        """(*batch, size) from the flat parameters; parameters without batch stay so until they meet others."""
        out = self.constant
        for term, parameter in zip(self.terms, parameters, strict=True):
            if term is not None:
                out = term.added(out, parameter, own=out is not self.constant)
        return out


@dataclass(frozen=True, eq=False)
class Recovery:
    """A variable of the user: signed, scaled entries of x, or of the multipliers where `dual`."""

    columns: Tensor
    factors: Tensor
    shape: tuple[int, ...]
    dual: bool = False

    def __call__(self, vector: Tensor) -> Tensor:
        """(*batch, *shape) from (*batch, n)."""
        return (vector[..., self.columns] * self.factors).reshape(*vector.shape[:-1], *self.shape)


@dataclass(frozen=True, eq=False)
class Canonical:
    """The cone program of a problem, the maps to its data, and how to read the variables off its solution."""

    program: ConeProgram
    maps: tuple[AffineMap, AffineMap, AffineMap, AffineMap]  # P, q, A, b
    shapes: tuple[tuple[int, ...], ...]  # of the parameters
    symmetric: tuple[bool, ...]  # which parameters are symmetric matrices, to be averaged with their transposes
    recoveries: tuple[Recovery, ...]

    elimination: Elimination | None  # for dense quadratic programs, whose unknowns are those of the user otherwise

    @property
    def has_duals(self) -> bool:
        """Whether any multiplier is asked for."""
        return any(recovery.dual for recovery in self.recoveries)

    def data(self, tensors: Sequence[Tensor], batched: Sequence[bool]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The values of P, q, A and b, each (batch, size) or (1, size), for parameters with a batch axis or without."""
        flat = []
        for tensor, has_batch, symmetric in zip(tensors, batched, self.symmetric, strict=True):
            whole = (tensor + tensor.mT) / 2 if symmetric else tensor
            flat.append(whole.reshape(whole.shape[0] if has_batch else 1, math.prod(whole.shape[int(has_batch) :])))
        values = [affine(flat) for affine in self.maps]
        P, q, A, b = (value if value.ndim == 2 else value.unsqueeze(0) for value in values)
        return P, q, A, b

    def numbers(self, tensors: Sequence[Tensor], batched: Sequence[bool]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same without a graph, by products with sparse matrices."""
        flat = []
        for tensor, has_batch, symmetric in zip(tensors, batched, self.symmetric, strict=True):
            value = tensor.detach().numpy()
            value = (value + np.swapaxes(value, -1, -2)) / 2 if symmetric else value
            flat.append(value.reshape(value.shape[0] if has_batch else 1, -1))
        values = []
        for constant, matrices in self._matrices:
            parts = [(pair[0] @ x.T).T for pair, x in zip(matrices, flat, strict=True) if pair is not None]
            values.append(torch.from_numpy(sum(parts, constant[None])))
        P, q, A, b = values
        return P, q, A, b

    def pulled(self, cotangents: Sequence[Any], batched: Sequence[bool]) -> list[Any]:
        """Cotangents of the parameters for those (samples, size) of P, q, A and b, as arrays of NumPy."""
        found = []
        for k, (shape, has_batch, symmetric) in enumerate(zip(self.shapes, batched, self.symmetric, strict=True)):
            total: Any = np.zeros((len(cotangents[1]) if has_batch else 1, math.prod(shape)))
            for (_, matrices), cotangent in zip(self._matrices, cotangents, strict=True):
                if matrices[k] is not None:
                    total += (matrices[k][1] @ (cotangent if has_batch else cotangent.sum(0, keepdims=True)).T).T
            value = total.reshape((len(total), *shape) if has_batch else shape)
            found.append((value + np.swapaxes(value, -1, -2)) / 2 if symmetric else value)
        return found

    @cached_property
    def _matrices(self) -> list[tuple[Any, list[Any]]]:
        """Of each map, the constant and for each parameter a sparse matrix and its transpose."""
        import scipy.sparse as sparse

        found = []
        for affine in self.maps:
            size, matrices = len(affine.constant), []
            for term, shape in zip(affine.terms, self.shapes, strict=True):
                if term is not None:
                    rows = np.arange(size) if term.rows is None else term.rows.numpy()
                    entries = (term.coefficients.numpy(), (rows, term.columns.numpy()))
                    matrix = sparse.csr_array(entries, shape=(size, math.prod(shape)))
                    matrices.append((matrix, matrix.T.tocsr()))
                else:
                    matrices.append(None)
            found.append((affine.constant.numpy(), matrices))
        return found


def canonicalise(problem: Any, parameters: Sequence[Any], variables: Sequence[Any]) -> Canonical:
    """Let CVXPY bring a DPP problem into the form of Clarabel and read the maps off it."""
    _require_continuous(problem)
    require_dpp(problem)
    data, chain, _ = problem.get_problem_data(solver="CLARABEL", enforce_dpp=True)
    if "param_prob" not in data:
        raise ImplayerError("`problem` has no variables, so there is nothing to solve for.")
    program, dims = data["param_prob"], data["dims"]
    if dims.p3d or dims.pnd:
        raise ImplayerError(
            "`problem` needs power cones (`power` with a fractional exponent, `geo_mean`, `pnorm`), which this layer does not "
            "differentiate. Rewrite the term with squares, `exp` and `log`, or `quad_over_lin`."
        )
    cones = Cones(dims.zero, dims.nonneg, tuple(dims.soc), tuple(dims.psd), dims.exp).prepared()
    n, m = int(program.x.size), cones.size
    split = _Splitter(program, parameters, chain.compose_param_id_map())
    tensor = program.A.tocsr()
    last = slice(m * n, m * (n + 1))
    P, P_map = _matrix(split, _symmetrised(program.P, n), (n, n))
    A, A_map = _matrix(split, -tensor[: m * n], (m, n))
    maps = (P_map, split(program.q.tocsr()[:n]), A_map, split(tensor[last]))
    recover = _Recoverer(problem, program, chain)
    recoveries = tuple(map(recover, variables))
    watched = [_entries(recovery for recovery in recoveries if recovery.dual is dual) for dual in (False, True)]
    cone_program = ConeProgram(P, A, cones, ConeData(*(affine.live for affine in maps)), watched[0], watched[1])
    elimination = None
    if cones.polyhedral and len(P.rows) and not (cone_program.is_sparse and n == len(recover.columns)):
        elimination = eliminate(cone_program, A_map.constant, recover.columns)
    shapes = tuple(tuple(parameter.shape) for parameter in parameters)
    return Canonical(cone_program, maps, shapes, tuple(map(_is_symmetric, parameters)), recoveries, elimination)


def _entries(recoveries: Iterable[Recovery]) -> Tensor:
    columns = [recovery.columns for recovery in recoveries]
    return torch.cat(columns).unique() if columns else torch.zeros(0, dtype=torch.int64)


def _require_continuous(problem: Any) -> None:
    for leaf in [*problem.variables(), *problem.parameters()]:
        kind = next((k for k in ("boolean", "integer", "complex", "imag", "hermitian") if leaf.attributes[k]), None)
        if kind is not None:
            raise ImplayerError(
                f"`{leaf.name()}` is {kind}; a differentiable layer needs real, continuous variables and parameters. Relax it."
            )


def _is_symmetric(parameter: Any) -> bool:
    return any(parameter.attributes[name] for name in ("symmetric", "PSD", "NSD"))


class _Splitter:
    """Splits the columns of CVXPY's tensors by parameter, in the order of the user, with entries in the order of torch."""

    def __init__(self, program: Any, parameters: Sequence[Any], new_ids: dict[int, list[int]]):
        self.places = []
        for parameter in parameters:
            order = np.arange(parameter.size).reshape(parameter.shape)
            key = new_ids.get(parameter.id, [parameter.id])[0]
            reduced = _lowered(parameter, order) if key != parameter.id else order
            self.places.append((program.param_id_to_col.get(key), np.asarray(reduced).flatten(order="F")))

    def __call__(self, tensor: Any) -> AffineMap:
        """The map whose matrix is `tensor` (rows, all parameters and then a constant)."""
        columns = tensor.tocsc()
        constant = np.asarray(columns[:, [-1]].todense()).reshape(-1)
        terms = []
        for start, order in self.places:
            part = None if start is None else columns[:, start : start + len(order)].tocoo()
            terms.append(_term(part, order, len(constant)) if part is not None and part.nnz else None)
        return AffineMap(torch.tensor(constant, dtype=torch.float64), tuple(terms))


def _term(part: Any, order: Any, size: int) -> Term:
    sort = np.argsort(part.row, kind="stable")
    rows, columns, values = part.row[sort], order[part.col[sort]], part.data[sort]
    one_each = len(rows) == size and bool((rows == np.arange(size)).all())
    return Term(
        None if one_each else torch.as_tensor(rows.astype(np.int64)),
        torch.as_tensor(columns.astype(np.int64)),
        torch.tensor(values, dtype=torch.float64),
    )


def _lowered(parameter: Any, order: Any) -> Any:
    """Which entries of a parameter CVXPY keeps when an attribute says that the others follow."""
    from cvxpy.reductions.cvx_attr2constr import lower_value

    return lower_value(parameter, order)


def _symmetrised(tensor: Any, n: int) -> Any:
    import scipy.sparse as sparse

    if tensor is None:
        return None
    swap = np.arange(n * n).reshape(n, n).T.reshape(-1)
    tensor = sparse.csr_array(tensor)
    return (tensor + tensor[swap]) / 2


def _matrix(split: _Splitter, tensor: Any, shape: tuple[int, int]) -> tuple[Pattern, AffineMap]:
    """The stored entries of a matrix whose entry (i, j) is row i + m j of the tensor, and the map to their values."""
    import scipy.sparse as sparse

    if tensor is None:
        tensor = sparse.csr_array((shape[0] * shape[1], 1))
    tensor = sparse.csr_array(tensor)
    used = np.flatnonzero(np.diff(tensor.indptr))
    pattern = Pattern(torch.as_tensor(used % shape[0]), torch.as_tensor(used // shape[0]), shape)
    return pattern, split(tensor[used])


class _Recoverer:
    """How to read each variable, or the dual variable of a constraint, off the solution."""

    def __init__(self, problem: Any, program: Any, chain: Any):
        self.ids = {old: new[0] for old, new in chain.compose_var_id_map().items()}
        self.program = program
        self.primal = {variable.id for variable in problem.variables()}
        self.duals: dict[int, tuple[Any, int]] = {}
        rows = _constraint_rows(program)
        constraints = chain.compose_constr_id_map()
        for constraint in problem.constraints:
            first = rows.get(constraints.get(constraint.id, constraint.id))
            start = 0 if first is None else first
            for dual in constraint.dual_variables if first is not None else ():
                self.duals[dual.id] = (constraint, start)
                start += dual.size

    def __call__(self, variable: Any) -> Recovery:
        """The recovery of one variable; an error where the problem does not have it."""
        if variable.id in self.primal:
            return self._of_primal(variable)
        if variable.id in self.duals:
            return self._of_dual(variable, *self.duals[variable.id])
        raise ValueError(
            f"`variables` holds `{variable.name()}`, which is neither a variable of `problem` nor the dual variable of one "
            f"of its equalities and inequalities. It has: {', '.join(f'`{v.name()}`' for v in self.program_variables())}."
        )

    @property
    def columns(self) -> Tensor:
        """The unknowns of the canonical program that belong to variables of the user."""
        ids = [self.ids.get(key, key) for key in self.primal]
        starts = [(self.program.var_id_to_col[key], self.program.id_to_var[key].size) for key in ids]
        return torch.cat([torch.arange(start, start + size) for start, size in starts])

    def program_variables(self) -> list[Any]:
        """The variables of the canonical program, for messages."""
        return list(self.program.variables)

    def _of_primal(self, variable: Any) -> Recovery:
        import scipy.sparse as sparse
        from cvxpy.reductions.cvx_attr2constr import recover_value_for_leaf

        key = self.ids.get(variable.id, variable.id)
        start, size = self.program.var_id_to_col[key], self.program.id_to_var[key].size
        numbers = np.arange(1.0, size + 1)
        if size == variable.size and not _is_symmetric(variable):
            numbers = numbers.reshape(variable.shape, order="F")
        else:
            numbers = recover_value_for_leaf(variable, numbers, project=False)
        entries: Any = numbers.toarray() if sparse.issparse(numbers) else np.asarray(numbers)  # type: ignore[union-attr]
        columns = np.maximum(entries.reshape(-1).astype(np.int64) - 1, 0) + start
        factors = (entries.reshape(-1) != 0).astype(float)
        return Recovery(torch.as_tensor(columns), torch.tensor(factors, dtype=torch.float64), tuple(variable.shape))

    def _of_dual(self, variable: Any, constraint: Any, start: int) -> Recovery:
        if type(constraint).__name__ not in ("Equality", "Inequality", "Zero", "NonNeg", "NonPos"):
            raise ValueError(
                f"`variables` holds the dual variable of the constraint `{constraint}`; only those of equalities and "
                f"inequalities can be returned. Read the others off `layer.solve(...).aux['multipliers']`."
            )
        order = np.arange(variable.size).reshape(variable.shape, order="F").reshape(-1)
        factors = torch.ones(variable.size, dtype=torch.float64)
        return Recovery(torch.as_tensor(order + start), factors, tuple(variable.shape), dual=True)


def _constraint_rows(program: Any) -> dict[int, int]:
    """The first row of each equality and inequality of the canonical program."""
    rows, start = {}, 0
    ordered = [c for kind in _DUAL_KINDS[:2] for c in program.constraints if type(c).__name__ == kind]
    for constraint in ordered:
        rows[constraint.id] = start
        start += constraint.size
    return rows
