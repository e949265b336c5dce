"""The digits application: data, model, training, kill and resume, peers that are absent, and the figures it reproduces."""

import gzip
import hashlib
import json
import os
import signal
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from applications.__main__ import main
from applications.mnist_qp import data, reproduce
from applications.mnist_qp.config import MnistConfig
from applications.mnist_qp.data import load_digits
from applications.mnist_qp.model import QuadraticScores, build_model
from applications.mnist_qp.task import DigitTask, percent
from applications.shared.errors import InputError
from tests.applications.runs import metrics, same_weights, start, step_of
from tests.reliability.test_r54_command_line import code_of

CPU = torch.device("cpu")
FAST = ["--hidden", "16", "--batch", "20", "--quiet", "--threads", "1", "--device", "cpu"]  # 3 steps an epoch


def idx(array: np.ndarray) -> bytes:
    """An idx file of bytes."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def write_digits(folder: Path, train: int = 60, test: int = 30, shift: int = 0) -> Path:
    """The four files with pictures of 6 x 6 pixels in which the brightest column tells digits apart."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(shift)
    for kind, count in (("train", train), ("t10k", test)):
        labels = np.arange(count) % 10
        images = generator.integers(0, 60, (count, 36))
        images[np.arange(count), labels * 3] = 250
        for name, array in (("images-idx3", images.reshape(count, 6, 6)), ("labels-idx1", labels)):
            (folder / f"{kind}-{name}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_digits(tmp_path / "data" / "mnist")
    return tmp_path / "data"


@pytest.fixture
def offline(monkeypatch):
    def refused(url):
        raise OSError("no network")

    monkeypatch.setattr(data, "fetch", refused)


def train(root: Path, out: Path, *arguments: str, epochs: int = 2) -> int:
    return main(
        ["train", "mnist-qp", "--epochs", str(epochs), "--data", str(root), "--out", str(out), *FAST, *arguments]
    )


# Data


def test_digits_of_a_data_root(root):
    digits = load_digits("auto", root)
    assert digits.train.shape == (60, 36) and digits.test.shape == (30, 36) and digits.train.dtype == torch.uint8
    assert digits.train_labels[:11].tolist() == [*range(10), 0]
    pixels = digits.train.double() / 255
    assert digits.statistics() == pytest.approx((float(pixels.mean()), float(pixels.std(correction=0))))
    assert "other digits than MNIST" in digits.notes[0]


def test_unpacked_files_in_the_folders_of_torchvision(root, tmp_path):
    raw = tmp_path / "other" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in (root / "mnist").iterdir():
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    assert load_digits("mnist", tmp_path / "other").sha256 == load_digits("mnist", root).sha256


def test_mnist_itself():
    root = Path(os.environ.get("IMPLAYER_DATA", "../shared/data"))
    if not (root / "mnist").is_dir():
        pytest.skip("MNIST is not in the data root")
    digits = load_digits("mnist", root)
    assert digits.train.shape == (60000, 784) and digits.test.shape == (10000, 784) and not digits.notes
    assert digits.statistics() == pytest.approx((0.1307, 0.3081), abs=5e-5)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train-images-idx3-ubyte.gz", b"no gzip", "damaged"),
        ("train-images-idx3-ubyte.gz", gzip.compress(idx(np.zeros((60, 6, 6))))[:-20], "damaged"),
        ("train-images-idx3-ubyte.gz", gzip.compress(idx(np.zeros((60, 6, 6)))[:-1]), "cut short"),
        ("train-images-idx3-ubyte.gz", gzip.compress(b""), "no idx file"),
        ("train-images-idx3-ubyte.gz", gzip.compress(idx(np.zeros((59, 6, 6)))), "as many labels"),
        ("train-images-idx3-ubyte.gz", gzip.compress(idx(np.zeros((60, 5, 6)))), "the others are not"),
        ("t10k-labels-idx1-ubyte.gz", gzip.compress(idx(np.full(30, 11))), "no digits"),
    ],
    ids=[
        "no gzip",
        "end missing",
        "a byte missing",
        "empty",
        "fewer pictures",
        "other size",
        "no digits",
    ],  # not the time in a gzip
)
def test_files_that_cannot_be_used(root, name, content, words):
    (root / "mnist" / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        load_digits("mnist", root)


@pytest.mark.usefixtures("offline")
def test_missing_mnist_says_what_where_from_and_where_to(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(InputError) as caught:
        load_digits("auto", tmp_path)
    for words in ("train-images-idx3-ubyte.gz", data.MIRRORS[0], str(tmp_path / "mnist"), "--data DIR", "scikit-learn"):
        assert words in str(caught.value)
    with pytest.raises(InputError, match="pip install scikit-learn"):
        load_digits("digits", tmp_path)


@pytest.mark.usefixtures("offline")
def test_small_digits_where_mnist_is_missing(tmp_path, monkeypatch):
    images, labels = np.random.default_rng(0).integers(0, 17, (500, 64)), np.arange(500) % 10
    module = types.ModuleType("sklearn.datasets")
    module.load_digits = lambda: types.SimpleNamespace(data=images.astype(float), target=labels)
    monkeypatch.setitem(sys.modules, "sklearn", types.ModuleType("sklearn"))
    monkeypatch.setitem(sys.modules, "sklearn.datasets", module)
    digits = load_digits("auto", tmp_path)
    assert digits.name == "digits" and "MNIST was not found" in digits.notes[0]
    assert digits.train.shape == (140, 64) and digits.test.shape == (360, 64) and int(digits.train.max()) == 255
    with pytest.raises(InputError, match="could not be downloaded"):
        load_digits("mnist", tmp_path)


def test_download_with_checksums(root, tmp_path, monkeypatch):
    packed = {path.name: path.read_bytes() for path in (root / "mnist").iterdir()}
    sums = {name: hashlib.sha256(gzip.decompress(packed[f"{name}.gz"])).hexdigest() for name in data.SHA256}
    monkeypatch.setattr(data, "fetch", lambda url: packed[url.rsplit("/", 1)[1]])
    with pytest.raises(InputError, match="has the checksum"):
        load_digits("mnist", tmp_path / "new")
    assert not list((tmp_path / "new").rglob("*.gz"))
    monkeypatch.setattr(data, "SHA256", sums)
    digits = load_digits("mnist", tmp_path / "new")
    assert (
        digits.train.shape == (60, 36) and not digits.notes and len(list((tmp_path / "new" / "mnist").iterdir())) == 4
    )


# Model


@pytest.mark.parametrize("equations", [0, 1])
def test_gradients_of_the_programs(equations):
    scores = QuadraticScores(3, 2, equations, 1e-2, "implicit")
    q, rest = torch.randn(2, 3, requires_grad=True), torch.randn(2, scores.rest, requires_grad=True)
    names = [name for name, _ in scores.named_parameters()]

    def z(q, rest, *parameters):
        found = torch.func.functional_call(scores, dict(zip(names, parameters, strict=True)), (q, rest))
        assert bool(found.solved.all())
        return found.z

    parameters = tuple(p.detach().requires_grad_() for p in scores.parameters())
    assert torch.autograd.gradcheck(z, (q, rest, *parameters))


def test_scores_satisfy_the_program():
    scores = QuadraticScores(10, 10, 0, 1e-4, "implicit")
    q = 3 * torch.rand(50, 10)
    z = scores(q, q[:, :0]).z
    h = scores.G @ scores.z0 + scores.s0
    assert bool((z @ scores.G.mT <= h + 1e-9).all())
    lower = scores.L.tril()
    Q = lower @ lower.mT + 1e-4 * torch.eye(10)
    free = -torch.linalg.solve(Q, q.mT).mT
    inside = (free @ scores.G.mT < h).all(-1)
    torch.testing.assert_close(z[inside], free[inside])
    assert not bool(inside.all())


def test_a_program_without_solution_is_left_out():
    scores = QuadraticScores(2, 2, 1, 1e-2, "implicit")
    with torch.no_grad():
        scores.G.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))  # -1 <= z_0 <= 1
    rest = torch.zeros(3, scores.rest)
    rest[:, 3] = 1  # z_0 = b
    rest[1, 5] = 5
    q = torch.rand(3, 2, requires_grad=True)
    found = scores(q, rest)
    assert found.solved.tolist() == [True, False, True] and found.digits[1] == -1
    assert bool(found.z[1].isnan().all())
    gradients = torch.autograd.grad(found.z[found.solved].square().sum(), [q, *scores.parameters()])
    alone = scores(q[::2], rest[::2])
    expected = torch.autograd.grad(alone.z.square().sum(), [q, *scores.parameters()])
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_equal_weights_whatever_the_layer_and_the_seed_decides():
    one, other = (build_model(MnistConfig(hidden=8, seed=seed), 36) for seed in (0, 0))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    third = build_model(MnistConfig(hidden=8, seed=1), 36)
    assert not torch.equal(one.inner.weight, third.inner.weight)
    assert sum(p.numel() for p in one.scores.parameters()) == 220  # as OptNet


