"""`CvxpyLayer`: a parametrised CVXPY problem as a layer, from parameters to variables."""

import inspect
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .._tree import map_tensors
from ..adjoints import AbstractAdjoint, ImplicitAdjoint
from ..causes import called_with
from ..errors import DeviceError, DtypeError, ImplayerError, NotConvexError, ShapeError, SolveError
from ..failures import OnFailure
from ..layer import ImplicitLayer
from ..linear.minimal_norm import MinimalNorm
from ..modes import is_plain, transforms
from ..solution import Solution, Status
from ..solvers.conic import ConicSolver
from .canonical import canonicalise
from .cone_gradient import solve_directly, with_batch
from .cone_program import ConeData, Point
from .elimination_direct import solve_quadratic
from .qp import QPLayer
from .units import Units

_METHODS: dict[str, Literal["Clarabel", "SCS"]] = {"clarabel": "Clarabel", "scs": "SCS", "diffcp": "Clarabel"}
_IGNORED = {"mode", "n_jobs_forward", "n_jobs_backward", "warm_start", "acceleration_lookback", "use_indirect"}


class CvxpyLayer(torch.nn.Module):
    r"""The layer from the parameters of a convex problem to its variables; in place of `cvxpylayers.torch.CvxpyLayer`.

    CVXPY brings the problem, once, into the form

    $$\min_x\ \tfrac12 x^\top P x + q^\top x \quad\text{subject to}\quad A x + s = b,\ s \in K$$

    with P, q, A, b affine in the parameters and K a product of zero, nonnegative, second-order, semidefinite and exponential
    cones. The derivative is that of the optimality conditions, by a direct factorisation, in every mode and to second order.

    **Arguments**

    - `problem`: a DPP problem with real, continuous variables.
    - `parameters`: its parameters, in the order in which tensors will come.
    - `variables`: its variables, or the dual variables of its equalities and inequalities, in the order of the results.
    - `solver`: "Clarabel" (default) or "SCS", which a Newton step makes exact; `solver_args` of a call may say otherwise.
    - `adjoint`: how the layer is differentiated; the default takes the derivative of minimal norm where multipliers or
      auxiliary unknowns are not unique.
    - `on_failure`: what failed instances do: "raise" (default), "warn", "nan" or "ignore".
    - `gp`: geometric programs are refused; take logarithms of variables and parameters yourself.

    **Call**: `layer(*tensors, solver_args=None) -> tuple`. Any of the tensors may have one leading batch axis; the others are
    shared and get the sum of the gradients. `solver_args`: a dict with `solve_method`, `eps`, `max_iters`, or settings of the
    solver by its own names. Problems are solved in float64, results have the dtype of the tensors.

    **Returns** the variables, each (batch, *shape) or, where no tensor has a batch axis, of its own shape. `solve(...)` gives
    the `Solution` with the `status` of each instance and, differentiable, `aux["multipliers"]` and `aux["slack"]` of the cones.

    **Raises** `ImplayerError` for a problem that is not DPP, which names the term; `ShapeError`, `DtypeError`, `DeviceError`
    for tensors that do not fit; `NotConvexError`; `InfeasibleError`, `UnboundedError` or `SolveError` by `on_failure`.

    **Reference** Agrawal et al., "Differentiable Convex Optimization Layers", 2019.

    **Example**

    ```python
    x, c = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x >= 0])
    layer = implayer.CvxpyLayer(problem, parameters=[c], variables=[x])
    (y,) = layer(torch.tensor([1.0, -1.0], requires_grad=True))     # tensor([1., 0.])
    ```
    """

    def __init__(
        self,
        problem: Any,
        parameters: Any,
        variables: Any,
        *,
        solver: str | None = None,
        adjoint: AbstractAdjoint | None = None,
        on_failure: OnFailure = "raise",
        gp: bool = False,
        solver_args: dict[str, Any] | None = None,
    ):
        super().__init__()
        if gp:
            raise ImplayerError(
                "`gp=True` is not supported: a geometric program is convex in the logarithms of its variables. Write it in "
                "those (u = log x), with `cp.log_sum_exp` for sums and the logarithms of the parameters as parameters."
            )
        _check_lists(problem, parameters, variables)
        self.names = tuple(parameter.name() for parameter in parameters)
        self.shapes = tuple(tuple(parameter.shape) for parameter in parameters)
        self.canonical = canonicalise(problem, parameters, variables)
        self.adjoint = ImplicitAdjoint(linear_solver=MinimalNorm()) if adjoint is None else adjoint
        self.on_failure: OnFailure = on_failure
        self._direct = adjoint is None
        self.solver_args = {
            "solve_method": _METHODS.get(str(solver or "Clarabel").lower(), solver),
            **(solver_args or {}),
        }
        self._inner = self._layer({})
        plain = self.canonical.elimination is not None and self.solver_args == {"solve_method": "Clarabel"}
        self._qp = QPLayer(adjoint=adjoint, on_failure=on_failure) if plain else None

    def forward(self, *tensors: Any, solver_args: dict[str, Any] | None = None) -> tuple[Tensor, ...]:
        """The variables at the solution."""
        call = self._check(tensors, solver_args)
        return call.returned(self._variables(self._solved(tensors, call, solver_args, self.canonical.has_duals).value))

    def solve(self, *tensors: Any, solver_args: dict[str, Any] | None = None) -> Solution:
        """The same value and gradient, with the status of every instance."""
        call = self._check(tensors, solver_args)
        return self._told(self._solved(tensors, call, solver_args, True), call)

    def _told(self, solution: Solution, call: "_Call") -> Solution:
        """The solution of the cone program in the words of the problem."""
        _, v, rho = solution.value
        slack = self.canonical.program.cones.project(v, rho)
        aux = {**(solution.aux or {}), "multipliers": slack - v, "slack": slack}
        status, norm, steps = call.returned((solution.status, solution.residual_norm, solution.steps))
        return Solution(call.returned(self._variables(solution.value)), status, norm, steps, call.returned(aux))

    def _solved(
        self, tensors: Sequence[Any], call: "_Call", solver_args: dict[str, Any] | None, whole: bool
    ) -> Solution:
        """The solution of the cone program; x alone is right where not the `whole` is wanted."""
        wide = [tensor.to(device="cpu", dtype=torch.float64) for tensor in tensors]
        program = self.canonical.program
        if call.batch == 0:
            return self._nothing(ConeData(*self.canonical.data(wide, call.batched)))
        try:
            with called_with(dict(zip(self.names, tensors, strict=True)), who="CvxpyLayer"):
                solution = self._quadratic(wide, call, whole) if self._qp is not None and not solver_args else None
                if solution is None:
                    inner = self._layer(solver_args) if solver_args else self._inner
                    solution, unit = self._conic(inner, wide, call)
                    if whole:
                        solution = unit.restored(solution, program)
                    else:
                        x, v, rho = solution.value
                        solution = solution.replace(value=Point(unit.primal(x), v, rho))
        except SolveError as error:
            error.solution = self._told(error.solution, call)
            raise
        except NotConvexError as error:
            raise NotConvexError(_in_words(str(error))) from None
        lost = (solution.status == Status.INFEASIBLE) | (solution.status == Status.UNBOUNDED)
        if self.on_failure in ("raise", "nan"):
            return solution
        parts = (torch.where(lost.unsqueeze(-1), part.detach(), part) for part in solution.value)
        return solution.replace(value=Point(*parts))  # nothing to differentiate where there is no solution

    def _quadratic(self, wide: list[Tensor], call: "_Call", whole: bool) -> Solution | None:
        """The solution of a quadratic program, or None where `QPLayer` finds none, as among many: cones bring one of them."""
        assert self.canonical.elimination is not None and self._qp is not None
        layer, batch = self._qp, call.batch or 1
        if self._direct and is_plain():
            found = solve_quadratic(self.canonical, layer, wide, call.batched, batch, whole)
            if isinstance(found, Solution):
                return found
            layer = found
        data = with_batch(ConeData(*self.canonical.data(wide, call.batched)), batch)
        try:
            solution = self.canonical.elimination.solve(layer, self.canonical.program, data, whole)
        except SolveError as error:
            if transforms() or not _is_unsolved(error.solution):
                raise
            return None
        return None if not transforms() and _is_unsolved(solution) else solution

    def _conic(self, inner: ImplicitLayer, wide: list[Tensor], call: "_Call") -> tuple[Solution, Units]:
        """The solution of the cone program in its units: directly where that will do, else by the layer, which judges it."""
        program, batch = self.canonical.program, call.batch or 1
        if self._direct and is_plain():
            solver: Any = inner.forward_solver
            solution, unit, good = solve_directly(self.canonical, solver, wide, call.batched, batch, self.on_failure)
            if good:
                return solution, unit
            inner = self._judge(solution)
        data = with_batch(ConeData(*self.canonical.data(wide, call.batched)), batch)
        unit = Units.of(data, program)
        try:
            return inner.solve(unit.scaled(data, program)), unit
        except SolveError as error:
            error.solution = unit.restored(error.solution, program)
            raise

    def _judge(self, found: Solution) -> ImplicitLayer:
        """The layer around an answer that is known already."""

        return ImplicitLayer(
            self.canonical.program, lambda problem: found, adjoint=self.adjoint, on_failure=self.on_failure
        )

    def _nothing(self, data: ConeData) -> Solution:
        """The solution of an empty batch."""
        program, zero = self.canonical.program, sum(part.sum() for part in data)
        parts = (torch.zeros(0, size) + zero for size in (program.n, program.cones.size, program.cones.exp))
        none = torch.zeros(0, dtype=torch.int64)
        return Solution(Point(*parts), none, torch.zeros(0), none, {"redundant": none.bool()})

    def _variables(self, z: Point) -> tuple[Tensor, ...]:
        y = self.canonical.program.cones.project(z.v, z.rho) - z.v if self.canonical.has_duals else z.v
        return tuple(recover(y if recover.dual else z.x) for recover in self.canonical.recoveries)

    def _layer(self, arguments: dict[str, Any]) -> ImplicitLayer:
        solver = _conic_solver(self.canonical.program, {**self.solver_args, **arguments}, strict=self._direct)
        return ImplicitLayer(
            self.canonical.program, solver, adjoint=self.adjoint, event_ndim=1, on_failure=self.on_failure
        )

    def _check(self, tensors: Sequence[Any], solver_args: Any) -> "_Call":
        if solver_args is not None and not isinstance(solver_args, dict):
            raise TypeError(f"`solver_args` is a {type(solver_args).__name__}; expected a dict of settings.")
        if len(tensors) != len(self.names):
            names = ", ".join(f"`{name}`" for name in self.names)
            raise ShapeError(
                f"the layer got {len(tensors)} tensors; expected {len(self.names)}, one for each parameter: {names or 'none'}."
            )
        batched, batch, first = [], None, None
        for name, shape, tensor in zip(self.names, self.shapes, tensors, strict=True):
            _check_kind(name, tensor)
            found = tuple(tensor.shape)
            if found != shape and (len(found) != len(shape) + 1 or found[1:] != shape):
                wanted = f"(batch, {str(shape)[1:-1].rstrip(',')})" if shape else "(batch,)"
                raise ShapeError(f"`{name}` has shape {found}; expected {shape}, or {wanted} with a batch axis.")
            batched.append(len(found) > len(shape))
            if batched[-1] and batch not in (None, found[0]):
                raise ShapeError(
                    f"`{name}` has a batch axis of {found[0]} but `{first}` one of {batch}; make them equal."
                )
            if batched[-1]:
                batch, first = found[0], first or name
        return _Call(tuple(batched), batch, *_kind(self.names, tensors))

    def extra_repr(self) -> str:
        """The parameters and cones."""
        shapes = ", ".join(f"{name}{list(shape)}" for name, shape in zip(self.names, self.shapes, strict=True))
        return f"{shapes} -> {[list(r.shape) for r in self.canonical.recoveries]}, {self.canonical.program.cones}"


