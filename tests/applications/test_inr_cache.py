"""Fixed points from step to step: by index, with too little memory, and on a grid; chunks change no gradient."""

import dataclasses
import math

import pytest
import torch

from applications.inr.cache import FixedPointCache, VoxelCache
from applications.inr.config import FieldConfig
from applications.inr.drawn_task import DrawnTask
from applications.inr.models.build import build_model
from applications.inr.sampled_task import SampledTask
from applications.inr.task import Batch
from applications.shared.errors import CheckpointError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def single_precision():
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(torch.float64)


class Wave(SampledTask):
    """A sound of 60 samples."""

    def __init__(self, **changes):
        x = torch.linspace(-1, 1, 60).unsqueeze(-1)
        self.x, self.y = x, torch.sin(9 * x) * x
        self.taken: list = []
        config = dataclasses.replace(FieldConfig(width=16, steps=40, norm="spectral", half_states=False), **changes)
        super().__init__(config, CPU, inputs=1, outputs=1, scale=10.0, count=60)

    def take(self, rows):
        self.taken.append(rows)
        return Batch(self.x[rows], self.y[rows], None, rows)


class Drawn(DrawnTask):
    """The same, at points of the continuum."""

    def __init__(self, cache=None, **changes):
        self.kind = cache
        config = dataclasses.replace(FieldConfig(width=16, steps=40, norm="spectral", half_states=False), **changes)
        super().__init__(config, CPU, inputs=1, outputs=1, scale=10.0)

    def draw(self, points, generator):
        x = torch.rand(points, 1, generator=generator) * 2 - 1
        return Batch(x, torch.sin(9 * x) * x)

    def make_cache(self):
        return self.kind


def index_cache(count=10, width=4, megabytes=1, dtype=torch.float32):
    return FixedPointCache(count, width, dtype=dtype, device=CPU, budget_mb=megabytes)


def recalled(cache, place):
    """What a cache that holds something says."""
    found = cache.recall(place)
    assert found is not None
    return found


def test_what_was_kept_comes_back_and_nothing_else_is_known():
    cache, z = index_cache(), torch.randn(3, 4)
    assert cache.recall(slice(0, 10)) is None
    rows = torch.tensor([7, 2, 5])
    cache.keep(rows, z)
    found, known = recalled(cache, torch.tensor([2, 3, 7]))
    assert known.tolist() == [True, False, True]
    assert torch.equal(found[0], z[1]) and torch.equal(found[2], z[0])
    cache.keep(slice(0, 10), torch.arange(40.0).reshape(10, 4))
    found, known = recalled(cache, slice(4, 6))
    assert bool(known.all()) and torch.equal(found, torch.arange(16.0, 24.0).reshape(2, 4))


def test_half_precision_takes_half_the_memory_and_no_infinity():
    cache = index_cache(dtype=torch.float16)
    cache.keep(slice(0, 2), torch.tensor([[1e6, -1e6, 0.1, 2.0]] * 2))
    found, _ = recalled(cache, slice(0, 2))
    assert found.dtype == torch.float16 and bool(found.isfinite().all())
    assert found[0, 2:].tolist() == pytest.approx([0.1, 2.0], rel=1e-3)
    assert cache.tensors()["states"].nbytes == 10 * 4 * 2


def test_a_cache_that_is_too_small_knows_whose_state_it_holds():
    cache = index_cache(count=1_000_000, width=1024)  # 4 KiB a point: 256 of them in 1 MiB
    assert cache.slots == 256
    cache.keep(torch.tensor([3, 300]), torch.ones(2, 1024))
    _, known = recalled(cache, torch.tensor([3, 259, 300, 44, 515]))
    assert known.tolist() == [True, False, True, False, False]
    cache.keep(torch.tensor([259]), torch.ones(1, 1024))
    assert recalled(cache, torch.tensor([3, 259]))[1].tolist() == [False, True]
    assert cache.tensors()["states"].nbytes == 2**20


@pytest.mark.parametrize("kind", ["index", "voxel"])
def test_a_checkpoint_brings_a_cache_back_and_another_shape_is_refused(kind):
    def make(width):
        if kind == "index":
            return index_cache(width=width)
        return VoxelCache(torch.zeros(2), torch.ones(2), width, dtype=torch.float32, budget_mb=1)

    cache, other = make(4), make(4)
    place = torch.tensor([1, 2]) if kind == "index" else torch.rand(2, 2)
    cache.keep(place, torch.randn(2, 4))
    other.restore(cache.tensors())
    assert torch.equal(recalled(other, place)[0], recalled(cache, place)[0])
    with pytest.raises(CheckpointError, match="width 5"):
        make(5).restore(cache.tensors())
    other.restore({})
    assert other.recall(place) is None


