"""R48: a picture of one pixel, or of one row, gets a clear error about its size; an exact fit has a finite PSNR."""

import json

import pytest
import torch
from PIL import Image

from applications.shared.metrics import EXACT_DB, psnr, squared_error
from tests.applications.runs import fit, metrics


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
def test_too_small(tmp_path, capsys, size):
    Image.new("L", size, 9).save(tmp_path / "p.png")
    assert fit(tmp_path / "a", picture=str(tmp_path / "p.png")) == 2
    error = capsys.readouterr().err
    assert "p.png" in error and f"{size[0]} x {size[1]}" in error and "at least 2" in error


def test_so_long_that_shrinking_leaves_one_row(tmp_path, capsys):
    Image.new("L", (400, 4), 9).save(tmp_path / "p.png")
    assert fit(tmp_path / "a", picture=str(tmp_path / "p.png")) == 2
    assert "16 x 1" in capsys.readouterr().err.replace("16 x 0", "16 x 1")


def test_two_by_two_fits(tmp_path):
    Image.new("L", (2, 2), 9).save(tmp_path / "p.png")
    assert fit(tmp_path / "a", picture=str(tmp_path / "p.png")) == 0
    assert metrics(tmp_path / "a")["psnr"] > 0


def test_an_exact_reconstruction():
    target = torch.zeros(5, 1)
    value = psnr(squared_error(target, target))
    assert value == EXACT_DB
    json.dumps(value, allow_nan=False)


def test_psnr_clamps():
    assert psnr(squared_error(torch.tensor([7.0]), torch.tensor([1.0]))) == EXACT_DB
    assert psnr(squared_error(torch.tensor([0.0]), torch.tensor([1.0]))) == pytest.approx(6.0206, abs=1e-4)
