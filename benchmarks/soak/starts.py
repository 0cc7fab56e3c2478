"""One start of a training command for ``benchmarks.soak``: its processes, wherever a launcher put
them, and its output.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT, Launcher, clean_environment

MARK = "DISTCNN_SOAK_START"
RANK_VARIABLES = ("PMI_RANK", "OMPI_COMM_WORLD_RANK")
SECONDS_UNTIL_GONE = 10.0
SECONDS_UNTIL_FINISHED = 120.0
SECONDS_BETWEEN_LOOKS = 0.01


class Problem(Exception):
    """What went wrong in a round."""


@dataclass(frozen=True)
class Place:
    """A number of ranks under a launcher."""

    launcher: Launcher
    ranks: int

    def __str__(self) -> str:
        return f"{self.ranks} {self.launcher.name}"

    def command(self, arguments: list[str]) -> list[str]:
        """The command line that runs ``python arguments`` there."""
        start = [self.launcher.mpirun, "-n", str(self.ranks)] if self.launcher.mpirun else []
        return [*start, self.launcher.python, *arguments]


class Start:
    """A running command.

    All its processes carry a mark in their environment, which identifies them whatever their
    parents.
    """

    def __init__(self, place: Place, arguments: list[str], folder: Path, name: str) -> None:
        self.place, self._mark, self._run = (
            place,
            f"{os.getpid()}-{folder.name}-{name}",
            folder / "run",
        )
        self._file_before = _file_and_size(self._run / "metrics.jsonl")[0]
        self._first_look: tuple[int, int] | None = None
        self._output = folder / f"{name}.txt"
        self._shared_memory: set[str] = set()
        temporary = folder / "tmp"  # what a killed launcher leaves behind goes with the folder
        temporary.mkdir(exist_ok=True)
        own = {
            MARK: self._mark,
            "TMPDIR": str(temporary),
            "OMPI_MCA_btl_sm_backing_directory": str(temporary),
        }
        with self._output.open("w") as output:
            self.begun = time.monotonic()
            self._process = subprocess.Popen(
                place.command(arguments),
                env=clean_environment() | own,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def launcher_pid(self) -> int:
        """The process of the launcher, or the only process without one."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.poll()

    @property
    def text(self) -> str:
        """Its output so far."""
        return self._output.read_text(errors="replace")

    @property
    def takes_steps(self) -> bool:
        """Whether this start has taken steps, which means that every rank handles stop signals."""
        now = _file_and_size(self._run / "metrics.jsonl")
        if (
            self._first_look is None and now[0] != self._file_before
        ):  # a start replaces the old file by a new one
            self._first_look = now
            self._note_shared_memory(self.ranks().values())
        return self._first_look is not None and now != self._first_look

    def processes(self) -> dict[int, dict[str, str]]:
        """All living processes, with their environments."""
        found = {}
        for path in Path("/proc").iterdir():
            if path.name.isdigit() and (environment := _environment(path)).get(MARK) == self._mark:
                found[int(path.name)] = environment
        return found

    def ranks(self) -> dict[int, int]:
        """The processes of the ranks that have started."""
        if self.place.launcher.mpirun is None:
            return {0: self.launcher_pid}
        found = {}
        for pid, environment in self.processes().items():
            rank = next((environment[name] for name in RANK_VARIABLES if name in environment), "")
            if rank:
                found[int(rank)] = pid
        return found

    def finish(self) -> int:
        """Wait until the command ends by itself; return its exit code."""
        try:
            code = self._process.wait(SECONDS_UNTIL_FINISHED)
        except subprocess.TimeoutExpired as error:
            raise Problem(
                f"not ended within {SECONDS_UNTIL_FINISHED:.0f} s:\n{self._describe()}"
            ) from error
        self.wait_until_gone(time.monotonic())
        return code

    def wait_until_gone(self, since: float) -> float:
        """Wait until none of its processes is alive; return how long that took. ``Problem`` if it
        takes too long.
        """
        while self.code is None or self.processes():
            if time.monotonic() - since > SECONDS_UNTIL_GONE:
                raise Problem(
                    f"processes are left after {SECONDS_UNTIL_GONE:.0f} s:\n{self._describe()}"
                )
            time.sleep(SECONDS_BETWEEN_LOOKS)
        seconds = time.monotonic() - since
        self.end()
        return seconds

    def end(self) -> None:
        """Kill its remaining processes and remove its shared memory."""
        while living := self.processes():
            for pid in living:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(SECONDS_BETWEEN_LOOKS)
        self._process.wait()
        for path in self._shared_memory:
            Path(path).unlink(missing_ok=True)

    def _note_shared_memory(self, pids: Iterable[int]) -> None:
        """Note MPICH's, which a killed rank leaves behind."""
        for pid in pids:
            with suppress(OSError):
                self._shared_memory.update(
                    re.findall(r"/dev/shm/(?:mpich|ucx)\w+", Path(f"/proc/{pid}/maps").read_text())
                )

    def _describe(self) -> str:
        lines = [f"exit code of the launcher: {self.code}"]
        for pid in self.processes():
            with suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                state = re.search(r"State:\s*(.*)", Path(f"/proc/{pid}/status").read_text())
                lines.append(f"process {pid}, {state.group(1) if state else ''}: {command[:100]}")
        return "\n".join(lines)


def _file_and_size(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_ino, status.st_size


def _environment(path: Path) -> dict[str, str]:
    try:
        content = (path / "environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(entry.split("=", 1) for entry in content.split("\0") if "=" in entry)


def steps_taken(run: Path) -> int:
    """The last step in the run's metrics; 0 if it has none."""
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    except OSError:
        return 0
    whole = [json.loads(line) for line in lines if line.endswith("\n")]
    return max((line["step"] for line in whole), default=0)
