"""A claim: one of all processes that ask for a name gets it, and its end releases it. Other users
of the host cannot get it.
"""

from __future__ import annotations

import os
import secrets
import signal
from contextlib import ExitStack
from pathlib import Path

from distcnn.fault_tolerance.host_election import claim, claimed
from tests.conftest import SERIAL
from tests.support.running import running

ASK = (
    "import sys, time; from distcnn.fault_tolerance.host_election import claim;"
    " print(claim(sys.argv[1]), flush=True); time.sleep(60)"
)


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


def test_who_holds_claims_is_known_without_taking_any(claim_folders: Path) -> None:
    assert claimed() == set()
    assert claim("mine")
    with running(
        SERIAL, 1, "-c", ASK, "other", XDG_RUNTIME_DIR=str(claim_folders / "first")
    ) as run:
        run.wait_for_text("True\n")
        assert claimed() == {"mine", "other"}
    assert claimed() == {"mine"}
    assert claim("other")
