"""R44: weights that hold NaN are refused with the name of the tensor, when they are loaded and when they are saved."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from applications.__main__ import main
from applications.shared.checkpoint import save_tensors
from applications.shared.errors import CheckpointWriteError
from tests.applications.runs import fit


def test_refused_when_loaded(tmp_path, capsys):
    assert fit(tmp_path / "a") == 0
    path = tmp_path / "a" / "model.safetensors"
    tensors = load_file(path)
    tensors["readout.weight"][0, 3] = torch.nan
    save_file(tensors, path, {"format": "1", "notes": "{}"})
    assert main(["render", str(tmp_path / "a"), "--size", "8"]) == 2
    error = capsys.readouterr().err
    assert "`readout.weight` holds NaN" in error and str(path) in error


def test_never_saved(tmp_path):
    path = tmp_path / "model.safetensors"
    save_tensors(path, {"a": torch.ones(2)}, {})
    before = path.read_bytes()
    with pytest.raises(CheckpointWriteError, match="`a` holds NaN"):
        save_tensors(path, {"a": torch.tensor([1.0, torch.nan])}, {})
    assert path.read_bytes() == before


def test_a_run_that_diverges_keeps_its_last_good_checkpoint(tmp_path, capsys):
    assert fit(tmp_path / "a", "--learning-rate", "1e30", "--checkpoint-seconds", "0", steps=50) == 1
    assert "Likely causes" in capsys.readouterr().err
    tensors = load_file(tmp_path / "a" / "checkpoint.safetensors")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
