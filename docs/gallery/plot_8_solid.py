"""
A solid as a function
=====================

``implayer fit occupancy`` learns from a mesh what lies inside it, ``implayer fit sdf`` its signed distance. Here: two linked
rings, whose mesh is itself the level set of a formula.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import implayer
from applications.__main__ import main

folder = Path(tempfile.mkdtemp())
line = torch.linspace(-1, 1, 64)
x, y, z = torch.meshgrid(line, line, line, indexing="ij")


def ring(across, along, up):
    """Negative inside a torus of radii 0.45 and 0.15."""
    return ((across**2 + along**2).sqrt() - 0.45).square() + up**2 - 0.15**2


rings = torch.minimum(ring(x + 0.22, y, z), ring(x - 0.22, z, y))
surface = implayer.LevelSetLayer(spacing=2 / 63, origin=-1.0)(rings)
surface.export(folder / "rings.ply")

options = ["--width", "48", "--steps", "150", "--batch", "2048", "--quiet"]
options += ["--scale", "12", "--rate-factor", "4", "--decay", "0.05"]  # smooth surfaces ask for low frequencies
main(["fit", "occupancy", str(folder / "rings.ply"), *options, "--out", str(folder / "run")])

# %%
# The mesh of the network, written as PLY (or OBJ, or GLB), and a picture of its normals.

view = ["--azimuth", "30", "--elevation", "30", "--size", "320", "--resolution", "48"]
files = ["--normals", str(folder / "normals.png"), "--out", str(folder / "learned.ply")]
main(["render", str(folder / "run"), *view, *files])

figure, axis = plt.subplots(figsize=(4, 4), layout="constrained")
axis.imshow(plt.imread(folder / "normals.png"))
axis.set(xticks=[], yticks=[])
plt.show()
