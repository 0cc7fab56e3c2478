"""A run that is resumed to end at its current step ends like one that was to end there from the
start.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import SERIAL, MakeImageSet, as_flags, slow
from tests.support.training_fixtures import assert_same_end, train

# With the default image set 4 steps an epoch; 8 calls of forward a step, and 10 in each test.
QUICK = as_flags(model="stopping:network", epochs=3, microbatch_size=8, log_every=3, check_every=7)
EXIT_STOPPED = 85


@pytest.mark.parametrize(
    ("steps", "call"), [(3, 2 * 8 + 4), *slow((4, 3 * 8 + 4), (5, 4 * 8 + 10 + 4))]
)
def test_a_stopped_run_ends_at_its_step(
    steps: int, call: int, image_set: MakeImageSet, stopping: str, tmp_path: Path
) -> None:
    data, cut, run = ["--data", str(image_set()), *QUICK], tmp_path / "cut", tmp_path / "run"
    SERIAL.train(1, cut, *data, "--max-steps", str(steps), PYTHONPATH=stopping)
    stop = {"STOP_SIGNAL": "SIGUSR1", "STOP_AT_CALL": str(call)}
    done = train(SERIAL, 1, *data, "--output", str(run), PYTHONPATH=stopping, **stop)
    assert done.returncode == EXIT_STOPPED, done.stderr
    assert f"after step {steps} of" in done.stderr
    done = train(SERIAL, 1, "--resume", str(run), "--max-steps", str(steps), PYTHONPATH=stopping)
    assert (done.returncode, done.stderr) == (0, "")
    assert_same_end(run, cut)
    done = SERIAL.run(1, "-m", "distcnn.verify", str(run), "--trust-model", PYTHONPATH=stopping)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert f"identical: steps 0 to {steps} (" in done.stdout