@pytest.mark.parametrize("changes", [{}, {"learn_all": True}, {"batch_norm": True}, {"last_relu": True}])
def test_training_lowers_the_loss(root, changes):
    task = DigitTask(MnistConfig(hidden=64, batch=60, decay=1, **changes), load_digits("mnist", root), CPU)
    losses = [task.step()["loss"] for _ in range(30)]
    assert losses[1] < losses[0] and losses[-1] < 0.8 * losses[0]
    assert task.unsolved == 0


def test_percent():
    assert percent(torch.tensor([True, False, True, True])) == 75


# Runs


def test_what_a_run_leaves(root, tmp_path, capsys):
    assert train(root, tmp_path / "a") == 0
    found = metrics(tmp_path / "a")
    assert found["steps"] == 6 and found["steps_of_an_epoch"] == 3
    assert len(found["history"]["loss"]) == 6 and len(found["history"]["test_accuracy"]) == 2
    assert found["accuracy"] == found["history"]["test_accuracy"][-1]
    assert found["degenerate"] == found["unsolved"] == 0 and found["parameters_of_the_layer"] == 220
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {"config.json", "metrics.json", "model.safetensors", "checkpoint.safetensors", "curves.png"}
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "a"), "--device", "cpu"]) == 0
    assert f"test accuracy {found['accuracy']:.2f} %" in capsys.readouterr().out


