"""R41: resuming with another configuration lists what differs, and needs `--allow-config-change`."""

from applications.__main__ import main
from tests.applications.runs import fit, metrics


def test_refused_with_a_list(tmp_path, capsys):
    assert fit(tmp_path / "a") == 0
    assert main(["resume", str(tmp_path / "a"), "--learning-rate", "0.5", "--terms", "2", "--seed", "0"]) == 2
    error = capsys.readouterr().err
    assert "`learning_rate` was None, asked for 0.5" in error and "`terms` was 1, asked for 2" in error
    assert "`seed`" not in error and "--allow-config-change" in error


def test_allowed_when_asked_for(tmp_path):
    assert fit(tmp_path / "a") == 0
    arguments = ["resume", str(tmp_path / "a"), "--learning-rate", "0.01", "--steps", "6", "--quiet"]
    assert main([*arguments, "--allow-config-change"]) == 0
    assert metrics(tmp_path / "a")["steps"] == 6


def test_fewer_steps_than_were_done(tmp_path, capsys):
    assert fit(tmp_path / "a") == 0
    assert main(["resume", str(tmp_path / "a"), "--steps", "2"]) == 2
    assert "has done 4 steps already" in capsys.readouterr().err
