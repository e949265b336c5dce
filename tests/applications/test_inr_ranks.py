"""Several processes that share one run: the result is that of one process, also after a stop."""

import os
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from applications.__main__ import main
from applications.shared.ranks import Ranks, ranks
from tests.applications.runs import HOME, SMALL, fit, metrics


def together(*arguments, count=2):
    """Python with these arguments in `count` processes, as torchrun starts them; what each printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for rank in range(count):
        place = {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HOME), **place}
        command = [sys.executable, *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(command, cwd=HOME, env=environment, **pipes))
    said = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0] * count, said
    return [out for out, _ in said]


def test_alone_nothing_happens():
    team = ranks()
    assert team.first and team.count == 1
    assert team.total({"a": 2.0}) == {"a": 2.0} and team.of_first("x") == "x" and team.at_first(3) == [3]
    tensor = torch.ones(2)
    team.add([tensor])
    assert torch.equal(tensor, torch.ones(2))


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_follow_each_other(count):
    shares = [Ranks(rank, count).share(20) for rank in range(count)]
    assert [number for share in shares for number in share] == list(range(20))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_processes_part_before_the_interpreter_ends():
    """Threads of the group that outlive it would abort the process in one exit of thirty."""
    program = """
import atexit, torch.distributed as distributed
from applications.shared.ranks import ranks
atexit.register(lambda: print(distributed.is_initialized()))  # the first to be registered, so the last to be called
print(ranks().total({"one": 1.0})["one"])
"""
    assert together("-c", program) == ["2.0\nFalse\n"] * 2


@pytest.mark.parametrize("batch", [pytest.param("0", marks=pytest.mark.slow), "100"])
def test_two_processes_make_what_one_makes(tmp_path, batch):
    arguments = ["--batch", batch, "--chunk", "60"]
    fit(tmp_path / "one", *arguments, steps=6)
    shared = ["fit", "image", "camera", "--out", str(tmp_path / "two"), *SMALL, *arguments]
    together("-m", "applications", *shared, "--steps", "3")
    together("-m", "applications", "resume", str(tmp_path / "two"), "--steps", "6", "--quiet")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-4, atol=1e-5)
    for a, b in zip(
        metrics(tmp_path / "one")["history"]["psnr"], metrics(tmp_path / "two")["history"]["psnr"], strict=True
    ):
        assert a == pytest.approx(b, abs=1e-3)
    # One process can go on with what two have begun: it solves anew for the fixed points.
    assert main(["resume", str(tmp_path / "two"), "--steps", "7", "--quiet"]) == 0
