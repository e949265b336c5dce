"""`implayer verify`: exit codes and sentences."""

import io
import sys
from pathlib import Path

import pytest

from implayer.verify.command import main

FILE = """
import torch
import implayer

x = torch.tensor([[0.3], [2.0]], dtype=torch.float64)
other = torch.tensor([[0.5]], dtype=torch.float64)

def F(x, y):
    return y**3 + y - x

layer = implayer.ImplicitLayer(F, implayer.Newton(), initial=torch.zeros_like)

class Wrong(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return layer(x).detach()
    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)
    @staticmethod
    def backward(ctx, g):
        return -g / (3 * ctx.saved_tensors[0] ** 2 + 1)

def wrong(x):
    return Wrong.apply(x)

def pair():
    return layer, other

def triple():
    return lambda x: layer(x), other, F

def broken(x):
    raise RuntimeError("mine")

number = 3
"""


@pytest.fixture(autouse=True)
def few_inputs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules["implayer.verify.check_layer"]._EXAMPLES, "quick", 2)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "own_layers.py"
    path.write_text(FILE, encoding="utf-8")
    return path


def call(target: str, **options) -> tuple[int, str]:
    out = io.StringIO()
    return main(target, out=out, orders=options.pop("orders", 1), **options), out.getvalue()


@pytest.mark.parametrize("name", ["layer", "pair", "triple"])
def test_sound(file: Path, name: str):
    code, text = call(f"{file}:{name}")
    assert code == 0 and "all properties hold" in text


def test_named_example(file: Path):
    assert call(f"{file}:layer", x="other")[0] == 0
    assert call(f"{file}:layer", x=f"{file}:other")[0] == 0


def test_planted_fault(file: Path):
    code, text = call(f"{file}:wrong")
    assert code == 1 and "gradient = finite differences" in text and "x = torch.tensor(" in text


def test_package(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(file.parent)
    monkeypatch.syspath_prepend(file.parent)
    assert call("own_layers:layer")[0] == 0


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("{file}", "expected `package.module:layer`"),
        ("{file}:layers", "did you mean `layer`"),
        ("{file}:number", "expected a layer"),
        ("{file}:Wrong", "is a class"),
        ("{file}:broken", "mine"),
        ("nowhere.py:layer", "no file"),
        ("no.such.module:layer", "no module"),
    ],
)
def test_wrong_usage(file: Path, target: str, words: str):
    code, text = call(target.format(file=file))
    assert code == 2 and words in text and len(text.strip().splitlines()) == 1


def test_no_example(tmp_path: Path):
    path = tmp_path / "bare.py"
    path.write_text("def layer(x):\n    return x\n", encoding="utf-8")
    code, text = call(f"{path}:layer")
    assert code == 2 and "`x`" in text
    path.write_text("import nonsense_that_is_not_there\n", encoding="utf-8")
    assert call(f"{path}:layer")[0] == 2
