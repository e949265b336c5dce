"""Fixed points from one step to the next: of points with an index, and of points that are drawn from the continuum."""

import abc
import itertools

import torch
from torch import Tensor

from ..shared.errors import CheckpointError

_MIB = 2**20
_MOST = 60_000.0  # half precision holds 65504
_NEAR = 1e-3  # weight of what comes near a node, from which on the node is changed

Rows = slice | Tensor  # of points of the signal


class AbstractCache(abc.ABC):
    """Where steps of the map start from. What is not known has to be solved for from zero."""

    @abc.abstractmethod
    def recall(self, place: "Rows | Tensor") -> tuple[Tensor, Tensor] | None:
        """Fixed points (points, width) as they are stored, and which of them are known (points,); None where none is."""

    @abc.abstractmethod
    def keep(self, place: "Rows | Tensor", z: Tensor) -> None:
        """Remember the fixed points (points, width) there."""

    @abc.abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint has to hold; nothing before the first `keep`."""

    @abc.abstractmethod
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The opposite of `tensors`. Raises `CheckpointError` where the shapes differ."""


class FixedPointCache(AbstractCache):
    """The fixed points of points with an index: all of a signal, or as many as `budget_mb` holds.

    Point i is kept in slot i mod slots. With fewer slots than points a slot holds the point that came last.

    **Arguments**

    - `count`: points of the signal.
    - `width`: D.
    - `dtype`: half precision halves the memory; the next step of the map contracts the rounding.
    """

    def __init__(self, count: int, width: int, *, dtype: torch.dtype, device: torch.device, budget_mb: int):
        self.count, self.width, self.dtype, self.device = count, width, dtype, device
        self.slots = max(min(count, budget_mb * _MIB // (width * dtype.itemsize)), 1)
        self._states: Tensor | None = None  # memory is taken when the first fixed points come
        self._owners: Tensor | None = None  # the point whose state a slot holds, or -1

    def recall(self, place: Rows) -> tuple[Tensor, Tensor] | None:
        """The states of these points, a view for a slice."""
        if self._states is None or self._owners is None:
            return None
        slots = self._slots(place)
        owners = self._owners[slots]
        known = owners >= 0 if self.slots == self.count else owners == self._numbers(place)
        return self._states[slots], known

    def keep(self, place: Rows, z: Tensor) -> None:
        """Write the states over what their slots held."""
        if self._states is None or self._owners is None:
            self._states = torch.zeros(self.slots, self.width, dtype=self.dtype, device=self.device)
            numbers = torch.int32 if self.count <= 2**31 else torch.int64
            self._owners = torch.full((self.slots,), -1, dtype=numbers, device=self.device)
        slots = self._slots(place)
        self._owners[slots] = self._numbers(place).to(self._owners.dtype)
        if isinstance(slots, slice) or self.dtype == z.dtype:
            self._states[slots] = _fitting(z.detach(), self.dtype)
        else:
            self._states.index_copy_(0, slots, _fitting(z.detach(), self.dtype).to(self.dtype))

    def tensors(self) -> dict[str, Tensor]:
        """States and their owners."""
        if self._states is None or self._owners is None:
            return {}
        return {"states": self._states, "owners": self._owners}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """From a checkpoint."""
        if not tensors:
            self._states = self._owners = None
            return
        if set(tensors) != {"states", "owners"} or tensors["states"].shape != (self.slots, self.width):
            held = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            raise CheckpointError(
                f"the checkpoint holds fixed points as {held}; the configuration makes {self.slots} of width {self.width}."
            )
        self._states = tensors["states"].to(self.device, self.dtype)
        self._owners = tensors["owners"].to(self.device)

    def _numbers(self, place: Rows) -> Tensor:
        if isinstance(place, slice):
            return torch.arange(*place.indices(self.count), device=self.device)
        return place.to(self.device)

    def _slots(self, place: Rows) -> Rows:
        if self.slots == self.count and isinstance(place, slice):
            return place
        return self._numbers(place) % self.slots


class VoxelCache(AbstractCache):
    """Fixed points at the nodes of a regular grid, multilinearly interpolated: for points drawn from the continuum.

    The paper leaves it as future work (section 5). A node holds the mean of what came near it, weighted as in the
    interpolation, and leans towards the latest by `pace`. It helps where cells are small against the wavelength of the
    fixed points, pi / scale; `recall` of a point is known when all nodes of its cell are.

    **Arguments**

    - `lower`, `upper`: (inputs,) the box of the coordinates.
    - `width`: D.
    - `budget_mb`: of memory; as many nodes as it holds, equally many on each side.
    """

    def __init__(
        self, lower: Tensor, upper: Tensor, width: int, *, dtype: torch.dtype, budget_mb: int, pace: float = 0.5
    ):
        self.lower, self.upper, self.width, self.dtype, self.pace = lower, upper, width, dtype, pace
        inputs = len(lower)
        nodes = budget_mb * _MIB / (width * dtype.itemsize)
        self.cells = max(int(nodes ** (1 / inputs)) - 1, 1)
        self.count = (self.cells + 1) ** inputs
        self._states: Tensor | None = None
        self._known: Tensor | None = None

    def recall(self, place: Tensor) -> tuple[Tensor, Tensor] | None:
        """The interpolated states at coordinates (points, inputs)."""
        if self._states is None or self._known is None:
            return None
        z = place.new_zeros(len(place), self.width)
        known = torch.ones(len(place), dtype=torch.bool, device=place.device)
        for nodes, weight in self._corners(place):
            z.addcmul_(self._states[nodes].to(z.dtype), weight.unsqueeze(-1))
            known &= self._known[nodes]
        return z, known

    def keep(self, place: Tensor, z: Tensor) -> None:
        """Spread the states over the nodes of their cells."""
        if self._states is None or self._known is None:
            self._states = torch.zeros(self.count, self.width, dtype=self.dtype, device=z.device)
            self._known = torch.zeros(self.count, dtype=torch.bool, device=z.device)
        corners = list(self._corners(place.detach()))
        nodes, where = torch.unique(torch.cat([each for each, _ in corners]), return_inverse=True)
        weights = torch.cat([weight for _, weight in corners])
        total = z.new_zeros(len(nodes)).index_add_(0, where, weights)
        mean = z.new_zeros(len(nodes), self.width)
        for number, (_, weight) in enumerate(corners):
            part = where[number * len(place) : (number + 1) * len(place)]
            mean.index_add_(0, part, z.detach() * weight.unsqueeze(-1))
        near = (total > _NEAR).nonzero().squeeze(-1)  # others have next to nothing to go by
        nodes, mean = nodes[near], mean[near] / total[near].unsqueeze(-1)
        pace = torch.where(self._known[nodes], self.pace * total[near].clamp_max(1), 1.0).unsqueeze(-1)
        mixed = torch.lerp(self._states[nodes].to(z.dtype), mean, pace.to(z.dtype))
        self._states[nodes] = _fitting(mixed, self.dtype).to(self.dtype)
        self._known[nodes] = True

    def nodes(self, numbers: Tensor) -> Tensor:
        """(numbers, inputs) the coordinates of nodes, which are numbered from 0 to `count`."""
        side, inputs = self.cells + 1, len(self.lower)
        places = torch.stack([numbers.div(side**i, rounding_mode="floor") % side for i in range(inputs)], dim=-1)
        return self.lower + (self.upper - self.lower) * (places / self.cells).to(self.lower.dtype)

    def tensors(self) -> dict[str, Tensor]:
        """States, and which are known."""
        if self._states is None or self._known is None:
            return {}
        return {"states": self._states, "known": self._known}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """From a checkpoint."""
        if tensors and (set(tensors) != {"states", "known"} or tensors["states"].shape != (self.count, self.width)):
            held = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            raise CheckpointError(
                f"the checkpoint holds fixed points as {held}; the configuration makes {self.count} of width {self.width}."
            )
        device = self.lower.device
        self._states = tensors["states"].to(device, self.dtype) if tensors else None
        self._known = tensors["known"].to(device) if tensors else None

    def _corners(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each corner of the cells of the points: its node (points,) and its weight (points,)."""
        inputs = x.shape[-1]
        place = ((x - self.lower) / (self.upper - self.lower) * self.cells).clamp(0, self.cells)
        corner = place.floor().clamp_max(self.cells - 1)
        part, corner = place - corner, corner.long()
        strides = [(self.cells + 1) ** i for i in range(inputs)]
        found = []
        for offsets in itertools.product((0, 1), repeat=inputs):
            weight = torch.ones_like(part[:, 0])
            nodes = torch.zeros_like(corner[:, 0])
            for i, offset in enumerate(offsets):
                weight = weight * (part[:, i] if offset else 1 - part[:, i])
                nodes = nodes + (corner[:, i] + offset) * strides[i]
            found.append((nodes, weight))
        return found


def _fitting(z: Tensor, dtype: torch.dtype) -> Tensor:
    """Within the range of half precision; an overflow would be infinite when it comes back."""
    return z.clamp(-_MOST, _MOST) if dtype == torch.float16 else z
