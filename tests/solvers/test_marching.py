"""Marching squares and cubes: the topology of the interpolant, watertight, the vertices of scikit-image."""

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.ndimage import label
from scipy.spatial import cKDTree
from torch import Tensor

from implayer.layers.surface_edges import edges
from implayer.solvers.marching import _decided, _hexagon, march
from implayer.solvers.marching_topology import ambiguous_faces, cases, loops, patches


def vertices_of(phi: Tensor, level: float = 0.0) -> tuple[Tensor, Tensor]:
    marched = march(phi[None], torch.tensor([level]), False)
    points = marched.corner.T.double()
    points[torch.arange(len(points)), marched.axis] += marched.t
    return points, marched.faces


def closed(faces: Tensor) -> bool:
    return not bool(edges(faces).balance.any())


def padded(phi: Tensor) -> Tensor:
    return torch.nn.functional.pad(phi, [1] * 6, value=3.0)


def choices():
    for config in range(256):
        faces = ambiguous_faces(config, 3)
        for bits in range(2 ** len(faces)):
            yield config, sum((bits >> k & 1) << face for k, face in enumerate(faces))


def test_every_case_is_a_surface_bounded_by_its_loops():
    count = 0
    for config, joined in choices():
        found = loops(config, joined)
        rim = {(b, a) for loop in found for a, b in zip(loop, loop[1:] + loop[:1], strict=True)}
        edges = Counter(e for a, b, c in patches(config, joined, 0) for e in ((a, b), (b, c), (c, a)))
        assert set(edges.values()) <= {1}
        assert {e for e in edges if e[::-1] not in edges} == rim
        assert len({v for e in edges for v in e}) == sum(map(len, found))
        count += 1
    assert count == 656


def test_table_is_small():
    table = cases(3)
    assert table.count.max() == 10 and not table.count[table.row[0]] and not table.count[table.row[255]]
    assert int(table.ambiguous.sum()) == sum(bool(ambiguous_faces(c, 3)) for c in range(256)) + 8


def interpolated(values: np.ndarray, n: int) -> np.ndarray:
    t = np.linspace(0, 1, n)
    w = np.stack([1 - t, t])
    return np.einsum("abc,ai,bj,ck->ijk", values.reshape(2, 2, 2), w, w, w, optimize=True)


def test_cells_have_the_topology_of_the_trilinear_interpolant():
    """Pieces of inside and outside in a cell, counted on a fine grid, beside the number of loops and tunnels."""
    rng = np.random.default_rng(3)
    values = rng.exponential(size=(60000, 8)) * np.where(rng.random((60000, 8)) < 0.5, -1, 1)
    tunnel = _hexagon(torch.from_numpy(values).view(-1, 2, 2, 2))[0].numpy()
    extra = (_decided(torch.from_numpy(values), 3)[0].numpy() >> 8) & 63
    config = ((values < 0) << np.arange(8)).sum(1)
    several = np.array([len(loops(int(c), int(e))) > 1 for c, e in zip(config, extra, strict=True)])
    with_tunnel = (several & tunnel).nonzero()[0][:150]
    without = (several & ~tunnel).nonzero()[0][:150]
    assert len(with_tunnel) == 150
    wrong = 0
    for k in [*with_tunnel, *without]:
        field = interpolated(values[k], 40)
        pieces = label(field < 0)[1] + label(field >= 0)[1]
        wrong += pieces != len(loops(int(config[k]), int(extra[k]))) + 1 - tunnel[k]
    assert wrong <= 3  # necks thinner than the fine grid


def euler(faces: Tensor, count: int) -> int:
    return count - len(edges(faces).count) + len(faces)


@pytest.mark.parametrize("tunnel", [True, False])
def test_ambiguous_cell(tunnel: bool):
    """Two opposite corners inside: joined through the cell if the others are weak, two caps if not."""
    phi = torch.full((2, 2, 2), 0.1 if tunnel else 10.0)
    phi[0, 0, 0] = phi[1, 1, 1] = -1.0
    points, faces = vertices_of(phi)
    assert len(points) == 6 and len(faces) == (6 if tunnel else 2)
    assert euler(faces, 6) == (0 if tunnel else 2)


@pytest.mark.parametrize("strong", [True, False])
def test_asymptotic_decider_in_two_dimensions(strong: bool):
    phi = torch.tensor([[-2.0 if strong else -0.5, 1.0], [1.0, -1.0]])
    points, faces = vertices_of(phi)
    middle = (points[faces[:, 0]] + points[faces[:, 1]]) / 2
    near_inside = (middle - torch.tensor([0.0, 0.0])).norm(dim=-1).min()  # a cap around an inside corner or not
    assert len(faces) == 2 and (near_inside > 0.4) == strong


def test_random_fields_are_watertight_and_deterministic():
    for _ in range(5):
        phi = padded(torch.randn(14, 12, 10))
        points, faces = vertices_of(phi)
        assert closed(faces)
        again = vertices_of(phi)
        assert torch.equal(points, again[0]) and torch.equal(faces, again[1])


def test_volume_of_a_random_field_and_of_its_negative():
    phi = padded(torch.randn(10, 10, 10))
    points, faces = vertices_of(phi)
    p = points[faces]
    volume = (p[:, 0] * torch.linalg.cross(p[:, 1], p[:, 2])).sum() / 6
    inside = float((phi < 0).sum())
    assert 0.3 * inside < float(volume) < inside


def test_integer_fields_with_many_ties_are_watertight():
    for _ in range(5):
        phi = padded(torch.randint(-2, 3, (9, 9, 9)).double())
        points, faces = vertices_of(phi)
        assert closed(faces)
        assert len(points.unique(dim=0)) == len(points) and len(faces.unique()) == len(points)


def test_vertices_are_those_of_scikit_image():
    measure = pytest.importorskip("skimage.measure")
    for phi in (padded(torch.randn(12, 12, 12)), torch.randn(9, 8, 7)):
        theirs = measure.marching_cubes(phi.numpy(), 0.0)[0]
        gap, _ = cKDTree(theirs).query(vertices_of(phi)[0].numpy())
        assert gap.max() < 2e-6  # it computes in float32, and adds points inside some cells


def test_smooth_surface_is_that_of_scikit_image():
    measure = pytest.importorskip("skimage.measure")
    x = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, 40)] * 3, indexing="ij"))
    phi = (3 * x).sin().prod(0) + x.square().sum(0) - 0.5
    points, faces = vertices_of(phi)
    theirs, triangles, _, _ = measure.marching_cubes(phi.numpy(), 0.0)
    assert len(theirs) == len(points) and len(triangles) == len(faces)
    p = points[faces]
    area = torch.linalg.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]).norm(dim=-1).sum() / 2
    assert abs(float(area) / measure.mesh_surface_area(theirs, triangles) - 1) < 1e-4


def test_cells_with_nan_are_left_out():
    x = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, 12)] * 3, indexing="ij"))
    phi = x.square().sum(0).sqrt() - 0.6
    whole = len(vertices_of(phi)[1])
    phi[9, 5, 5] = torch.nan
    points, faces = vertices_of(phi)
    assert points.isfinite().all() and 0 < len(faces) < whole
    assert len(faces.unique()) == len(points)
