"""The experiments of the paper: paired claims, printed figures beside ours, runs that are gone on with."""

import json
import math

import numpy as np
import pytest
import soundfile
from PIL import Image

from applications.__main__ import main
from applications.inr.reproduce import experiments
from applications.inr.reproduce.printed import TABLE_1, TABLE_2
from applications.inr.reproduce.report import Claim, as_json, judge

TINY = ["--size", "8", "--steps", "2", "--width", "4", "--threads", "1", "--quiet"]


def test_claims_are_judged_by_pairs():
    found = {"a": [20.0, 30.0, 25.0], "b": [19.0, 29.0, 25.5]}
    judged = judge(Claim("a above b", "a", "b"), found)
    assert judged.holds and judged.difference == pytest.approx(0.5) and (judged.wins, judged.pairs) == (2, 3)
    assert judged.deviation == pytest.approx(np.std([1, 1, -0.5], ddof=1) / math.sqrt(3))
    assert not judge(Claim("a far above b", "a", "b", margin=0.6), found).holds
    assert judge(Claim("b within 1 dB of a", "b", "a", margin=-1.0), found).holds
    single = judge(Claim("", "a", "b"), {"a": [1.0], "b": [0.0]})
    assert math.isnan(single.deviation) and as_json([single])[0]["deviation"] is None


def test_the_printed_tables():
    assert len(TABLE_1["natural"]) == len(TABLE_1["text"]) == len(TABLE_2) == 18
    assert TABLE_1["text"]["gabor-imfn", "1L-512D"] == "28.07+-2.00"
    assert TABLE_2["gabor-mfn", "4L-1024D"] == "29.64+-0.81"


@pytest.mark.parametrize("name", ["impsq-fig4", pytest.param("impsq-fig5", marks=pytest.mark.slow)])
def test_experiments_on_the_camera_picture(tmp_path, capsys, name):
    arguments = ["reproduce", name, *TINY, "--families", "fourier", "--out", str(tmp_path / "a")]
    assert main(arguments) == 0
    found = json.loads((tmp_path / "a" / f"{name}.json").read_text())
    assert len(found["rows"]) == {"impsq-fig4": 4, "impsq-fig5": 6}[name]
    assert all(
        claim["holds"] == (claim["difference"] > 0) for claim in found["claims"] if "within" not in claim["text"]
    )
    assert (tmp_path / "a" / f"{name}.png").stat().st_size > 1000
    shown = capsys.readouterr().out
    assert "PSNR dB" in shown and ("holds" in shown or "DOES NOT" in shown)
    assert main([*arguments, "--steps", "3"]) == 0  # goes on with the runs that are there
    ends = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").glob("*/*.safetensors")}
    assert len(ends) == 2 * len(found["rows"])
    assert main([*arguments, "--steps", "3"]) == 0  # which have come to their end
    assert ends == {path: path.stat().st_mtime_ns for path in ends}


def test_solves_from_the_last_fixed_point_are_shorter(tmp_path):
    arguments = ["--size", "12", "--steps", "30", "--width", "16", "--threads", "1"]
    assert main(["reproduce", "impsq-fig3", *arguments, "--out", str(tmp_path / "a")]) == 0
    found = json.loads((tmp_path / "a" / "impsq-fig3.json").read_text())["evaluations"]
    warm, cold = found["from the last fixed point"], found["from zero"]
    assert len(warm) == len(cold) == 30 and warm[0] == cold[0] and sum(warm[5:]) < sum(cold[5:])


@pytest.mark.slow
def test_pictures_learned_from_a_quarter(tmp_path):
    for folder in ("images/kodak", "images/text"):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(2):
            values = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(values).save(tmp_path / folder / f"{number}.png")
    arguments = ["--families", "fourier", "--count", "2", "--data", str(tmp_path), "--out", str(tmp_path / "a")]
    assert main(["reproduce", "impsq-table1", *TINY, *arguments]) == 0
    for kind, cell in (("natural", "25.19+-3.64"), ("text", "27.19+-1.83")):
        found = json.loads((tmp_path / "a" / kind / f"impsq-table1-{kind}.json").read_text())
        assert found["paper"]["fourier-imfn 1L-8D"] == cell
        assert all(len(row["psnr"]) == 2 for row in found["rows"].values()) and len(found["claims"]) == 4


def test_curves_have_a_panel_for_each_family_and_one_colour_for_each_size():
    sizes = ("1L-8D", "1L-16D", "4L-8D")
    models = ("fourier-mfn", "fourier-imfn", "siren-inj", "isiren")
    runs = [{"history": {"psnr": [1.0, 2.0]}}, {"history": {"psnr": [3.0, 4.0]}}]
    panels = experiments._curves({f"{model} {size}": runs for model in models for size in sizes} | {"T = 1": runs})
    assert [len(panel.lines) for panel in panels] == [6, 6, 1]
    assert {line.group for line in panels[0].lines} == set(sizes)
    assert [line.dashed for line in panels[1].lines] == [True] * 3 + [False] * 3
    assert panels[0].lines[0].label == "explicit 1L-8D" and list(panels[2].lines[0].y) == [2.0, 3.0]


def test_sound(tmp_path):
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "gt_bach.wav", np.sin(np.arange(3000) / 9), 1200)
    arguments = ["--families", "siren", "--data", str(tmp_path), "--out", str(tmp_path / "a")]
    assert main(["reproduce", "impsq-audio", *TINY, *arguments]) == 0
    assert len(json.loads((tmp_path / "a" / "impsq-audio.json").read_text())["claims"]) == 3


def test_what_is_missing_is_named(tmp_path, capsys):
    assert main(["reproduce", "impsq-table2", *TINY, "--data", str(tmp_path), "--out", str(tmp_path / "a")]) == 2
    assert "bikes.mp4" in capsys.readouterr().err
    assert main(["reproduce", "impsq-table1", *TINY, "--data", str(tmp_path), "--out", str(tmp_path / "a")]) == 2
    assert "holds no pictures" in capsys.readouterr().err
    assert main(["reproduce", "impsq-fig5", *TINY, "--seeds", "0"]) == 2
    assert main(["reproduce", "impsq-fig5", *TINY, "--families", "furier"]) == 2
    assert "perhaps `fourier`" in capsys.readouterr().err
