"""The program in a process of its own: for runs whose peak of memory and whose time shall be their own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_HOME = str(Path(__file__).resolve().parents[2])


def run_program(arguments: Sequence[str]) -> int:
    """`implayer ARGUMENTS` in a new process; returns its exit code. It shows its progress and errors here."""
    path = os.pathsep.join(entry for entry in (_HOME, os.environ.get("PYTHONPATH")) if entry)
    command = [sys.executable, "-m", "applications", *arguments]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}).returncode
