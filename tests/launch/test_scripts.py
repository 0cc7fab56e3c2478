"""The launch scripts, as far as they go without setting anything up."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"


@pytest.mark.parametrize("script", sorted(LAUNCH.glob("*.sh")), ids=lambda script: script.name)
def test_scripts_are_bash(script: Path) -> None:
    assert subprocess.run([shutil.which("bash") or "bash", "-n", script], check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("ranks", ["0", "four", "-1", ""])
def test_a_wrong_number_of_ranks_is_refused_before_anything_is_set_up(ranks: str) -> None:
    done = subprocess.run([LAUNCH / "local.sh", "-n", ranks], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"local.sh: error: -n is '{ranks}'" in done.stderr


def test_the_newest_final_wheel_of_pip_is_taken() -> None:
    spec = importlib.util.spec_from_file_location("get_pip", LAUNCH / "get_pip.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    names = [
        "pip-9.0-py3-none-any.whl",
        "pip-24.10-py3-none-any.whl",
        "pip-24.2-py3-none-any.whl",
        "pip-99.0b1-py3-none-any.whl",
        "pip-99.tar.gz",
    ]
    files = [{"filename": name} for name in names] + [{"filename": "pip-98.0-py3-none-any.whl", "yanked": "broken"}]
    assert module.newest_wheel(files)["filename"] == "pip-24.10-py3-none-any.whl"


SCONTROL = """#!/bin/bash
# Refuses to requeue as often as it is told to, as Slurm does while it deals with a lost node.
case $1 in
    requeue) echo >>{calls}; [ "$(wc -l <{calls})" -gt {refusals} ] ;;
    show) echo "JobId=7 JobState={state} Reason=None" ;;
esac
"""


@pytest.mark.parametrize(
    ("refusals", "state", "says", "asks"),
    [
        (0, "RUNNING", "job 7 was requeued, to go on", 1),
        (2, "COMPLETING", "job 7 was requeued, to go on", 3),
        (99, "PENDING", "job 7 was requeued by Slurm itself, to go on", 1),
        (99, "RUNNING", "it could not be requeued; to go on: by hand", 10),
    ],
)
def test_a_job_asks_more_than_once_to_be_requeued(tmp_path: Path, refusals: int, state: str, says: str, asks: int) -> None:
    calls, scontrol = tmp_path / "calls", tmp_path / "scontrol"
    scontrol.write_text(SCONTROL.format(calls=calls, refusals=refusals, state=state))
    scontrol.chmod(0o755)
    words = f'script=test; . launch/job.sh; PATH={tmp_path}:$PATH; SLURM_JOB_ID=7; sleep() {{ :; }}; requeue "by hand"'
    done = subprocess.run(["bash", "-c", words], cwd=LAUNCH.parent, capture_output=True, text=True, check=False)
    assert says in done.stdout + done.stderr
    assert len(calls.read_text().splitlines()) == asks
