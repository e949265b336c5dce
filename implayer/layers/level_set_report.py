"""What goes into the level-set layer, checked, and what is said about what comes out."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..causes import warn
from ..errors import (
    DegenerateWarning,
    DeviceError,
    DtypeError,
    ImplayerError,
    NoSurfaceError,
    ShapeError,
    SolveError,
    SolveWarning,
)
from ..failures import OnFailure
from ..implicit import Spoil
from ..solution import Solution, Status
from ..solvers.marching import Marched
from .surface import Surface

_functorch = torch._C._functorch  # type: ignore[attr-defined]
_LOW = (torch.float16, torch.bfloat16)
_WHO = "`LevelSetLayer`"


class Field(NamedTuple):
    """phi (samples, *grid), level (samples or 1,), spacing and origin (d,), of one dtype and device."""

    phi: Tensor
    level: Tensor
    spacing: Tensor
    origin: Tensor


def checked(phi: Any, ndim: int, level: Any, spacing: Any, origin: Any) -> Field:
    """The arguments as tensors that fit; half precision is computed in float32."""
    if not isinstance(phi, Tensor) or not phi.is_floating_point():
        found = phi.dtype if isinstance(phi, Tensor) else type(phi).__name__
        raise DtypeError(f"`phi` is {found}; expected a tensor of floating point. Convert it: `phi.float()`.")
    if phi.ndim not in (ndim, ndim + 1) or any(n < 2 for n in phi.shape[-ndim:]):
        axes = ", ".join(f"n{k}" for k in range(ndim))
        raise ShapeError(
            f"`phi` has shape {tuple(phi.shape)}; expected ({axes}) or (B, {axes}) with at least 2 points along each axis. "
            f"Grids of the other dimension need `LevelSetLayer(ndim={5 - ndim})`."
        )
    dtype = torch.float32 if phi.dtype in _LOW else phi.dtype
    batch = (1 if phi.ndim == ndim else len(phi),)
    parts = []
    for name, value, shapes in (
        ("level", level, ((), batch)),
        ("spacing", spacing, ((), (ndim,))),
        ("origin", origin, ((), (ndim,))),
    ):
        if isinstance(value, float | int):
            parts.append(torch.full((1 if name == "level" else ndim,), value, dtype=dtype, device=phi.device))
            continue
        try:
            part = torch.as_tensor(value, dtype=None if isinstance(value, Tensor) else dtype)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"`{name}` is {value!r}; expected a number or a tensor.") from error
        if isinstance(value, Tensor) and value.device != phi.device and value.ndim:
            raise DeviceError(
                f"`{name}` is on {value.device} but `phi` is on {phi.device}; move it: `layer.to(phi.device)`."
            )
        if part.shape not in shapes:
            wanted = " or ".join(str(shape) for shape in dict.fromkeys(shapes))
            raise ShapeError(f"`{name}` has shape {tuple(part.shape)}; expected {wanted}.")
        parts.append(
            part.to(phi.device, dtype).expand(ndim) if name != "level" else part.to(phi.device, dtype).reshape(-1)
        )
    for name, value, part, least in (("spacing", spacing, parts[1], 0.0), ("origin", origin, parts[2], -math.inf)):
        plainly = value if isinstance(value, float | int) else unwrapped(part)
        sound = (plainly > least) & (abs(plainly) < math.inf)
        if not (sound if isinstance(sound, bool) else bool(sound.all())):
            expected = "positive numbers" if name == "spacing" else "finite numbers"
            raise ValueError(f"`{name}` is {unwrapped(part).tolist()}; expected {expected}.")
    phi = phi.to(dtype).contiguous()
    return Field(phi.unsqueeze(0) if phi.ndim == ndim else phi, *parts)


def unwrapped(part: Tensor) -> Tensor:
    """The plain tensor below all transforms, which may not map over it: surfaces differ in size."""
    while _functorch.is_functorch_wrapped_tensor(part):
        if _functorch.is_batchedtensor(part):
            raise ImplayerError(
                f"{_WHO} cannot be mapped by `torch.func.vmap`: surfaces differ in size from sample to sample. Pass the batch "
                "as `layer(phi)` with phi (B, *grid), or map over the losses alone."
            )
        part = _functorch.get_unwrapped(part)
    return part.detach()


@dataclass
class Report:
    """The story of a batch of surfaces; what is said of every sample is computed where somebody asks."""

    marched: Marched
    raw: Field
    sample: Tensor | None = None  # (vertices,) where there is more than one
    flat: Tensor | None = None  # (vertices,) marked where the gradient is below the floor; None for nowhere

    @staticmethod
    def of(marched: Marched, raw: Field) -> "Report":
        """That of the surfaces of a field."""
        counts = marched.vertex_counts
        several = torch.repeat_interleave(torch.tensor(counts, device=raw.phi.device)) if len(counts) > 1 else None
        return Report(marched, raw, several)

    @property
    def failed(self) -> bool:
        """Whether any sample has no surface or is not finite."""
        return not (self.marched.finite and all(self.marched.vertex_counts))

    @cached_property
    def status(self) -> Tensor:
        """(samples,) without regard to degenerate vertices."""
        counts = torch.tensor(self.marched.vertex_counts, device=self.raw.phi.device)
        status = torch.where(counts == 0, int(Status.INFEASIBLE), int(Status.CONVERGED))
        if self.marched.finite:
            return status
        bad = ~self.raw.phi.flatten(1).isfinite().all(1)
        return torch.where(bad, int(Status.NONFINITE), status)

    def residual_norm(self) -> Tensor:
        """(samples,) how well the vertices meet the equation."""
        marched = self.marched
        squares = torch.addcmul(marched.values[0], marched.t, marched.fall, value=-1).square()
        if self.sample is None:
            return squares.sum().view(1).sqrt()
        return squares.new_zeros(len(self.status)).index_add(0, self.sample, squares).sqrt()

    def aux(self) -> dict[str, Tensor]:
        """The counts (samples,) of what is not regular."""
        none = torch.zeros_like(self.status)
        found = {"flat": none}
        if self.flat is not None:
            marked = self.flat.long()
            found["flat"] = marked.sum().view(1) if self.sample is None else none.index_add(0, self.sample, marked)
        for name in ("ties", "ambiguous", "tunnels"):
            cells = getattr(self.marched, name)
            found[name] = torch.bincount(cells, minlength=len(none)) if len(cells) else none.clone()
        return found

    def _degenerate(self, aux: dict[str, Tensor]) -> Tensor:
        return (self.status == Status.CONVERGED) & ((aux["flat"] > 0) | (aux["ties"] > 0))

    def warn(self, on_failure: OnFailure) -> None:
        """Warn about samples whose derivative is one-sided or bounded."""
        if on_failure == "ignore" or not (len(self.marched.ties) or (self.flat is not None and bool(self.flat.any()))):
            return
        aux = self.aux()
        found = self._degenerate(aux)
        if not bool(found.any()):
            return
        ties, flat = int(aux["ties"].sum()), int(aux["flat"].sum())
        warn(
            f"{_WHO}: in {int(found.sum())} of {len(found)} samples the derivative is not that of a smooth surface: {ties} "
            f"vertices lie on a grid point, where it is one-sided, and at {flat} vertices the gradient of phi is below `floor`."
            f' Shift `level` a little off the values of the grid, keep |grad phi| near 1, or pass `on_failure="ignore"`.',
            DegenerateWarning,
        )

    def enforce(self, on_failure: OnFailure, single: bool) -> None:
        """Raise or warn about samples without a surface as `on_failure` says."""
        if on_failure not in ("raise", "warn") or not self.failed:
            return
        raw = self.raw
        empty = (self.status == Status.INFEASIBLE).nonzero().view(-1)
        message = _no_surface(raw, empty) if len(empty) else ""
        if len(empty) < int((self.status != Status.CONVERGED).sum()):
            message = f"{_not_finite(raw, single)} {message}".strip()
            kind = SolveError
        else:
            kind = NoSurfaceError
        if on_failure == "raise":
            raise kind(message, self.solution(None, single))
        warn(message, SolveWarning)

    def split(self, vertices: Tensor, spoil: bool) -> list[Surface]:
        """The surfaces of the samples; `spoil` makes those of fields that are not finite NaN."""
        marched = self.marched
        if len(marched.vertex_counts) == 1:
            parts = [Surface(vertices, marched.faces)]
        else:
            pairs = zip(vertices.split(marched.vertex_counts), marched.faces.split(marched.face_counts), strict=True)
            parts, start = [], 0
            for own, faces in pairs:
                parts.append(Surface(own, faces - start))
                start += len(own)
        if not spoil or marched.finite:
            return parts
        bad = (self.status == Status.NONFINITE).tolist()
        return [
            replace(s, vertices=Spoil.apply(s.vertices, s.vertices.new_ones(len(s.vertices), dtype=torch.bool), False))
            if b
            else s
            for s, b in zip(parts, bad, strict=True)
        ]

    def solution(self, surfaces: list[Surface] | None, single: bool) -> Solution:
        """All of it; entries have no batch axis for a single grid."""
        aux = self.aux()
        status = torch.where(self._degenerate(aux), int(Status.DEGENERATE), self.status)
        entries = [status, self.residual_norm(), torch.zeros_like(status)]
        if single:
            entries, aux = [part[0] for part in entries], {name: part[0] for name, part in aux.items()}
        value = surfaces if surfaces is None or not single else surfaces[0]
        return Solution(value, entries[0], entries[1], entries[2], aux)


def _no_surface(raw: Field, empty: Tensor) -> str:
    k = int(empty[0])
    own, level = raw.phi[k], float(raw.level[k % len(raw.level)])
    return (
        f"{_WHO}: no surface in {len(empty)} of {len(raw.phi)} samples: phi never crosses the level {level:g} in sample {k}, "
        f"field range [{float(own.min()):g}, {float(own.max()):g}]. Expected values on both sides of it. (a) Choose `level` "
        f"inside the range; (b) a part smaller than a cell has no vertices: refine the grid; (c) a network that has not "
        f'learned the sign yet needs a loss on phi itself; or pass `on_failure="ignore"` for an empty surface.'
    )


def _not_finite(raw: Field, single: bool) -> str:
    index = (~raw.phi.isfinite()).nonzero()
    first = [int(i) for i in index[0]]
    value = float(raw.phi[tuple(first)])
    return (
        f"{_WHO}: `phi` is {value:g} at index {first[1:] if single else first}, one of {len(index)} values that are not finite."
        f' Expected finite values; pass `on_failure="ignore"` to leave out the cells that touch them.'
    )
