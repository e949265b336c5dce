"""Compiled training steps: the same numbers, through T + 1 ways back, nothing else compiled, and who may ask for it."""

import dataclasses
import functools

import pytest
import torch
from torch._dynamo.utils import counters

from applications.__main__ import main
from applications.inr import check
from applications.inr.config import EXACT, FieldConfig, ImageConfig
from applications.inr.fit import PictureTask
from applications.inr.models import compiled
from applications.inr.models.build import build_model
from applications.inr.models.compiled import affine
from applications.inr.solid.config import SdfConfig
from applications.inr.solid.fit import DISTANCES
from applications.shared.errors import InputError
from applications.shared.pictures import Picture
from tests.applications.runs import SMALL, fit, metrics, same_weights, start

FAMILIES = ("fourier-imfn", "gabor-imfn", "isiren", "fourier-mfn", "gabor-mfn", "siren-inj")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def traced(monkeypatch):
    """torch.compile with all its parts but the last, which takes seconds: kernels."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))


def picture(size=16):
    axis = torch.linspace(0, 6, size, dtype=torch.float32)
    return Picture(0.5 + 0.4 * axis.sin()[:, None, None] * axis.cos()[None, :, None], "waves")


def config(**changes):
    return dataclasses.replace(ImageConfig(width=16, steps=6, size=16, chunk=100), **changes)


def trained(asked, steps=6):
    task = PictureTask(asked, picture(), CPU)
    return task, [task.step()["loss"] for _ in range(steps)]


@pytest.mark.parametrize("model", FAMILIES)
def test_steps_are_the_same(traced, model):
    (plain, losses), (fast, others) = (trained(config(model=model, compile=on)) for on in (False, True))
    assert others == pytest.approx(losses, rel=1e-4) and counters["stats"]["unique_graphs"] > 0
    assert not counters["graph_break"]  # one graph, or nothing would be fused
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(fast.model.state_dict()[name], value, rtol=1e-3, atol=1e-5)
    x = torch.rand(30, 2, dtype=torch.float32) * 2 - 1
    fast.model.load_state_dict(plain.model.state_dict())
    compilations = counters["stats"]["unique_graphs"]
    assert torch.equal(fast.model(x), plain.model(x)) and counters["stats"]["unique_graphs"] == compilations


@pytest.mark.parametrize("terms", [0, 2, 5])
def test_all_truncated_gradients(traced, terms):
    (_, losses), (_, others) = (trained(config(terms=terms, compile=on)) for on in (False, True))
    assert others == pytest.approx(losses, rel=1e-4)


def test_rounded_products_are_compiled_too(traced):
    (_, losses), (_, others) = (trained(config(precision="bf16", compile=on)) for on in (False, True))
    assert others == pytest.approx(losses, rel=1e-2) and not counters["graph_break"]


def test_a_run_with_kernels(tmp_path):
    """The real compiler, by the command; stopped and gone on with it ends with the same bits."""
    small = ["--model", "gabor-imfn", "--chunk", "100"]
    assert fit(tmp_path / "plain", *small, steps=6) == 0
    assert fit(tmp_path / "whole", *small, "--compile", steps=6) == 0
    assert fit(tmp_path / "part", *small, "--compile", steps=3) == 0
    torch._dynamo.reset()  # another process begins anew
    assert main(["resume", str(tmp_path / "part"), "--steps", "6", "--quiet"]) == 0
    assert same_weights(tmp_path / "whole", tmp_path / "part")
    assert not same_weights(tmp_path / "plain", tmp_path / "whole")
    assert not counters["graph_break"]


def test_a_bound_is_compiled_too(tmp_path):
    """In a process of its own, for here the library checks the types of its arguments, which no compiler can follow."""
    small = [*SMALL, "--model", "isiren", "--norm", "spectral", "--steps", "6"]
    process = start("fit", "image", "camera", "--compile", "--out", str(tmp_path / "fast"), *small)
    assert main(["fit", "image", "camera", "--out", str(tmp_path / "plain"), *small]) == 0
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0 and "graph break" not in said, said
    fast, plain = metrics(tmp_path / "fast"), metrics(tmp_path / "plain")
    assert fast["history"]["loss"] == pytest.approx(plain["history"]["loss"], rel=1e-4)


def test_phases_are_no_products_when_compiled():
    """So that TF32, which rounds products, cannot touch them."""
    offset, x, matrix = torch.randn(5), torch.randn(7, 3), torch.randn(3, 5)
    graphs = []

    def seen(graph, _):
        graphs.append([node.target for node in graph.graph.nodes if node.op == "call_function"])
        return graph.forward

    found = torch.compile(affine, backend=seen, dynamic=True)(offset, x, matrix)
    torch.testing.assert_close(found, affine(offset, x, matrix))
    assert len(graphs) == 1 and not any("mm" in str(target) for target in graphs[0])


def test_the_map_of_a_model_is_stored_as_before():
    plain, fast = (build_model(config(compile=on), 2, 1, 8.0).state_dict() for on in (False, True))
    assert plain.keys() == fast.keys()


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"model": "siren"}, "the families of the paper, not for siren"), ({"terms": EXACT}, "truncated gradients")],
)
def test_where_nothing_would_be_compiled_it_is_refused(changes, said):
    with pytest.raises(InputError, match=f"`--compile` is for {said}"):
        check.check_field(FieldConfig(compile=True, **changes))


def test_a_distance_takes_exact_gradients():
    with pytest.raises(InputError, match="`--compile`: a distance takes exact gradients"):
        DISTANCES.check(SdfConfig(compile=True))


def test_without_a_compiler_it_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    from torch._inductor import config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", ("no-such-compiler",))
    assert fit(tmp_path / "a", "--compile") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "`--compile` needs a C++ compiler" in said and not (tmp_path / "a").exists()
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: None)
    assert compiled.what_compiling_lacks(torch.device("cuda")) == "the package triton"
