"""R36: Ctrl-C once finishes the step, saves and says how to go on (exit 130); twice stops now, checkpoint valid."""

import signal
import time

import pytest

from tests.applications.runs import SMALL, fit, same_weights, start, step_of

LONG = ["fit", "image", "camera", *SMALL, "--checkpoint-seconds", "0.2"]


def interrupted(out, steps, signals):
    process = start(*LONG, "--steps", str(steps), "--out", str(out))
    for _ in range(600):
        if step_of(out) > 0:
            break
        time.sleep(0.05)
    for _ in range(signals):
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    _, errors = process.communicate(timeout=60)
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


@pytest.mark.parametrize("signals", [3])
def test_twice_leaves_a_valid_checkpoint(tmp_path, signals):
    code, _ = interrupted(tmp_path / "a", 100_000, signals)
    assert code == 130
    from applications.__main__ import main

    assert main(["resume", str(tmp_path / "a"), "--steps", str(step_of(tmp_path / "a") + 2), "--quiet"]) == 0
