"""R43: a pickle offered as weights is never executed; no option of the program changes that."""

import pathlib
import pickle

import torch

from applications.__main__ import main
from tests.applications.runs import fit


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_never_executed(tmp_path, capsys):
    assert fit(tmp_path / "a") == 0
    trap = tmp_path / "executed"
    for write in (
        lambda path: path.write_bytes(pickle.dumps(Malicious(trap))),
        lambda path: torch.save(Malicious(trap), path),
    ):
        for name in ("model.safetensors", "checkpoint.safetensors"):
            write(tmp_path / "a" / name)
        assert main(["render", str(tmp_path / "a"), "--size", "8"]) == 2
        assert main(["resume", str(tmp_path / "a"), "--steps", "9"]) == 2
        assert "Pickled weights are never loaded" in capsys.readouterr().err
    assert not trap.exists()
