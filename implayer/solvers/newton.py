"""Newton's method: one factor for as many steps as it is good for, and a line search where a step does not help."""

from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..errors import ShapeError
from ..linear.base import AbstractLinearSolver
from ..linear.gmres import GMRES
from ..linear.lsmr import LSMR
from ..operators import JacobianOperator
from ..problem import Problem, VectorProblem
from ..solution import Solution
from ..types import Tree, Vectors
from .base import AbstractIterativeSolver, Factored, Run
from .differences import Differences
from .small_newton import small_newton

_DENSE_UNKNOWNS = 1024  # of one sample; beyond, an LU (2/3 n^3 flops, n products for J) costs more than Krylov steps
_DENSE_BYTES = 2**30  # of the Jacobians of all samples
_DECREASE = 1e-4  # Armijo: a step of length alpha has to lower |F| to (1 - 1e-4 alpha) |F|
_HALVINGS = 12
_ROUNDING = 16  # a step of so many units of rounding is taken whatever it does: it shows that y is at its floor
_WORTH = 2**12  # unknowns of a batch from which on J of some samples alone is worth two evaluations of F
_FORCING = 1e-3  # accuracy of the matrix-free inner solve
_CLOSE = 1e-2  # a factor whose last step left at most this part of the residual also is one for the derivative
_MANY = 16  # unknowns from which a Jacobian costs more than the steps that one near the answer saves
_SERVES = 0.5  # a sample whose residual falls by less in a step gets exact Jacobians from then on


