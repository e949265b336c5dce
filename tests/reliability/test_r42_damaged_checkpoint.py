"""R42: a checkpoint that is truncated, of another kind, architecture or newer version: a typed error says so."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from applications.__main__ import main
from applications.shared.checkpoint import load_tensors
from applications.shared.errors import CheckpointError
from tests.applications.runs import fit


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"GIF89a" + data]
)
def test_truncated_or_wrong_magic(tmp_path, capsys, damage):
    assert fit(tmp_path / "a") == 0
    path = tmp_path / "a" / "checkpoint.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    assert main(["resume", str(tmp_path / "a"), "--steps", "5"]) == 2
    error = capsys.readouterr().err
    assert str(path) in error and "truncated or damaged" in error


def test_newer_version(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(1)}, path, {"format": "99", "notes": "{}"})
    with pytest.raises(CheckpointError, match=r"format 99.*Update implayer"):
        load_tensors(path)


def test_other_architecture(tmp_path, capsys):
    assert fit(tmp_path / "a") == 0
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    config["config"]["config"]["width"] = 9
    (tmp_path / "a" / "config.json").write_text(json.dumps(config))
    assert main(["eval", str(tmp_path / "a")]) == 2
    error = capsys.readouterr().err
    assert "another architecture" in error and "has shape" in error


def test_missing_parts(tmp_path, capsys):
    assert fit(tmp_path / "a") == 0
    path = tmp_path / "a" / "checkpoint.safetensors"
    tensors = load_file(path)
    tensors.pop("rng")
    save_file(tensors, path, {"format": "1", "notes": json.dumps({"step": 1})})
    assert main(["resume", str(tmp_path / "a")]) == 2
    assert "lacks what a checkpoint holds" in capsys.readouterr().err


def test_no_run_at_all(tmp_path, capsys):
    assert main(["eval", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
