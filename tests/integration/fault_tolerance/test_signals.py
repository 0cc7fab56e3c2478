"""StopSignals in a real process: what each signal does while the main thread runs, waits in Python
or is stuck in C.
"""

from __future__ import annotations

import signal
import time

import pytest

from distcnn.fault_tolerance.signals import (
    EXIT_INTERRUPTED,
    SECONDS_BETWEEN_INTERRUPTS,
    STOP_SIGNALS,
)
from tests.conftest import SERIAL
from tests.support.running import running

UNTIL_ASKED = """
import signal, sys, time
from distcnn.fault_tolerance.signals import STOP_SIGNALS, StopSignals
before = [signal.getsignal(each) for each in STOP_SIGNALS]
with StopSignals("test", sys.argv[1] == "speaks", None) as stop:
    stop.steps_are_taken = True
    print("ready", flush=True)
    while not stop.requested:
        time.sleep(0.01)
    time.sleep(0.3)
    print("requested", stop.requested)
print("restored", [signal.getsignal(each) for each in STOP_SIGNALS] == before, signal.set_wakeup_fd(-1))
"""  # noqa: E501
# A mutex that is locked twice is a wait in C that no signal ends, as MPI's are.
STUCK = {
    "in Python": "time.sleep(60)",
    "reading a pipe": "os.read(os.pipe()[0], 1)",
    "in C": (
        "mutex = ctypes.create_string_buffer(64); lock = ctypes.CDLL(None).pthread_mutex_lock;"
        " lock(mutex); lock(mutex)"
    ),
}
STUCK_FOR_EVER = """
import ctypes, os, time
from distcnn.fault_tolerance.signals import StopSignals
with StopSignals("test", True, lambda: os._exit(7)) as stop:
    stop.steps_are_taken = {steps_are_taken}
    print("ready", flush=True)
    {stuck}
"""


def stuck(where: str, steps_are_taken: bool = True) -> str:
    """A program whose main thread waits forever; exit code 7 instead of ending all ranks."""
    return STUCK_FOR_EVER.format(stuck=STUCK[where], steps_are_taken=steps_are_taken)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_each_signal_is_a_request_and_the_handlers_come_back(number: signal.Signals) -> None:
    with running(SERIAL, 1, "-c", UNTIL_ASKED, "speaks") as run:
        run.wait_for_text("ready")
        run.process.send_signal(number)
        ended = run.end(10)
    assert ended.code == 0, ended.stderr
    assert ended.stdout.splitlines()[1:] == [f"requested {number.name}", "restored True -1"]
    again = "; Ctrl-C again ends at once" if number == signal.SIGINT else ""
    assert ended.stderr == f"test: {number.name}: saving a checkpoint, then stopping{again}\n"


def test_the_first_signal_counts_and_only_who_speaks_says_so() -> None:
    with running(SERIAL, 1, "-c", UNTIL_ASKED, "silent") as run:
        run.wait_for_text("ready")
        run.process.send_signal(signal.SIGUSR1)
        time.sleep(0.1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            run.process.send_signal(number)
        ended = run.end(10)
    assert (ended.code, ended.stderr) == (0, "")
    assert "requested SIGUSR1" in ended.stdout


@pytest.mark.parametrize("where", STUCK)
def test_a_second_interrupt_ends_at_once_wherever_the_main_thread_is(where: str) -> None:
    with running(SERIAL, 1, "-c", stuck(where)) as run:
        run.wait_for_text("ready")
        run.process.send_signal(signal.SIGINT)
        time.sleep(SECONDS_BETWEEN_INTERRUPTS + 0.1)
        assert run.process.poll() is None
        run.process.send_signal(signal.SIGINT)
        start = time.monotonic()
        ended = run.end(10)
        assert time.monotonic() - start < 2
    assert ended.code == EXIT_INTERRUPTED
    assert ended.stderr.count("SIGINT") == 1


def test_two_interrupts_at_nearly_the_same_time_are_one() -> None:
    with running(SERIAL, 1, "-c", stuck("in C")) as run:
        run.wait_for_text("ready")
        for _ in range(2):
            run.process.send_signal(signal.SIGINT)
            time.sleep(0.1)
        time.sleep(SECONDS_BETWEEN_INTERRUPTS)
        assert run.process.poll() is None
        run.process.send_signal(signal.SIGINT)
        assert run.end(10).code == EXIT_INTERRUPTED


def test_other_signals_are_never_a_second_interrupt() -> None:
    with running(SERIAL, 1, "-c", stuck("in C")) as run:
        run.wait_for_text("ready")
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            run.process.send_signal(number)
            time.sleep(SECONDS_BETWEEN_INTERRUPTS + 0.1)
        assert run.process.poll() is None


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_before_the_first_step_any_signal_ends_all_at_once(number: signal.Signals) -> None:
    with running(SERIAL, 1, "-c", stuck("in C", steps_are_taken=False)) as run:
        run.wait_for_text("ready")
        run.process.send_signal(number)
        ended = run.end(5)
    assert ended.code == 7
    assert ended.stderr == f"test: ended by {number.name} before the first step: nothing to save\n"


def test_an_ignored_hangup_stays_ignored() -> None:
    with running(SERIAL, 1, "-c", UNTIL_ASKED, "silent", prefix=["nohup"]) as run:
        run.wait_for_text("ready")
        run.process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        run.process.send_signal(signal.SIGXCPU)
        ended = run.end(10)
    assert "requested SIGXCPU\nrestored True" in ended.stdout


def test_a_limit_of_processor_time_is_a_request() -> None:
    limited = UNTIL_ASKED.replace("time.sleep(0.01)", "pass").replace(
        "import signal,", "import resource, signal,"
    )
    limit = (
        "resource.setrlimit(resource.RLIMIT_CPU, (1 +"
        " int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2])), 60)); print"
    )
    with running(SERIAL, 1, "-c", limited.replace("print", limit, 1), "silent") as run:
        ended = run.end(20)
    assert "requested SIGXCPU\n" in ended.stdout
