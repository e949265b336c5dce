"""R39: an output folder that is read-only, a file, a device or a link is refused before training."""

import os
import subprocess
import sys

import pytest

from tests.applications.runs import HOME, SMALL, fit


def test_a_file(tmp_path, capsys):
    (tmp_path / "a").write_text("mine")
    assert fit(tmp_path / "a") == 2
    assert "is no folder" in capsys.readouterr().err
    assert (tmp_path / "a").read_text() == "mine"


def test_a_link(tmp_path, capsys):
    (tmp_path / "real").mkdir()
    (tmp_path / "a").symlink_to(tmp_path / "real")
    assert fit(tmp_path / "a") == 2
    assert "is a link" in capsys.readouterr().err
    assert (tmp_path / "a").is_symlink() and not list((tmp_path / "real").iterdir())


def test_a_device(capsys):
    from pathlib import Path

    assert fit(Path(os.devnull)) == 2
    assert "is no folder" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_a_target_inside_that_is_no_file(tmp_path, capsys, kind):
    target = tmp_path / "a" / "checkpoint.safetensors"
    target.parent.mkdir()
    if kind == "link":
        target.symlink_to(tmp_path / "elsewhere")
    elif kind == "folder":
        target.mkdir()
    else:
        os.mkfifo(target)
    assert fit(tmp_path / "a") == 2
    assert "expected a regular file" in capsys.readouterr().err
    assert target.is_symlink() or target.exists()


def test_read_only(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a").chmod(0o555)
    command = [sys.executable, "-m", "applications", "fit", "image", "camera", "--out", str(tmp_path / "a"), *SMALL]
    options = {"cwd": HOME, "capture_output": True, "text": True, "env": {**os.environ, "HOME": str(tmp_path)}}
    if os.geteuid() == 0:  # the administrator may write anywhere
        pytest.skip("needs a user who is not root")
    done = subprocess.run(command, **options)
    assert done.returncode == 2 and "cannot be written to" in done.stderr


def test_a_run_is_not_replaced_unless_asked(tmp_path, capsys):
    assert fit(tmp_path / "a") == 0
    assert fit(tmp_path / "a") == 2
    assert "holds a run already" in capsys.readouterr().err
    assert fit(tmp_path / "a", "--overwrite") == 0
