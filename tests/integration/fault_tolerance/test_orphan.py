"""A rank ends when its launcher is killed; a process without a launcher does not."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from distcnn.cli.command import EXIT_OK
from distcnn.fault_tolerance.watchdog import EXIT_STALLED
from distcnn.system import launcher
from tests.conftest import SERIAL
from tests.support.running import running

RANK = (
    "import time; from distcnn.fault_tolerance.orphan import end_with_launcher; "
    "end_with_launcher('test'); print('ready', flush=True); time.sleep(60)"
)
LAUNCHER = """
import os, subprocess, sys
rank, *environment = sys.argv[1:]
wrapped = ["sh", "-c", f'{sys.executable} -c "{rank}"; true']  # a shell between, as many launch scripts have
subprocess.run(wrapped, env=os.environ | dict(each.split("=") for each in environment))
"""  # noqa: E501
HOLDER = """
import ctypes
from distcnn.fault_tolerance.orphan import killed_with_launcher
with killed_with_launcher():
    {inside}
{outside}
"""
HOLD = (  # with the interpreter's lock, as MPI_Init does
    "print('ready', flush=True); ctypes.PyDLL(None).sleep(60)"
)
PARENT = "import os, subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
HYDRA = ("PMI_SIZE=2", "PMI_RANK=1")
OPENMPI = ("OMPI_COMM_WORLD_SIZE=1", "OMPI_COMM_WORLD_RANK=0", "PMIX_RANK=0")


@pytest.mark.parametrize("environment", [HYDRA, OPENMPI])
def test_a_rank_ends_with_its_launcher(environment: tuple[str, ...], tmp_path: Path) -> None:
    note = tmp_path / "note"
    with running(SERIAL, 1, "-c", LAUNCHER, RANK, *environment, DISTCNN_EXIT_NOTE=str(note)) as run:
        run.wait_for_text("ready")
        os.kill(run.process.pid, signal.SIGKILL)
        run.wait_for_none_left(10)
        assert f"process {run.process.pid}" in run.stderr
        assert "resume" in run.stderr
    assert int(note.read_text()) == EXIT_STALLED


def test_a_process_without_a_launcher_outlives_its_parent() -> None:
    with running(SERIAL, 1, "-c", LAUNCHER, RANK) as run:
        run.wait_for_text("ready")
        os.kill(run.process.pid, signal.SIGKILL)
        run.process.wait()
        time.sleep(0.5)
        assert any(
            "time.sleep" in Path(f"/proc/{pid}/cmdline").read_text() for pid in run.processes()
        )
        assert not run.stderr


def test_a_rank_that_holds_the_interpreters_lock_in_mpi_init_ends_too() -> None:
    environment = {"PMI_SIZE": "2", "PMI_RANK": "1"}
    for inside, outside, ends in ((HOLD, "pass", True), ("pass", HOLD, False)):
        words = f"import os; os.environ.update({environment})\n" + HOLDER.format(
            inside=inside, outside=outside
        )
        with running(SERIAL, 1, "-c", PARENT, words) as run:
            run.wait_for_text("ready")
            os.kill(run.process.pid, signal.SIGKILL)
            run.process.wait()
            time.sleep(0.5)
            assert bool(run.processes()) != ends


def test_the_launcher_is_the_nearest_ancestor_of_another_rank(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setenv("PMI_RANK", "1")
    assert (
        launcher.launching_process() == os.getppid()
    )  # pytest's parent, which is not declared to be a rank
    ask = (
        "from distcnn.system import launcher;"
        " print(launcher.launching_process(), launcher.launch_name())"
    )
    done = SERIAL.run(1, "-c", ask, PMI_SIZE="2", PMI_RANK="0")
    process, name = done.stdout.split()
    assert done.returncode == EXIT_OK
    assert int(process) == os.getpid()
    assert name != launcher.launch_name()
    assert SERIAL.run(1, "-c", ask, PMI_SIZE="2", PMI_RANK="1").stdout.split()[1] == name
