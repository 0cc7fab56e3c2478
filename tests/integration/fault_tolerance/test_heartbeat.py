"""The heartbeat of another process can be read."""

from __future__ import annotations

import os
import signal

from distcnn.fault_tolerance.heartbeat import read_other
from distcnn.system.launcher import process_status
from tests.conftest import SERIAL
from tests.support.running import running

CHILD = """
import time
from distcnn.fault_tolerance.heartbeat import heartbeat
from distcnn.spans import Span
with heartbeat.listening(), Span("step", step=12), Span("shard", shard=5):
    heartbeat.note_stack("line 1\\nline 2")
    print("noted", heartbeat.descriptor, flush=True)
    time.sleep(60)
"""


def test_another_process_is_read_also_when_it_is_stopped() -> None:
    with running(SERIAL, 1, "-c", CHILD) as run:
        run.wait_for_text("noted")
        pid, descriptor = run.process.pid, int(run.stdout.split()[1])
        before = read_other(pid, descriptor)
        os.kill(pid, signal.SIGSTOP)
        run.wait_for(lambda: process_status(pid, "State") == "T (stopped)", "the stopped state")
        after = read_other(pid, descriptor)
        assert before
        assert after
        assert before.text() == after.text() == "step 12, forward and backward of shard 5"
        assert before.stack == after.stack == "line 1\nline 2"
        assert 0 <= before.seconds < after.seconds < 20
        assert read_other(pid, 0) is None  # /dev/null
        assert read_other(pid, descriptor + 100) is None
    assert read_other(pid, descriptor) is None  # gone
