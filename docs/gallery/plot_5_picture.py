"""
A photograph as a function
==========================

``implayer fit image`` turns a picture into a network that maps places to colours; its hidden state solves a fixed-point
equation. Programs use the same commands through ``main``.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

from applications.__main__ import main

run = Path(tempfile.mkdtemp()) / "camera"
options = ["--size", "96", "--width", "96", "--steps", "120", "--rate-factor", "4", "--decay", "0.05", "--quiet"]
main(["fit", "image", "camera", *options, "--out", str(run)])

# %%
# The network is a function of continuous coordinates: it can be drawn at any size, in parts, and so can its derivatives, which
# are those of the fixed point, not of its iteration.

part = "0.35,0.05,0.75,0.45"
for what in ("values", "gradient"):
    picture = str(run / f"{what}.png")
    main(["render", str(run), "--size", "384", "--crop", part, "--what", what, "--out", picture, "--quiet"])

figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained")
shown = {
    "target": "target",
    "reconstruction": "reconstruction",
    "values": "a part, 4 times finer",
    "gradient": "its gradient",
}
for axis, (name, title) in zip(axes, shown.items(), strict=True):
    axis.imshow(plt.imread(run / f"{name}.png"), cmap="gray")
    axis.set(title=title, xticks=[], yticks=[])
plt.show()

# %%
# An export keeps eight bits of a weight.

main(["export", str(run), "--bits", "8", "--out", str(run / "small")])
