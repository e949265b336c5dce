"""`--config FILE`: the configuration of a run, saved, edited and given back."""

import json

import pytest

from applications.__main__ import main
from tests.applications.runs import SMALL, fit, same_weights


def stored(out):
    return json.loads((out / "config.json").read_text())["config"]["config"]


def test_the_configuration_of_a_run_makes_the_same_run(tmp_path):
    assert fit(tmp_path / "a", "--model", "isiren", "--terms", "2") == 0
    again = ["fit", "image", "camera", "--config", str(tmp_path / "a" / "config.json")]
    assert main([*again, "--out", str(tmp_path / "b"), "--quiet", "--threads", "1", "--device", "cpu"]) == 0
    assert stored(tmp_path / "a") == stored(tmp_path / "b")
    assert same_weights(tmp_path / "a", tmp_path / "b")


def test_options_go_before_the_file_and_the_file_before_the_preset(tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps({"width": 6, "steps": 3, "scale": 7}))
    arguments = ["fit", "image", "camera", f"--config={tmp_path / 'mine.json'}", "--preset", "smoke", "--width", "5"]
    assert main([*arguments, "--size", "16", "--out", str(tmp_path / "a"), "--quiet"]) == 0
    found = stored(tmp_path / "a")
    assert (found["width"], found["steps"], found["scale"]) == (5, 3, 7)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"widht": 3}', "it has no `--widht`"),
        ('{"width": "many"}', "`--width` is 'many'"),
        ('{"model": "nosuch"}', "`--model` is 'nosuch'"),
        ("[1]", "holds a list"),
        ("{", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_other_files_are_refused(tmp_path, capsys, text, words):
    path = tmp_path / "mine.json"
    if text is not None:
        path.write_text(text)
    assert main(["fit", "image", "camera", "--config", str(path), "--out", str(tmp_path / "a"), *SMALL]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "a").exists()


def test_a_preset_of_another_command(tmp_path, capsys):
    assert main(["train", "mnist-qp", "--preset", "tuned", "--out", str(tmp_path / "a")]) == 2
    assert "`--preset` is tuned; this command has default, smoke, paper" in capsys.readouterr().err
