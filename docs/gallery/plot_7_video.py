"""
A video as a function
=====================

``implayer fit video`` reads a video or a folder of pictures; the coordinates are time, height and width. Here: rings that
run over a surface, in twelve frames.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Video
from PIL import Image

from applications.__main__ import main

folder = Path(tempfile.mkdtemp())
(folder / "frames").mkdir()
y, x = np.mgrid[-1:1:48j, -1:1:48j]


def rings(moment):
    """Brightness at a moment from 0 to 1."""
    radius = np.hypot(x - 0.5 + moment, y)
    return 0.5 + 0.5 * np.sin(14 * radius - 6 * moment) * np.exp(-1.5 * radius)


for number in range(12):
    Image.fromarray((255 * rings(number / 11)).astype(np.uint8)).save(folder / "frames" / f"{number:02}.png")

options = ["--width", "64", "--steps", "160", "--batch", "4096", "--frames", "0", "--quiet"]
options += ["--scale", "24", "--rate-factor", "4", "--decay", "0.05"]  # a smooth video asks for low frequencies
main(["fit", "video", str(folder / "frames"), *options, "--out", str(folder / "run")])

# %%
# Time is continuous: a frame can be drawn between two that were learned from.

pictures = {
    "frame 5": rings(5 / 11),
    "learned: frame 5.5": None,
    "true: frame 5.5": rings(5.5 / 11),
    "frame 6": rings(6 / 11),
}
second = 5.5 / 25  # pictures of a folder are taken as 25 a second
main(["render", str(folder / "run"), "--at", str(second), "--out", str(folder / "between.png"), "--quiet"])
pictures["learned: frame 5.5"] = plt.imread(folder / "between.png")
figure, axes = plt.subplots(1, 4, figsize=(11, 3), layout="constrained")
for axis, (title, picture) in zip(axes, pictures.items(), strict=True):
    axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
    axis.set(title=title, xticks=[], yticks=[])
plt.show()

# %%
# All of it, larger and with three times as many frames.

main(["render", str(folder / "run"), "--size", "96", "--rate", "75", "--out", str(folder / "fine.mp4"), "--quiet"])
Video(str(folder / "fine.mp4"), embed=True, html_attributes="controls loop")
