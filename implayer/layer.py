"""`ImplicitLayer`: an equation and a solver become a PyTorch layer."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from . import _tree
from .adjoints import AbstractAdjoint, ImplicitAdjoint
from .errors import ClosureError, DeviceError, DtypeError, ImplayerError, NotPicklableError, RandomResidualError
from .failures import OnFailure, describe
from .linear.base import default_tolerance
from .linearise import Request, detach
from .modes import no_autocast, plain, transforms
from .operators import JacobianOperator
from .problem import Layout, Problem
from .residuals import with_gauge
from .solution import Solution
from .types import Residual, Tree

_Method = TypeVar("_Method", bound=Callable[..., Any])
_LOW = (torch.float16, torch.bfloat16)


def _never_compiled(method: _Method) -> _Method:
    return torch.compiler.disable(method)  # type: ignore[return-value]  # the type of the method is kept


class ImplicitLayer(torch.nn.Module):
    """The layer x -> y that is defined by F(x, y) = 0.

    The solver runs without a graph; the derivative is that of the implicit function theorem, dy = -J^-1 F_x dx with
    J = dF/dy, in reverse and forward mode, under every torch.func transform, and to the order of the adjoint.

    **Arguments**

    - `F`: the residual F(x, y), a function or an `nn.Module` (its parameters become parameters of the layer). It gets x and
      y whole and must treat samples independently. Its value has the batch axes of y and `event_ndim` further axes of any
      size: as many equations as unknowns, fewer (minimal-norm derivative) or more (least squares).
    - `forward_solver`: any callable `problem -> y | Solution`: one of ours, a closed form, SciPy, CVXPY.
    - `adjoint`: how the layer is differentiated; `ImplicitAdjoint()` is exact.
    - `initial`: callable x -> y0, used where `y0` is not passed. The derivative with respect to y0 is zero.
    - `event_ndim`: how many last axes of each leaf of y belong to one sample; all before are batch axes. 0 for scalars.
    - `on_failure`: what failed samples do: "raise" (default), "warn", "nan" or "ignore".
    - `gauge`: callable (x, y) -> extra rows that make a wide F square.
    - `sign`: the fixed-point map of Picard, Anderson, Neumann and their kind is y + sign * F(x, y).

    **Raises** `SolveError` where a sample fails and `on_failure="raise"`; `ShapeError`, `DtypeError`, `DeviceError`,
    `BatchCouplingError` for an F that does not fit.

    **Reference** Zhang et al., "Implicitly Defined Layers in Neural Networks", theorem 1.

    **Example**

    ```python
    layer = implayer.ImplicitLayer(lambda x, y: y**3 + y - x, implayer.Newton(), initial=torch.zeros_like, event_ndim=0)
    x = torch.tensor([2.0, 10.0], requires_grad=True)
    y = layer(x)                    # tensor([1., 2.])
    y.sum().backward()              # x.grad = 1 / (3 y^2 + 1) = [1/4, 1/13]
    ```
    """

    def __init__(
        self,
        F: Residual,
        forward_solver: Callable[[Problem], Any],
        *,
        adjoint: AbstractAdjoint | None = None,
        initial: Callable[[Tree], Tree] | None = None,
        event_ndim: int = 1,
        on_failure: OnFailure = "raise",
        gauge: Residual | None = None,
        sign: int = 1,
    ):
        super().__init__()
        if not callable(F) or not callable(forward_solver):
            what = "F" if not callable(F) else "forward_solver"
            raise TypeError(
                f"`{what}` must be callable; pass the object, for example `Newton()`, not its name or class."
            )
        if isinstance(forward_solver, type):
            name = forward_solver.__name__
            raise TypeError(f"`forward_solver` is the class {name}; pass an object: `{name}()`.")
        if on_failure not in get_args(OnFailure):
            raise ValueError(
                f"`on_failure` is {on_failure!r}; expected one of {', '.join(map(repr, get_args(OnFailure)))}."
            )
        if sign not in (1, -1):
            raise ValueError(f"`sign` is {sign!r}; expected +1 or -1.")
        if event_ndim < 0:
            raise ValueError(f"`event_ndim` is {event_ndim}; expected 0 or more.")
        self.F, self.gauge, self.initial = F, gauge, initial
        self.forward_solver = forward_solver
        self.adjoint = ImplicitAdjoint() if adjoint is None else adjoint
        if not callable(getattr(self.adjoint, "apply", None)) or isinstance(adjoint, type):
            raise TypeError(
                f"`adjoint` is {adjoint!r}; pass an object, for example `ImplicitAdjoint()`, or None for that."
            )
        self.event_ndim, self.sign = event_ndim, sign
        self.on_failure: OnFailure = on_failure
        self._probed: set[Any] = set()
        getattr(self.adjoint, "check_solver", lambda solver: None)(forward_solver)

    @_never_compiled  # Dynamo 2.13 fails inside a torch.func transform after a graph break
    def forward(self, x: Tree, y0: Tree = None) -> Tree:
        """y with F(x, y) = 0."""
        own = type(self).solve is not ImplicitLayer.solve  # a subclass may have more to do
        return (self.solve(x, y0) if own else self._solved(x, y0, told=False)).value

    @_never_compiled
    def solve(self, x: Tree, y0: Tree = None) -> Solution:
        """The same value and gradient, with the story of every sample: status, residual norm, steps."""
        return self._solved(x, y0, told=True)

    def _solved(self, x: Tree, y0: Tree, *, told: bool) -> Solution:
        if get_proxy_mode() is not None:
            raise ImplayerError(
                "an implicit layer cannot be traced (`torch.func.linearize`, `make_fx`, `torch.export`): its solver branches "
                "on data. Use `torch.func.jvp` or `torch.func.vjp`, or export the solved values."
            )
        if y0 is None and self.initial is not None:
            y0 = self.initial(x)
        if isinstance(y0, Tensor) and y0.requires_grad:
            y0 = y0.detach()
        x, y0, cast = _promoted(x, y0)
        parameters = list(self.named_parameters())
        device = _common_device([*_tree.named_leaves(y0, "y0"), *_tree.named_leaves(x, "x"), *parameters])
        problem = Problem(with_gauge(_promoted_module(self.F, cast), self.gauge), x, y0, self.event_ndim, self.sign)
        request = Request(
            problem,
            self.forward_solver,
            self.on_failure,
            _Described(self.forward_solver, x, y0),
            tuple(p for _, p in parameters if p.requires_grad),
            (lambda operator: None) if y0 is not None and not transforms() else self._probe,
            told=told,
        )
        with no_autocast(device):
            solution = self._run(request, device)
        if cast is None:
            return solution
        aux = {**(solution.aux or {}), "computed_in": cast[1]}
        return solution.replace(value=_cast(solution.value, cast[0]), aux=aux)

    def _run(self, request: Request, device: torch.device) -> Solution:
        try:
            if not transforms():
                if request.problem.y0 is None:
                    return self._guarded(request)
                self._probe_start(request.problem, device)
            return self.adjoint.apply(request)
        except RuntimeError as error:
            if type(error) is RuntimeError:
                _explain_dtypes(error, request.problem, list(self.named_parameters()))
            raise

    def _probe_start(self, problem: Problem, device: torch.device) -> None:
        """Once per layer and shape, before the solve: F must keep samples apart and give one answer to one question."""
        layout = Layout.of(problem.y0, problem.event_ndim)
        key = (layout.batch, layout.events, layout.dtype, self.training)
        if key in self._probed or not layout.samples:
            return
        with plain(device):
            problem = _few_samples(detach(problem), layout)
            x = _tree.map_tensors(torch.clone, problem.x)  # F may do no harm to the caller's x
            vectors = replace(problem, x=x).vectors()
            operator = JacobianOperator(vectors.residual, vectors.y0, sign=problem.sign)
            _require_untouched(x)
            _require_one_answer(operator.value, vectors.residual(vectors.y0))
            operator.require_independent_samples()
            operator.require_holomorphic()
        self._probed.add(key)

    def _guarded(self, request: Request) -> Solution:
        """Once per layer and shape, without a start to probe at: F gets copies of x, which it must leave alone."""
        x = request.problem.x
        key = tuple(leaf.shape for leaf in _tree.leaves(x) if isinstance(leaf, Tensor))
        if key in self._probed:
            return self.adjoint.apply(request)
        copies = _tree.map_tensors(torch.clone, x)
        try:
            solution = self.adjoint.apply(replace(request, problem=replace(request.problem, x=copies)))
        finally:
            _require_untouched(copies)
        self._probed.add(key)
        return solution

    def _probe(self, operator: JacobianOperator) -> None:
        """The same at the solution, where there was no start to do it at."""
        key = (operator.samples, operator.rows, operator.columns, operator.dtype, self.training)
        if key not in self._probed:
            operator.require_independent_samples()
            operator.require_holomorphic()
            self._probed.add(key)

    def __copy__(self) -> "ImplicitLayer":
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> "ImplicitLayer":
        twin = memo[id(self)] = type(self).__new__(type(self))
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin

    def __getstate__(self) -> dict[str, Any]:
        """For pickle, which finds functions by their names; copies do not come here."""
        parts = {"F": getattr(self.F, "f", self.F), "forward_solver": self.forward_solver}
        for name, part in {**parts, "initial": self.initial, "gauge": self.gauge}.items():
            if "<" in getattr(part, "__qualname__", ""):
                raise NotPicklableError(
                    f"`{name}` is `{part.__qualname__}`, which pickle cannot find by its name. Use a named function at "
                    f"the top level of a module, or an `nn.Module`; or save `layer.state_dict()` instead of the layer."
                )
        return self.__dict__

    def extra_repr(self) -> str:
        """What is not a submodule."""
        return f"forward_solver={self.forward_solver!r}, adjoint={self.adjoint!r}, event_ndim={self.event_ndim}"


def _require_untouched(x: Tree) -> None:
    for name, leaf in _tree.named_leaves(x, "x"):
        if isinstance(leaf, Tensor) and leaf._version:
            raise ClosureError(
                f"F changes `{name}` in place; F(x, y) must leave its arguments as they are. Replace the in-place "
                "operation (`x += 1`, `x.mul_(2)`, `x[0] = 0`) by one that makes a new tensor (`x + 1`, `torch.where`)."
            )


_PROBED, _LARGE = 64, 2**20  # so many samples are probed where the whole has more than so many unknowns


def _few_samples(problem: Problem, layout: Layout) -> Problem:
    """The problem of the first samples alone, where a probe of all would cost much memory and F can do with fewer."""
    if len(layout.batch) != 1 or layout.samples <= _PROBED or layout.samples * layout.n <= _LARGE:
        return problem

    def first(leaf: Tensor) -> Tensor:
        return leaf[:_PROBED] if leaf.ndim and leaf.shape[0] == layout.samples else leaf

    few = replace(problem, x=_tree.map_tensors(first, problem.x), y0=_tree.map_tensors(first, problem.y0))
    try:
        vectors = few.vectors()
        vectors.residual(vectors.y0)
    except Exception:  # F insists on its batch: any reason is reason enough to give it the whole
        return problem
    return few


def _require_one_answer(first: Tensor, second: Tensor) -> None:
    gap = torch.nan_to_num(first - second).abs().max() if first.numel() else 0.0
    if bool(gap > 1e-3 * (1e-30 + torch.nan_to_num(first).abs().max())) if first.numel() else False:
        raise RandomResidualError(
            "F gave two different values for one x and y, so F(x, y) = 0 defines no layer. Likely causes: (a) dropout in "
            "training mode (call `.eval()` on it, or draw its mask outside and pass it in x), (b) noise drawn inside F."
        )


@dataclass(frozen=True)
class _Described:
    """The name of a solver and the tolerances that hold for these inputs, made when a message asks for them."""

    solver: Any
    x: Tree
    y0: Tree

    def __str__(self) -> str:
        leaves = [leaf for leaf in [*_tree.leaves(self.y0), *_tree.leaves(self.x)] if _tree.differentiable(leaf)]
        if not leaves or not hasattr(self.solver, "max_steps"):
            return describe(self.solver)
        atol, rtol = (default_tolerance(getattr(self.solver, name, None), leaves[0].dtype) for name in ("atol", "rtol"))
        return f"{describe(self.solver)}(atol={atol:g}, rtol={rtol:g}, max_steps={self.solver.max_steps})"


def _promoted(x: Tree, y0: Tree) -> tuple[Tree, Tree, tuple[torch.dtype, torch.dtype] | None]:
    """Half precision is too coarse to solve in: compute in float32, and remember what to cast back to."""
    leaves = [leaf for leaf in [*_tree.leaves(x), *_tree.leaves(y0)] if isinstance(leaf, Tensor)]
    low = [leaf.dtype for leaf in leaves if leaf.dtype in _LOW]
    if not low:
        return x, y0, None
    unknowns = [leaf.dtype for leaf in _tree.leaves(y0) if isinstance(leaf, Tensor)]
    back = unknowns[0] if unknowns else low[0]

    def raise_precision(leaf: Tensor) -> Tensor:
        return leaf.float() if leaf.dtype in _LOW else leaf

    x, y0 = _tree.map_tensors(raise_precision, x), _tree.map_tensors(raise_precision, y0)
    return x, y0, (back, torch.float32) if back in _LOW else None


def _cast(tree: Tree, dtype: torch.dtype) -> Tree:
    return _tree.map_tensors(lambda leaf: leaf.to(dtype) if _tree.differentiable(leaf) else leaf, tree)


def _promoted_module(F: Any, cast: Any) -> Any:
    """A module with half-precision weights, called with them in float32."""
    if cast is None or not isinstance(F, torch.nn.Module) or not any(p.dtype in _LOW for p in F.parameters()):
        return F
    weights = {name: p.float() if p.dtype in _LOW else p for name, p in [*F.named_parameters(), *F.named_buffers()]}
    return lambda x, y: torch.func.functional_call(F, weights, (x, y), strict=True)


def _common_device(named: list[tuple[str, Any]]) -> torch.device:
    found: tuple[str, torch.device] | None = None
    for name, leaf in named:
        if not isinstance(leaf, Tensor) or (leaf.ndim == 0 and leaf.device.type == "cpu"):
            continue
        if found is not None and leaf.device != found[1]:
            raise DeviceError(
                f"`{name}` is on {leaf.device} but `{found[0]}` is on {found[1]}; move them to one device."
            )
        found = found or (name, leaf.device)
    return torch.device("cpu") if found is None else found[1]


def _explain_dtypes(error: RuntimeError, problem: Problem, parameters: list[tuple[str, Tensor]]) -> None:
    """A RuntimeError inside F, where x, y and the parameters have several dtypes, is most likely about that."""
    if "dtype" not in str(error) and "same type" not in str(error) and "Float" not in str(error):
        return
    named = [*_tree.named_leaves(problem.x, "x"), *_tree.named_leaves(problem.y0, "y0")]
    named += parameters
    kinds = {leaf.dtype: name for name, leaf in named if _tree.differentiable(leaf)}
    if len(kinds) > 1:
        found = " and ".join(f"`{name}` is {dtype}" for dtype, name in kinds.items())
        raise DtypeError(f"{found}; give all inputs one dtype (F said: {error}).") from error
