"""`check_layer`: the properties of a layer on generated inputs, with a shrunk counterexample when one fails."""

import functools
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from .. import _tree
from ..errors import ImplayerError, SolveError, VerificationError
from ..layer import ImplicitLayer
from ..types import Residual, Tree
from . import derivatives, properties
from .report import Report, assignments
from .trial import LeftOut, Measure, Trial, equation_of

_EXAMPLES = {"quick": 10, "thorough": 100}
_SHRINKS = {"quick": 60, "thorough": 400}
VALUE = "the layer gives a value"


@dataclass(frozen=True)
class Property:
    """One property: its name, the function that measures it, and when it is asked.

    - `order`: of the derivatives that it needs; 0 for the value.
    - `strict`: an error of the layer is a failure. Elsewhere a typed error is an answer: the layer says that it does
      not support this, and does not return a wrong number.
    - `once`: on the first input alone.
    - `dear`: it costs many calls; in the profile "quick" it is asked of every third input.
    """

    name: str
    measure: Callable[[Trial], Measure]
    order: int = 1
    strict: bool = False
    once: bool = False
    dear: bool = False


PROPERTIES: tuple[Property, ...] = (
    Property("input unchanged", properties.leaves_input_alone, 0, strict=True),
    Property("F(x, y) = 0", properties.solves_the_equation, 0, strict=True),
    Property("dtype and device kept", properties.keeps_dtype_and_device, 0, strict=True),
    Property("gradient = finite differences", derivatives.gradient_equals_differences, strict=True),
    Property("parameters receive gradients", derivatives.parameters_receive_gradients, strict=True),
    Property("batch = loop over samples", properties.batch_equals_loop, strict=True),
    Property("permuted batch", properties.permutes_with_the_batch, 0, strict=True),
    Property("repeated call", properties.repeats_itself, strict=True, dear=True),
    Property("<v, Ju> = <J'v, u>", derivatives.adjoint_identity),
    Property("forward = reverse (torch.func)", derivatives.forward_equals_reverse, dear=True),
    Property("forward = reverse (dual numbers)", derivatives.eager_forward_equals_reverse, dear=True),
    Property("implicit = unrolled", derivatives.equals_unrolled, dear=True),
    Property("vmap(grad) = loop", derivatives.vmap_of_grad_equals_loop, dear=True),
    Property("solver without a graph", properties.needs_no_graph_of_the_solver, strict=True, dear=True),
    Property("second order, rev-rev", derivatives.second_reverse_reverse, 2, dear=True),
    Property("second order, fwd-rev", derivatives.second_forward_reverse, 2, dear=True),
    Property("second order, rev-fwd", derivatives.second_reverse_forward, 2, dear=True),
    Property("second order, fwd-fwd", derivatives.second_forward_forward, 2, dear=True),
    Property("third order, rev-rev-rev", derivatives.third_reverse, 3, dear=True),
    Property("third order, fwd-fwd-fwd", derivatives.third_forward, 3, dear=True),
    Property("no memory kept", properties.keeps_no_memory, strict=True, once=True),
    Property("deepcopy and state_dict", properties.survives_copies, strict=True, once=True),
)


def check_layer(
    layer: Callable[..., Tree],
    x: Any,
    *,
    y0: Any = None,
    F: Residual | None = None,
    orders: int = 2,
    profile: str = "quick",
    seed: int = 0,
) -> Report:
    """Check that a layer solves its equation and that its derivatives are right, on inputs that Hypothesis generates.

    Each property compares two ways to one number: |a - b| <= tolerance * max(|a|, |b|). Derivatives are held against
    finite differences that choose their step and know their error, against other modes, and against loops.

    **Arguments**

    - `layer`: any callable or module x -> y (or (x, y0) -> y). For a layer of several arguments check `lambda x:
      layer(*x)`. An attribute `event_ndim` says how many last axes of y belong to one sample; without it, 1.
    - `x`: an example, around which inputs are drawn with other numbers (30 %, signs kept) and batch sizes; drawn inputs
      that the layer refuses are set aside. Or a Hypothesis strategy (`implayer.verify.strategies`, or your own) that
      draws legal inputs alone; then a refusal is a failure. Give one where the domain is special.
    - `y0`: start, as in `layer(x, y0)`, or a callable x -> y0.
    - `F`: the residual F(x, y), where the layer does not know its own; without it the residual is not checked.
    - `orders`: 1, 2 (default) or 3; lower it for layers that are differentiable once.
    - `profile`: "quick" (10 inputs, seconds; second derivatives and torch.func on every third) or "thorough" (100
      inputs).
    - `seed`: the same seed gives the same inputs, hence the same verdict.

    **Returns** the `Report`; print it.

    **Raises** `VerificationError` (an AssertionError) with the name of the property, the size of the error, and the
    smallest failing input as source text; `.report` holds the rest. An error of F itself at the given x is passed on as
    it is.

    >>> import torch, implayer
    >>> F = lambda x, y: y**3 + y - x
    >>> root = implayer.ImplicitLayer(F, implayer.Newton(), initial=torch.zeros_like, event_ndim=0)
    >>> implayer.verify.check_layer(root, torch.tensor([2.0, 10.0], dtype=torch.float64)).passed
    True
    """
    if not callable(layer) or isinstance(layer, type):
        raise TypeError(f"`layer` is {layer!r}; expected an object that can be called as layer(x).")
    if profile not in _EXAMPLES:
        raise ValueError(f"`profile` is {profile!r}; expected 'quick' or 'thorough'.")
    if orders not in (1, 2, 3):
        raise ValueError(f"`orders` is {orders!r}; expected 1, 2 or 3.")
    name = getattr(layer, "__name__", None) or type(layer).__name__
    check = _Check(layer, equation_of(layer, F), y0, orders, Report(name, profile, seed), _SHRINKS[profile])
    start = time.perf_counter()
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check.run(x, _EXAMPLES[profile], seed)
    check.report.seconds = time.perf_counter() - start
    check.finish()
    return check.report


