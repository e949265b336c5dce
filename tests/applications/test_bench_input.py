"""What the benchmarks of programs and eigenvectors refuse before they measure anything."""

import pytest

from tests.reliability.test_r54_command_line import code_of


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["qp", "--sizes", "1x5x9x0"], "9 equations for 5 unknowns"),
        (["qp", "--limit", "-1"], "`--limit` is -1.0; expected a positive number"),
        (["cvxpy", "--sizes", "1x5x9x0"], "9 equations for 5 unknowns"),
        (
            ["cvxpy", "--examples", "socp"],
            "`--examples` holds `socp`; expected some of soc, sdp, entropy, logistic; perhaps",
        ),
        (["cvxpy", "--batches", "0"], "`--batches` holds `0`"),
        (["cvxpy", "--batches", "a"], "`--batches` holds `a`"),
        (["eigen", "--batches", "2x3x5"], "5 pairs of 3 rows"),
    ],
)
def test_sizes_and_names(arguments, words, capsys):
    assert code_of(["bench", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_data_folder_that_is_none(tmp_path, capsys):
    arguments = ["--data", str(tmp_path / "none"), "--out", str(tmp_path / "run")]
    assert code_of(["train", "ncut", *arguments]) == 2
    assert "is no folder" in capsys.readouterr().err and not (tmp_path / "run").exists()
