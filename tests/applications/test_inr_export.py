"""Exported networks: few bits, what they cost, what they are worth; parts and derivatives of pictures."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from applications.__main__ import main
from applications.inr.config import FieldConfig
from applications.inr.draw import Frame, draw, draw_part
from applications.inr.models.build import build_model
from applications.inr.values import derivatives_of
from applications.shared.quantise import quantised, restored
from tests.applications.runs import fit, metrics


def test_eight_bits_are_rounded_row_by_row():
    weights = torch.randn(20, 30, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 20).unsqueeze(1)
    state = {"w": weights, "thin": torch.randn(2, 30), "b": torch.randn(30), "n": torch.tensor(3)}
    few = quantised(state, 8)
    assert few["w"].dtype == torch.int8 and few["thin"] is state["thin"] and few["b"] is state["b"]
    again = restored(few, state)
    assert again.keys() == state.keys() and again["w"].dtype == state["w"].dtype
    largest = weights.abs().amax(1, keepdim=True)
    assert ((again["w"] - weights).abs() <= largest / 254 * (1 + 1e-6)).all()
    torch.testing.assert_close(restored(quantised(state, 16), state)["w"], weights, rtol=2**-10, atol=1e-6)
    assert all(
        torch.equal(a, b) for a, b in zip(restored(quantised(state, 32), state).values(), state.values(), strict=True)
    )
    zero = {"w": torch.zeros(9, 9)}
    assert restored(quantised(zero, 8), zero)["w"].abs().max() == 0


@pytest.mark.parametrize("norm", ["none", "spectral", "guard"])
def test_an_exported_network_is_drawn_and_evaluated(tmp_path, capsys, norm):
    out = tmp_path / "a"
    fit(out, "--width", "16", "--norm", norm)
    assert main(["export", str(out), "--bits", "8", "--out", str(tmp_path / "b"), "--threads", "1"]) == 0
    found = metrics(tmp_path / "b")
    size = (tmp_path / "b" / "model.safetensors").stat().st_size
    assert found["bytes"] == size and found["bits_per_sample"] == pytest.approx(8 * size / 256)
    assert found["psnr_before"] == pytest.approx(metrics(out)["psnr"], abs=0.01)
    assert f"{found['psnr']:.2f} dB" in (tmp_path / "b" / "card.md").read_text()
    assert main(["render", str(tmp_path / "b"), "--size", "8", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "b")]) == 0
    assert f"PSNR {found['psnr']:.2f} dB" in capsys.readouterr().out
    assert main(["export", str(out), "--out", str(tmp_path / "b")]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["export", str(out), "--out", str(out), "--overwrite"]) == 2
    assert main(["resume", str(tmp_path / "b"), "--steps", "9"]) == 2  # there is no checkpoint in it


def test_stored_fixed_points_spare_evaluations(tmp_path, capsys):
    fit(tmp_path / "a", "--width", "16")
    for name, more in (("plain", []), ("stored", ["--states-mb", "1"])):
        out = str(tmp_path / name)
        assert main(["export", str(tmp_path / "a"), "--bits", "32", "--out", out, "--threads", "1", *more]) == 0
        assert ("fixed points" in capsys.readouterr().out) == bool(more)
    found = metrics(tmp_path / "stored")
    assert found["solve_steps"] < found["solve_steps_before"] == metrics(tmp_path / "plain")["solve_steps"]
    assert found["state_bytes"] == (tmp_path / "stored" / "states.safetensors").stat().st_size <= 1.1 * 2**20
    assert found["psnr"] == pytest.approx(found["psnr_before"], abs=0.05)

    def drawn(name, *more):
        assert main(["render", str(tmp_path / name), "--size", "40", "--quiet", *more]) == 0
        return np.asarray(Image.open(tmp_path / name / "render-40x40.png")).astype(int)

    exact = drawn("plain")
    few = [np.abs(drawn(name, "--solve-steps", "1") - exact).mean() for name in ("stored", "plain")]
    assert few[0] < 2 and few[0] < 0.3 * few[1]
    assert main(["export", str(tmp_path / "a"), "--out", str(tmp_path / "stored"), "--overwrite", "--quiet"]) == 0
    assert not (tmp_path / "stored" / "states.safetensors").exists()


def test_wrong_stored_fixed_points_are_refused(tmp_path, capsys):
    fit(tmp_path / "explicit", "--width", "8", "--model", "fourier-mfn")
    run = str(tmp_path / "explicit")
    assert main(["export", run, "--states-mb", "1"]) == 2
    assert "has none" in capsys.readouterr().err
    assert main(["export", run, "--states-mb", "-1", "--out", str(tmp_path / "b")]) == 2
    assert main(["render", run, "--solve-steps", "0"]) == 2
    assert "`--solve-steps` is 0" in capsys.readouterr().err
    fit(tmp_path / "a", "--width", "8")
    (tmp_path / "a" / "states.safetensors").write_bytes(b"nothing")
    assert main(["render", str(tmp_path / "a"), "--size", "8"]) == 2
    assert "states.safetensors" in capsys.readouterr().err


def test_a_part_is_the_part_of_the_whole():
    model = build_model(FieldConfig(width=8), 2, 3, 4.0)
    whole, _ = draw(model, 12, 10)
    part, _ = draw_part(model, Frame(12, 10, range(3, 9), range(2, 7)))
    torch.testing.assert_close(part, whole[3:9, 2:7], rtol=0, atol=2e-3)


@pytest.mark.parametrize("model", ["isiren", "fourier-imfn", "siren-inj"])
def test_derivatives_are_exact(model):
    net = build_model(FieldConfig(model=model, width=8, tolerance=1e-12, max_solve_steps=500), 2, 2, 3.0, torch.float64)
    x, step = torch.rand(5, 2, dtype=torch.float64), 1e-4

    def values(points):
        return net(points)

    first = derivatives_of(net, 5, lambda index: x[index], laplacian=False)
    second = derivatives_of(net, 5, lambda index: x[index], laplacian=True)
    shifts = step * torch.eye(2, dtype=torch.float64)
    with torch.no_grad():
        up, down = ([values(x + sign * shift) for shift in shifts] for sign in (1, -1))
        slopes = torch.stack([(a - b) / (2 * step) for a, b in zip(up, down, strict=True)], -1)
        curves = sum(a + b - 2 * values(x) for a, b in zip(up, down, strict=True)) / step**2
    torch.testing.assert_close(first, slopes, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(second[..., 0], curves, rtol=1e-3, atol=1e-3 * float(curves.abs().max()))


def test_rendering_parts_and_derivatives(tmp_path, capsys):
    fit(tmp_path / "a")
    run = str(tmp_path / "a")
    assert (
        main(["render", run, "--size", "32", "--crop", "0.25,0,0.75,0.5", "--out", str(tmp_path / "c.png"), "--quiet"])
        == 0
    )
    with Image.open(tmp_path / "c.png") as part:
        assert part.size == (16, 16)
    for what in ("gradient", "laplacian"):
        assert main(["render", run, "--size", "16", "--what", what, "--quiet"]) == 0
        with Image.open(tmp_path / "a" / f"render-16x16-{what}.png") as drawn:
            assert np.asarray(drawn).std() > 5
    for crop in ("0,0,1", "0.5,0,0.5,1", "a,b,c,d", "0,0,2,1"):
        assert main(["render", run, "--crop", crop]) == 2
        assert "LEFT,TOP,RIGHT,BOTTOM" in capsys.readouterr().err
    assert math.isfinite(metrics(tmp_path / "a")["psnr"])
