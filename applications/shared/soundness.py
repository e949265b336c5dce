"""What a triangle mesh is as a boundary: points merged, faces turned to agree, what stays open counted."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from implayer.layers.surface_edges import edges, rim


@dataclass(frozen=True)
class Boundary:
    """A mesh whose faces agree with their neighbours wherever they can.

    **Arguments**

    - `vertices`: (V, 3) in double precision, no two at the same place, none without a face.
    - `faces`: (F, 3).
    - `rim`: (E, 2) directed edges, in the direction of their faces, that no face goes along the other way.
    - `even`: whether every edge has an even number of faces.
    - `notes`: what was found and done.
    """

    vertices: Tensor
    faces: Tensor
    rim: Tensor
    even: bool
    notes: tuple[str, ...]

    @property
    def closed(self) -> bool:
        """Whether the faces bound a volume."""
        return not len(self.rim)


def repaired(vertices: Tensor, faces: Tensor) -> Boundary:
    """The boundary that the triangles make up. Nothing is invented: holes stay open."""
    notes = []
    places, number = np.unique(vertices.double().numpy(), axis=0, return_inverse=True)
    faces = torch.from_numpy(number.reshape(-1))[faces]
    whole = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    repeated, collapsed = len(vertices) - len(places), int((~whole).sum())
    if repeated:
        notes.append(f"{repeated} of {len(vertices)} vertices lie where another does: merged")
    if collapsed:
        notes.append(f"{collapsed} of {len(faces)} faces have two corners at one place: left out")
    used, number = faces[whole].unique(return_inverse=True)
    points, faces = torch.from_numpy(places)[used], number
    if len(faces):
        faces, turned = _agreeing(faces)
        if turned:
            notes.append(f"{turned} of {len(faces)} faces look to another side than their neighbours: turned")
    found = edges(faces)
    ends, even = rim(faces, found), bool((found.count % 2 == 0).all())
    if len(ends):
        notes.append(f"the mesh is not closed, {len(ends)} edges have a face on one side alone")
    elif len(faces) and float(_volume(points, faces)) < 0:
        faces = faces.flip(-1)
        notes.append("the faces look inwards: all turned")
    return Boundary(points, faces, ends, even, tuple(notes))


def _agreeing(faces: Tensor) -> tuple[Tensor, int]:
    """Faces turned so that two that share an edge go along it in opposite directions, and how many were turned.

    Each face is two nodes of a graph, as it is and turned; neighbours that agree are joined. Components of the graph then
    are ways to turn all faces of a piece, in pairs; that which turns fewer is taken.
    """
    edge, sign, count, _ = edges(faces)
    size = len(faces)
    order = edge.argsort()
    order = order[(count == 2)[edge[order]]].view(-1, 2)
    one, other = (order % size).unbind(1)
    differ = (sign[order[:, 0]] == sign[order[:, 1]]).long()
    if not bool(differ.any()):
        return faces, 0
    rows, columns = torch.cat([one, one + size]), torch.cat([other + size * differ, other + size * (1 - differ)])
    graph = coo_array((np.ones(len(rows), bool), (rows.numpy(), columns.numpy())), shape=(2 * size, 2 * size))
    label = torch.from_numpy(connected_components(graph, directed=False)[1]).long()
    kept, turned = label[:size], label[size:]
    lower = torch.minimum(kept, turned)  # one name for both ways to turn a piece
    flip = (turned < kept).long()
    many = torch.zeros(2 * size, dtype=torch.long).index_add(0, lower, flip)
    share = many / torch.bincount(lower, minlength=2 * size).clamp(1)
    flip = torch.where(share[lower] > 0.5, 1 - flip, flip).bool() & (kept != turned)  # equal: a piece with one side
    return torch.where(flip.unsqueeze(-1), faces.flip(-1), faces), int(flip.sum())


def _volume(points: Tensor, faces: Tensor) -> Tensor:
    a, b, c = (points - points.mean(0))[faces].unbind(1)
    return (a * torch.linalg.cross(b, c)).sum() / 6