@pytest.mark.parametrize("option", [(), ("--learn-all",), ("--batch-norm",)])
def test_in_two_parts(root, tmp_path, option):
    assert train(root, tmp_path / "whole", *option, epochs=3) == 0
    assert train(root, tmp_path / "parts", *option, epochs=1) == 0
    assert main(["resume", str(tmp_path / "parts"), "--epochs", "3", "--quiet"]) == 0
    assert same_weights(tmp_path / "whole", tmp_path / "parts")
    assert metrics(tmp_path / "whole")["history"] == metrics(tmp_path / "parts")["history"]


def stopped(root: Path, out: Path, number: signal.Signals) -> int:
    """Send a signal to a training in the midst of an epoch; returns the exit code."""
    options = [*FAST, "--checkpoint-seconds", "0", "--epochs", "100000", "--data", str(root), "--out", str(out)]
    process = start("train", "mnist-qp", *options)
    begin = time.monotonic()
    while step_of(out) <= 3:
        assert process.poll() is None and time.monotonic() - begin < 240, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=120)
    return process.returncode


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl-c"])
def test_stopped_and_resumed_it_ends_as_an_uninterrupted_one(root, tmp_path, number):
    code = stopped(root, tmp_path / "a", number)
    assert code == (130 if number == signal.SIGINT else -signal.SIGKILL)
    epochs = step_of(tmp_path / "a") // 3 + 2
    assert main(["resume", str(tmp_path / "a"), "--epochs", str(epochs), "--quiet"]) == 0
    assert train(root, tmp_path / "b", epochs=epochs) == 0
    assert same_weights(tmp_path / "a", tmp_path / "b")


