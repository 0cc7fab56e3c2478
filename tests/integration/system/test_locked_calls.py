"""killable in a real process: while a call into C holds the interpreter's lock, signals and the
timer still end the process.
"""

from __future__ import annotations

import signal
import time

import pytest

from distcnn.system.locked_calls import killable
from tests.conftest import SERIAL
from tests.support.running import running

# PyDLL, unlike CDLL, keeps the interpreter's lock while it calls.
LOCKED = """
import ctypes, os, signal, sys
from distcnn.fault_tolerance.signals import StopSignals
from distcnn.system.locked_calls import killable
if "closed" in sys.argv:
    os.close(2)
with StopSignals("test", True, lambda: os._exit(7)):
    with killable({seconds}):
        print("ready", flush=True)
        ctypes.PyDLL(None).sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_a_process_that_holds_the_lock(number: signal.Signals) -> None:
    with running(SERIAL, 1, "-c", LOCKED.format(seconds=0)) as run:
        run.wait_for_text("ready")
        run.process.send_signal(number)
        assert run.end(5).code == -number


@pytest.mark.parametrize("stderr", ["open", "closed"])
def test_the_timer_ends_a_process_that_holds_the_lock_and_says_where(stderr: str) -> None:
    with running(SERIAL, 1, "-c", LOCKED.format(seconds=1), stderr) as run:
        run.wait_for_text("ready")
        ended = run.end(10)
    assert ended.code == 1
    assert ('File "<string>"' in ended.stderr) == (stderr == "open")


def test_what_is_ignored_stays_ignored_and_handlers_come_back() -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    ignored = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with killable(60):
            assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == (
                signal.SIG_IGN,
                signal.SIG_DFL,
            )
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, ignored)
    assert {each: signal.getsignal(each) for each in before} == before


def test_the_timer_is_stopped_in_time() -> None:
    with killable(0.1):
        pass
    time.sleep(0.3)  # it would end this very process
