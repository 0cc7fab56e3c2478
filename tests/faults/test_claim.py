"""A claim: of all processes that ask for a name one gets it, and its end frees it."""

from __future__ import annotations

import os
import secrets
import signal
from contextlib import ExitStack

from distcnn.faults.claim import claim
from tests.conftest import SERIAL
from tests.faults.running import running

ASK = "import sys, time; from distcnn.faults.claim import claim; print(claim(sys.argv[1]), flush=True); time.sleep(60)"


def test_a_name_is_given_once() -> None:
    name = secrets.token_hex(8)
    assert [claim(f"{name}-{each}") for each in "aab"] == [True, False, True]


def test_one_of_many_processes_gets_it_and_its_end_frees_it() -> None:
    name = secrets.token_hex(8)
    with ExitStack() as open_runs:
        runs = [open_runs.enter_context(running(SERIAL, 1, "-c", ASK, name)) for _ in range(8)]
        for run in runs:
            run.wait_for_text("e\n")
        answers = [run.stdout for run in runs]
        assert sorted(answers) == ["False\n"] * 7 + ["True\n"]
        assert not claim(name)
        winner = runs[answers.index("True\n")].process
        os.kill(winner.pid, signal.SIGKILL)  # it could not give it back itself
        winner.wait()
        assert claim(name)