class _Call(NamedTuple):
    """Which tensors of a call have a batch axis, its length, and what the results are to be."""

    batched: tuple[bool, ...]
    batch: int | None
    dtype: torch.dtype
    device: torch.device

    def returned(self, tree: Any) -> Any:
        """Results as the caller knows tensors: with a batch axis or without, of the dtype and device of the arguments."""

        def returned(entry: Tensor) -> Tensor:
            entry = entry.squeeze(0) if self.batch is None and entry.ndim else entry
            return entry.to(device=self.device, dtype=self.dtype if entry.is_floating_point() else entry.dtype)

        return map_tensors(returned, tree)


def _in_words(message: str) -> str:
    """What `QPLayer` says of its Q, in the words of a problem."""
    form = message.replace("`Q` of sample", "the quadratic form in the objective of sample")
    remedy = "Pass a positive semidefinite matrix, such as `L @ L.mT`, and nonnegative weights of squares."
    return re.sub(r"Add a multiple of the identity.*", remedy, form)


def _is_unsolved(solution: Solution) -> bool:
    return bool((solution.status == Status.MAX_STEPS).any())


def _check_lists(problem: Any, parameters: Any, variables: Any) -> None:
    import cvxpy as cp

    if not isinstance(problem, cp.Problem):
        raise TypeError(f"`problem` is a {type(problem).__name__}; expected a `cvxpy.Problem`.")
    for name, given in (("parameters", parameters), ("variables", variables)):
        if not isinstance(given, list | tuple):
            raise TypeError(f"`{name}` is a {type(given).__name__}; expected a list or tuple.")
        for leaf in given:
            if not isinstance(leaf, cp.Parameter if name == "parameters" else cp.Variable):
                raise TypeError(f"`{name}` holds {leaf!r}; expected objects of `cvxpy.{name[:-1].title()}`.")
        if len({leaf.id for leaf in given}) != len(given):
            raise ValueError(f"`{name}` holds something twice; give every one once.")
    known, given = {p.id: p for p in problem.parameters()}, {p.id: p for p in parameters}
    strange = [f"`{p.name()}`" for key, p in given.items() if key not in known]
    missing = [f"`{p.name()}`" for key, p in known.items() if key not in given]
    if strange or missing:
        what = [f"holds {', '.join(strange)}, which `problem` does not have"] if strange else []
        what += [f"lacks {', '.join(missing)} of `problem`"] if missing else []
        raise ValueError(f"`parameters` {' and '.join(what)}; give exactly the parameters of the problem.")