class _Failed(Exception):
    """Tells Hypothesis that an input fails."""


@dataclass
class _Check:
    """The state of one check: what failed first, and the smallest input at which it does."""

    layer: Callable[..., Tree]
    F: Residual | None
    y0: Any
    orders: int
    report: Report
    shrinks: int
    failing: Property | None = None
    best: Trial | None = None
    cause: Exception | None = None
    reason: str = ""
    legal: bool = True  # whether every drawn input is one that the layer must accept
    batched: list[bool] | None = None  # known from the example

    def run(self, x: Any, examples: int, seed: int) -> None:
        """The example first, then drawn inputs; after a failure that property alone, in search of a smaller input."""
        strategies = import_module(f"{__package__}.strategies")
        if strategies.is_strategy(x):
            _search(x, lambda value: self.attempt(value, self._start(value)), examples, seed)
            return
        self.legal, first = False, _tree.map_tensors(torch.Tensor.detach, x)
        y0 = self._start(first)
        self.attempt(first, y0, given=True, quiet=True)
        trial = Trial(self.layer, self.F, first, y0, seed)
        resizable = self._resizable(trial)
        pairs = strategies.around(first, batched=resizable, companion=y0)
        fixed = not callable(self.y0)
        _search(
            pairs, lambda pair: self.attempt(pair[0], pair[1] if fixed else self._start(pair[0])), examples - 1, seed
        )

    def _start(self, x: Tree) -> Tree:
        return self.y0(x) if callable(self.y0) else self.y0

    def _resizable(self, trial: Trial) -> list[bool]:
        """Leaves of x with the batch axis, where other batch sizes are accepted."""
        try:
            self.batched = trial.batched
            properties.require_other_sizes(trial)
        except Exception:  # whatever it is, a property has said it
            return [False] * len(trial._flat)
        return trial.batched

    # ----------------------------------------------------------------------------------------------- one input
    def attempt(self, x: Tree, y0: Tree, *, given: bool = False, quiet: bool = False) -> None:
        """All properties at one input, or the failing one alone."""
        if self.failing is not None:
            self.shrinks -= 1
            if self.shrinks < 0:
                return
        trial = Trial(self.layer, self.F, x, y0, self.report.seed, self.batched)
        chosen = [p for p in PROPERTIES if p.order <= self.orders] if self.failing is None else [self.failing]
        for i, item in enumerate(chosen):
            if i == 1 or item.name != PROPERTIES[0].name:  # the first property comes before any other call
                if not self._has_value(trial, given):
                    break
            if self.failing is None and self._spared(item):
                continue
            if not self._holds(item, trial):
                break
        else:
            self.report.inputs += self.failing is None
            return
        if self.best is trial and not quiet:
            raise _Failed

    def _spared(self, item: Property) -> bool:
        count = self.report.inputs
        return (item.once and count > 0) or (item.dear and self.report.profile == "quick" and count % 3 > 0)

    def _has_value(self, trial: Trial, given: bool) -> bool:
        """Whether the layer can be evaluated; if not, the input is set aside or is a failure."""
        torch.manual_seed(self.report.seed)
        try:
            trial.y  # noqa: B018
            return True
        except Exception as error:
            if given and not isinstance(error, ImplayerError):
                raise
            if self.failing is None and not given and not self.legal:
                self.report.rejected += 1
                self.reason = self.reason or _first_line(error)
                return False
            if self.failing is None or self.failing.name == VALUE:
                self._fail(
                    Property(VALUE, lambda t: Measure(0.0, 0.0)),
                    trial,
                    Measure(float("inf"), 0.0, _first_line(error)),
                    error,
                )
            return False

    def _holds(self, item: Property, trial: Trial) -> bool:
        """Measure one property and note the outcome."""
        torch.manual_seed(self.report.seed)
        if item.name == VALUE:
            return True
        result = self.report.result(item.name)
        try:
            measure = item.measure(trial)
        except LeftOut as reason:
            result.note = result.note or str(reason)
            return True
        except Exception as error:
            if item is PROPERTIES[0]:
                return True  # evaluating the layer, which comes next, says what is wrong
            if not item.strict and _is_answer(error, trial.layer):
                result.outcome = "typed error" if not result.trials else result.outcome
                result.note = _first_line(error)
                return True
            self._fail(item, trial, Measure(float("inf"), 0.0, _first_line(error)), error)
            return False
        if measure.error <= measure.tolerance:
            if self.failing is None:
                result.add(measure.error, measure.tolerance, measure.note)
            return True
        self._fail(item, trial, measure, None)
        return False

    def _fail(self, item: Property, trial: Trial, measure: Measure, cause: Exception | None) -> None:
        if self.best is not None and _weight(trial) > _weight(self.best):
            return
        self.failing, self.best, self.cause = item, trial, cause
        result = self.report.result(item.name)
        result.error, result.tolerance, result.note = measure.error, measure.tolerance, measure.note
        result.outcome, result.trials = "failed", max(result.trials, 1)

    # ----------------------------------------------------------------------------------------------- the end
    def finish(self) -> None:
        """Raise if a property failed."""
        skipped = [p for p in PROPERTIES if p.order > self.orders]
        for item in skipped:
            self.report.result(item.name).note = f"orders={self.orders}"
        if self.failing is None or self.best is None:
            if not self.report.inputs:
                raise ValueError(f"`x` gave no input that could be checked. {self.reason}")
            return
        result = self.report.result(self.failing.name)
        self.report.counterexample = assignments(self.best.x, self.best.y0)
        self.report.input = (self.best.x, self.best.y0)
        message = (
            f"`{self.report.layer}`: the property '{result.name}' fails: error {result.error:.2e}, tolerance "
            f"{result.tolerance:.2e} (relative). {result.note}.\nCounterexample:\n{self.report.counterexample}\n"
            f"All that was tried:\n{self.report}"
        )
        raise VerificationError(message, self.report) from self.cause


