"""Ranks that stop or hang: the late one is named and all end in time; ranks that are slow,
suspended or not watched are left alone.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import SERIAL, Launcher, MakeImageSet, as_flags
from tests.support.running import (
    STAGED,
    Ended,
    Running,
    reference_hash,
    running,
    seconds_since_fault,
    staged,
)

TIMEOUT = 3
SECONDS_MORE = 14
"""From the time-out to the end: the turns of the ranks before, answers, ticks, the launcher."""


def check(ended: Ended, late: int, process: int, doing: str, waiting: str) -> None:
    """The report names this rank and no other as late, and these as waiting."""
    assert ended.code == 4, ended.stderr
    assert len(ended.lines("distcnn.train: error: stalled: no progress for ")) == 1
    (line,) = ended.lines("late: ")
    host = re.escape(socket.gethostname())
    assert re.fullmatch(
        rf"late: rank {late} on host {host} \(process {process}\), {doing}, for \d+ s", line
    ), line
    (line,) = ended.lines("waiting: ")
    assert re.fullmatch(
        rf"waiting: rank {waiting}: step \d+, waiting for all ranks: sum of the gradients", line
    ), line
    assert "self._world.Allreduce(" in ended.stderr


def stop_in_a_shard(run: Running, rank: int) -> None:
    """Stop ``rank`` while it computes; if the signal arrived at another time, continue it and try
    again.
    """
    while True:
        run.send(signal.SIGSTOP, rank)
        beat = run.beat(rank)
        if beat and beat.activity.startswith("forward and backward"):
            return
        run.send(signal.SIGCONT, rank)
        time.sleep(0.02)


COLLECTIVES = """
import numpy as np
from distcnn.distributed.mpi import MPICommunicator
from distcnn.fault_tolerance.heartbeat import Heartbeat
from distcnn.spans import Span, listening

class Looking:
    def begin(self, span):
        seen.append(heartbeat.read().text())
    def end(self, span):
        pass

world, heartbeat, seen = MPICommunicator(), Heartbeat(), []
with heartbeat.listening(), listening(Looking(), {"collective"}), Span("compare weights"):
    world.allgather(1)
    world.gather(1)
    world.broadcast(1)
    world.allreduce_sum(np.zeros(1))
    world.barrier()
if world.rank == 0:
    print(*seen, sep="\\n")
"""


def test_waiting_in_a_collective_is_noted(mpirun: Launcher) -> None:
    done = mpirun.run(2, "-c", COLLECTIVES)
    waiting = "waiting for all ranks: hashing and comparing the weights"
    assert (done.returncode, done.stdout.splitlines()) == (0, [waiting] * 5), done.stderr


@pytest.mark.slow
def test_a_stopped_and_a_hanging_rank_are_named(
    any_mpi: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    # All three at once, for they only wait.
    arguments = [*STAGED, "--data", str(image_set()), "--stall-timeout", str(TIMEOUT)]
    stopped = (
        r"does not answer, state T \(stopped\), last at step \d+, forward and backward of shard \d"
    )
    with ExitStack() as open_runs:
        environments = {
            1: staged("hang", [1], 4, tmp_path / "mark"),
            2: {"STAGED_PACE": "0.3"},
            0: {"STAGED_PACE": "0.3"},
        }
        runs = {
            rank: open_runs.enter_context(
                running(
                    any_mpi, 3, *arguments, "--output", str(tmp_path / str(rank)), **environment
                )
            )
            for rank, environment in environments.items()
        }
        processes, start = {}, {}
        for rank, run in runs.items():
            run.wait_for_step(4 if rank == 1 else 2, rank)
            processes[rank], start[rank] = run.ranks()[rank], time.monotonic()
            if rank != 1:
                stop_in_a_shard(run, rank)
        for rank, run in runs.items():
            ended = run.end(TIMEOUT + 30)
            seconds = time.monotonic() - start[rank]
            what = "that hangs" if rank == 1 else "that is stopped"
            print(
                f"measured: {any_mpi.name}, rank {rank} {what}, time-out {TIMEOUT} s:"
                f" {seconds:.1f} s"
            )
            assert TIMEOUT - 1 < seconds < TIMEOUT + SECONDS_MORE
            waiting = ", ".join(str(each) for each in range(3) if each != rank)
            check(
                ended,
                rank,
                processes[rank],
                "step 4, forward and backward of shard 2" if rank == 1 else stopped,
                waiting,
            )
            if rank == 1:
                assert "time.sleep(3600)" in ended.stderr
            else:
                assert f"stack of rank {rank}:\n  (as it was " in ended.stderr


@pytest.mark.slow
def test_one_process_that_hangs_ends_itself_unless_it_may_take_for_ever(
    image_set: MakeImageSet, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    arguments = [*STAGED, "--data", str(image_set())]
    with ExitStack() as open_runs:
        runs = {
            fault: open_runs.enter_context(
                running(
                    SERIAL,
                    1,
                    *[*arguments, "--output", str(tmp_path / fault), "--stall-timeout", timeout],
                    STAGED_FIFO=str(tmp_path / "fifo"),
                    **staged(fault, [0], 4, tmp_path / f"mark-{fault}-"),
                )
            )
            for fault, timeout in (("hang", "1"), ("read_fifo", "1"), ("pause", "0"))
        }
        for fault, line in (
            ("hang", "time.sleep(3600)"),
            ("read_fifo", '["STAGED_FIFO"]).read_bytes()'),
        ):
            ended = runs[fault].end(20)
            seconds = seconds_since_fault(tmp_path / f"mark-{fault}-")
            print(f"measured: one process, {fault}, time-out 1 s: {seconds:.1f} s")
            assert 1 < seconds < 5
            assert ended.code == 4
            assert (
                len(
                    ended.lines(
                        f"(process {runs[fault].process.pid}), step 4, forward and backward of"
                        " shard 0, for "
                    )
                )
                == 1
            )
            assert line in ended.stderr
        ended = runs["pause"].end(20)
        assert (ended.code, ended.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.mpi
def test_a_job_that_was_suspended_as_a_whole_continues(
    mpirun: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = as_flags(data=image_set(), output=tmp_path / "run", stall_timeout=TIMEOUT)
    with running(mpirun, 3, *STAGED, *flags, STAGED_PACE="0.03") as run:
        run.wait_for_step(2)
        processes = [run.process.pid, *run.processes()]
        for number, seconds in ((signal.SIGSTOP, TIMEOUT + 1.5), (signal.SIGCONT, 0.0)):
            for pid in processes:
                os.kill(pid, number)
            time.sleep(seconds)
        ended = run.end(30)
    assert ended.code == 0, ended.stderr
    assert "stalled" not in ended.stderr
    assert f"weights {reference_hash(image_set())}\n" in ended.stdout


@pytest.mark.mpi
def test_a_slow_rank_that_makes_progress_is_left_alone(
    mpirun: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    # Its step takes 4 x 0.4 s: longer than the time-out for which the other one waits.
    flags = as_flags(data=image_set(), output=tmp_path / "run", stall_timeout=1, max_steps=1)
    with running(mpirun, 2, *STAGED, *flags, STAGED_PACE="0.4", STAGED_PACE_RANKS="1") as run:
        ended = run.end(30)
    assert ended.code == 0, ended.stderr
    assert "stalled" not in ended.stderr
    assert ended.seconds > 1.6
