"""What the training loop runs: fresh points at every step, a loss on values or on values and gradients."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cosine_similarity

from ..cache import AbstractCache, VoxelCache
from ..drawn_task import DrawnTask
from ..task import Batch
from .config import OccupancyConfig, SdfConfig, SolidConfig
from .data import Shape
from .field import natural_scale
from .points import SurfacePoints, about, box, uniform

_SHARPNESS = 100.0  # of exp(-100 |phi|): off the surface, |phi| beyond a few hundredths costs nothing (SIREN)


class SolidTask(DrawnTask):
    """A network on space, and points that are drawn from the continuum."""

    config: SolidConfig

    def __init__(self, config: SolidConfig, shape: Shape, device: torch.device, *, unit: bool = False):
        self.shape, self.unit = shape, unit
        super().__init__(config, device, inputs=3, outputs=1, scale=natural_scale(unit=unit))

    def make_cache(self) -> AbstractCache | None:
        """At voxels of the box of the coordinates, where that is asked for."""
        if not self.config.voxels:
            return None
        high = torch.ones(3, dtype=torch.float32, device=self.device)
        return VoxelCache(
            0 * high if self.unit else -high, high, self.model.width, dtype=self.kept, budget_mb=self.config.cache_mb
        )


class OccupancyTask(SolidTask):
    """Inside or outside: binary cross entropy of logits."""

    config: OccupancyConfig

    def __init__(self, config: OccupancyConfig, shape: Shape, device: torch.device):
        assert shape.inside is not None
        self.inside, self.surface = shape.inside, SurfacePoints(shape, config.draw)
        self.lower, self.upper = box(shape)
        super().__init__(config, shape, device, unit=config.unit_box)

    def draw(self, points: int, generator: torch.Generator) -> Batch:
        """Uniform points of the box, and points near the surface."""
        near = round(points * self.config.near)
        x = uniform(points - near, self.lower, self.upper, generator)
        if near:
            on, _ = self.surface(near, generator)
            x = torch.cat([x, about(on, self.config.spread, generator)])
        target = self.inside(x).float().unsqueeze(-1)
        return Batch(((x + 1) / 2 if self.unit else x).to(self.device), target.to(self.device))

    def losses(self, batch: Batch, z: Tensor | None) -> tuple[Tensor, dict[str, float], Tensor | None]:
        """Cross entropies, and the counts of which IoU and accuracy are made."""
        state = self.model.improved(batch.x, z).value
        kept = state.detach() if self.cache is not None else None
        output = self.model.readout(state)
        del state
        found, true = output.detach() > 0, batch.target > 0.5
        counts = {"both": found & true, "either": found | true, "right": found == true}
        loss = binary_cross_entropy_with_logits(output, batch.target, reduction="none").squeeze(-1)
        return loss, {name: float(hits.sum()) for name, hits in counts.items()}, kept

    def figures(self, loss: float, reported: dict[str, float]) -> dict[str, float]:
        """Of the points of the step."""
        either = reported["either"]
        return {"loss": loss, "iou": reported["both"] / either if either else 1.0, "accuracy": reported["right"]}


class SdfTask(SolidTask):
    """A signed distance from points with normals: values and gradients, half of the points on the surface."""

    config: SdfConfig
    remedy = "the map of the layer is no contraction any more: use `--norm guard` or `--norm spectral`, or a smaller `--scale`"

    def __init__(self, config: SdfConfig, shape: Shape, device: torch.device):
        self.surface = SurfacePoints(shape, "area")
        super().__init__(config, shape, device)

    def draw(self, points: int, generator: torch.Generator) -> Batch:
        """Points of the surface with their normals as target, and points of the box [-1, 1] with zeros."""
        on, normals = self.surface(points // 2, generator)
        ends = torch.ones(3, dtype=on.dtype)
        off = uniform(points - points // 2, -ends, ends, generator)
        target = torch.cat([normals, torch.zeros_like(off)])
        return Batch(torch.cat([on, off]).to(self.device), target.to(self.device))

    def losses(self, batch: Batch, z: Tensor | None) -> tuple[Tensor, dict[str, float], Tensor | None]:
        """The loss of SIREN at every point, with the exact gradient of the network."""
        x = batch.x.detach().requires_grad_()
        state = self.model.improved(x, z, order=2).value
        kept = state.detach() if self.cache is not None else None
        phi = self.model.readout(state).squeeze(-1)
        (gradient,) = torch.autograd.grad(phi.sum(), x, create_graph=True)
        return *self.judged(phi, gradient, batch.target), kept

    def judged(self, phi: Tensor, gradient: Tensor, normals: Tensor) -> tuple[Tensor, dict[str, float]]:
        """(points,) losses and what is reported; normals are zero off the surface."""
        config, on = self.config, normals.any(-1)
        stretch = (torch.linalg.vector_norm(gradient, dim=-1) - 1).abs()
        surface = config.surface_weight * phi.abs()
        surface = surface + config.normal_weight * (1 - cosine_similarity(gradient, normals, dim=-1))
        off = config.off_weight * (-_SHARPNESS * phi.abs()).exp()
        loss = torch.where(on, surface, off) + config.eikonal_weight * stretch
        sums = {"surface": float(phi.detach().abs()[on].sum()), "eikonal": float(stretch.detach().sum())}
        return loss, sums

    def figures(self, loss: float, reported: dict[str, float]) -> dict[str, float]:
        """Mean |phi| on the surface, and mean deviation of the slope from one."""
        return {"loss": loss, "surface": 2 * reported["surface"], "eikonal": reported["eikonal"]}
