"""R36: Ctrl-C once finishes the step, saves and says how to go on (exit 130); twice stops now, checkpoint valid."""

import signal
import time

import pytest

from tests.applications.runs import SMALL, fit, same_weights, start, step_of

LONG = ["fit", "image", "camera", *SMALL, "--checkpoint-seconds", "0.2"]


def interrupted(out, steps, signals, pause=0.01):
    process = start(*LONG, "--steps", str(steps), "--out", str(out))
    begin = time.monotonic()
    while step_of(out) <= 0:
        assert process.poll() is None and time.monotonic() - begin < 240, process.communicate()[1]
        time.sleep(0.05)
    for _ in range(signals):
        process.send_signal(signal.SIGINT)
        time.sleep(pause)
    _, errors = process.communicate(timeout=240)
    return process.returncode, errors


def test_once_saves_and_the_resumed_run_ends_as_an_uninterrupted_one(tmp_path):
    code, errors = interrupted(tmp_path / "a", 100_000, 1)
    assert code == 130 and f"implayer resume {tmp_path / 'a'}" in errors
    step = step_of(tmp_path / "a")
    assert step > 0 and (tmp_path / "a" / "model.safetensors").exists()
    from applications.__main__ import main

    assert main(["resume", str(tmp_path / "a"), "--steps", str(step + 5), "--quiet"]) == 0
    assert fit(tmp_path / "b", steps=step + 5) == 0
    assert same_weights(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(("signals", "pause"), [(3, 0.01), (60, 0.02)])  # the many reach into the end of the process
def test_twice_leaves_a_valid_checkpoint(tmp_path, signals, pause):
    code, errors = interrupted(tmp_path / "a", 100_000, signals, pause)
    assert code == 130, errors
    from applications.__main__ import main

    assert main(["resume", str(tmp_path / "a"), "--steps", str(step_of(tmp_path / "a") + 2), "--quiet"]) == 0
