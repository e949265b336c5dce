"""Winding numbers by crossings and rims, beside the sum of the solid angles of all faces."""

import pytest
import torch
from torch import Tensor

from implayer.errors import ShapeError
from implayer.layers.level_set import LevelSetLayer
from implayer.layers.surface import Surface
from implayer.layers.surface_edges import edges, rim
from implayer.layers.surface_winding import _ENTRIES, Columns, WindingNumber, solid_angles


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def blob(seed: int) -> Surface:
    """The surface of a random field: several bodies, with tunnels and cavities."""
    phi = torch.randn(1, 1, 10, 10, 10, generator=torch.Generator().manual_seed(seed))
    phi = torch.nn.functional.avg_pool3d(phi, 3, 1)[0, 0]
    found = LevelSetLayer()(torch.nn.functional.pad(phi, (1,) * 6, value=0.2))
    assert isinstance(found, Surface)
    return found


def box() -> Surface:
    """A cube from 0 to 1 without its lid."""
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    quads = torch.tensor([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4]])
    return Surface(corners, torch.cat([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]))


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_sum_of_the_solid_angles(seed: int):
    whole = blob(seed)
    some = torch.arange(len(whole)) % 7 != seed
    turned = torch.where(some.unsqueeze(-1), whole.faces, whole.faces.flip(-1))
    soup = Surface(
        whole.vertices, torch.randint(len(whole.vertices), (40, 3), generator=torch.Generator().manual_seed(1))
    )
    for surface in (whole, Surface(whole.vertices, whole.faces[some]), Surface(whole.vertices, turned), soup):
        points = 12 * drawn(100, 3, seed=seed) - 1
        found = surface.winding_number(points)
        assert (found - solid_angles(points, surface.corners())).abs().max() < 1e-10
        x, y, z = (12 * drawn(5, seed=k).sort().values - 1 for k in range(3))
        grid = WindingNumber(surface.vertices, surface.faces).on_grid(x, y, z)
        assert (grid.reshape(-1) - surface.winding_number(torch.cartesian_prod(x, y, z))).abs().max() < 1e-12
        assert surface.winding_number(points.float()).dtype == torch.float32
    assert torch.equal(whole.winding_number(points), whole.winding_number(points).round())  # closed: whole numbers
    assert bool(whole.winding_number(points).any())


def test_the_rim_is_where_faces_end():
    found = rim(box().faces, edges(box().faces))
    assert len(found) == 4 and {tuple(edge) for edge in found.tolist()} == {(5, 1), (7, 5), (3, 7), (1, 3)}
    assert not len(rim(blob(0).faces, edges(blob(0).faces)))
    far = 2**20 - 1
    apart = torch.tensor(
        [[1, 2, far], [4097, 3, far]], dtype=torch.int32
    )  # 1 and 4097 times 2^20 are the same in 32 bits
    assert len(edges(apart).count) == 6


def test_points_in_the_plane_of_a_flat_rim():
    points = torch.cartesian_prod(*[torch.linspace(0.1, 0.9, 9)] * 2, torch.tensor([1.0, 1.0 - 1e-12, 0.5]))
    found, true = box().winding_number(points), solid_angles(points, box().corners())
    assert (found - true).abs().max() < 1e-9 and 0.4 < found.min() < found.max() < 0.91


def test_what_holes_add_is_left_out_where_it_is_little():
    surface = blob(0)
    surface = Surface(surface.vertices, surface.faces[10:])
    winding, points = WindingNumber(surface.vertices, surface.faces), 12 * drawn(2000, 3) - 1
    exact, found = winding(points), winding(points, 0.25)
    whole = found == found.round()
    assert 100 < int(whole.sum()) < 2000 and (found - exact).abs()[whole].max() < 0.25
    assert (found - exact)[~whole].abs().max() < 1e-12


def test_large_faces_do_not_fill_the_memory():
    soup = Surface(drawn(6000, 3), torch.arange(6000).view(-1, 3))
    columns = Columns(soup.vertices, soup.faces)
    assert len(columns.listed) <= _ENTRIES * len(soup)
    points = drawn(50, 3, seed=1)
    assert (soup.winding_number(points) - solid_angles(points, soup.corners())).abs().max() < 1e-9


def test_inputs_that_have_no_winding_number():
    surface = blob(0)
    points = torch.tensor([[5.0, 5.0, 5.0], [torch.nan, 0.0, 0.0], [0.0, 0.0, torch.inf]])
    found = surface.winding_number(points)
    assert bool(found[1].isnan()) and not bool(found[0].isnan()) and float(found[2]) == 0
    assert not len(surface.winding_number(points[:0]))
    assert not surface.winding_number(points[:1] * 0 - 9).any()
    assert not Surface(surface.vertices, surface.faces[:0]).winding_number(points).any()
    lost = surface.vertices.index_fill(0, torch.tensor([3]), torch.nan)
    assert bool(Surface(lost, surface.faces).winding_number(points).isnan().all())
    for number in (-1, len(surface.vertices)):
        wrong = surface.faces.clone()
        wrong[5, 1] = number
        with pytest.raises(ShapeError, match=f"1 of {len(wrong)} faces name vertices that do not exist"):
            Surface(surface.vertices, wrong).winding_number(points)