@dataclass(frozen=True)
class Newton(AbstractIterativeSolver):
    r"""Newton's method with a line search: quadratic near a root, the standard solver of small and medium systems.

    $$y_{k+1} = y_k - \alpha_k\,J_j^{-1} F(x, y_k),\qquad J_j = \frac{\partial F}{\partial y}(x, y_j),\quad j \le k$$

    A sample keeps its factor ($j < k$) as long as that pays, and gets a new one otherwise; in systems of at most 16
    unknowns a step has a new J, by differences where the graph of F does not give it (`Differences`), unless the last
    one is sure to do. Where a gradient will be asked for, the last J is that of a point near the answer (`solved`).
    $\alpha = 1$ where that lowers $|F|$, else it is found by backtracking (three-point parabola, 0.1 to 0.5 at a time).
    With fewer equations than unknowns the step is the shortest one, $J^\top (J J^\top)^{-1} F$, by QR. A sample with a
    singular Jacobian takes the truncated pseudo-inverse, alone.

    **Arguments**

    - `refresh` (default None): when to renew a factor. None: when m/4 more steps at the present rate would not
      reach the tolerance, about what m vector products for a new Jacobian cost. A number: when the residual did not
      fall by that factor in the last step. 0 is the classical method, with a new exact Jacobian for each step.
    - `linear_solver` (default None): how J is inverted. None means LU (QR for a wide F) up to 1024 unknowns and one
      gibibyte of Jacobians, and beyond that GMRES (LSMR) to three digits, from vector products alone. Any other
      object with `freeze(operator)` is used in every step.
    - `atol`, `rtol`, `max_steps` (keywords; `max_steps` defaults to 50): see `AbstractIterativeSolver`.

    **Returns** from `solver(problem)`: a `Solution`.

    **Raises** ShapeError where F has more equations than unknowns.

    **References**: C. T. Kelley, "Solving Nonlinear Equations with Newton's Method", SIAM (2003): the line search in
    1.6, the kept factor ("Shamanskii, chord") in 2.4, the inner accuracy in 3.2.

        >>> import torch, implayer
        >>> problem = implayer.Problem(lambda x, y: y**2 - x, torch.tensor([[2.0]]), torch.ones(1, 1))
        >>> round(implayer.Newton()(problem).value.item(), 4)
        1.4142
    """

    refresh: float | int | None = None
    linear_solver: AbstractLinearSolver | None = None
    _: KW_ONLY
    max_steps: int = 50

    _patience: ClassVar[int] = 10
    _keeps_residual: ClassVar[bool] = True

    def __call__(self, problem: Problem) -> Solution:
        """Solve for every sample; failures are in the status, nothing is raised for them."""
        return (self._small(problem) or (super().__call__(problem),))[0]

    def solved(self, problem: Problem) -> tuple[Solution, Factored | None]:
        """The solution and the factor of J that made the last step, if that was close to the answer.

        A derivative needs J at the answer in any case. It then is taken where the residual is the square root of the
        tolerance: a step or two with it reach the answer, for which the first factor would need many more.
        """
        small = self._small(problem)
        if small is not None:
            return small
        vectors = self._vectors(problem)
        if not self._usual or vectors.n <= _MANY or not vectors.samples or not _is_dense(vectors.y0, vectors.n):
            return super().__call__(problem), None
        return self._solved_in_two(vectors) or (super().__call__(problem), None)

    @property
    def _usual(self) -> bool:
        return type(self) is Newton and self.refresh is None and self.linear_solver is None

    def _small(self, problem: Problem) -> tuple[Solution, Factored | None] | None:
        """The answer for a few unknowns and samples none of which needs attention; None for all others."""
        if not self._usual or problem.y0 is None:
            return None
        vectors = self._vectors(problem)
        if not vectors.samples or not Differences.pay(vectors):
            return None
        with torch.no_grad():
            run = small_newton(vectors, *self._tolerances(vectors.dtype), self.max_steps, _SERVES)
        if run is None or (run.left is not None and bool(run.left.all())):
            return None
        no = torch.zeros_like(run.norm, dtype=torch.bool)
        aux = {"diverged": no, "stalled": no, "contraction": run.contraction}
        status = torch.zeros_like(run.steps)
        found = vectors.solution(run.y, status=status, residual_norm=run.norm, steps=run.steps, aux=aux)
        if run.left is None:
            return found, run.factored
        return _merged(vectors, run.left, super().__call__(problem), found), None

    def _solved_in_two(self, vectors: VectorProblem) -> tuple[Solution, Factored | None] | None:
        """None where a sample failed: the one way that is known to all then is the better one."""
        run = Run(replace(self, rtol=self._tolerances(vectors.dtype)[0] ** 0.5), vectors)
        if run.r.shape != vectors.y0.shape:
            return None
        target = self._target(run.first.norm, vectors.dtype)
        first = run.solution()
        if _failed(first):
            return None
        factored = _factored(run, first)
        if factored is not None and bool((torch.linalg.vector_norm(factored.r, dim=-1) <= target).all()):
            return first, factored
        left = self.max_steps - int(first.steps.max())
        if left <= 0:
            return None
        run = Run(replace(self, max_steps=left), replace(vectors, y0=vectors.layout.pack(first.value)), target)
        second = run.solution()
        if _failed(second):
            return None
        return second.replace(steps=first.steps + second.steps), _factored(run, second)

    def _start(self, problem: VectorProblem) -> tuple[Tensor, Tree]:
        if self.refresh is None and self.linear_solver is None and Differences.pay(problem):
            r = problem.residual(problem.y0)
            return r, self.init(problem, problem.y0, r)
        tape = JacobianOperator(problem.residual, problem.y0, sign=problem.sign)
        return tape.value, {**self.init(problem, problem.y0, tape.value), "tape": tape}

    def init(self, problem: VectorProblem, y: Vectors, r: Tensor) -> Tree:
        """No factor yet."""
        if r.shape[-1] > y.shape[-1]:
            raise ShapeError(
                f"`Newton` needs at most as many equations as unknowns, but F has {r.shape[-1]} for {y.shape[-1]} "
                f"unknowns a sample. Use `LevenbergMarquardt()`, which solves F in the sense of least squares."
            )
        quick = self.refresh is None and self.linear_solver is None and r.shape == y.shape and Differences.pay(problem)
        norm = torch.linalg.vector_norm(r, dim=-1)
        return {
            "factor": None,
            "stale": torch.ones_like(norm, dtype=torch.bool),  # samples whose factor has to be renewed
            "tape": None,  # F at y, which makes J without another evaluation
            "start": norm,
            "measured": r,  # the last residual and its norm, which the loop asks for, too
            "norm": norm,
            "differences": Differences(problem) if quick else None,
            "exact": None,  # samples that have got beyond differences; None while there are none
        }

    def step(self, problem: VectorProblem, y: Vectors, r: Tensor, state: Tree) -> tuple[Vectors, Tensor | None, Tree]:
        """One step with the factor at hand, after a new one for the samples that need it."""
        move, state = self._direction(problem, y, r, state)
        norm = self._norm(r, state)
        trial = y - move
        tape, r_trial = self._evaluate(problem, trial, r)
        reached = torch.linalg.vector_norm(r_trial, dim=-1)
        ratio = reached / norm
        if state["measured"] is not r:  # the loop has set those of finished samples to zero
            ratio = ratio.where(norm > 0, 0)
        worst = float(ratio.detach().max())
        if not worst <= 1 - _DECREASE:
            trial, ratio = _search(problem, y, move, norm, ratio, state["stale"])
            tape, r_trial = self._evaluate(problem, trial, r)
            reached = torch.linalg.vector_norm(r_trial, dim=-1)
        state = {**state, "tape": tape, "measured": r_trial, "norm": reached}
        if state["differences"] is not None and state["exact"] is None and worst <= _SERVES:
            return trial, r_trial, state
        return trial, r_trial, self._renewal(norm, ratio, state, r.shape[-1])

    def _norm(self, v: Tensor, state: Tree) -> Tensor:
        return state["norm"] if state["measured"] is v else torch.linalg.vector_norm(v, dim=-1)

    def _direction(self, problem: VectorProblem, y: Tensor, r: Tensor, state: Tree) -> tuple[Tensor, Tree]:
        """J^-1 r, and the state with the factors used and `stale` for the samples whose factor is that of y."""
        inner = self._inner(y, r)
        if inner is not None:
            fresh = torch.ones_like(state["stale"])
            return inner.freeze(_tape(problem, y, state)).solve(r)[0], {**state, "stale": fresh}
        factor, stale, exact = state["factor"], state["stale"], state["exact"]
        differences = state["differences"]
        if differences is not None:
            differences = differences if differences.problem is problem else Differences(problem)
            matrix = differences.jacobian(y, r)
            if matrix is None:
                differences = exact = factor = None
                stale = torch.ones_like(stale)
            else:
                new = _factorise(matrix)
                factor = new if exact is None else _chosen(exact, factor, new)
                stale = torch.zeros_like(stale) if exact is None else stale & exact
        if factor is None:
            factor, stale = _factorise(_tape(problem, y, state).materialise()), torch.ones_like(stale)
        elif differences is None or exact is not None:
            index = stale.nonzero().squeeze(-1)
            factor = _renewed(problem, y, factor, index) if len(index) else factor
        state = {**state, "factor": factor, "stale": stale, "differences": differences, "exact": exact}
        return _solve(factor, r), state

    def _evaluate(self, problem: VectorProblem, y: Tensor, r: Tensor) -> tuple[JacobianOperator | None, Tensor]:
        """F at y, on the tape where J is certain to be needed there."""
        if self.refresh != 0 and self._inner(y, r) is None:
            return None, problem.residual(y)
        tape = JacobianOperator(problem.residual, y, sign=problem.sign)
        return tape, tape.value

    def _renewal(self, norm: Tensor, ratio: Tensor, state: Tree, rows: int) -> Tree:
        """The state with the samples marked that are to get a new factor."""
        if self.refresh == 0:
            return {**state, "factor": None, "stale": torch.ones_like(state["stale"])}
        stale = self._stale(norm, ratio, self._target(state["start"], norm.dtype), rows)
        if state["differences"] is None:
            return {**state, "stale": stale}
        poor = ~(ratio <= _SERVES)
        exact = poor if state["exact"] is None else state["exact"] | poor
        return {**state, "stale": stale | poor, "exact": exact}

    def _stale(self, norm: Tensor, ratio: Tensor, target: Tensor, rows: int) -> Tensor:
        """Samples that a new factor would serve better; a property of each sample alone."""
        if self.refresh is not None:
            return (ratio > self.refresh) & (norm * ratio > target)
        return norm * ratio ** (rows / 4) > target

    def _inner(self, y: Tensor, r: Tensor) -> AbstractLinearSolver | None:
        """What inverts J; None stands for the dense factors."""
        if self.linear_solver is not None:
            return self.linear_solver
        if _is_dense(y, r.shape[-1]):
            return None
        return GMRES(atol=0.0, rtol=_FORCING) if r.shape == y.shape else LSMR(atol=0.0, rtol=_FORCING)


