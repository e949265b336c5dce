"""What a user can get wrong about a run: one clear sentence, exit code 2, nothing left behind. And how commands are found."""

import json
from pathlib import Path

import pytest

from applications.__main__ import main
from applications.command_line import COMMANDS
from applications.mnist_qp import data
from applications.shared.command import Command, choose
from tests.applications.runs import SMALL, fit
from tests.applications.test_mnist_qp import FAST, root, train  # noqa: F401
from tests.reliability.test_r54_command_line import code_of


@pytest.fixture
def offline(monkeypatch):
    def refused(url):
        raise OSError("no network")

    monkeypatch.setattr(data, "fetch", refused)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preset", "nosuch"], "paper"),
        (["--preset"], "--preset"),
        (["--learning-rate", "inf"], "`--learning-rate` is inf; expected a finite number."),
        (["--spread", "nan"], "`--spread` is nan; expected a finite number."),
        (["--checkpoint-seconds", "-1"], "`--checkpoint-seconds` is -1.0"),
        (["--checkpoint-seconds", "nan"], "`--checkpoint-seconds` is nan"),
        (["--seed", "-1"], "`--seed` is -1"),
        (["--seed", "99999999999999999999"], "expected at most"),
        (["--threads", "0"], "`--threads` is 0"),
        (["--device", "cuda:99"], "`--device cuda:99` cannot be used"),
    ],
)
def test_options_of_a_training(root, tmp_path, capsys, arguments, words):  # noqa: F811
    assert code_of(["train", "mnist-qp", "--data", str(root), "--out", str(tmp_path / "a"), *arguments]) == 2
    captured = capsys.readouterr()
    assert words in captured.err + captured.out and "Traceback" not in captured.err
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scale", "nan"], "`--scale` is nan"),
        (["--max-pixels", "0"], "`--max-pixels` is 0"),
        (["--checkpoint-seconds", "-1"], "`--checkpoint-seconds` is -1.0"),
    ],
)
def test_options_of_a_fit(tmp_path, capsys, arguments, words):
    assert fit(tmp_path / "a", *arguments) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--size", "1"], "`--size` is 1"),
        (["--steps", "0"], "`--steps` is 0"),
        (["--threads", "0"], "`--threads` is 0"),
        (["--out", "file"], "`--out file` is no folder"),
    ],
)
def test_options_of_the_demo(tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    assert main(["demo", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["idl-fig3", "--epochs", "0"], "`--epochs` is 0"),
        (["idl-fig4", "--trials", "0"], "`--trials` is 0"),
        (["idl-fig4", "--threads", "0"], "`--threads` is 0"),
        (["idl-fig4", "--out", "file"], "`--out file` is no folder"),
        (["idl-fig3", "--out", "file"], "`--out file` is no folder"),
        (["idl-fig5"], "idl-fig4"),
        ([], "idl-fig3"),
    ],
)
def test_options_of_a_figure(root, tmp_path, capsys, monkeypatch, arguments, words):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMPLAYER_DATA", str(root))
    Path("file").write_text("mine")
    assert code_of(["reproduce", *arguments]) == 2
    captured = capsys.readouterr()
    assert words in captured.err + captured.out


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("place", ["nowhere", "file", "file/inside"])
def test_a_data_root_that_is_none(tmp_path, capsys, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    assert main(["train", "mnist-qp", "--data-set", "mnist", "--data", place, "--out", "a", *FAST]) == 2
    assert f"MNIST was not found in `{place}`" in capsys.readouterr().err
    assert not Path("a").exists() and not Path("nowhere").exists()


@pytest.mark.parametrize("content", [b"no gzip", b""])
def test_a_damaged_file_of_digits(root, tmp_path, capsys, content):  # noqa: F811
    path = root / "mnist" / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(content)
    assert train(root, tmp_path / "a") == 2
    error = capsys.readouterr().err
    assert str(path) in error and "\n" not in error.strip()
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("kind", ["file", "link", "inside"])
def test_an_output_folder_that_is_none(root, tmp_path, capsys, kind):  # noqa: F811
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert train(root, tmp_path / "file" / "a" if kind == "inside" else tmp_path / kind) == 2
    assert "`--out" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine" and (tmp_path / "link").is_symlink()


def test_memory_that_does_not_suffice(root, tmp_path, capsys):  # noqa: F811
    assert train(root, tmp_path / "a", "--hidden", "100000000000") == 1
    assert "the memory does not suffice" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("command", ["resume", "eval"])
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"epochs": 1', '"epochs": "one"', "`epochs` is 'one'"),
        ('"epochs": 1', '"epochs": true', "`epochs` is True"),
        ('"implicit"', '"optnet"', "`layer` is 'optnet'"),
        ('"hidden"', '"hiden"', "hiden"),
        ('"threads"', '"treads"', "threads"),
        ('"task"', '"tusk"', "task"),
        ("{", "[", "cannot be read"),
    ],
)
def test_a_configuration_that_was_edited(root, tmp_path, capsys, command, old, new, words):  # noqa: F811
    assert train(root, tmp_path / "a", epochs=1) == 0
    path = tmp_path / "a" / "config.json"
    path.write_text(path.read_text().replace(old, new, 1))
    assert main([command, str(tmp_path / "a")]) == 2
    error = capsys.readouterr().err
    assert "config.json" in error and words in error


@pytest.mark.parametrize(
    "content", [[], 3, {"task": "mnist-qp", "config": 3}, {"task": "image", "config": {"config": 3}}]
)
def test_a_configuration_of_another_kind(tmp_path, capsys, content):
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert main(["resume", str(tmp_path)]) == 2
    assert "config.json" in capsys.readouterr().err


def test_the_command_is_that_of_the_run(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"task": "b", "config": {}}))
    first, second = (Command(("resume",), object, int, task) for task in ("a", "b"))
    assert choose([first, second], ["resume", str(tmp_path)]) == {("resume",): second}
    assert choose([first, second], ["eval", str(tmp_path)]) == {("resume",): first}
    assert choose([first, second], ["resume", "nowhere"]) == {("resume",): first}


def test_every_command_has_a_program_and_words_of_its_own():
    for command in COMMANDS:
        assert callable(command.program) and command.options.__doc__
    assert len({(command.words, command.task) for command in COMMANDS}) == len(COMMANDS)
    # One class for several kinds of run is told apart by the run, so that the words have to be the same.
    assert len({command.options for command in COMMANDS}) == len(
        {(command.words, command.options) for command in COMMANDS}
    )


def test_an_older_run_goes_on(tmp_path):
    """The files of a run keep their layout: what is about the data lies beside threads, device and configuration."""
    assert fit(tmp_path / "a") == 0
    stored = json.loads((tmp_path / "a" / "config.json").read_text())
    names = {"source", "height", "width", "channels", "max_pixels", "threads", "device", "config"}
    assert set(stored["config"]) == names | {"mask", "scale"} and stored["config"]["config"]["width"] == int(SMALL[3])
    for name in ("mask", "scale"):  # the first version did not have them
        del stored["config"][name]
    (tmp_path / "a" / "config.json").write_text(json.dumps(stored))
    assert main(["eval", str(tmp_path / "a")]) == 0
    assert main(["render", str(tmp_path / "a"), "--size", "8"]) == 0
    assert main(["resume", str(tmp_path / "a"), "--steps", "5"]) == 0
