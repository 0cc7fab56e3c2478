"""The watchdog: a thread on each rank that detects a stall, finds the late rank, reports what it
was doing and ends all ranks.

When its main thread has made no progress for the timeout, one rank, the reporter, asks all others.
Those that do not answer are late, and so are those that do not wait for others. For a stopped
process, a rank on the same host reads its heartbeat. Only time in which the thread ran counts: a
job that was suspended and continued has not stalled.
"""

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, Self

from distcnn.distributed import Communicator
from distcnn.fault_tolerance.heartbeat import Beat, heartbeat, read_other
from distcnn.system.console import tell
from distcnn.system.launcher import process_status

EXIT_STALLED = 4
TICK_SECONDS = 1.0
ANSWER_SECONDS = 3.0
"""How long the reporter waits for answers, which come within a tick."""
TURN_SECONDS = ANSWER_SECONDS + 2
"""The reporter is the lowest rank that answers: each rank waits this long for the one before."""
MOST_TURNS = 3
MOST_STACKS = 4
"""Stacks shown: those of late ranks, and of one that waits."""
NOTHING_SEEN = Beat(-1, "", False, 0.0, "", 0.0)


@dataclass(frozen=True)
class Member:
    """Where a rank runs, and the descriptor of its heartbeat."""

    rank: int
    host: str
    pid: int
    descriptor: int


@dataclass(frozen=True)
class Status:
    """A rank's report on itself, or on another of its host, with the ``state`` of its process."""

    member: Member
    answers: bool = False
    beat: Beat = NOTHING_SEEN
    state: str = ""

    @property
    def waits(self) -> bool:
        """Whether it answers, and waits for other ranks."""
        return self.answers and self.beat.waiting


class Watchdog:
    """Watches this process in its context; ``timeout_seconds`` may be changed there, 0 means never.
    Making it is collective. ``end_all`` ends all ranks with a code instead of ``abort``.
    """

    def __init__(
        self,
        name: str,
        communicator: Communicator,
        timeout_seconds: float = 300.0,
        end_all: Callable[[int], NoReturn] | None = None,
    ) -> None:
        self.timeout_seconds = timeout_seconds
        self._end_all = end_all or communicator.abort
        self._name, self._mailbox = name, communicator.mailbox()
        rank = communicator.rank
        self._me = Member(rank, communicator.hosts[rank], os.getpid(), heartbeat.descriptor)
        self._members = communicator.allgather(self._me)
        self._found: dict[int, Status] = {}
        self._main = threading.get_ident()
        self._beats, self._idle_seconds, self._heard_reporter = -1, 0.0, False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._listening = heartbeat.listening()
        self._listening.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._listening.__exit__(None, None, None)

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._stopped.wait(TICK_SECONDS):
            now = time.monotonic()
            if heartbeat.beats == self._beats:
                self._idle_seconds += min(now - last, 2 * TICK_SECONDS)
            else:
                self._beats, self._idle_seconds = heartbeat.beats, 0.0
            last = now
            frame = sys._current_frames().get(self._main)
            heartbeat.note_stack("".join(traceback.format_stack(frame)) if frame else "")
            self._answer()
            turn = min(self._me.rank, MOST_TURNS) * TURN_SECONDS
            if not self.timeout_seconds or self._idle_seconds <= self.timeout_seconds + turn:
                continue
            if self._heard_reporter:
                # the reporter did not end the run: from here on, each rank acts alone
                self._heard_reporter, self._idle_seconds = False, self.timeout_seconds
            else:
                self._investigate()

    def _answer(self) -> None:
        """Take the messages that have arrived."""
        for sender, (kind, content) in self._mailbox.take():
            if kind == "status":
                self._heard_reporter = True
                self._mailbox.post(sender, ("answer", Status(self._me, True, heartbeat.read())))
            elif kind == "look":
                self._mailbox.post(sender, ("answer", look_at(content)))
            elif kind == "answer":
                self._found[content.member.rank] = content
            elif kind == "end":
                _end_soon()

    def _investigate(self) -> None:
        """Ask all ranks, and end all unless one still works."""
        me = self._me.rank
        others = [member for member in self._members if member.rank != me]
        self._found = {me: Status(self._me, True, heartbeat.read())}
        self._ask("status", {member: member.rank for member in others})
        silent = [member for member in others if member.rank not in self._found]
        neighbours = {each.member.host: rank for rank, each in self._found.items()}
        away = [each for each in silent if each.host != self._me.host and each.host in neighbours]
        self._found |= {each.rank: look_at(each) for each in silent if each.host == self._me.host}
        self._ask("look", {member: neighbours[member.host] for member in away})
        if self._stopped.is_set() or heartbeat.beats != self._beats:
            return
        everyone = [self._found.get(member.rank, Status(member)) for member in self._members]
        idle = [
            each
            for each in everyone
            if not each.answers or each.waits or each.beat.seconds >= self.timeout_seconds / 2
        ]
        if len(idle) < len(everyone) and not silent:
            self._idle_seconds = 0.0
        else:
            tell(f"{self._name}: error: {describe(idle, self._idle_seconds)}")
            _end_soon()
            # beyond a broken network, a launcher does not learn of an abort
            for member in others:
                self._mailbox.post(member.rank, ("end", member))
            self._end_all(EXIT_STALLED)

    def _ask(self, question: str, about: dict[Member, int]) -> None:
        """Ask ranks about members, and wait for the answers."""
        for member, rank in about.items():
            self._mailbox.post(rank, (question, member))
        end, expected = time.monotonic() + ANSWER_SECONDS, len(self._found) + len(about)
        while len(self._found) < expected and time.monotonic() < end:
            self._answer()
            time.sleep(0.02)


def _end_soon() -> None:
    """End this process even if MPI cannot abort."""
    threading.Timer(ANSWER_SECONDS, os._exit, [EXIT_STALLED]).start()


def look_at(member: Member) -> Status:
    """The status of another rank of this host, seen from outside."""
    beat = read_other(member.pid, member.descriptor) or NOTHING_SEEN
    return Status(member, False, beat, process_status(member.pid, "State") or "gone")


def describe(everyone: list[Status], seconds: float) -> str:
    """The report: late ranks with host, activity and duration; waiting ranks; stacks."""
    waiting = [each for each in everyone if each.waits]
    late = [each for each in everyone if not each.waits]
    late.sort(key=lambda each: each.answers)
    lines = [f"stalled: no progress for {seconds:.0f} s (--stall-timeout)"]
    lines += [_late_line(each) for each in late] or [
        "every rank waits for the others: they have reached different points of the program"
    ]
    if waiting:
        ranks = ", ".join(str(each.member.rank) for each in waiting)
        lines.append(f"waiting: rank {ranks}: {waiting[0].beat.text()}")
    shown = [*late[: MOST_STACKS - 1], *waiting[:1]] if late else waiting[:MOST_STACKS]
    for status in shown:
        if status.beat.stack:
            lines.append(f"stack of rank {status.member.rank}:")
            if not status.answers:
                lines.append(f"  (as it was {status.beat.stack_seconds:.0f} s ago)")
            lines.append(status.beat.stack.rstrip())
    return "\n".join(lines)


def _late_line(status: Status) -> str:
    member = status.member
    line = f"late: rank {member.rank} on host {member.host} (process {member.pid})"
    if not status.answers:
        line += ", does not answer" + f", state {status.state}" * bool(status.state)
    if status.beat.activity:
        last = "" if status.answers else "last at "
        line += f", {last}{status.beat.text()}, for {status.beat.seconds:.0f} s"
    return line
