"""R37: after kill -9 the last checkpoint loads, stray files go, and the run ends as an uninterrupted one."""

import time

from applications.__main__ import main
from tests.applications.runs import SMALL, fit, same_weights, start, step_of


def test_killed_while_it_writes_checkpoints_all_the_time(tmp_path):
    out = tmp_path / "a"
    process = start(
        "fit", "image", "camera", *SMALL, "--checkpoint-seconds", "0", "--steps", "100000", "--out", str(out)
    )
    for _ in range(600):
        if step_of(out) > 3:
            break
        time.sleep(0.05)
    process.kill()
    process.communicate(timeout=60)
    (out / "checkpoint.safetensors.partial").write_bytes(b"half a checkpoint")
    step = step_of(out)
    assert main(["resume", str(out), "--steps", str(step + 3), "--quiet"]) == 0
    assert not list(out.glob("*.partial"))
    assert fit(tmp_path / "b", steps=step + 3) == 0
    assert same_weights(out, tmp_path / "b")
