"""Several networks on one signal: equal steps, time, parameters, memory; what is there is gone on with."""

import json

import pytest

from applications.__main__ import main
from applications.inr.compare.entrants import of_memory, of_parameters, parsed
from applications.inr.config import FieldConfig, ImageConfig
from applications.inr.models.build import build_model
from applications.shared.errors import InputError

SMALL = ["--size", "16", "--width", "8", "--steps", "3", "--quiet", "--threads", "1", "--device", "cpu"]


def test_networks_are_named_as_in_the_paper():
    found = parsed("fourier-imfn, siren:3,fourier-mfn:4:16", ImageConfig(width=8))
    assert [entrant.name for entrant in found] == ["fourier-imfn-1L-8D", "siren-3L-8D", "fourier-mfn-4L-16D"]
    for text, words in (
        ("fourier-imf", "perhaps `fourier-imfn`"),
        ("siren:0", "MODEL:DEPTH:WIDTH"),
        ("siren:1:2:3", "as "),
    ):
        with pytest.raises(InputError, match=words):
            parsed(text, ImageConfig())


def test_equal_parameters():
    config = of_parameters(FieldConfig(model="fourier-mfn", depth=4), 20_000, 2, 1, 8.0)
    counts = {
        width: sum(
            p.numel()
            for p in build_model(FieldConfig(model="fourier-mfn", depth=4, width=width), 2, 1, 8.0).parameters()
        )
        for width in (config.width - 1, config.width, config.width + 1)
    }
    assert min(counts, key=lambda width: abs(counts[width] - 20_000)) == config.width


def test_equal_memory():
    tried = []

    def measure(config):
        tried.append(config.width)
        return 10 + 0.5 * config.width

    assert of_memory(FieldConfig(width=64), 100, measure).width == pytest.approx(180, abs=8)
    assert len(tried) <= 4


def test_a_comparison(tmp_path, capfd):
    arguments = ["compare", "image", "camera", *SMALL, "--models", "fourier-imfn:1,fourier-mfn:2", "--seeds", "1"]
    assert main([*arguments, "--out", str(tmp_path / "c")]) == 0
    assert "fourier-imfn-1L-8D" in capfd.readouterr().out
    found = json.loads((tmp_path / "c" / "compare.json").read_text())["rows"]
    assert set(found) == {"fourier-imfn-1L-8D", "fourier-mfn-2L-8D"}
    for name, row in found.items():
        runs = [json.loads((tmp_path / "c" / name / f"seed-{seed}" / "metrics.json").read_text()) for seed in (0,)]
        assert row["psnr"] == pytest.approx(runs[0]["psnr"]) and row["runs"] == 1
    for name in ("curves.png", "comparison.png"):
        assert (tmp_path / "c" / name).stat().st_size > 1000
    before = (tmp_path / "c" / "fourier-mfn-2L-8D" / "seed-0" / "metrics.json").stat().st_mtime_ns
    assert main([*arguments, "--out", str(tmp_path / "c")]) == 0  # nothing is done twice
    assert (tmp_path / "c" / "fourier-mfn-2L-8D" / "seed-0" / "metrics.json").stat().st_mtime_ns == before
    assert main([*arguments, "--learning-rate", "0.1", "--out", str(tmp_path / "c")]) == 2
    assert "choose another `--out`" in capfd.readouterr().err
    assert main(["compare", "image", "camera", "--models", "siran"]) == 2
    capfd.readouterr()
    assert main(["compare", "image", "nosuch.png", "--out", str(tmp_path / "d")]) == 2
    assert capfd.readouterr().err.count("was not found") == 1  # not once for each network and seed


@pytest.mark.slow
@pytest.mark.parametrize("equal", ["time", "parameters", "memory"])
def test_equality(tmp_path, equal):
    models = ["--models", "fourier-imfn:1,fourier-mfn:4", "--seeds", "1", "--equal", equal]
    assert (
        main(
            [
                "compare",
                "image",
                "camera",
                *SMALL,
                "--size",
                "64",
                "--width",
                "64",
                *models,
                "--out",
                str(tmp_path / "c"),
            ]
        )
        == 0
    )
    first, second = json.loads((tmp_path / "c" / "compare.json").read_text())["rows"].values()
    if equal == "parameters":
        assert second["parameters"] == pytest.approx(first["parameters"], rel=0.1)
    elif equal == "time":
        assert second["steps"] < first["steps"]
    else:
        assert second["peak_memory_mb"] == pytest.approx(first["peak_memory_mb"], rel=0.5)


@pytest.mark.slow
@pytest.mark.parametrize(("signal", "score"), [("occupancy", "iou_near"), ("sdf", "chamfer_relative")])
def test_shapes(tmp_path, capfd, signal, score):
    models = ["--models", "fourier-imfn,siren:1:16", "--seeds", "2", "--preset", "smoke", "--steps", "60"]
    arguments = ["compare", signal, "torus", *models, "--threads", "1", "--quiet", "--out", str(tmp_path / "c")]
    assert main(arguments) == 0
    assert "comparison.png" in capfd.readouterr().out
    rows = json.loads((tmp_path / "c" / "compare.json").read_text())["rows"]
    assert set(rows) == {"fourier-imfn-1L-32D", "siren-1L-16D"}
    for row in rows.values():
        assert row[f"{score}_least"] <= row[score] <= row[f"{score}_most"]
    for name in ("curves.png", "comparison.png"):
        assert (tmp_path / "c" / name).stat().st_size > 1000
