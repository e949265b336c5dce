"""R40: a resumed run equals the uninterrupted one step by step, bit for bit."""

import pytest

from applications.__main__ import main
from tests.applications.runs import fit, metrics, same_weights

_MODELS = ("fourier-imfn", "fourier-mfn", "isiren", "siren-inj")
_QUICK = (("fourier-imfn", "none"), ("isiren", "spectral"), ("fourier-mfn", "spectral"))


@pytest.mark.parametrize(
    ("model", "norm"),
    [
        pytest.param(model, norm, marks=() if (model, norm) in _QUICK else pytest.mark.slow)
        for model in _MODELS
        for norm in ("none", "spectral")
    ],
)
def test_in_two_parts(tmp_path, model, norm):
    options = ["--model", model, "--norm", norm, "--chunk", "100"]
    assert fit(tmp_path / "whole", *options, steps=7) == 0
    assert fit(tmp_path / "parts", *options, steps=3) == 0
    assert main(["resume", str(tmp_path / "parts"), "--steps", "7", "--quiet"]) == 0
    assert same_weights(tmp_path / "whole", tmp_path / "parts")
    assert metrics(tmp_path / "whole")["history"] == metrics(tmp_path / "parts")["history"]
    assert metrics(tmp_path / "whole")["psnr"] == metrics(tmp_path / "parts")["psnr"]


def test_a_finished_run_stays_as_it_is(tmp_path):
    assert fit(tmp_path / "a") == 0
    before = metrics(tmp_path / "a")
    assert main(["resume", str(tmp_path / "a"), "--quiet"]) == 0
    assert metrics(tmp_path / "a") == before
