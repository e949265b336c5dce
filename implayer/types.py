"""Shape-typed aliases: `Float[Tensor, "*batch n"]` costs nothing at run time and is checked by the test run."""

from collections.abc import Callable
from typing import Any, TypeAlias

from jaxtyping import Bool, Float, Inexact, Int
from torch import Tensor

Tree: TypeAlias = Any
"""Any nest of dicts, lists, tuples and named tuples with tensors (and constants) at its leaves."""

Residual: TypeAlias = Callable[[Tree, Tree], Tree]
"""F(x, y): the order is always (x, y)."""

Samples: TypeAlias = Float[Tensor, " samples"]
Vectors: TypeAlias = Inexact[Tensor, "samples n"]

__all__ = ["Bool", "Float", "Int", "Residual", "Samples", "Tensor", "Tree", "Vectors"]
