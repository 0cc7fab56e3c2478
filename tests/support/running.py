"""Runs in the background, which tests may signal, stop or kill. All their processes end with the
test.

Each run has a mark in its environment, by which all its processes are found in /proc, whatever
their parents.
"""

from __future__ import annotations

import functools
import json
import os
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from distcnn.fault_tolerance.heartbeat import Beat, read_other
from tests.conftest import ROOT, SERIAL, Launcher, as_flags, clean_environment

MARK = "DISTCNN_TEST_RUN"
RANK_VARIABLES = ("PMI_RANK", "OMPI_COMM_WORLD_RANK")
STAGED = [
    "-m",
    "distcnn.train",
    *as_flags(model="tests.support.staged:network", microbatch_size=4, epochs=2, log_every=1),
]
"""A run of ``tests/support/staged.py``, short (203 examples: 14 steps) and with the same bits
whatever is done to it.
"""

STAGED_STEPS, STAGED_EPOCH_STEPS = 14, 7
SECONDS_TO_VANISH = 3.0
"""After a launcher has ended, the kernel may still be at ending its ranks."""


@dataclass(frozen=True)
class Ended:
    """How a run ended: ``seconds`` since it was started."""

    code: int
    stdout: str
    stderr: str
    seconds: float

    def lines(self, text: str) -> list[str]:
        """The lines of standard error that contain ``text``."""
        return [line for line in self.stderr.splitlines() if text in line]


