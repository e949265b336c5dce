"""R38: a full disk: `CheckpointWriteError` with path and bytes; the old file stays; training goes on."""

import errno
import resource
import signal

import pytest
import torch

from applications.shared import files, training
from applications.shared.checkpoint import load_tensors, save_tensors
from applications.shared.errors import CheckpointWriteError
from tests.applications.runs import fit, metrics


@pytest.fixture
def small_files():
    """No file may grow beyond 64 KiB, as on a disk that is nearly full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_old_file_stays(tmp_path, small_files):
    path = tmp_path / "checkpoint.safetensors"
    save_tensors(path, {"a": torch.ones(3)}, {})
    with pytest.raises(
        CheckpointWriteError, match=r"checkpoint\.safetensors.*80000[0-9] bytes needed.*bytes free"
    ) as caught:
        save_tensors(path, {"a": torch.ones(100_000)}, {})
    assert isinstance(caught.value, OSError)
    assert torch.equal(load_tensors(path)[0]["a"], torch.ones(3))
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_training_goes_on(tmp_path, monkeypatch, capsys):
    real, calls = training.save_tensors, []

    def sometimes_full(path, tensors, notes):
        calls.append(path)
        if len(calls) == 2:
            raise CheckpointWriteError(
                f"`{path}` could not be written (no space): 9 bytes needed, 0 bytes free on its disk."
            )
        real(path, tensors, notes)

    monkeypatch.setattr(training, "save_tensors", sometimes_full)
    assert fit(tmp_path / "a", "--checkpoint-seconds", "0", steps=5) == 0
    assert "Training goes on" in capsys.readouterr().err
    assert metrics(tmp_path / "a")["steps"] == 5


def test_figures_that_cannot_be_written_end_the_run(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    assert fit(tmp_path / "a") == 1
    assert "No space left" in capsys.readouterr().err
    assert not list((tmp_path / "a").glob("*.partial"))
