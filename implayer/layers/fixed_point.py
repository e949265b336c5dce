"""Deep equilibrium layers: y = f(x, y)."""

from collections.abc import Callable
from typing import Any

from ..adjoints import AbstractAdjoint
from ..failures import OnFailure
from ..layer import ImplicitLayer
from ..problem import Problem
from ..residuals import Displacement
from ..solvers.anderson import Anderson
from ..types import Residual, Tree


class FixedPointLayer(ImplicitLayer):
    """The layer x -> y with y = f(x, y): `ImplicitLayer` of F = f(x, y) - y.

    **Arguments**

    - `f`: the map f(x, y) -> y, a function or an `nn.Module`. A unique fixed point is certain where f contracts in y; see
      `spectral_norm` for a way to keep a linear map contractive.
    - `forward_solver`: `Anderson()` by default; `Picard()` for a strong contraction, `Newton()` where f does not contract.
    - `initial`: callable x -> y0; without it the start is `y0` of the call. Pass the last solution as `y0` for a warm start.
    - the others as for `ImplicitLayer`.

    **Reference** Bai et al., "Deep Equilibrium Models", 2019; "(Implicit)^2", equations (1) and (9).

    **Example**

    ```python
    layer = implayer.FixedPointLayer(lambda x, y: torch.cos(x * y), initial=torch.zeros_like)
    y = layer(torch.ones(3, 1))     # 0.7391, the fixed point of the cosine
    ```
    """

    def __init__(
        self,
        f: Residual,
        forward_solver: Callable[[Problem], Any] | None = None,
        *,
        adjoint: AbstractAdjoint | None = None,
        initial: Callable[[Tree], Tree] | None = None,
        event_ndim: int = 1,
        on_failure: OnFailure = "raise",
    ):
        if not callable(f):
            raise TypeError("`f` must be callable: f(x, y) -> y.")
        super().__init__(
            Displacement(f), forward_solver or Anderson(), adjoint=adjoint, initial=initial, event_ndim=event_ndim,
            on_failure=on_failure,
        )  # fmt: skip

    @property
    def f(self) -> Any:
        """The map whose fixed point the layer returns."""
        return self.F.f
