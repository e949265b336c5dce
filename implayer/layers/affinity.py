"""The affinity matrix of two graphs in factorised form: one number for each pair of nodes and each pair of edges."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..errors import DeviceError, DtypeError, ShapeError
from ..types import Float


@dataclass(frozen=True)
class Affinity:
    r"""The symmetric matrix M of graph matching, by its factors; M itself is not formed.

    $$M = \operatorname{diag}(\operatorname{vec} K_p) + (G_1 \otimes G_2)\operatorname{diag}(\operatorname{vec} K_q)(H_1
      \otimes H_2)^\top,\qquad K_q = \begin{pmatrix} S & T \\ T & S \end{pmatrix}$$

    G and H are the node-edge incidences of tails and heads, every edge taken in both directions. An assignment X (n1, n2) is
    written row by row: entry (i, a) is unknown i * n2 + a, so M[(i, a), (j, b)] scores i -> a together with j -> b.

    **Arguments**

    - `nodes` (*batch, n1, n2): K_p, how well node i of the first graph fits node a of the second.
    - `edges` (*batch, m1, m2): S, how well edge (i, j) of the first graph fits edge (a, b) of the second.
    - `source` (m1, 2), `target` (m2, 2): the two ends of every edge, integers.
    - `turned` (*batch, m1, m2): T, the same for edge (b, a), which is edge (a, b) walked backwards. None (default) is
      `edges`: right where affinities come from lengths and not from directions.

    **Raises** `ShapeError` for an empty graph, ends that are no node, loops, and numbers that do not fit; `DtypeError`,
    `DeviceError`.

    **Reference** Zhou and De la Torre, "Factorized Graph Matching", PAMI 2016.

    **Example**: two triangles

    ```python
    triangle = torch.tensor([[0, 1], [1, 2], [0, 2]])
    M = implayer.Affinity(torch.zeros(3, 3), torch.eye(3), triangle, triangle)
    M.dense().shape                 # torch.Size([9, 9])
    ```
    """

    nodes: Tensor  # (*batch, n1, n2)
    edges: Tensor  # (*batch, m1, m2)
    source: Tensor  # (m1, 2)
    target: Tensor  # (m2, 2)
    turned: Tensor | None = None  # (*batch, m1, m2)

    def __post_init__(self) -> None:
        for name, count, other in (("source", -2, "edges"), ("target", -1, "edges")):
            ends = getattr(self, name)
            _check_ends(name, ends, self.nodes.shape[count] if self.nodes.ndim >= 2 else 0)
            if self.edges.ndim < 2 or self.edges.shape[count] != len(ends):
                raise ShapeError(
                    f"`{other}` has shape {tuple(self.edges.shape)}, but `{name}` has {len(ends)} edges; expected "
                    f"(*batch, {len(self.source)}, {len(self.target)})."
                )
        for name in ("edges", "turned"):
            value = getattr(self, name)
            if value is None:
                continue
            if value.dtype != self.nodes.dtype:
                raise DtypeError(f"`{name}` is {value.dtype} but `nodes` is {self.nodes.dtype}; expected one dtype.")
            if value.device != self.nodes.device:
                raise DeviceError(f"`{name}` is on {value.device} but `nodes` on {self.nodes.device}.")
            if value.shape != self.edges.shape or value.shape[:-2] != self.nodes.shape[:-2]:
                raise ShapeError(
                    f"`nodes` has shape {tuple(self.nodes.shape)} and `{name}` {tuple(value.shape)}; expected the same "
                    f"batch axes, and for `turned` the shape of `edges`."
                )

    @property
    def shape(self) -> tuple[int, int]:
        """(n1, n2)."""
        return self.nodes.shape[-2], self.nodes.shape[-1]

    @property
    def batch(self) -> tuple[int, ...]:
        """The batch axes."""
        return tuple(self.nodes.shape[:-2])

    def sample(self, index: int) -> "Affinity":
        """One pair of graphs, the batch axes counted as one."""
        parts = {name: getattr(self, name) for name in ("nodes", "edges", "turned")}
        parts = {name: None if t is None else t.reshape(-1, *t.shape[-2:])[index] for name, t in parts.items()}
        return replace(self, **parts)

    def double(self) -> "Affinity":
        """The same in float64."""
        turned = None if self.turned is None else self.turned.double()
        return replace(self, nodes=self.nodes.double(), edges=self.edges.double(), turned=turned)

    def _directed(self) -> Tensor:
        """K_q, (*batch, 2 m1, 2 m2). Not kept: it would lack its graph where it was first made by a solver."""
        turned = self.edges if self.turned is None else self.turned
        upper = torch.cat([self.edges, turned], -1)
        return torch.cat([upper, torch.cat([turned, self.edges], -1)], -2)

    @cached_property
    def _ends(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tails and heads of the directed edges of both graphs."""
        (tail, head), (tail2, head2) = self.source.unbind(-1), self.target.unbind(-1)
        return (
            torch.cat([tail, head]), torch.cat([head, tail]), torch.cat([tail2, head2]), torch.cat([head2, tail2]),
        )  # fmt: skip

    def product(self, X: Float[Tensor, "*axes n1 n2"]) -> Float[Tensor, "*axes n1 n2"]:
        """M X by gathering and scattering over pairs of edges; the axes before n1 broadcast against the batch."""
        tail, head, tail2, head2 = self._ends
        terms = X.index_select(-2, head).index_select(-1, head2) * self._directed()
        rows = terms.new_zeros(*terms.shape[:-2], self.shape[0], terms.shape[-1]).index_add(-2, tail, terms)
        out = terms.new_zeros(*terms.shape[:-2], *self.shape).index_add(-1, tail2, rows)
        return out + self.nodes * X

    def dense(self) -> Float[Tensor, "*batch n n"]:
        """M itself, n = n1 * n2: for small graphs."""
        tail, head, tail2, head2 = self._ends
        columns, n = self.shape[1], self.shape[0] * self.shape[1]
        rows = tail.unsqueeze(-1) * columns + tail2
        place = (rows * n + head.unsqueeze(-1) * columns + head2).reshape(-1)
        flat = self.nodes.new_zeros(*self.batch, n * n).index_add(-1, place, self._directed().flatten(-2))
        return flat.unflatten(-1, (n, n)) + torch.diag_embed(self.nodes.flatten(-2))

    def bound(self) -> Float[Tensor, "*batch"]:
        """At least the largest modulus of an eigenvalue: the largest sum of moduli of a row. No gradient goes there."""
        absolute = replace(
            self, nodes=self.nodes.detach().abs(), edges=self.edges.detach().abs(),
            turned=None if self.turned is None else self.turned.detach().abs(),
        )  # fmt: skip
        return absolute.product(torch.ones_like(absolute.nodes)).amax((-2, -1))


def _check_ends(name: str, ends: Tensor, nodes: int) -> None:
    if not isinstance(ends, Tensor) or ends.is_floating_point() or ends.ndim != 2 or ends.shape[-1] != 2:
        raise ShapeError(f"`{name}` is {ends!r}; expected integers (edges, 2): the two nodes of every edge.")
    if nodes < 1 or not len(ends):
        raise ShapeError(f"`{name}` is an empty graph ({nodes} nodes, {len(ends)} edges); expected at least one edge.")
    if int(ends.min()) < 0 or int(ends.max()) >= nodes:
        raise ShapeError(
            f"`{name}` has an edge to node {int(ends.max())}; expected 0 to {nodes - 1} for {nodes} nodes."
        )
    loops = (ends[:, 0] == ends[:, 1]).nonzero()
    if len(loops):
        raise ShapeError(f"`{name}`: edge {int(loops[0])} joins node {int(ends[int(loops[0]), 0])} with itself.")
