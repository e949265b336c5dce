"""
A sound as a function
=====================

``implayer fit audio`` does the same with time as the one coordinate. Here: a gliding tone with two partials, a third of a
second.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import soundfile
from IPython.display import Audio

from applications.__main__ import main

folder = Path(tempfile.mkdtemp())
rate = 12_000
time = np.arange(rate // 3) / rate
phase = 2 * np.pi * (300 * time + 900 * time**2)
sound = np.exp(-2 * time) * (np.sin(phase) + 0.5 * np.sin(2 * phase) + 0.25 * np.sin(3 * phase))
soundfile.write(folder / "glide.wav", (0.5 * sound).astype(np.float32), rate)

options = ["--width", "96", "--steps", "200", "--batch", "0", "--rate-factor", "4", "--decay", "0.05", "--quiet"]
options += [
    "--scale",
    "2000",
]  # 2.5 kHz is 2600 radians a unit, for time runs from -1 to 1; two frequencies are multiplied
main(["fit", "audio", str(folder / "glide.wav"), *options, "--out", str(folder / "run")])

# %%
# Curves and spectrograms of the target, of what became of it, and of the error.

figure, axis = plt.subplots(figsize=(11, 7.2), layout="constrained")
axis.imshow(plt.imread(folder / "run" / "comparison.png"))
axis.axis("off")
plt.show()

# %%
# A network can be played at another rate, here at four times that of the file.

main(["render", str(folder / "run"), "--rate", str(4 * rate), "--out", str(folder / "fine.wav"), "--quiet"])
samples, fine = soundfile.read(folder / "fine.wav")
Audio(samples, rate=fine)