def _is_dense(y: Tensor, rows: int) -> bool:
    """Whether the Jacobians of all samples are made."""
    samples, n = y.shape
    return n <= _DENSE_UNKNOWNS and samples * n * rows * y.dtype.itemsize <= _DENSE_BYTES


class Factor(NamedTuple):
    """LU and pivots of a square J, and J itself; Q and R of the transpose of a wide one, and nothing."""

    first: Tensor
    second: Tensor
    matrix: Tensor


def _factorise(matrix: Tensor) -> Factor:
    if matrix.shape[-2] == matrix.shape[-1]:
        lu, pivots, _ = torch.linalg.lu_factor_ex(matrix)
        return Factor(lu, pivots, matrix)
    q, r = torch.linalg.qr(matrix.mH)
    return Factor(q, r, matrix[:, :0])


def _chosen(mask: Tensor, one: Factor, other: Factor) -> Factor:
    column = mask.unsqueeze(-1)
    masks = (column if part.ndim == 2 else column.unsqueeze(-1) for part in one)
    return Factor._make(torch.where(mask, a, b) for mask, a, b in zip(masks, one, other, strict=True))


def _solve(factor: Factor, r: Tensor) -> Tensor:
    first, second, _ = factor
    if second.ndim == 2:
        return torch.linalg.lu_solve(first, second, r.unsqueeze(-1)).squeeze(-1)
    return (first @ torch.linalg.solve_triangular(second.mH, r.unsqueeze(-1), upper=False)).squeeze(-1)


