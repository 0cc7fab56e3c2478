"""One measurement: start its processes through the launcher, wait for them, end them, and give the
reason for a failure in one line.

Ending the launcher is enough: ranks end themselves when it is gone (``fault_tolerance/orphan.py``),
and the kernel ends it when the sweep ends.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from distcnn.config import as_flag
from distcnn.errors import Stopped
from distcnn.fault_tolerance.orphan import signal_at_parents_end
from distcnn.fault_tolerance.signals import stop_signals_here
from distcnn.scaling.options import Settings, launcher_command
from distcnn.scaling.points import Job
from distcnn.scaling.records import Record, Result, Sweep, read_result
from distcnn.system.files import explaining
from distcnn.system.wording import shell_command

SECONDS_TO_END = 5.0  # between SIGTERM, which a launcher passes on, and SIGKILL
SECONDS_TO_APPEAR = 3.0  # of a file that another host wrote, on a shared file system
LONGEST_REASON = 500
# Matches lines that say why processes ended.
TELLING = re.compile(r"^distcnn\S*: error|^[\w.]*(Error|Exception|Interrupt): |\b(error|signal)\b")


class FailedError(Exception):
    """A measurement failed, for a ``reason`` and what its log says about it."""

    def __init__(self, reason: str, log: Path) -> None:
        said = last_words(log.read_text(encoding="utf-8", errors="replace"))
        super().__init__(f"{reason}; output: {said}" if said else reason)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise ``Stopped`` for the first stop signal, and ignore further ones."""

    def stop(number: int, frame: object) -> None:
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        raise Stopped(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in stop_signals_here()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def measure(job: Job, sweep: Sweep, timeout: float) -> Record:
    """Measure once; ``InputError`` if the log cannot be written."""
    log = sweep.measurements / f"{job.name}.log"
    file = log.parent.resolve() / f".{job.name}.json"
    result, reason, begin = None, "", time.monotonic()
    remedy = "free some space, then run the same command again to continue"
    try:
        with explaining(f"{log} cannot be written", remedy):
            file.unlink(missing_ok=True)
            run(command_of(job, sweep.settings, file), log, timeout)
            result = _result_in(file, job, log)
    except FailedError as error:
        reason = str(error)
    finally:
        file.unlink(missing_ok=True)
    return Record(job, result, reason, time.monotonic() - begin)


def command_of(job: Job, settings: Settings, file: Path) -> list[str]:
    """Return the command line: the launcher, the worker and all given flags of training."""
    flags = settings.flags_of(job.point)
    return [
        *launcher_command(settings.launcher, job.point.ranks),
        *(sys.executable, "-m", "distcnn.scaling.worker"),
        *(f"--result={file}", f"--steps={settings.steps}"),
        *(f"{as_flag(name)}={value}" for name, value in flags.items()),
    ]


def run(command: list[str], log: Path, timeout: float) -> None:
    """Run ``command`` to its end with its output in ``log``, and leave no process behind."""
    log.unlink(missing_ok=True)  # a link is not followed
    with log.open("xb") as output:
        output.write(f"$ {shell_command(command)}\n".encode())
        output.flush()
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=partial(signal_at_parents_end, signal.SIGTERM),
            )
        except OSError as error:
            reason = f"the launcher {command[0]!r} cannot be started ({error.strerror})"
            raise FailedError(reason, log) from error
        try:
            code = process.wait(timeout or None)
            if code:
                end = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
                raise FailedError(end, log)
        except subprocess.TimeoutExpired as error:
            reason = f"ended because it took longer than {timeout:g} s (--timeout)"
            raise FailedError(reason, log) from error
        finally:
            _end(process)


def _result_in(file: Path, job: Job, log: Path) -> Result:
    end = time.monotonic() + SECONDS_TO_APPEAR
    while not file.exists():
        if time.monotonic() > end:
            raise FailedError(
                "exit code 0, but no result: the launcher must start the command after it as ranks"
                " of one MPI world",
                log,
            )
        time.sleep(0.05)
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FailedError(f"its result is incomplete ({error})", log) from error
    try:
        return read_result(table, job.point)
    except ValueError as error:
        raise FailedError(str(error), log) from error


def last_words(text: str) -> str:
    """Return the first line of a log that gives a reason for its end, else the last line."""
    lines = [line.strip() for line in text.splitlines()[1:] if line.strip()]
    told = [line for line in lines if TELLING.search(line)] or lines[-1:]
    return told[0][:LONGEST_REASON] if told else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the launcher's group: SIGTERM, which it passes on to its ranks, and then SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS_TO_END)
