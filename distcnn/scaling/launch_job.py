"""One measurement: its processes started by the launcher, waited for, ended whole; and what became
of it, in words where it failed.
"""

from __future__ import annotations

import dataclasses
import os
import re
import secrets
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from distcnn.config import Config, as_flag
from distcnn.errors import InputError
from distcnn.scaling.options import Settings, launcher_command
from distcnn.scaling.points import Measurement
from distcnn.scaling.processes import NAP_SECONDS, end_all, start
from distcnn.scaling.result import Result, read_result
from distcnn.scaling.stop_requests import StopRequests
from distcnn.scaling.sweep_directory import Record, Records
from distcnn.system.wording import shell_command

SECONDS_TO_APPEAR = 3.0
"""A file that another host wrote may come late over a shared file system."""
LONGEST_REASON = 500
PATTERNS = (
    r"^distcnn\S*: error",
    r"^[\w.]*(Error|Exception|Interrupt): ",
    r"^distcnn\S*: ",
    r"(?i)\b(error|signal)\b",
    r"",
)
"""Of lines that say why something ended, the most telling first: our own, a traceback's, our
report, a launcher's, any.
"""


@dataclass(frozen=True)
class Ended:
    """How the processes ended: ``exit_code`` None where they were never started, or were ended by
    us.

    ``why`` then says so, and ``said`` is what they had said until then: what comes after is about
    being ended.
    """

    exit_code: int | None
    why: str = ""
    said: str = ""


def measure(
    measurement: Measurement, records: Records, timeout: float, stop: StopRequests
) -> Record | None:
    """Measure once.

    None when a signal asked to stop: all is ended then, and nothing kept. ``InputError`` when
    nothing can be written.
    """
    folder, log = records.log_of(measurement).parent.resolve(), records.log_of(measurement)
    file = (
        folder / f".{measurement.name}-{secrets.token_hex(4)}.json"
    )  # a name of its own: what an earlier try still writes is not read
    command = command_of(measurement, records.settings, file)
    started, begin = time.strftime("%Y-%m-%dT%H:%M:%S"), time.monotonic()
    try:
        ended = run(command, str(records.path.resolve()), log, timeout, stop)
        if ended is None:
            return None
        outcome = result_of_ended(ended, file, log, measurement)
    except OSError as error:
        raise InputError(
            f"{log} cannot be written ({error.strerror}): make room, then run the same command"
            " again to go on"
        ) from error
    finally:
        with suppress(OSError):
            file.unlink()
    result, reason = (None, outcome) if isinstance(outcome, str) else (outcome, "")
    where = str(log.relative_to(records.path))
    return Record(
        measurement,
        result,
        reason,
        where,
        command,
        started,
        time.monotonic() - begin,
        ended.exit_code,
    )


def command_of(measurement: Measurement, settings: Settings, file: Path) -> list[str]:
    """The launcher, and what it starts: every flag of training that decides anything is spelled
    out.
    """
    point = measurement.point
    flags = settings.flags_of(point)
    return [
        *launcher_command(settings.launcher, point.ranks),
        *(sys.executable, "-m", "distcnn.scaling.worker"),
        *(f"--result={file}", f"--steps={settings.steps}"),
        *(
            f"{as_flag(each.name)}={flags[each.name]}"
            for each in dataclasses.fields(Config)
            if each.name in flags
        ),
    ]


def run(
    command: list[str], mark: str, log: Path, timeout: float, stop: StopRequests
) -> Ended | None:
    """Run ``command`` to its end, all it says into ``log``.

    No process of it is left. None when a signal asked to stop.
    """
    log.unlink(missing_ok=True)  # it may be a link, which is not followed
    with log.open("xb") as output:
        output.write(f"$ {shell_command(command)}\n".encode())
        output.flush()
        try:
            process = start(command, mark, output, os.environ)
        except OSError as error:
            return Ended(None, f"the launcher {command[0]!r} cannot be started ({error.strerror})")
        try:
            end = time.monotonic() + timeout if timeout else float("inf")
            while process.poll() is None:
                if stop.received:
                    return None
                if time.monotonic() > end:
                    return Ended(
                        None,
                        f"not over after {timeout:g} s (--timeout), so it was ended",
                        last_words_in(log),
                    )
                time.sleep(NAP_SECONDS)
            return Ended(process.returncode)
        finally:
            end_all(mark, process, lambda: stop.again)


def result_of_ended(ended: Ended, file: Path, log: Path, measurement: Measurement) -> Result | str:
    """The result, or the reason why there is none."""
    if ended.exit_code is None:
        return _with(ended.why, ended.said)
    said = last_words_in(log)
    if ended.exit_code:
        return _with(exit_text(ended.exit_code), said)
    text = _appeared(file)
    if text is None:
        return _with(
            "exit code 0, but no result: does the launcher start what stands behind it, and as"
            " ranks of one world?",
            said,
        )
    try:
        return read_result(text, measurement.point)
    except ValueError as error:
        return _with(str(error), said)


def exit_text(code: int) -> str:
    """An exit code in words."""
    with suppress(ValueError):
        return f"ended by {signal.Signals(-code).name}"
    return f"exit code {code}"


def last_words_in(log: Path) -> str:
    """``last_words`` of a file."""
    return last_words(log.read_text(encoding="utf-8", errors="replace"))


def last_words(text: str) -> str:
    """The line of a log that says most about why it ended, else the last."""
    lines = [line.strip() for line in text.splitlines()[1:] if line.strip()]
    for pattern in PATTERNS:
        found = [line for line in lines if re.search(pattern, line)]
        if found:
            line = found[0] if pattern else found[-1]
            return line if len(line) <= LONGEST_REASON else line[: LONGEST_REASON - 3] + "..."
    return ""


def _with(why: str, said: str) -> str:
    return f"{why}; it said: {said}" if said else why


def _appeared(file: Path) -> str | None:
    end = time.monotonic() + SECONDS_TO_APPEAR
    while True:
        with suppress(OSError):
            return file.read_text(encoding="utf-8", errors="replace")
        if time.monotonic() > end:
            return None
        time.sleep(NAP_SECONDS)