def _merged(vectors: VectorProblem, chosen: Tensor, one: Solution, other: Solution) -> Solution:
    """Chosen samples as in one solution, the rest as in the other."""
    rows = [vectors.layout.pack(solution.value) for solution in (one, other)]

    def pick(a: Any, b: Any) -> Tensor:
        return torch.where(chosen, a, b)

    aux, rest = one.aux or {}, other.aux or {}
    return vectors.solution(
        torch.where(chosen.unsqueeze(-1), *rows),
        status=pick(one.status, other.status),
        residual_norm=pick(one.residual_norm, other.residual_norm),
        steps=pick(one.steps, other.steps),
        aux={name: pick(value, rest[name]) for name, value in aux.items()},
    )


def _failed(solution: Solution) -> bool:
    assert solution.status is not None
    return bool(torch.as_tensor(solution.status).any())


def _factored(run: Run, solution: Solution) -> Factored | None:
    """The last factor of all samples, where every one came much closer with it."""
    factor, left = run.state["factor"], (solution.aux or {})["contraction"]
    if factor is None or run.ids is not None or run.residual is None or factor.second.ndim != 2 or _failed(solution):
        return None
    if not bool((left.nan_to_num(0.0, torch.inf) <= _CLOSE).all()):  # NaN: there was no step
        return None
    y = run.whole.layout.pack(solution.value)
    return Factored(factor.first, factor.second, factor.matrix, y, run.residual)


def _tape(problem: VectorProblem, y: Tensor, state: Tree) -> JacobianOperator:
    tape = state["tape"]
    if tape is None or tape.samples != len(y):  # the loop has left samples out since
        return JacobianOperator(problem.residual, y, sign=problem.sign)
    return tape


def _renewed(problem: VectorProblem, y: Tensor, factor: Factor, index: Tensor) -> Factor:
    """The factors with those of some samples renewed; the others keep theirs, as each would alone."""
    small = problem.restrict(index) if 2 * len(index) <= len(y) and y.numel() >= _WORTH else None
    if small is not None:
        new = _factorise(JacobianOperator(small.residual, y[index]).materialise())
    else:
        matrix = JacobianOperator(problem.residual, y).materialise()
        if len(index) == len(y):
            return _factorise(matrix)
        new = _factorise(matrix[index])
    return Factor._make(old.index_copy(0, index, part) for old, part in zip(factor, new, strict=True))


def _search(problem: VectorProblem, y: Tensor, move: Tensor, norm: Tensor, ratio: Tensor,
            fresh: Tensor) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Shorter steps for the samples that the full one did not help; those with an old factor stay and get a new one."""
    rounding = _ROUNDING * torch.finfo(y.dtype).eps * torch.linalg.vector_norm(y, dim=-1)
    bad = ~(ratio <= 1 - _DECREASE) & ~(torch.linalg.vector_norm(move, dim=-1) <= rounding)
    length = torch.where(bad & ~fresh, 0.0, torch.ones_like(norm))
    pending = bad & fresh
    broken = pending & ~move.isfinite().all(-1)
    if bool(broken.any()):
        move = torch.where(broken.unsqueeze(-1), _shortest(problem, y, broken), move)
        length = torch.where(broken, 10.0, length)  # the first reduction makes a full step of it
    for _ in range(_HALVINGS):
        if not bool(pending.any()):
            break
        # The minimiser of the parabola through |F|^2 and its slope at 0 and |F|^2 at `length`.
        shrink = (length / (ratio**2 - 1 + 2 * length)).nan_to_num(0.1).clamp(0.1, 0.5)
        length = torch.where(pending, length * torch.where(ratio.isfinite(), shrink, 0.1), length)
        trial = y - length.unsqueeze(-1) * move
        ratio = torch.where(pending, torch.linalg.vector_norm(problem.residual(trial), dim=-1) / norm, ratio)
        pending = pending & ~(ratio <= 1 - _DECREASE * length)
    length = torch.where(pending, 0.0, length).unsqueeze(-1)
    return torch.where(length > 0, y - length * move, y), torch.where(bad, torch.inf, ratio)


def _shortest(problem: VectorProblem, y: Tensor, broken: Tensor) -> Tensor:
    """Steps by truncated pseudo-inverses for singular Jacobians; zero for the others and where J is not finite."""
    tape = JacobianOperator(problem.residual, y)
    index = broken.nonzero().squeeze(-1)
    matrix = tape.materialise()[index]
    finite = matrix.isfinite().all(-1).all(-1)
    index, matrix = index[finite], matrix[finite]
    step = torch.zeros_like(y)
    if len(index):
        inverse = torch.linalg.pinv(matrix, rtol=torch.finfo(y.dtype).eps ** 0.5)
        step[index] = (inverse @ tape.value[index].unsqueeze(-1)).squeeze(-1)
    return step