def _check_kind(name: str, tensor: Any) -> None:
    if not isinstance(tensor, Tensor):
        raise DtypeError(f"`{name}` is a {type(tensor).__name__}; expected a tensor. Convert with `torch.as_tensor`.")
    if tensor.layout != torch.strided:
        raise DtypeError(f"`{name}` is sparse; expected a dense tensor. Convert with `.to_dense()`.")
    if not tensor.is_floating_point():
        raise DtypeError(
            f"`{name}` is {tensor.dtype}; expected a real floating-point tensor. Convert with `.double()`."
        )


def _kind(names: Sequence[str], tensors: Sequence[Any]) -> tuple[torch.dtype, torch.device]:
    if not tensors:
        return torch.get_default_dtype(), torch.device("cpu")
    for name, tensor in zip(names, tensors, strict=True):
        if tensor.dtype != tensors[0].dtype:
            raise DtypeError(f"`{name}` is {tensor.dtype} but `{names[0]}` is {tensors[0].dtype}; give all one dtype.")
        if tensor.device != tensors[0].device:
            raise DeviceError(
                f"`{name}` is on {tensor.device} but `{names[0]}` on {tensors[0].device}; use one device."
            )
    return tensors[0].dtype, tensors[0].device


def _conic_solver(program: Any, arguments: dict[str, Any], strict: bool) -> ConicSolver:
    """A solver from the arguments of cvxpylayers, those of our own, or settings of the solver itself."""
    for name in ("eps", "max_iters", "max_iter"):
        value = arguments.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise ValueError(f"`{name}` in `solver_args` is {value!r}; expected a positive number.")
    options = {name: value for name, value in arguments.items() if name not in _IGNORED}
    asked = str(options.pop("solve_method"))
    if asked.lower() not in _METHODS:
        raise ValueError(f"the solver is {asked!r}; expected 'Clarabel' or 'SCS'.")
    method = _METHODS[asked.lower()]
    atol = options.pop("eps", 1e-12 if method == "Clarabel" else 1e-8)
    steps = options.pop("max_iters", options.pop("max_iter", 200 if method == "Clarabel" else 100_000))
    _check_settings(method, options)
    return ConicSolver(program, method, atol, steps, options, strict)


def _check_settings(method: str, options: dict[str, Any]) -> None:
    if method == "Clarabel":
        import clarabel

        known = {name for name in dir(vars(clarabel)["DefaultSettings"]()) if not name.startswith("_")}
    else:
        import scs

        known = set(inspect.signature(scs.SCS.__init__).parameters) | {"scale", "alpha", "rho_x", "time_limit_secs"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ValueError(
            f"`solver_args` holds {', '.join(map(repr, unknown))}, which {method} does not know. It knows `solve_method`, "
            f"`eps`, `max_iters` and its own settings: {', '.join(sorted(known))}."
        )
