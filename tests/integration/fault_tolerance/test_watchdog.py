"""The watchdog's message in each case, and what it sees of other processes. Time in which the
process was suspended does not count.
"""

from __future__ import annotations

import os
import signal
import time

import pytest

from distcnn.fault_tolerance.watchdog import EXIT_STALLED, Member, Status, look_at
from distcnn.system.launcher import process_status
from tests.conftest import SERIAL
from tests.support.running import Running, running

# The main thread notes something every 0.1 s, or nothing.
WATCHED = """
import time
from distcnn.fault_tolerance.heartbeat import heartbeat
from distcnn.fault_tolerance.watchdog import Watchdog
from distcnn.distributed import Communicator
from distcnn.spans import Span
with heartbeat.listening(), Watchdog("test", Communicator(), {timeout}), Span("step", step=6):
    print("watched", flush=True)
    for count in range({beats}):
        with Span("shard", shard=count):
            time.sleep(0.1)
    time.sleep({idle})
print("ended", flush=True)
"""


def stopped(run: Running) -> int:
    """Stop the run's process."""
    pid = run.process.pid
    os.kill(pid, signal.SIGSTOP)
    run.wait_for(lambda: process_status(pid, "State") == "T (stopped)", "the stopped state")
    return pid


def test_a_stopped_process_is_examined_from_outside() -> None:
    with running(SERIAL, 1, "-c", WATCHED.format(timeout=0, beats=5, idle=60)) as run:
        run.wait_for(
            lambda: (beat := run.beat(0)) and beat.activity.endswith("shard 4") and beat.stack,
            "a beat with its stack",
        )
        pid = stopped(run)
        descriptor = run.pulse_of(pid)
        assert descriptor is not None
        seen = look_at(Member(0, "here", pid, descriptor))
        assert (seen.answers, seen.state) == (False, "T (stopped)")
        assert seen.beat.text() == "step 6, forward and backward of shard 4"
        assert 0 < seen.beat.seconds < 20
        assert 'File "<string>", line' in seen.beat.stack
    gone = Member(0, "here", pid, descriptor)
    assert look_at(gone) == Status(gone, state="gone")


def test_a_process_that_idles_is_ended_with_its_stack() -> None:
    with running(SERIAL, 1, "-c", WATCHED.format(timeout=1, beats=2, idle=60)) as run:
        run.wait_for_text("watched")
        start = time.monotonic()
        ended = run.end(10)
        assert time.monotonic() - start < 5
    assert ended.code == EXIT_STALLED
    assert "test: error: stalled: no progress for " in ended.stderr
    assert (
        f"(process {run.process.pid}), step 6, forward and backward of shard 1, for "
        in ended.stderr
    )
    assert 'File "<string>", line 12' in ended.stderr


@pytest.mark.slow
def test_time_in_which_a_process_was_suspended_does_not_count() -> None:
    with running(SERIAL, 1, "-c", WATCHED.format(timeout=3, beats=12, idle=0)) as run:
        run.wait_for_text("watched")
        time.sleep(0.3)
        pid = stopped(run)
        time.sleep(4)
        os.kill(pid, signal.SIGCONT)
        ended = run.end(10)
    assert (ended.code, ended.stdout, ended.stderr) == (0, "watched\nended\n", "")
