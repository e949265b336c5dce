"""Small runs of the program for the tests: in this process, or in one of its own that can be killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from applications.__main__ import main

SMALL = ["--size", "16", "--width", "8", "--quiet", "--threads", "1", "--device", "cpu"]
HOME = Path(__file__).resolve().parents[2]


def fit(out: Path, *arguments: str, picture: str = "camera", steps: int = 4) -> int:
    """`implayer fit image` in this process."""
    return main(["fit", "image", picture, "--steps", str(steps), "--out", str(out), *SMALL, *arguments])


def start(*arguments: str) -> subprocess.Popen:
    """The program in a process of its own."""
    command = [sys.executable, "-m", "applications", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HOME)}
    return subprocess.Popen(
        command, cwd=HOME, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def step_of(out: Path) -> int:
    """The step of the checkpoint, or -1 where there is none yet."""
    from safetensors import safe_open

    path = out / "checkpoint.safetensors"
    if not path.exists():
        return -1
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["notes"])["step"]


def same_weights(one: Path, other: Path) -> bool:
    """Whether two runs ended with the same bits."""
    a, b = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def metrics(out: Path) -> dict:
    """The figures of a run."""
    return json.loads((out / "metrics.json").read_text())
