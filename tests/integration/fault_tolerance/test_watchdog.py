"""The watchdog's words for each case, what it sees of other processes, and that time in which
nothing ran does not count.
"""

from __future__ import annotations

import os
import signal
import time

from distcnn.fault_tolerance.heartbeat import Activity, Beat
from distcnn.fault_tolerance.watchdog import (
    EXIT_STALLED,
    Member,
    Status,
    describe,
    look_at,
    process_state,
)
from tests.conftest import SERIAL
from tests.support.running import Running, running

# The main thread notes something every 0.1 s, or nothing.
WATCHED = """
import time
from distcnn.fault_tolerance.heartbeat import Activity, pulse
from distcnn.fault_tolerance.watchdog import Watchdog
from distcnn.distributed import SerialCommunicator
with Watchdog("test", SerialCommunicator(), {timeout}) as watchdog:
    print("watched", flush=True)
    for count in range({beats}):
        pulse.beat(Activity.COMPUTING_SHARD, 6, count)
        time.sleep(0.1)
    time.sleep({idle})
print("ended", flush=True)
"""


def status(
    rank: int,
    activity: Activity = Activity.SUMMING,
    answers: bool = True,
    stack: str = "",
    state: str = "",
) -> Status:
    beat = Beat(12, activity, rank, activity == Activity.SUMMING, 0.0, 0.0, "")
    return Status(Member(rank, f"node{rank}", 1000 + rank, 5), answers, beat, 20.4, stack, state)


def test_a_rank_that_works_while_others_wait_is_late() -> None:
    everyone = [
        status(0, stack="  at Allreduce\n"),
        status(1, Activity.COMPUTING_SHARD, stack="  at forward\n"),
        status(2),
    ]
    assert (
        describe(everyone, 20.0)
        == "stalled: nothing has moved for 20 s (--stall-timeout)\nlate: rank 1 on host node1"
        " (process 1001), step 12, forward and backward of shard 1, for 20 s\nwaiting: rank 0,"
        " 2: step 12, waiting for all ranks: sum of the gradients\nstack of rank 1:\n  at"
        " forward\nstack of rank 0:\n  at Allreduce"
    )


def test_a_silent_rank_is_late_even_if_it_waited_last() -> None:
    lines = describe([status(0), status(2, answers=False, state="T (stopped)")], 20.0).splitlines()
    assert (
        lines[1]
        == "late: rank 2 on host node2 (process 1002), does not answer, state T (stopped), "
        "last at step 12, waiting for all ranks: sum of the gradients, for 20 s"
    )
    assert lines[2].startswith("waiting: rank 0: ")


def test_of_a_silent_rank_elsewhere_nothing_more_is_known() -> None:
    unseen = Status(Member(3, "node3", 77, 5), False, None, 0.0, "")
    assert (
        describe([status(0), unseen], 20.0).splitlines()[1]
        == "late: rank 3 on host node3 (process 77), does not answer"
    )


def test_when_all_wait_nobody_is_late() -> None:
    lines = describe(
        [status(rank, stack=f"  stack {rank}") for rank in range(6)], 300.0
    ).splitlines()
    assert lines[1] == "every rank waits for the others: they are not at the same point"
    assert lines[2].startswith("waiting: rank 0, 1, 2, 3, 4, 5: step 12")
    assert [line for line in lines if line.startswith("stack of")] == [
        f"stack of rank {rank}:" for rank in range(4)
    ]


def test_stacks_are_few_and_one_is_of_a_rank_that_waits() -> None:
    everyone = [status(rank, Activity.READING_DATA, stack="  x") for rank in range(9)] + [
        status(9, stack="  x")
    ]
    lines = describe(everyone, 20.0).splitlines()
    assert sum(line.startswith("late: ") for line in lines) == 9
    assert [line for line in lines if line.startswith("stack of")] == [
        f"stack of rank {rank}:" for rank in (0, 1, 2, 9)
    ]


def stopped(run: Running) -> int:
    """Stop the run's process."""
    pid = run.process.pid
    os.kill(pid, signal.SIGSTOP)
    run.wait_for(lambda: process_state(pid) == "T (stopped)", "the stopped state")
    return pid


def test_a_stopped_process_is_looked_at_from_outside() -> None:
    with running(SERIAL, 1, "-c", WATCHED.format(timeout=0, beats=5, idle=60)) as run:
        run.wait_for(
            lambda: (beat := run.beat(0)) and beat.detail == 4 and beat.stack,
            "a beat with its stack",
        )
        pid = stopped(run)
        descriptor = run.pulse_of(pid)
        assert descriptor is not None
        seen = look_at(Member(0, "here", pid, descriptor))
        assert (seen.answers, seen.state) == (False, "T (stopped)")
        assert seen.beat is not None
        assert seen.beat.text() == "step 6, forward and backward of shard 4"
        assert 0 < seen.seconds < 20
        assert 'File "<string>", line' in seen.stack
    assert look_at(Member(0, "here", pid, descriptor)) == Status(
        Member(0, "here", pid, descriptor), False, None, 0.0, "", "gone"
    )


def test_a_process_that_idles_is_ended_with_its_stack() -> None:
    with running(SERIAL, 1, "-c", WATCHED.format(timeout=1, beats=2, idle=60)) as run:
        run.wait_for_text("watched")
        start = time.monotonic()
        ended = run.end(10)
        assert time.monotonic() - start < 5
    assert ended.code == EXIT_STALLED
    assert "test: error: stalled: nothing has moved for " in ended.stderr
    assert (
        f"(process {run.process.pid}), step 6, forward and backward of shard 1, for "
        in ended.stderr
    )
    assert 'File "<string>", line 11' in ended.stderr


def test_time_in_which_a_process_was_suspended_does_not_count() -> None:
    with running(SERIAL, 1, "-c", WATCHED.format(timeout=3, beats=12, idle=0)) as run:
        run.wait_for_text("watched")
        time.sleep(0.3)
        pid = stopped(run)
        time.sleep(4)
        os.kill(pid, signal.SIGCONT)
        ended = run.end(10)
    assert (ended.code, ended.stdout, ended.stderr) == (0, "watched\nended\n", "")