def test_a_voxel_cache_interpolates_a_linear_field():
    cache = VoxelCache(-torch.ones(2), torch.ones(2), 3, dtype=torch.float32, budget_mb=1, pace=1.0)
    side = torch.linspace(-1, 1, cache.cells + 1)
    nodes = torch.cartesian_prod(side, side)
    slope = torch.randn(2, 3)
    for part in nodes.split(5000):  # at the nodes themselves each point lies in a corner of its cell
        cache.keep(part, part @ slope)
    x = torch.rand(100, 2) * 2 - 1
    found, known = recalled(cache, x)
    assert bool(known.all())
    assert torch.allclose(found, x @ slope, atol=1e-4)


@pytest.mark.parametrize("inputs", [1, 2, 3])
def test_what_is_kept_at_the_nodes_of_a_voxel_cache_is_found_there(inputs):
    lower, upper = -torch.ones(inputs), torch.arange(1.0, inputs + 1)
    cache = VoxelCache(lower, upper, 40, dtype=torch.float32, budget_mb=1, pace=1.0)
    x = cache.nodes(torch.arange(cache.count))
    assert len(x.unique(dim=0)) == cache.count
    assert torch.equal(x.amin(0), lower) and torch.equal(x.amax(0), upper)
    values = torch.randn(cache.count, 40)
    cache.keep(x, values)
    found, known = recalled(cache, x)
    assert bool(known.all())
    torch.testing.assert_close(found, values, rtol=1e-3, atol=1e-3)


def test_a_voxel_cache_spares_steps_of_a_smooth_field():
    config = FieldConfig(width=16, norm="spectral", half_states=False, tolerance=1e-4)
    network = build_model(config, 2, 1, 2.0).eval()
    cache = VoxelCache(-4 * torch.ones(2), 4 * torch.ones(2), 16, dtype=torch.float16, budget_mb=1)  # 45 cells a side
    for seed in range(2):
        x = torch.rand(4000, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        cache.keep(x, network.solved(x))
    x = torch.rand(500, 2, generator=torch.Generator().manual_seed(9)) * 2 - 1
    z, known = recalled(cache, x)
    exact = network.solved(x)
    assert known.float().mean() > 0.95
    assert (z - exact)[known].norm() < 0.1 * exact[known].norm()


def test_a_step_in_chunks_has_the_gradient_of_the_whole():
    weights = []
    for chunk in (0, 7):
        task = Wave(chunk=chunk, steps=3)
        for _ in range(3):
            task.step()
        weights.append([parameter.detach().clone() for parameter in task.parameters])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(*weights, strict=True))


def test_mini_batches_meet_every_point_once_and_start_from_their_fixed_points():
    task = Wave(batch=20)
    for _ in range(3):
        task.step()
    drawn = torch.cat(task.taken[1:])  # the first one is for the guard
    assert sorted(drawn.tolist()) == list(range(60))
    z, known = recalled(task.cache, slice(0, 60))
    assert bool(known.all())
    exact = task.model.solved(task.x)
    assert ((z - exact).norm() / exact.norm()) < 0.1  # of weights that are one to three steps older
    for _ in range(3):
        task.step()
    assert not torch.equal(torch.cat(task.taken[4:]), drawn)


@pytest.mark.parametrize("changes", [{}, {"batch": 20, "chunk": 7}, {"norm": "guard"}, {"terms": -1}, {"cache_mb": 1}])
def test_a_fit_gets_better_and_goes_on_from_its_state(changes, tmp_path):
    task = Wave(**changes)
    figures = [task.step() for _ in range(10)]
    twin = Wave(**changes)
    twin.restore({name: tensor.clone() for name, tensor in task.state().items()}, tmp_path)
    one, other = [task.step() for _ in range(5)], [twin.step() for _ in range(5)]
    assert one == other
    assert all(torch.equal(a, b) for a, b in zip(task.parameters, twin.parameters, strict=True))
    assert one[-1]["loss"] < 0.8 * figures[0]["loss"]


@pytest.mark.parametrize("cached", [False, True])
def test_points_of_the_continuum(cached):
    cache = VoxelCache(-torch.ones(1), torch.ones(1), 16, dtype=torch.float32, budget_mb=1) if cached else None
    task = Drawn(cache, batch=64)
    first = task.step()["loss"]
    for _ in range(14):
        last = task.step()["loss"]
    assert last < 0.8 * first
    assert not cached or bool(recalled(task.cache, torch.rand(50, 1) * 2 - 1)[1].any())


def test_the_learning_rate_goes_where_it_is_told():
    linear, cosine, constant = Wave(decay=0.1), Wave(decay=0.1, schedule="cosine"), Wave()
    assert linear.rate(0) == cosine.rate(0) == constant.rate(39) == pytest.approx(1e-3)
    assert linear.rate(39) == pytest.approx(1e-4) and cosine.rate(39) == pytest.approx(1e-4)
    assert cosine.rate(13) == pytest.approx(1e-3 * (0.1 + 0.9 * (1 + math.cos(math.pi / 3)) / 2))
