"""Graph matching: graphs, data, the house's published figures, training, resuming, figures, wrong input."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from applications.__main__ import main
from applications.graph_matching import cmu_house
from applications.graph_matching.config import MatchingConfig
from applications.graph_matching.data import LANDMARKS, TRAINED, load_ducks, load_landmarks, load_sequence
from applications.graph_matching.graphs import GraphError, assignment, complete, delaunay, membership
from applications.graph_matching.model import Side, build_model, by_length, displacement_loss, gaussian
from applications.graph_matching.task import Graphs
from applications.graph_matching.visual import SmallNetwork, at_points
from applications.shared.checkpoint import save_tensors
from applications.shared.data import data_root
from applications.shared.errors import InputError
from implayer.layers.matching import SpectralMatchingLayer
from tests.applications.runs import same_weights

REAL = data_root(None) / "graph_matching"
needs_data = pytest.mark.skipif(not REAL.is_dir(), reason="the data root holds no graph_matching")
FAST = ["--quiet", "--threads", "1", "--device", "cpu"]


def wobbling(frames: int, n: int, noise: float = 2.0) -> np.ndarray:
    """Frames of n points that turn slowly and shake."""
    generator = np.random.default_rng(0)
    points = generator.random((n, 2)) * 200
    turned = []
    for frame in range(frames):
        angle = 0.002 * frame
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        turned.append(points @ rotation.T + noise * generator.standard_normal((n, 2)))
    return np.stack(turned).astype(np.float32)


def write_landmarks(root: Path, birds: int = 60) -> Path:
    """A small data root with sequences and birds."""
    folder = root / "graph_matching"
    folder.mkdir(parents=True)
    np.savez(folder / "cmu_house_hotel_points.npz", house=wobbling(111, 8), hotel=wobbling(101, 8))
    generator = np.random.default_rng(1)
    names = np.array([*LANDMARKS, "left eye"])
    shape = generator.random((len(names), 2)) * 100
    parts = np.ones((birds, len(names), 3), np.float32)
    parts[..., :2] = shape + 3 * generator.standard_normal((birds, len(names), 2))
    parts[0, 2, 2] = 0  # not visible
    parts[1, 3] = parts[1, 4]  # two landmarks in one place
    box = np.tile([0, 0, 120, 90], (birds, 1)).astype(np.float32)
    np.savez(folder / "cub200_parts.npz", parts=parts, bbox=box, part_names=names)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_landmarks(tmp_path / "data")


def train(root: Path, out: Path, *arguments: str) -> int:
    given = ["--data", str(root), "--out", str(out), "--batch", "2", *FAST, *arguments]
    return main(["train", "graph-matching", *given])


# Graphs


def test_delaunay_of_a_square_with_its_centre():
    points = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0.5, 0.4]])
    edges = {tuple(edge) for edge in delaunay(points).tolist()}
    assert edges == {(0, 1), (1, 2), (2, 3), (0, 3), (0, 4), (1, 4), (2, 4), (3, 4)}
    assert membership(torch.tensor(sorted(edges)), complete(5)).sum() == 8


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([[0, 0], [1, np.nan], [2, 1]], "point 1"),
        ([[0, 0], [1, 1]], "at least 3"),
        ([[0, 0], [1, 1], [2, 2], [3, 3]], "on one line"),
        ([[1, 1], [1, 1], [1, 1]], "on one line"),
        ([[0, 0], [1, 0], [0, 1], [1, 0]], "coincide"),
        ([[0, 0, 0], [1, 0, 0], [0, 1, 0]], "expected \\(points, 2\\)"),
        ([], "expected \\(points, 2\\)"),
    ],
)
def test_points_without_a_triangulation_are_refused(points, words):
    with pytest.raises(GraphError, match=words):
        delaunay(np.array(points, dtype=float), "landmarks")


def test_complete_graph():
    assert complete(4).shape == (6, 2)
    with pytest.raises(GraphError, match="no edge"):
        complete(1)


def test_assignment_is_the_best_one():
    X = torch.tensor([[0.9, 0.8, 0.0], [0.9, 0.1, 0.0]])
    assert assignment(X).tolist() == [1, 0]


# The model


def sides(n: int = 6):
    points = torch.from_numpy(wobbling(2, n)).double() / 50
    return [Side(each, delaunay(each.numpy())) for each in points]


def test_untrained_affinity_is_near_that_of_lengths():
    first, second = sides()
    model = build_model(MatchingConfig())
    with torch.no_grad():
        for parameter in model.affinity.edge[-1].parameters():
            parameter.zero_()
        learned, lengths = model.affinity(first, second), by_length(first, second)
    torch.testing.assert_close(learned.dense(), lengths.dense())


def test_learned_affinity_does_not_feel_the_direction_of_edges():
    first, second = sides()
    model = build_model(MatchingConfig(nodes=True))
    turned = Side(first.points, first.edges.flip(-1))
    torch.testing.assert_close(model.affinity(turned, second).dense(), model.affinity(first, second).dense())
    dense = model.affinity(first, second).dense()
    torch.testing.assert_close(dense, dense.mT)


def test_gaussian():
    a, b = torch.randn(3, 2), torch.randn(4, 2)
    torch.testing.assert_close(gaussian(a, b), torch.exp(-((a[:, None] - b) ** 2).sum(-1)))


@pytest.mark.parametrize("layer", ["sm", "smac", "pi"])
def test_gradient_of_the_whole_pipeline_is_that_of_differences(layer):
    first, second = sides()
    model = build_model(MatchingConfig(layer=layer, nodes=True, voting=20.0))

    def loss():
        return displacement_loss(model.vote(model(first, second), second), second.points)

    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss(), parameters)
    direction = [torch.randn_like(parameter) for parameter in parameters]
    slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))
    values = []
    with torch.no_grad():
        for step in (1e-5, -2e-5):
            for parameter, move in zip(parameters, direction, strict=True):
                parameter += step * move
            values.append(loss())
    torch.testing.assert_close(slope, (values[0] - values[1]) / 2e-5, rtol=1e-5, atol=1e-8)


def test_rows_of_the_assignment_sum_to_one():
    first, second = sides()
    for layer in ("sm", "smac", "pi"):
        X = build_model(MatchingConfig(layer=layer))(first, second)
        torch.testing.assert_close(X.sum(-1), torch.ones(6))


def test_features_at_points():
    maps = torch.zeros(2, 4, 6)
    maps[0, 1, 2] = maps[1, 3, 5] = 1.0
    found = at_points(maps, torch.tensor([[4.5, 2.5], [10.5, 6.5]]), (8, 12))  # a picture twice as large as the map
    torch.testing.assert_close(found, torch.eye(2))
    assert SmallNetwork(5)(torch.rand(16, 24), torch.rand(7, 2) * 16).shape == (7, 5)


# Data


def test_training_and_test_frames_are_apart(root):
    found = load_landmarks(MatchingConfig(), root)
    trained = set(found.train.first.tolist()) | set(found.train.second.tolist())
    tested = set(found.test.first.tolist()) | set(found.test.second.tolist())
    assert trained == set(range(*TRAINED)) and not trained & tested
    assert len(found.test) == 21 and bool((found.test.second - found.test.first == 90).all())


def test_birds_are_split_and_what_cannot_be_matched_left_out(root):
    found = load_landmarks(MatchingConfig(data_set="cub", train_pairs=100, test_pairs=20), root)
    assert found.points.shape == (58, 8, 2)
    trained = set(found.train.first.tolist()) | set(found.train.second.tolist())
    tested = set(found.test.first.tolist()) | set(found.test.second.tolist())
    assert not trained & tested and not bool((found.train.first == found.train.second).any())
    assert float(found.radius[0]) == 150.0


def test_second_points_are_shuffled(root):
    config = MatchingConfig()
    graphs = Graphs(load_landmarks(config, root))
    first, second, order = graphs.sides(graphs.landmarks.test, build_model(config))
    assert order.tolist() != list(range(8))
    unit = graphs.landmarks.unit[0]
    torch.testing.assert_close(first.points * unit, graphs.landmarks.points[graphs.landmarks.test.first[0]])
    torch.testing.assert_close(second.points[order] * unit, graphs.landmarks.points[graphs.landmarks.test.second[0]])
    ends = second.points[second.edges]
    assert len(torch.unique(second.edges)) == 8 and float((ends[:, 0] - ends[:, 1]).norm(dim=-1).min()) > 0


def test_missing_and_damaged_data(tmp_path):
    with pytest.raises(InputError, match=r"cmu_house_hotel_points\.npz` was not found"):
        load_sequence("house", tmp_path)
    (tmp_path / "graph_matching").mkdir()
    (tmp_path / "graph_matching" / "cub200_parts.npz").write_bytes(b"no archive")
    with pytest.raises(InputError, match="damaged"):
        load_landmarks(MatchingConfig(data_set="cub"), tmp_path)
    points = wobbling(111, 8)
    points[5, 3] = np.nan
    np.savez(tmp_path / "graph_matching" / "cmu_house_hotel_points.npz", house=points, hotel=points)
    with pytest.raises(GraphError, match="frame 5 of house: point 3"):
        load_sequence("house", tmp_path)
    with pytest.raises(InputError, match="willow_duck_1"):
        load_ducks(tmp_path)


@needs_data
def test_house_reaches_the_published_accuracies():
    """SM at gap 90 over all 21 pairs is .637; the plainly projected SMAC .870."""
    points, _ = load_sequence("house", data_root(None))
    graphs = [Side(one / 50, delaunay(one.numpy())) for one in points]
    shuffled = torch.randperm(30)
    pairs = [(graphs[first], graphs[first + 90]) for first in range(21)]
    for constraint, expected in (("norm", 0.637), ("one-to-one", 0.870)):
        layer = SpectralMatchingLayer(constraint)
        with torch.no_grad():
            found = cmu_house._accuracy(lambda a, b, layer=layer: layer(by_length(a, b)), pairs, shuffled)
        assert found == pytest.approx(expected, abs=5e-4)


@needs_data
@pytest.mark.slow
def test_learned_affinity_lifts_sm(tmp_path):
    run = tmp_path / "run"
    given = ["--preset", "smoke", "--out", str(run), *FAST]
    assert main(["train", "graph-matching", *given]) == 0
    assert json.loads((run / "metrics.json").read_text())["accuracy"] >= 95


@needs_data
def test_ducks(tmp_path):
    assert main(["reproduce", "idl-fig8", "--out", str(tmp_path), "--threads", "1"]) == 0
    found = json.loads((tmp_path / "idl-fig8.json").read_text())
    assert found["right"]["SM, edge vectors"] == found["right"]["SMAC, edge vectors"] == 10
    assert (tmp_path / "idl-fig8.png").exists()


# Commands


def test_train_evaluate_resume(root, tmp_path, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(root, whole, "--steps", "4", "--evaluate-every", "2") == 0
    assert train(root, parts, "--steps", "2", "--evaluate-every", "2") == 0
    assert main(["resume", str(parts), "--steps", "4", *FAST[:3]]) == 0
    assert same_weights(whole, parts)
    metrics = json.loads((whole / "metrics.json").read_text())
    assert {"accuracy", "pck", "step_time_ms", "history"} <= set(metrics) and len(metrics["history"]["pck"]) == 2
    assert (whole / "curves.png").exists()
    capsys.readouterr()
    assert main(["eval", str(whole), "--threads", "1"]) == 0
    assert f"accuracy {metrics['accuracy']:.1f} %" in capsys.readouterr().out


def test_training_lowers_the_loss(root, tmp_path):
    assert train(root, tmp_path / "run", "--steps", "12", "--data-set", "cub", "--test-pairs", "10") == 0
    loss = json.loads((tmp_path / "run" / "metrics.json").read_text())["history"]["loss"]
    assert sum(loss[-3:]) < 0.8 * sum(loss[:3])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "0"], "`--steps` is 0"),
        (["--voting", "0"], "`--voting` is 0"),
        (["--features", "vgg"], "belong together"),
        (["--features", "vgg", "--vgg", "nowhere.safetensors"], "nowhere.safetensors` is no file"),
        (["--features", "picture"], "house_images"),
        (["--features", "picture", "--data-set", "cub"], "`--data-set house` alone"),
    ],
)
def test_wrong_options(root, tmp_path, capsys, arguments, words):
    for number in range(0, 111, 10):
        if "vgg" in arguments:
            folder = root / "graph_matching" / "cmu_house_images"
            folder.mkdir(exist_ok=True)
            from PIL import Image

            Image.fromarray(np.full((30, 40), number, np.uint8)).save(folder / f"house.seq{number}.png")
    assert train(root, tmp_path / "run", *arguments) == 2
    assert words in capsys.readouterr().err


def test_wrong_weights_of_vgg(root, tmp_path, capsys):
    from PIL import Image

    folder = root / "graph_matching" / "cmu_house_images"
    folder.mkdir()
    for number in range(0, 111, 10):
        noise = np.random.default_rng(number).integers(0, 255, (48, 64)).astype(np.uint8)
        Image.fromarray(noise).save(folder / f"house{number:03d}.png")
    save_tensors(tmp_path / "vgg.safetensors", {"features.0.weight": torch.zeros(1)}, {})
    wrong = ["--features", "vgg", "--vgg", str(tmp_path / "vgg.safetensors")]
    assert train(root, tmp_path / "run", *wrong) == 2
    assert "'features.0.weight'" in capsys.readouterr().err
    assert train(root, tmp_path / "run", "--features", "picture", "--steps", "1") == 0
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["test_pairs"] == 3


def test_figures_of_small_data(root, tmp_path, capsys):
    out = str(tmp_path / "house")
    given = ["--data", str(root), "--out", out, "--every", "40", "--quiet", "--threads", "1"]
    assert main(["reproduce", "cmu-house", *given]) == 0
    table = capsys.readouterr().out
    assert "SM, published" in table and "0.637" in table
    written = json.loads((tmp_path / "house" / "cmu-house.json").read_text())
    assert written["ours"]["SM"][0] == written["hotel"]["SMAC"][0] == 1.0 and "SMAC, hotel, ours" in table
    times = ["reproduce", "idl-fig7", "--trials", "1", "--largest", "15", "--quiet", "--out", str(tmp_path / "seven")]
    assert main([*times, "--threads", "1"]) == 0
    rows = json.loads((tmp_path / "seven" / "idl-fig7.json").read_text())["rows"]
    assert [(row["layer"], row["points"]) for row in rows[:3]] == [("SM", 8), ("SMAC", 8), ("PI(5)", 8)]


@pytest.mark.slow
def test_learning_curves_of_all_layers(root, tmp_path):
    again = [
        "reproduce",
        "idl-fig6",
        "--data",
        str(root),
        "--out",
        str(tmp_path / "six"),
        "--steps",
        "1",
        "--batch",
        "2",
    ]
    assert main([*again, "--pairs", "4", "--quiet", "--threads", "1"]) == 0
    found = json.loads((tmp_path / "six" / "idl-fig6.json").read_text())["layers"]
    assert set(found) == {"SM", "SMAC", "PI(1)", "PI(5)", "PI(20)"}
    assert main([*again, "--pairs", "5", "--quiet"]) == 2
