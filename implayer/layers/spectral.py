"""Keep a linear map contractive, so that a fixed-point iteration through it converges."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

_WARM_UP = 15  # power iterations at construction, so that the first estimate is a good one


class SoftClip(nn.Module):
    """The parametrisation W -> W / max(1, sigma / target) behind `spectral_norm`; its buffers u and v follow W."""

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor, target: float, power_iterations: int):
        super().__init__()
        self.target, self.power_iterations = target, power_iterations
        columns = weight.shape[1]
        generator = torch.Generator().manual_seed(0)  # its own: the generator of the user is left alone
        start = torch.randn(columns, generator=generator, dtype=torch.float64).to(weight)
        self.register_buffer("v", start / torch.linalg.vector_norm(start))
        self.register_buffer("u", nn.functional.normalize(torch.mv(weight.detach(), self.v), dim=0))
        with torch.no_grad():
            self._iterate(weight, _WARM_UP)

    def forward(self, weight: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        """The clipped weight, differentiable also through sigma."""
        # Not under no_grad: the map of a layer must not change between the evaluations of one solve.
        if self.training and torch.is_grad_enabled():
            with torch.no_grad():
                self._iterate(weight, self.power_iterations)
        # Clones, for the graph must not see the next iteration change them.
        sigma = torch.dot(self.u.clone(), torch.mv(weight, self.v.clone()))
        return weight / (sigma / self.target).clamp_min(1)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """An assigned weight becomes the one that is clipped."""
        return weight

    def _iterate(self, weight: Tensor, times: int) -> None:
        weight = weight.detach()
        for _ in range(times):  # in the order of Miyato et al., algorithm 1
            self.v.copy_(nn.functional.normalize(torch.mv(weight.mT, self.u), dim=0))
            self.u.copy_(nn.functional.normalize(torch.mv(weight, self.v), dim=0))

    def extra_repr(self) -> str:
        """The constants."""
        return f"target={self.target}, power_iterations={self.power_iterations}"


def spectral_norm(linear: nn.Linear, target: float = 0.97, power_iterations: int = 1) -> nn.Linear:
    r"""Bound the spectral norm of a linear map, in place, by a soft clip of its weight.

    $$W_\text{eff} = \frac{W}{\max(1, \sigma / \text{target})}, \qquad \sigma = u^\top W v \approx \|W\|_2$$

    A map z -> phi(W z + ...) with |phi'| <= 1 is then a contraction of factor `target`, so that Picard iteration and
    Neumann series converge. A weight below the bound is left as it is. The gradient includes that of sigma; u and v are
    buffers that follow W by power iteration and are kept in `state_dict`.

    **Arguments**

    - `linear`: the layer, which is changed and returned. Its trainable weight becomes
      `linear.parametrizations.weight.original`.
    - `target`: the bound (default 0.97, as the authors of "(Implicit)^2" use; their text says 1). Lower it where solves
      take too many steps; raise it, or do without, where the bound costs accuracy and solves stay short.
    - `power_iterations`: at each evaluation in training mode with gradients enabled (default 1, which follows the small
      steps of an optimiser; raise it where the weight jumps). None happen under `no_grad` or in `eval` mode, so that
      the map does not change during a solve.

    **Returns** `linear`.

    **Raises** `ValueError` for a target that is not positive, no iteration, or a weight that is bounded already.

    **Reference** Miyato et al., "Spectral Normalization for Generative Adversarial Networks", ICLR 2018; Huang et al.,
    "(Implicit)^2: Implicit Layers for Implicit Representations", section 3.2.

        >>> import torch, implayer
        >>> linear = implayer.spectral_norm(torch.nn.Linear(8, 8), target=0.5)
        >>> bool(torch.linalg.matrix_norm(linear.weight, 2) < 0.51)
        True
    """
    if not target > 0:
        raise ValueError(f"`target` is {target}; expected a positive bound, such as 0.97.")
    if power_iterations < 1:
        raise ValueError(f"`power_iterations` is {power_iterations}; expected at least 1.")
    if parametrize.is_parametrized(linear, "weight"):
        raise ValueError(
            "the weight of `linear` has a parametrisation already; call `spectral_norm` once on a plain layer."
        )
    parametrize.register_parametrization(linear, "weight", SoftClip(linear.weight, target, power_iterations))
    return linear
