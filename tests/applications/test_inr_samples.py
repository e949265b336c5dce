"""Pictures of which a part is learned from: generalisation, inpainting, super-resolution."""

import numpy as np
import pytest
import torch
from PIL import Image

from applications.__main__ import main
from applications.inr import fit as inr_fit
from applications.inr.config import ImageConfig
from applications.inr.grid import grid
from applications.inr.samples import places, samples_of
from applications.shared.errors import InputError
from applications.shared.pictures import Picture
from tests.applications.runs import fit, metrics, same_weights


def ramp(height=8, width=12):
    """A picture whose values are affine in the coordinates, so that means over squares lie on it, too."""
    return Picture((grid(height, width).sum(-1).reshape(height, width, 1) + 2) / 4, "ramp")


@pytest.mark.parametrize("kind", ["all", "even", "random", "blocks"])
def test_points_and_values_belong_together(kind):
    picture = ramp()
    samples = samples_of(picture, ImageConfig(samples=kind, block=4, keep=0.3))
    x = places(samples, 8, 12, torch.arange(len(samples.values)))
    torch.testing.assert_close((x.sum(-1) + 2) / 4, samples.values[:, 0].float(), rtol=0, atol=1e-6)


def test_even_rows_and_columns_and_odd_ones():
    samples = samples_of(ramp(), ImageConfig(samples="even"))
    learned = torch.zeros(96, dtype=torch.bool)
    learned[samples.rows] = True
    learned, tested = learned.reshape(8, 12), samples.tested.reshape(8, 12)
    assert learned.sum() == tested.sum() == 24 and not (learned & tested).any()
    assert learned[0, 0] and learned[2, 4] and tested[1, 1] and tested[7, 11]
    assert samples.scale == 12 / 2 / 2  # half as dense, as the 128 of the paper for half of 512


def test_random_pixels_and_the_others():
    samples = samples_of(ramp(60, 60), ImageConfig(samples="random", keep=0.2))
    assert len(samples.rows) == pytest.approx(720, abs=100)
    assert samples.tested is not None
    assert not samples.tested[samples.rows].any() and samples.tested.sum() + len(samples.rows) == 3600


def test_squares_that_do_not_fit_are_refused():
    assert len(samples_of(ramp(), ImageConfig(samples="blocks", block=3)).values) == 2 * 4
    with pytest.raises(InputError, match=r"`--block` is 9; expected at most 8"):
        samples_of(ramp(), ImageConfig(samples="blocks", block=9))


@pytest.mark.parametrize("kind", ["even", "random", "blocks"])
def test_runs(tmp_path, kind):
    assert fit(tmp_path / "a", "--samples", kind) == 0
    found = metrics(tmp_path / "a")
    assert found["psnr"] != found["psnr_of_all_pixels"] or kind == "blocks"
    assert (tmp_path / "a" / "given.png").stat().st_size > 50
    assert main(["render", str(tmp_path / "a"), "--size", "20", "--quiet"]) == 0
    fit(tmp_path / "b", "--samples", kind, steps=2)
    assert main(["resume", str(tmp_path / "b"), "--steps", "4", "--quiet"]) == 0
    assert same_weights(tmp_path / "a", tmp_path / "b")


def test_a_mask(tmp_path, capsys):
    mask = np.full((64, 64), 255, np.uint8)
    mask[16:32, 16:48] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    with_mask = ["--samples", "mask", "--mask", str(tmp_path / "mask.png")]
    assert fit(tmp_path / "a", *with_mask) == 0
    with Image.open(tmp_path / "a" / "given.png") as given:
        assert (np.asarray(given)[4:8, 4:12] == 128).all()
    assert main(["eval", str(tmp_path / "a")]) == 0
    capsys.readouterr()
    for arguments, words in (
        (["--samples", "mask"], "belong together"),
        (["--mask", str(tmp_path / "mask.png")], "belong together"),
        (["--samples", "random", "--keep", "1.5"], "`--keep` is 1.5"),
    ):
        assert fit(tmp_path / "b", *arguments) == 2
        assert words in capsys.readouterr().err
    Image.fromarray(mask[:, :20]).save(tmp_path / "mask.png")
    assert fit(tmp_path / "b", *with_mask) == 2 and "proportions" in capsys.readouterr().err
    Image.fromarray(np.full((64, 64), 255, np.uint8)).save(tmp_path / "mask.png")
    assert fit(tmp_path / "b", *with_mask) == 2 and "all white" in capsys.readouterr().err


def test_a_large_picture_is_told_of_mini_batches(tmp_path, monkeypatch, capsys):
    """Not where they are there already, nor where all pixels at once are what was asked for."""
    monkeypatch.setattr(inr_fit, "_MANY", 200)
    note = "`--preset tuned` takes some"
    for options, told in (([], True), (["--batch", "100"], False), (["--chunk", "0"], False)):
        assert fit(tmp_path / "-".join(["a", *options]), *options, steps=1) == 0
        said = capsys.readouterr()
        assert (note in said.out + said.err) is told