def _weight(trial: Trial) -> tuple[int, int]:
    tensors = [leaf for leaf in trial._flat if isinstance(leaf, torch.Tensor)]
    return sum(t.numel() for t in tensors), len(assignments(trial.x, trial.y0))


def _is_answer(error: Exception, layer: Any) -> bool:
    """An error that says "not supported". Ours promise a type for it; of other layers torch says so, by RuntimeErrors."""
    if isinstance(error, SolveError):
        return False
    kinds = ImplayerError if isinstance(layer, ImplicitLayer) else ImplayerError | RuntimeError
    return isinstance(error, kinds)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"[:300]


def _search(strategy: Any, attempt: Callable[[Any], None], examples: int, seed: int) -> None:
    """Let Hypothesis draw, and shrink what fails. It may run inside another test, also one of Hypothesis itself."""
    import hypothesis
    from hypothesis.errors import Flaky, HypothesisException, Unsatisfiable

    if examples < 1:
        return
    quiet = hypothesis.settings(
        max_examples=examples, deadline=None, database=None, derandomize=False, print_blob=False,
        report_multiple_bugs=False, suppress_health_check=[*hypothesis.HealthCheck],  # type: ignore[arg-type]  # an Enum of its own kind
       
        verbosity=hypothesis.Verbosity.quiet, phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
    )  # fmt: skip

    def body(value: Any) -> None:
        attempt(value)

    def run() -> None:
        hypothesis.seed(seed)(quiet(hypothesis.given(strategy)(body)))()

    try:
        # a test of Hypothesis may not run inside another one of the same thread
        _elsewhere(run) if hypothesis.currently_in_test_context() else run()
    except _Failed:
        pass
    except HypothesisException as error:
        if not isinstance(error, Flaky | Unsatisfiable):
            raise  # an input that fails once and not again has been noted; all else is a mistake of the strategy


def _elsewhere(run: Callable[[], None]) -> None:
    """Call something in a thread of its own, and wait for it."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        pool.submit(run).result()


def property_test(x: Any, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Decorator that makes a test out of a function that returns a layer: `check_layer(layer, x, **options)`.

    **Arguments**

    - `x`: as for `check_layer`, an example or a strategy.
    - `options`: the keywords of `check_layer`: `y0`, `F`, `orders`, `profile`, `seed`.

    **Returns** a decorator. The test takes the same fixtures as the function; it fails with a `VerificationError`.

    ```python
    @implayer.verify.property_test(torch.linspace(-1, 1, 5, dtype=torch.float64), orders=2)
    def test_my_layer():
        return MyLayer()
    ```
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., None]:
        @functools.wraps(function)
        def test(*args: Any, **fixtures: Any) -> None:
            check_layer(function(*args, **fixtures), x, **options)

        test.__annotations__ = {**getattr(function, "__annotations__", {}), "return": None}
        return test

    return decorate
