"""R54: a bad value, an unknown option, a missing file or extra: exit 2, one clear sentence, the nearest name."""

import sys

import pytest

from applications.__main__ import main
from applications.command_line import COMMANDS
from tests.applications.runs import fit


def code_of(arguments):
    """The exit code, also where the parser ends the program."""
    try:
        return main(arguments)
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "image", "camera", "--widht", "3"], ["--widht", "--width"]),
        (["fit", "image", "camera", "--width", "many"], ["many"]),
        (["fit", "image", "camera", "--model", "fourier-mfm"], ["fourier-mfn"]),
        (["fit", "image"], ["Missing"]),
        (["fit", "imag", "camera"], ["image"]),
        (["bench", "inr-imag"], ["perhaps `inr-image`"]),
        (["bench", "inr-image", "--chunk", "-3"], ["`--chunk` is -3", "or 0 for all at once"]),
        (["bench", "inr-image", "--steps", "0"], ["`--steps` holds `0`"]),
        (["bench", "nothing"], ["expected one of core, ", "inr-image"]),
        (["bench", "core", "--sizes", "3"], ["`--sizes` holds `3`", "`64x8`"]),
        (["bench", "deq", "--sizes", "8x0x"], ["`--sizes` holds `8x0x`"]),
        (["bench", "core", "--systems", "implayer Newtn"], ["perhaps `implayer Newton`"]),
        (["bench", "eigen", "--batches", "4x4"], ["`--batches` holds `4x4`", "`64x32x3`"]),
        (["bench", "qp", "--sizes", "1x10"], ["`--sizes` holds `1x10`"]),
        (["bench", "inr", "--official", "nosuch"], ["`--official nosuch` is no folder"]),
        (["bench", "core", "--reps", "0"], ["`--reps` is 0", "at least 1"]),
        (["fit", "image", "camera", "--width", "0"], ["`--width` is 0", "at least 1"]),
        (["fit", "image", "camera", "--size", "1"], ["`--size` is 1"]),
        (["fit", "image", "camera", "--learning-rate", "-1"], ["`--learning-rate` is -1.0", "positive"]),
        (["fit", "image", "camera", "--threads", "0"], ["`--threads` is 0"]),
        (["fit", "image", "camera", "--device", "gpu"], ["`--device gpu` cannot be used"]),
        (["fit", "image", "no-such-file.png"], ["`no-such-file.png` was not found", "camera"]),
        (["train", "level-set-shapes", "--data", "nowhere"], ["`--data` is `nowhere`, which is no folder"]),
        (["fit", "image", "kodim05.png", "--data", "nowhere"], ["`--data` is `nowhere`, which is no folder"]),
        (["resume", "no-such-run"], ["`no-such-run` is no folder"]),
        (["render", "no-such-run"], ["`no-such-run` is no folder"]),
        (["verify", "nonsense"], ["`package.module:layer` or `path/to/file.py:layer`"]),
        (["verify", "no_such_module:layer"], ["there is no module `no_such_module`"]),
    ],
)
def test_exit_2_with_a_sentence(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert code_of(arguments) == 2
    captured = capsys.readouterr()
    for word in words:
        assert word in captured.err + captured.out
    assert "Traceback" not in captured.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["idl-table1", "idl-fig4", "idl-fig6", "impsq-fig3", "impsq-fig4"])
def test_results_of_an_experiment_that_would_go_into_a_file(name, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main(["reproduce", name, "--out", str(tmp_path / "file"), "--threads", "1"]) == 2
    assert f"`--out {tmp_path / 'file'}` is no folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_nearest_file_of_the_data_root(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images" / "kodak").mkdir(parents=True)
    (tmp_path / "images" / "kodak" / "kodim05.png").write_bytes(b"")
    assert fit(tmp_path / "a", "--data", str(tmp_path), picture="kodim5.png") == 2
    assert "perhaps `kodim05.png`" in capsys.readouterr().err


def test_missing_extra(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    assert fit(tmp_path / "a") == 2
    assert "pip install 'implayer[apps]'" in capsys.readouterr().err


def test_help_of_every_command(capsys):
    for command in (
        ["--help"],
        ["fit", "image", "--help"],
        *([name, "--help"] for name in ("render", "resume", "eval", "demo")),
    ):
        assert code_of(command) == 0
        assert "implayer" in capsys.readouterr().out


def test_no_network_is_needed(tmp_path, monkeypatch):
    import socket

    def refused(*_):
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    assert fit(tmp_path / "a") == 0


def test_help_shows_the_examples(capsys: pytest.CaptureFixture[str]) -> None:
    """A docstring section titled `Examples` would be taken out of the help by its parser."""
    with pytest.raises(SystemExit):
        main(["fit", "image", "--help"])
    assert "implayer fit image camera" in capsys.readouterr().out
    for command in COMMANDS:
        assert "Examples:" not in (command.options.__doc__ or ""), command.words