class Running:
    """A run that has been started.

    ``processes``, ``ranks`` and ``beat`` observe it from outside.
    """

    def __init__(
        self,
        launcher: Launcher,
        process: subprocess.Popen[bytes],
        mark: str,
        stdout: IO[bytes],
        stderr: IO[bytes],
    ) -> None:
        self.launcher, self.process, self._mark = launcher, process, mark
        self._stdout, self._stderr = stdout, stderr
        self._start = time.monotonic()
        self._pulses: dict[int, tuple[int, int]] = {}

    @property
    def stdout(self) -> str:
        """Standard output so far."""
        return _content(self._stdout)

    @property
    def stderr(self) -> str:
        """Standard error so far."""
        return _content(self._stderr)

    def processes(self) -> dict[int, dict[str, str]]:
        """Every living process of this run, with its environment."""
        found = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with suppress(OSError):
                    pairs = (
                        each.partition("=")
                        for each in (folder / "environ").read_text(errors="replace").split("\0")
                    )
                    environment = {key: value for key, _, value in pairs}
                    if environment.get(MARK) == self._mark:
                        found[int(folder.name)] = environment
        return found

    def ranks(self) -> dict[int, int]:
        """The process of each rank."""
        if self.launcher.mpirun is None:
            return {0: self.process.pid}
        found = {}
        for pid, environment in self.processes().items():
            rank = next((environment[name] for name in RANK_VARIABLES if name in environment), None)
            if rank is not None:
                found[int(rank)] = pid
        return found

    def pulse_of(self, pid: int) -> int | None:
        """The file descriptor of the process's heartbeat; None before it has one."""
        with suppress(OSError):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                if "distcnn-heartbeat" in str(link.readlink()):
                    return int(link.name)
        return None

    def beat(self, rank: int) -> Beat | None:
        """The rank's latest heartbeat; None before its first."""
        if rank not in self._pulses:
            pid = self.ranks().get(rank)
            descriptor = self.pulse_of(pid) if pid else None
            if pid is None or descriptor is None:
                return None
            self._pulses[rank] = pid, descriptor
        return read_other(*self._pulses[rank])

    def wait_for(self, holds: Callable[[], Any], what: str, seconds: float = 60) -> None:
        """Wait until ``holds``.

        Fails, with the run's output, if the run ends first or it takes longer.
        """
        end = time.monotonic() + seconds
        while not holds():
            ended = self.process.poll() is not None
            if (ended and not holds()) or time.monotonic() > end:
                raise AssertionError(
                    f"{what} did not come (exit code"
                    f" {self.process.poll()}):\n{self.stdout}\n{self.stderr}"
                )
            time.sleep(0.02)

    def wait_for_text(self, text: str, seconds: float = 60) -> None:
        """Wait until ``text`` was printed, to either stream."""
        self.wait_for(lambda: text in self.stdout or text in self.stderr, repr(text), seconds)

    def wait_for_step(self, step: int, rank: int = 0, seconds: float = 60) -> None:
        """Wait until ``rank`` has begun ``step``."""
        self.wait_for(
            lambda: (beat := self.beat(rank)) and beat.step >= step,
            f"step {step} of rank {rank}",
            seconds,
        )

    def send(self, number: signal.Signals, *ranks: int) -> None:
        """Send a signal to these ranks only."""
        found = self.ranks()
        for rank in ranks:
            os.kill(found[rank], number)

    def end(self, seconds: float = 60) -> Ended:
        """Wait for the end. Fails if it takes longer, or if a process is left."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"still there after {seconds} s:\n{self.stdout}\n{self.stderr}"
            ) from None
        took = time.monotonic() - self._start
        self.wait_for_none_left(SECONDS_TO_VANISH)
        return Ended(code, self.stdout, self.stderr, took)

    def wait_for_none_left(self, seconds: float) -> None:
        """Wait until the run has no process left. Fails if it takes longer."""
        end = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(0.02)
        assert not left, f"processes are left: {list(left)}\n{self.stderr}"

    def kill(self) -> None:
        """End every process of the run, stopped ones too."""
        while found := self.processes():
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.poll()
            time.sleep(0.02)
        self.process.wait()


@contextmanager
def running(
    launcher: Launcher,
    ranks: int,
    *arguments: str,
    prefix: Sequence[str] = (),
    stdin: int = subprocess.DEVNULL,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    **environment: str,
) -> Iterator[Running]:
    """Start ``python arguments`` on ``ranks`` ranks in a session of its own; at the end of the
    block all its processes are killed.
    """
    mark = secrets.token_hex(8)
    start = [launcher.mpirun, "-n", str(ranks)] if launcher.mpirun else []
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            [*prefix, *start, launcher.python, *arguments],
            stdin=stdin,
            stdout=out if stdout is None else stdout,
            stderr=err if stderr is None else stderr,
            cwd=ROOT,
            env=clean_environment() | environment | {MARK: mark},
            start_new_session=True,
        )
        run = Running(launcher, process, mark, out, err)
        try:
            yield run
        finally:
            run.kill()


def staged(fault: str, ranks: Sequence[int], step: int, mark: Path | None = None) -> dict[str, str]:
    """The environment in which the network of ``tests/support/staged.py`` commits ``fault`` on
    ``ranks`` in ``step``.
    """
    where = {
        "STAGED_FAULT": fault,
        "STAGED_RANKS": ",".join(map(str, ranks)),
        "STAGED_STEP": str(step),
    }
    return where | ({"STAGED_MARK": str(mark)} if mark else {})


@functools.cache
def reference_hash(data: Path) -> str:
    """The hash of the weights of an undisturbed ``STAGED`` run on ``data``."""
    with tempfile.TemporaryDirectory() as folder:
        return str(
            SERIAL.train(1, Path(folder) / "run", *STAGED[2:], "--data", str(data))["params_sha256"]
        )


def resume(launcher: Launcher, ranks: int, path: Path) -> dict[str, Any]:
    """Resume the run in ``path`` to its end, without faults; return its result."""
    done = launcher.run(ranks, "-m", "distcnn.train", "--resume", str(path), "--trust-model")
    assert done.returncode == 0, (
        f"{launcher.name} on {ranks} ranks: exit code"
        f" {done.returncode}\n{done.stdout}\n{done.stderr}"
    )
    result: dict[str, Any] = json.loads((path / "result.json").read_text())
    return result


def seconds_since_fault(mark: Path) -> float:
    """Seconds since the first rank reached its staged fault."""
    return time.time() - min(
        each.stat().st_mtime for each in mark.parent.iterdir() if each.name.startswith(mark.name)
    )


def _content(file: IO[bytes]) -> str:
    return os.pread(file.fileno(), 1 << 24, 0).decode(errors="replace")
