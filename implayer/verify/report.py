"""What a check found: the outcome of every property, and inputs as source text that can be pasted."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

_LARGEST = 4096  # entries of a tensor beyond which a listing helps nobody


@dataclass
class PropertyResult:
    """One property over all inputs that were tried.

    **Attributes**

    - `name`: what was checked.
    - `trials`: on how many inputs it was measured.
    - `error`, `tolerance`: of the input where error / tolerance was largest; both relative.
    - `outcome`: "held", "failed", "typed error" (the layer says by an error that it does not support this) or "left
      out".
    - `note`: the reason of the last two, or what failed.
    """

    name: str
    trials: int = 0
    error: float = 0.0
    tolerance: float = math.nan
    outcome: str = "left out"
    note: str = ""

    def add(self, error: float, tolerance: float, note: str) -> None:
        """Count one more input."""
        worst = not math.isfinite(self.tolerance) or not error * self.tolerance <= self.error * tolerance
        if worst:
            self.error, self.tolerance = error, tolerance
        self.trials += 1
        self.note = note if worst else self.note
        if self.outcome != "failed":
            self.outcome = "held" if error <= tolerance else "failed"


@dataclass
class Report:
    """What `check_layer` tried and found.

    **Attributes**

    - `layer`: its name.
    - `results`: one `PropertyResult` a property, in the order in which they are checked.
    - `inputs`, `rejected`: how many inputs were tried, and how many drawn ones were set aside because the layer itself
      refused them (a typed `SolveError`).
    - `seconds`, `profile`, `seed`.
    - `counterexample`: source text of the smallest failing input, or None; `input` is the object itself, (x, y0).
    """

    layer: str
    profile: str
    seed: int
    results: list[PropertyResult] = field(default_factory=list)
    inputs: int = 0
    rejected: int = 0
    seconds: float = 0.0
    counterexample: str | None = None
    input: Any = None

    @property
    def passed(self) -> bool:
        """Whether no property failed."""
        return not self.failures

    @property
    def failures(self) -> list[PropertyResult]:
        """The properties that failed."""
        return [result for result in self.results if result.outcome == "failed"]

    def result(self, name: str) -> PropertyResult:
        """The result of the property with this name, made where it is not there yet."""
        found = next((result for result in self.results if result.name == name), None)
        if found is None:
            found = PropertyResult(name)
            self.results.append(found)
        return found

    def __str__(self) -> str:
        verdict = "all properties hold" if self.passed else f"{len(self.failures)} failed"
        lines = [
            f"{self.layer}: {verdict} ({self.inputs} inputs, {self.rejected} set aside, profile {self.profile!r}, "
            f"seed {self.seed}, {self.seconds:.1f} s)"
        ]
        width = max((len(result.name) for result in self.results), default=0)
        for result in self.results:
            figures = f"{result.error:.1e} of {result.tolerance:.1e} allowed" if result.trials else ""
            note = "" if result.outcome == "held" else result.note
            parts = [f"  {result.name:<{width}}", f"{result.outcome:<11}", figures, note]
            lines.append("  ".join(part for part in parts if part).rstrip())
        if self.counterexample:
            lines += ["counterexample:", self.counterexample]
        return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------- source text
def source(tree: Any) -> str:
    """Python source that rebuilds a nest of tensors exactly: `{'a': torch.tensor([1.0], dtype=torch.float64)}`."""
    if isinstance(tree, Tensor):
        return _tensor_source(tree)
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{key!r}: {source(value)}" for key, value in tree.items()) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(source(value) for value in tree) + "]"
    if isinstance(tree, tuple):
        fields = getattr(tree, "_fields", None)
        if fields:
            inside = ", ".join(f"{name}={source(value)}" for name, value in zip(fields, tree, strict=True))
            return f"{type(tree).__name__}({inside})"
        return "(" + ", ".join(source(value) for value in tree) + ("," if len(tree) == 1 else "") + ")"
    return repr(tree)


def _tensor_source(t: Tensor) -> str:
    device = "" if t.device.type == "cpu" else f", device='{t.device}'"
    if t.numel() == 0:
        return f"torch.empty({tuple(t.shape)}, dtype={t.dtype}{device})"
    if t.numel() > _LARGEST:
        return f"...  # a tensor of shape {tuple(t.shape)}: too large to list, see `.report.input`"
    return f"torch.tensor({_numbers(t.detach().cpu().resolve_conj().tolist())}, dtype={t.dtype}{device})"


def _numbers(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_numbers(entry) for entry in value) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    return repr(value)


def assignments(x: Any, y0: Any) -> str:
    """`x = ...` and, where there is one, `y0 = ...`, one a line."""
    lines = [f"x = {source(x)}"]
    return "\n".join(lines if y0 is None else [*lines, f"y0 = {source(y0)}"])


def same(a: Any, b: Any) -> bool:
    """Whether two tensors agree to the last bit, NaN included."""
    return a.shape == b.shape and a.dtype == b.dtype and bool(torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)))
