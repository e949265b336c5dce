"""R49: a sound that is truncated, empty, broken or with NaN is a `SoundReadError`; stereo and high rates are read, and said."""

import numpy as np
import pytest
import soundfile
import torch

from applications.shared.errors import SoundReadError
from applications.shared.sounds import mixed_down, read_sound, write_sound


def tone(path, channels=1, rate=8000, count=800, subtype=None):
    t = np.arange(count)[:, None] / rate
    samples = 0.5 * np.sin(2 * np.pi * 440 * t + np.arange(channels))
    soundfile.write(path, samples, rate, subtype=subtype)
    return samples


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "header"])
def test_named(tmp_path, kind, suffix):
    tone(tmp_path / f"good{suffix}")
    whole = (tmp_path / f"good{suffix}").read_bytes()
    data = {"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"no sound", "header": whole[:50]}[kind]
    path = tmp_path / f"song{suffix}"
    path.write_bytes(data)
    with pytest.raises(SoundReadError, match=path.name):
        read_sound(path)


def test_the_number_that_is_missing_is_said(tmp_path):
    tone(tmp_path / "a.wav")
    (tmp_path / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:1000])
    with pytest.raises(SoundReadError, match=r"data has 956 bytes of 1600"):
        read_sound(tmp_path / "a.wav")


def test_no_samples(tmp_path):
    tone(tmp_path / "a.wav", count=0)
    with pytest.raises(SoundReadError, match="0 samples"):
        read_sound(tmp_path / "a.wav")


def test_nan_is_located(tmp_path):
    samples = np.zeros((10, 2), np.float32)
    samples[7, 1] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, 8000, subtype="FLOAT")
    with pytest.raises(SoundReadError, match="first at sample 7 of channel 1"):
        read_sound(tmp_path / "a.wav")


def test_stereo_is_kept_and_mixed_down_on_request(tmp_path):
    samples = tone(tmp_path / "a.wav", channels=2, subtype="DOUBLE")
    sound = read_sound(tmp_path / "a.wav")
    assert sound.samples.shape == (800, 2) and not sound.notes
    down = mixed_down(sound)
    torch.testing.assert_close(down.samples[:, 0], torch.from_numpy(samples.mean(1)).float())
    assert down.notes == ("2 channels are mixed down to one",)


def test_high_rates_and_long_files(tmp_path):
    tone(tmp_path / "a.wav", rate=192000, count=1920)
    sound = read_sound(tmp_path / "a.wav")
    assert sound.rate == 192000 and sound.seconds == pytest.approx(0.01)
    assert len(read_sound(tmp_path / "a.wav", seconds=0.005).samples) == 960
    assert len(read_sound(tmp_path / "a.wav", seconds=5.0).samples) == 1920
    with pytest.raises(SoundReadError, match="at most 1000 values"):
        read_sound(tmp_path / "a.wav", max_samples=1000)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_a_part_from_the_middle(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    tone(path, rate=8000, count=800)
    whole = read_sound(path).samples

    def part(start, seconds):
        return read_sound(path, start=start, seconds=seconds)

    assert torch.equal(part(0.05, 0.02).samples, whole[400:560])
    assert part(0.05, 0.02).notes == ("0.05 to 0.07 of 0.1 seconds are used",)
    assert torch.equal(part(0.05, 0.0).samples, whole[400:])
    assert len(part(0.05, 9.0).samples) == 400
    with pytest.raises(SoundReadError, match=rf"a{suffix}` lasts 0\.1 seconds; `--start` is 0\.1"):
        part(0.1, 0.02)


def test_only_the_part_that_is_used_is_decoded(tmp_path):
    """Of a file that is larger than the limit, with NaN before and after a part that is sound."""
    samples = np.full((2000, 1), np.nan, np.float32)
    samples[500:900] = 0.5
    soundfile.write(tmp_path / "a.wav", samples, 1000, subtype="FLOAT")
    assert len(read_sound(tmp_path / "a.wav", 1000, start=0.5, seconds=0.4).samples) == 400
    with pytest.raises(SoundReadError, match=r"has 1500 samples .* at most 1000"):
        read_sound(tmp_path / "a.wav", 1000, start=0.5)
    with pytest.raises(SoundReadError, match="first at sample 900 of channel 0"):
        read_sound(tmp_path / "a.wav", 1000, start=0.5, seconds=0.5)


@pytest.mark.parametrize(("suffix", "apart"), [(".wav", 0.0), (".flac", 2.0**-22)])
def test_round_trip(tmp_path, suffix, apart):
    samples = torch.rand(100, 2, dtype=torch.float32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    write_sound(tmp_path / f"a{suffix}", samples, 11025)
    again = read_sound(tmp_path / f"a{suffix}")
    assert again.rate == 11025
    torch.testing.assert_close(again.samples, samples, rtol=0, atol=apart)


def test_unknown_kinds_are_not_written(tmp_path):
    with pytest.raises(SoundReadError, match=r"\.flac"):
        write_sound(tmp_path / "a.mp5", torch.zeros(4, 1), 8000)
