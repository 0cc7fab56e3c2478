"""Ranks that fail or are killed, under real launchers: one report, a quick end of all ranks, no
leftovers, and a run that can be resumed.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, SERIAL, Launcher, MakeImageSet, as_flags, slow
from tests.support.running import (
    STAGED,
    reference_hash,
    resume,
    running,
    seconds_since_fault,
    staged,
)

SECONDS_TO_END = 5
# How it fails, on which ranks, the last line of the report, where it was.
FAILURES = {
    "exception": (
        "fail",
        [1],
        "RuntimeError: broken on purpose",
        "step 3, forward and backward of shard 2",
    ),
    "exceptions on all ranks": (
        "fail",
        [0, 1, 2],
        "RuntimeError: broken on purpose",
        "step 3, forward and backward of shard ",
    ),
    "sys.exit(0)": ("leave", [2], "SystemExit: 0", "step 3, forward and backward of shard 5"),
    "no memory": ("exhaust_memory", [1], "MemoryError", "step 3, forward and backward of shard 2"),
    # The main thread goes on beside it, and may be in a later step when the report is written.
    "a thread of the model": ("fail_in_thread", [1], "RuntimeError: broken on purpose", "step "),
    # The thread that writes checkpoints fails at the epoch's end, after 7 steps; root sees it when
    # it is next there.
    "a thread": ("fail_while_saving", [0], "RuntimeError: broken on purpose", "step "),
}
BROKEN_MODULE = """
import os, sys
rank = os.environ.get("PMI_RANK") or os.environ["OMPI_COMM_WORLD_RANK"]
if rank in os.environ["BROKEN_ON"]:
    open(os.environ["BROKEN_MARK"] + rank, "w").close()
    raise ImportError("broken on purpose")
sys.path.remove(os.path.dirname(__file__))
del sys.modules[__name__]
__import__(__name__)
"""


@pytest.mark.parametrize("what", FAILURES)
def test_a_failure_in_training_is_reported_once_and_ends_all(
    what: str, any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    fault, ranks, last_line, where = FAILURES[what]
    environment = staged(fault, ranks, 3, tmp_path / "mark")
    with running(
        any_mpi, 3, *STAGED, *as_flags(data=image_set(), output=tmp_path / "run"), **environment
    ) as run:
        ended = run.end(30)
        seconds = seconds_since_fault(tmp_path / "mark")
    print(f"measured: {any_mpi.name}, {what}: {seconds:.1f} s")
    assert seconds < SECONDS_TO_END
    assert ended.code == 1, ended.stderr
    (report,) = ended.lines("failed on host")
    assert any(
        report.startswith(
            f"distcnn.train: rank {rank} of 3 failed on host {socket.gethostname()} (process "
        )
        for rank in ranks
    )
    assert f", {where}" in report
    assert "Traceback" not in ended.stderr
    assert ended.stderr.count("staged.py, line ") >= 1
    assert last_line in ended.stderr.splitlines()


@pytest.mark.parametrize(("module", "ranks"), [("h5py", "1"), ("h5py", "012"), ("numpy", "012")])
def test_a_failing_import_is_reported_once_and_ends_all(
    module: str, ranks: str, any_mpi: Launcher, tmp_path: Path
) -> None:
    (tmp_path / f"{module}.py").write_text(BROKEN_MODULE)
    mark = tmp_path / "mark"
    environment = {"BROKEN_ON": ranks, "BROKEN_MARK": str(mark), "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    with running(
        any_mpi, 3, *STAGED, *as_flags(data="unread.h5", output=tmp_path / "run"), **environment
    ) as run:
        ended = run.end(30)
        seconds = seconds_since_fault(mark)
    print(f"measured: {any_mpi.name}, import of {module} on ranks {ranks}: {seconds:.1f} s")
    assert seconds < SECONDS_TO_END
    assert ended.code != 0  # by a signal, which launchers tell in ways of their own
    (report,) = ended.lines("failed on host")
    assert any(
        report.startswith(f"distcnn: rank {rank} failed on host {socket.gethostname()} (process ")
        for rank in ranks
    )
    assert ended.stderr.count("Traceback (most recent call last)") == 1
    assert "ImportError: broken on purpose" in ended.stderr.splitlines()


def test_mpi4py_broken_on_one_rank_is_reported_and_ends_all(
    any_mpi: Launcher, tmp_path: Path
) -> None:
    (tmp_path / "mpi4py.py").write_text(BROKEN_MODULE)
    mark = tmp_path / "mark"
    environment = {"BROKEN_ON": "1", "BROKEN_MARK": str(mark), "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    with running(
        any_mpi, 3, *STAGED, *as_flags(data="unread.h5", output=tmp_path / "run"), **environment
    ) as run:
        ended = run.end(30)
        assert seconds_since_fault(mark) < SECONDS_TO_END
    assert ended.code != 0
    assert "mpi4py cannot be used (broken on purpose)" in ended.stderr


@pytest.mark.parametrize("victim", [1, "mpirun", *slow(0, 2)])
def test_after_signal_9_all_end_and_the_run_can_be_resumed(
    victim: int | str, any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = as_flags(data=image_set(), output=tmp_path / "run", checkpoint_every=1)
    with running(any_mpi, 3, *STAGED, *flags, STAGED_PACE="0.1") as run:
        run.wait_for_step(3)
        start = time.monotonic()
        if isinstance(victim, int):
            run.send(signal.SIGKILL, victim)
        else:
            run.process.kill()
            run.process.wait()
            run.wait_for_none_left(10)
        ended = run.end(30)
        seconds = time.monotonic() - start
    print(f"measured: {any_mpi.name}, signal 9 to {victim}: {seconds:.1f} s")
    assert seconds < 10
    assert ended.code != 0
    assert not (tmp_path / "run" / "result.json").exists()
    assert resume(SERIAL, 1, tmp_path / "run")["params_sha256"] == reference_hash(image_set())


def test_the_launchers_process_is_killed_and_its_ranks_end(
    any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    """MPI does not notice; ranks that share memory would continue as orphans."""
    data, output = image_set(), tmp_path / "run"
    with running(
        any_mpi, 2, *STAGED, *as_flags(data=data, output=output), STAGED_PACE="0.2"
    ) as run:
        run.wait_for_step(1)
        ranks = run.ranks()
        launching = {
            int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            for pid in ranks.values()
        }
        for process in launching:
            os.kill(process, signal.SIGKILL)
        run.wait_for_none_left(SECONDS_TO_END)
    assert not (output / "result.json").exists()
    assert resume(any_mpi, 3, output)["params_sha256"] == reference_hash(data)
