"""The ways in which ``benchmarks.soak`` kills a start, and the moments at which it does."""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.soak.starts import Start, steps_taken
from distcnn.fault_tolerance.signals import STOP_SIGNALS

WAYS = (
    (signal.SIGKILL, "one rank"),
    (signal.SIGKILL, "rank 0"),
    (signal.SIGKILL, "all ranks"),
    (signal.SIGKILL, "launcher"),
    (signal.SIGTERM, "one rank"),
    (signal.SIGTERM, "launcher"),
    (signal.SIGUSR1, "one rank"),
    (signal.SIGUSR1, "all ranks"),
    (signal.SIGINT, "one rank"),
    (signal.SIGINT, "launcher"),
)
MOMENTS = ("start", "step", "checkpoint", "end")
"""While it starts; at a step; while a checkpoint is written; while the results are."""
CHANCES = {True: (0.2, 0.3, 0.3, 0.2), False: (0.15, 0.6, 0.1, 0.15)}
"""Of the moments, for SIGKILL and for signals that ask to stop."""

LONGEST_START_SECONDS = 0.7
LONGEST_PAUSE_SECONDS = 0.02
MOST_CHECKPOINTS_LET_PASS = 12
RESULT_FILES = (".weights.h5.tmp", "weights.h5", ".result.json.tmp", "result.json")
Signature = tuple[str, int, int]


@dataclass(frozen=True)
class Kill:
    """Which signal is sent to which process, and when.

    ``share`` (0 to 1) is the position in the moment's range; ``rank_share`` selects a rank.
    """

    number: signal.Signals
    target: str
    moment: str
    share: float
    rank_share: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Kill:
        """A random kill."""
        number, target = WAYS[rng.integers(len(WAYS))]
        moment = str(rng.choice(MOMENTS, p=CHANCES[number == signal.SIGKILL]))
        if (number, target, moment) == (signal.SIGINT, "one rank", "start"):
            # Python then ends by itself, possibly before it has read a line of ours, while MPICH's
            # mpirun leaves the others waiting in MPI_Init.
            moment = "step"
        return cls(number, target, moment, float(rng.random()), float(rng.random()))

    @property
    def way(self) -> str:
        """The signal and its target, as text."""
        return f"{self.number.name} to {self.target}"

    @property
    def asks_to_stop(self) -> bool:
        """Whether the run may save a checkpoint and end."""
        return self.number in STOP_SIGNALS

    def wait_and_send(self, start: Start, run: Path, total_steps: int) -> Sent | None:
        """Send it at its moment; None if the start ended first."""
        pids = _wait_for_moment(self, start, run, total_steps)
        steps = steps_taken(run) if self.asks_to_stop else 0
        listened = self.moment == "checkpoint" or (self.moment == "step" and bool(pids))
        now, reached = time.monotonic(), 0
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, self.number)
                reached += 1
        return Sent(now, steps, listened) if reached else None


@dataclass(frozen=True)
class Sent:
    """A signal that was sent: when, after how many steps at least, and whether all ranks had taken
    steps and so handled signals.
    """

    time: float
    steps: int
    listened: bool


def _wait_for_moment(kill: Kill, start: Start, run: Path, total_steps: int) -> list[int]:
    """The processes to send it to, once the moment has come; none if the start ended first."""
    if kill.moment == "start":
        return _after_seconds(kill, start)
    if kill.moment == "step":
        return _at_step(kill, start, run, total_steps)
    if kill.moment == "checkpoint":
        return _in_checkpoint(kill, start, run)
    return _in_results(kill, start, run)


def _after_seconds(kill: Kill, start: Start) -> list[int]:
    time.sleep(max(0.0, start.begun + kill.share * LONGEST_START_SECONDS - time.monotonic()))
    while start.code is None:
        if kill.target == "launcher":
            return [start.launcher_pid]
        if ranks := start.ranks():
            return _targets(kill, start, ranks)
    return []


def _at_step(kill: Kill, start: Start, run: Path, total_steps: int) -> list[int]:
    ranks = _all_ranks(start)
    while start.code is None:
        if start.takes_steps and steps_taken(run) >= kill.share * total_steps:
            time.sleep(kill.rank_share * LONGEST_PAUSE_SECONDS)
            return _targets(kill, start, ranks)
        time.sleep(0.001)
    return []


def _in_checkpoint(kill: Kill, start: Start, run: Path) -> list[int]:
    """When a checkpoint's temporary file appears, after letting some of them pass."""
    folder = run / "checkpoints"
    old, seen = temporary_checkpoints(folder), set[str]()
    pids = _targets(kill, start, _all_ranks(start))
    let_pass = int(kill.share * MOST_CHECKPOINTS_LET_PASS)
    while start.code is None:
        now = temporary_checkpoints(folder)
        old &= now  # what a kill left is removed when the run is resumed
        seen |= now - old
        if now - old and len(seen) > let_pass:
            return pids
    return []


def _in_results(kill: Kill, start: Start, run: Path) -> list[int]:
    """When one of the files of the results appears or is replaced."""
    wanted = RESULT_FILES[int(kill.share * len(RESULT_FILES))]
    old = _signatures(run)
    pids = _targets(kill, start, _all_ranks(start))
    while start.code is None:
        new = {name for name, *_ in _signatures(run) - old}
        if wanted in new or "result.json" in new:
            return pids
    return []


def _all_ranks(start: Start) -> dict[int, int]:
    """The processes of all ranks, once all have started."""
    while len(ranks := start.ranks()) < start.place.ranks and start.code is None:
        time.sleep(0.005)
    return ranks


def _targets(kill: Kill, start: Start, ranks: dict[int, int]) -> list[int]:
    pids = [pid for _, pid in sorted(ranks.items())]
    if kill.target == "launcher" or not pids:
        return [start.launcher_pid]
    if kill.target == "one rank":
        return [pids[int(kill.rank_share * len(pids))]]
    return pids[:1] if kill.target == "rank 0" else pids


def temporary_checkpoints(folder: Path) -> set[str]:
    """The names of checkpoints that are being written, or were when their writer was killed."""
    try:
        return {name for name in os.listdir(folder) if name.endswith(".tmp")}  # noqa: PTH208
    except FileNotFoundError:
        return set()


def result_files(run: Path) -> dict[str, str]:
    """The names of results in ``run``, and which of ``RESULT_FILES`` each is: temporary files have
    random names.
    """
    try:
        names = os.listdir(run)  # noqa: PTH208
    except FileNotFoundError:
        return {}
    kinds = {name: re.sub(r"\.[0-9a-f]{16}\.tmp$", ".tmp", name) for name in names}
    return {name: kind for name, kind in kinds.items() if kind in RESULT_FILES}


def _signatures(run: Path) -> set[Signature]:
    found = set()
    with suppress(OSError):
        for name, kind in result_files(run).items():
            status = os.stat(run / name)  # noqa: PTH116
            found.add((kind, status.st_ino, status.st_mtime_ns))
    return found
