"""
Two gauges of a level set
=========================

The surface of a field is one equation for two or three unknowns: it says how fast a point moves along its normal, and leaves
open how it slides. ``LevelSetLayer`` differentiates its vertices in two gauges. Here an ellipse grows: each arrow is the
velocity of a vertex under dφ = −1, by forward mode.
"""

import matplotlib.pyplot as plt
import torch
import torch.autograd.forward_ad as forward

import implayer

torch.set_default_dtype(torch.float64)
n, half = 13, 1.2
line = torch.linspace(-half, half, n)
x, y = torch.meshgrid(line, line, indexing="ij")
phi = ((x / 1.0) ** 2 + (y / 0.6) ** 2).sqrt() - 0.87  # not a distance: its gradient has another length everywhere


def velocities(gauge):
    layer = implayer.LevelSetLayer(gauge=gauge, ndim=2, spacing=2 * half / (n - 1), origin=-half)
    with forward.dual_level():
        curve = layer(forward.make_dual(phi, -torch.ones_like(phi)))
        vertices, velocity = forward.unpack_dual(curve.vertices)
    return implayer.Surface(vertices, curve.faces), velocity


# %%
# The vertices lie on grid edges. In the normal gauge (left) they move along the normal, as little as the equation allows. In
# the edge gauge (right) they stay on their edges, as the vertices that are computed do; where an edge is nearly tangent to the
# curve, its vertex runs along it.

figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
for axis, gauge in zip(axes, ("normal", "edge"), strict=True):
    curve, velocity = velocities(gauge)
    for value in line:
        axis.axvline(value, color="0.9", linewidth=0.8, zorder=0)
        axis.axhline(value, color="0.9", linewidth=0.8, zorder=0)
    ends = curve.corners()
    axis.plot(ends[:, :, 0].T, ends[:, :, 1].T, color="C0", linewidth=1.5)
    axis.quiver(*curve.vertices.T, *(0.2 * velocity.T), angles="xy", scale_units="xy", scale=1, color="C3", width=0.004)
    longest = float(velocity.norm(dim=-1).max())
    axis.set(title=f'gauge="{gauge}": longest {longest:.2f}', aspect="equal", xlim=(-half, half), ylim=(-0.9, 0.9))
plt.show()

# %%
# Their normal parts are equal, so a loss that depends on the shape alone has the same gradient by both, up to the error of the
# grid: the area inside the ellipse, π 0.6 c² at c = 0.87, grows at 3.28. The mean over the vertices is no such loss.

for gauge in ("normal", "edge"):
    curve, velocity = velocities(gauge)
    vertices = curve.vertices.clone().requires_grad_()
    (slope,) = torch.autograd.grad(implayer.Surface(vertices, curve.faces).volume(), vertices)
    (mean,) = torch.autograd.grad(vertices.square().sum(-1).mean(), vertices)
    print(f"{gauge:6}  area {float((slope * velocity).sum()):.3f}   mean |y|^2 {float((mean * velocity).sum()):.3f}")