def test_resume_refuses_other_options_and_other_digits(root, tmp_path, capsys):
    assert train(root, tmp_path / "a") == 0
    assert main(["resume", str(tmp_path / "a"), "--learning-rate", "0.5"]) == 2
    assert "`learning_rate` was 0.001, asked for 0.5" in capsys.readouterr().err
    assert main(["resume", str(tmp_path / "a"), "--epochs", "1"]) == 2
    assert "has done 6 steps already" in capsys.readouterr().err
    write_digits(tmp_path / "other" / "mnist", shift=1)
    assert main(["resume", str(tmp_path / "a"), "--data", str(tmp_path / "other")]) == 2
    assert "not those that the run began with" in capsys.readouterr().err
    assert main(["render", str(tmp_path / "a")]) == 2
    assert "holds a run of `mnist-qp`" in capsys.readouterr().err


@pytest.mark.parametrize("layer", ["qpth", "cvxpylayers"])
def test_a_peer_that_is_not_installed(root, tmp_path, capsys, monkeypatch, layer):
    for name in (layer, f"{layer}.qp", f"{layer}.torch"):
        monkeypatch.setitem(sys.modules, name, None)
    assert train(root, tmp_path / "a", "--layer", layer) == 2
    error = capsys.readouterr().err
    assert f"`--layer {layer}` needs the package `{layer}`" in error and "--layer implicit" in error
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epochs", "0"], "`--epochs` is 0"),
        (["--batch", "0"], "`--batch` is 0"),
        (["--epsilon", "0"], "`--epsilon` is 0.0"),
        (["--spread", "-1"], "`--spread` is -1.0"),
        (["--learn-all", "--equations", "10"], "`--equations` is 10"),
        (["--batch-norm", "--batch", "1"], "must be more than 1"),
        (["--layer", "optnet"], "qpth"),
        (["--epoch", "3"], "--epochs"),
    ],
)
def test_wrong_options(root, tmp_path, capsys, arguments, words):
    assert code_of(["train", "mnist-qp", "--data", str(root), "--out", str(tmp_path / "a"), *arguments]) == 2
    captured = capsys.readouterr()
    assert words in captured.err + captured.out and "Traceback" not in captured.err
    assert not (tmp_path / "a").exists()


def test_help(root, tmp_path, capsys):
    assert train(root, tmp_path / "a", epochs=1) == 0
    run = str(tmp_path / "a")
    for arguments, option in (
        (["train", "mnist-qp", "--help"], "--learn-all"),
        (["resume", run, "--help"], "--epochs"),
        (["eval", run, "--help"], "--data"),
        (["reproduce", "--help"], "idl-fig4"),
    ):
        assert code_of(arguments) == 0
        assert option in capsys.readouterr().out


# Figures


@pytest.fixture
def only_ours(monkeypatch):
    monkeypatch.setattr(reproduce, "installed", lambda layer: layer == "implicit")


@pytest.mark.usefixtures("only_ours")
def test_figure_3(root, tmp_path, capsys):
    arguments = ["reproduce", "idl-fig3", "--epochs", "1", "--data", str(root), "--out", str(tmp_path), "--quiet"]
    assert main(arguments) == 0
    assert "qpth is not installed" in capsys.readouterr().out
    found = json.loads((tmp_path / "idl-fig3.json").read_text())
    assert found["paper_accuracy"] == 98.14 and len(found["layers"]["implicit"]["history"]["test_accuracy"]) == 1
    assert (tmp_path / "idl-fig3.png").stat().st_size > 1000
    arguments[3] = "2"
    assert main(arguments) == 0  # goes on with the run that is there
    assert len(json.loads((tmp_path / "idl-fig3.json").read_text())["layers"]["implicit"]["history"]["loss"]) == 2
    assert main([*arguments, "--seed", "1"]) == 2
    assert "choose another `--out`" in capsys.readouterr().err


@pytest.mark.usefixtures("only_ours")
def test_figure_4(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, "SIZES", (3, 5))
    assert main(["reproduce", "idl-fig4", "--trials", "2", "--out", str(tmp_path), "--quiet"]) == 0
    rows = json.loads((tmp_path / "idl-fig4.json").read_text())["rows"]
    assert [row["parameters"] for row in rows] == [24, 60, 24, 60] and all(row["trials"] == 2 for row in rows)
    assert (tmp_path / "idl-fig4.png").stat().st_size > 1000
