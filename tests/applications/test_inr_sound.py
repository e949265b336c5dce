"""Sounds as networks: fit, render at another rate, evaluate, go on; what is written can be read again."""

import math

import numpy as np
import pytest
import soundfile
import torch

from applications.__main__ import main
from applications.inr.audio.config import AudioConfig, natural_scale
from applications.inr.audio.data import load_sound, times
from applications.shared.errors import SoundReadError
from tests.applications.runs import metrics, same_weights

SMALL = ["--width", "8", "--quiet", "--threads", "1", "--device", "cpu"]


@pytest.fixture
def song(tmp_path):
    t = np.arange(400) / 8000
    soundfile.write(
        tmp_path / "song.wav", 0.25 * np.stack([np.sin(900 * t), np.cos(500 * t)], 1), 8000, subtype="FLOAT"
    )
    return tmp_path / "song.wav"


def fit(song, out, *arguments, steps=6):
    return main(["fit", "audio", str(song), "--steps", str(steps), "--out", str(out), *SMALL, *arguments])


def test_times_are_those_of_linspace():
    torch.testing.assert_close(
        times(torch.arange(7), 7, torch.float64)[:, 0], torch.linspace(-1, 1, 7, dtype=torch.float64)
    )
    assert natural_scale(308_207) == 25_000


def test_the_sound_is_scaled_to_its_largest_modulus(song):
    material = load_sound(str(song), AudioConfig(), None, 10**6)
    assert material.source.gain == pytest.approx(0.25, abs=1e-4) and material.source.channels == 2
    assert float(material.content.samples.abs().max()) == 1


def test_a_run(song, tmp_path, capsys):
    out = tmp_path / "a"
    assert fit(song, out, "--batch", "128") == 0
    for name in ("target.wav", "reconstruction.wav", "comparison.png", "curves.png", "model.safetensors"):
        assert (out / name).stat().st_size > 100
    found = metrics(out)
    target, rate = soundfile.read(out / "target.wav", always_2d=True)
    result, _ = soundfile.read(out / "reconstruction.wav", always_2d=True)
    assert rate == 8000 and target.shape == result.shape == (400, 2)
    gain = np.abs(target).max()
    assert found["psnr"] == pytest.approx(-10 * math.log10(np.mean(((target - result) / gain) ** 2)), abs=1e-3)
    assert main(["eval", str(out), "--threads", "1"]) == 0
    assert f"PSNR {found['psnr']:.2f} dB" in capsys.readouterr().out


def test_rendering_at_other_rates_meets_the_samples(song, tmp_path):
    out = tmp_path / "a"
    fit(song, out)
    assert main(["render", str(out), "--rate", "16000", "--out", str(tmp_path / "b.wav")]) == 0
    whole, _ = soundfile.read(out / "reconstruction.wav")
    twice, rate = soundfile.read(tmp_path / "b.wav")
    assert rate == 16000 and len(twice) == 799
    np.testing.assert_allclose(twice[::2], whole, atol=2e-3)  # two solves of tolerance 1e-3
    assert main(["render", str(out), "--start", "0.01", "--end", "0.02", "--out", str(tmp_path / "c.flac")]) == 0
    part, _ = soundfile.read(tmp_path / "c.flac")
    np.testing.assert_allclose(part, whole[80:161], atol=2e-3)


def test_a_run_goes_on_as_if_nothing_had_been(song, tmp_path):
    fit(song, tmp_path / "whole", "--batch", "128", steps=8)
    fit(song, tmp_path / "part", "--batch", "128", "--decay", "1", steps=4)
    assert main(["resume", str(tmp_path / "part"), "--steps", "8", "--quiet"]) == 0
    assert same_weights(tmp_path / "whole", tmp_path / "part")


@pytest.mark.parametrize("model", ["isiren", "gabor-imfn", "fourier-mfn", "siren"])
def test_models(song, tmp_path, model):
    assert fit(song, tmp_path / "a", "--model", model, "--mono", "--seconds", "0.02", steps=2) == 0
    assert metrics(tmp_path / "a")["samples"] == 160


def test_it_learns(song, tmp_path):
    assert fit(song, tmp_path / "a", "--width", "32", steps=60) == 0
    history = metrics(tmp_path / "a")["history"]["psnr"]
    assert history[-1] > history[0] + 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rate", "0"], "`--rate` is 0"),
        (["--start", "0.04", "--end", "0.01"], "0 <= start < end"),
        (["--out", "nowhere/a.wav"], "does not exist"),
        (["--out", "a.mp3"], ".wav or .flac"),
    ],
)
def test_rendering_refuses(song, tmp_path, capsys, arguments, words):
    fit(song, tmp_path / "a", steps=1)
    assert main(["render", str(tmp_path / "a"), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_silence_and_missing_files(tmp_path, capsys):
    soundfile.write(tmp_path / "still.wav", np.zeros(100), 8000)
    with pytest.raises(SoundReadError, match="silent: all 100 samples are zero"):
        load_sound(str(tmp_path / "still.wav"), AudioConfig(), None, 10**6)
    assert fit(tmp_path / "nosuch.wav", tmp_path / "a") == 2
    assert "expected a sound file" in capsys.readouterr().err
    assert fit(tmp_path / "still.wav", tmp_path / "a", "--seconds", "-1") == 2
    assert "`--seconds` is -1.0" in capsys.readouterr().err
