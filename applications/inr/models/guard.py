"""The guard of the iteration: hidden maps are scaled down only where the measured contraction becomes too weak."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .maps import AbstractMap

_EVERY = 10  # steps of the optimiser from one measurement to the next
_POINTS = 256  # at which the iteration is measured
_LENGTH = 20  # evaluations of a measurement, of which the second half counts
_LARGEST_CHANGE = 0.9  # the weakest factor by which one measurement scales the maps down
_RELAX = 1.02  # by which it lets them grow again
_REACHED = 1e-5  # part of the first residual at which a point has come to its fixed point


class _Scaled(nn.Module):
    """W -> factor W, the factor being a constant of the step."""

    def __init__(self, like: Tensor):
        super().__init__()
        self.factor: Tensor
        self.register_buffer("factor", like.detach().new_ones(()))

    def forward(self, weight: Tensor) -> Tensor:
        """The scaled weight."""
        return self.factor * weight

    def right_inverse(self, weight: Tensor) -> Tensor:
        """An assigned weight becomes the one that is scaled."""
        return weight


class Guard(nn.Module):
    """Keep the rate r at which F contracts its iterates at most `limit`, by W -> factor W for all hidden maps.

        r = max over points of (|z_20 - z_19| / |z_10 - z_9|)^(1/10),   z_{k+1} = F(x, z_k), z_0 = 0

    A bound on the spectral norm of W forbids what does no harm, since the filters, whose modulus averages well below one,
    multiply each product with W. Here nothing happens until the iteration itself becomes slow. r follows `factor`^L, so a
    factor of limit / r, taken to the root L, brings it back; when r is below the limit again, the factor grows towards one.

    The points (`watch`) and the count of the steps are kept in the state, for the next step depends on them.
    """

    def __init__(self, map: AbstractMap, inputs: int, limit: float):
        super().__init__()
        self.limit, self._map = limit, [map]  # in a list: the map is a submodule of the network already
        self.age: Tensor
        self.points: Tensor
        self.register_buffer("age", torch.zeros((), dtype=torch.long))
        for linear in map.hidden:
            assert isinstance(linear, nn.Linear)
            parametrize.register_parametrization(linear, "weight", _Scaled(linear.weight))
        self.register_buffer("points", self._clips()[0].factor.new_empty(_POINTS, inputs).uniform_(-1, 1))

    def watch(self, x: Tensor) -> None:
        """Measure at these points of the signal, or some of them."""
        rows = torch.linspace(0, len(x) - 1, _POINTS).long()
        self.points.copy_(x[rows])

    def follow(self) -> dict[str, float]:
        """Measure, now and then, and scale. **Returns** the rate and the factor where it did."""
        self.age += 1
        if int(self.age) % _EVERY != 1:
            return {}
        rate, clips = self.rate(), self._clips()
        factor = float(clips[0].factor)
        if rate > self.limit:
            factor *= max(self.limit / rate, _LARGEST_CHANGE) ** (1 / len(clips))
        else:
            factor = min(factor * _RELAX ** (1 / len(clips)), 1.0)
        for clip in clips:
            clip.factor.fill_(factor)
        return {"contraction": min(rate, 9.99), "guard": factor}

    @torch.no_grad()
    def rate(self) -> float:
        """r of the formula, for the map as it is; zero where every point came near its fixed point before the end."""
        given = self._map[0].inject(self.points)
        z, steps = torch.zeros_like(given[0]), []
        for _ in range(_LENGTH):
            image = self._map[0](given, z)
            steps.append(torch.linalg.vector_norm(image - z, dim=-1))
            z = image
        first, half, last = steps[0], steps[_LENGTH // 2 - 1], steps[-1]
        slow = ~(last <= _REACHED * first)  # what is not finite is slow, too
        ratio = torch.where(slow, last / half, torch.zeros_like(last)).nan_to_num(torch.inf)
        return float(ratio.max()) ** (2 / _LENGTH)

    def _clips(self) -> list[_Scaled]:
        return [linear.parametrizations.weight[0] for linear in self._map[0].hidden]  # type: ignore[union-attr, index]
