"""The watchdog: a thread on each rank that detects a stall, finds the late rank, reports what it
was doing and ends all ranks.

A rank that stops (a stopped process, a hung file system, a dead host) leaves the others waiting in
MPI forever, without a message. The thread of each rank measures how long its main thread has made
no progress. Beyond the timeout one rank, the reporter, asks all others; they answer with their
activity and stack. Ranks that do not answer are late, and so are those that do not wait for others.
A stopped process cannot answer: a rank on the same host reads its heartbeat
(``distcnn.fault_tolerance.heartbeat``).

Only time in which this thread ran counts, so a job that was suspended and continued has not
stalled.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from distcnn.distributed import Communicator
from distcnn.fault_tolerance.heartbeat import Beat, heartbeat, read_other
from distcnn.system.console import tell

EXIT_STALLED = 4
TICK_SECONDS = 1.0
ANSWER_SECONDS = 3.0
"""How long the reporter waits for answers, which come within a tick."""
TURN_SECONDS = ANSWER_SECONDS + 2
"""The reporter is the lowest rank that answers: each rank waits this long for the one before."""
MOST_TURNS = 3
MOST_STACKS = 4
"""Stacks shown: those of late ranks, and of one that waits."""


@dataclass(frozen=True)
class Member:
    """Where a rank runs, and the descriptor of its heartbeat."""

    rank: int
    host: str
    pid: int
    descriptor: int


@dataclass(frozen=True)
class Status:
    """A rank's report on itself, or on another rank of its host (then ``answers`` is False).

    ``seconds``: since its activity began.
    """

    member: Member
    answers: bool
    beat: Beat | None
    seconds: float
    stack: str
    state: str = ""

    @property
    def rank(self) -> int:
        return self.member.rank


class Watchdog:
    """A context manager that watches this process. Making it is collective.

    ``timeout_seconds`` may be changed at any time; 0 means never. ``end_all`` ends all ranks; by
    default, with ``EXIT_STALLED``.
    """

    def __init__(
        self,
        name: str,
        communicator: Communicator,
        timeout_seconds: float = 300.0,
        end_all: Callable[[], NoReturn] | None = None,
    ) -> None:
        self.timeout_seconds = timeout_seconds
        self._end_all = end_all or (lambda: communicator.abort(EXIT_STALLED))
        self._name = name
        self._mailbox = communicator.mailbox()
        host = communicator.hosts[communicator.rank]
        self._me = Member(communicator.rank, host, os.getpid(), heartbeat.descriptor)
        self._members: list[Member] = communicator.allgather(self._me)
        self._main = threading.get_ident()
        self._beats, self._idle_seconds, self._heard_reporter = -1, 0.0, False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
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
            self._count(min(now - last, 2 * TICK_SECONDS))
            last = now
            heartbeat.note_stack(self._stack())
            self._answer(self._mailbox.take())
            turn = min(self._me.rank, MOST_TURNS) * TURN_SECONDS
            if self.timeout_seconds and self._idle_seconds > self.timeout_seconds + turn:
                if (
                    self._heard_reporter
                ):  # the reporter did not end the run: from here on, each rank acts alone
                    self._heard_reporter, self._idle_seconds = False, self.timeout_seconds
                else:
                    self._investigate()

    def _count(self, seconds: float) -> None:
        """Add to the time in which the main thread has made no progress."""
        self._idle_seconds = self._idle_seconds + seconds if heartbeat.beats == self._beats else 0.0
        self._beats = heartbeat.beats

    def _answer(self, messages: Iterable[tuple[int, Any]]) -> None:
        for sender, (question, ranks) in messages:
            if question == "status":
                self._heard_reporter = True
                self._mailbox.post(sender, ("answer", self._status()))
            elif question == "look":
                for rank in ranks:
                    self._mailbox.post(sender, ("answer", look_at(self._members[rank])))
            elif question == "end":
                _end_soon()

    def _investigate(self) -> None:
        """Ask all ranks, and end all unless one still works."""
        others = [member for member in self._members if member.rank != self._me.rank]
        answers = {self._me.rank: self._status()} | self._ask(
            "status", {member.rank: [] for member in others}
        )
        silent = [member for member in others if member.rank not in answers]
        here = [member for member in silent if member.host == self._me.host]
        looks = {member.rank: look_at(member) for member in here}
        neighbours = {each.member.host: each.rank for each in answers.values()}
        elsewhere: dict[int, list[int]] = {}
        for member in silent:
            if member.host != self._me.host and member.host in neighbours:
                elsewhere.setdefault(neighbours[member.host], []).append(member.rank)
        if elsewhere:
            looks |= self._ask("look", elsewhere)
        unseen = {member.rank: Status(member, False, None, 0.0, "") for member in silent}
        everyone = {**unseen, **looks, **answers}
        if self._stopped.is_set() or heartbeat.beats != self._beats:
            return
        working = [
            each
            for each in answers.values()
            if not _waits(each) and each.seconds < self.timeout_seconds / 2
        ]
        if working and not silent:
            self._idle_seconds = 0.0
            return
        idle = {each.rank for each in everyone.values() if each not in working}
        self._end(
            describe([each for each in everyone.values() if each.rank in idle], self._idle_seconds)
        )

    def _ask(self, question: str, about: dict[int, list[int]]) -> dict[int, Status]:
        """Post a question to some ranks and gather the answers, by the rank they are about."""
        for rank, ranks in about.items():
            self._mailbox.post(rank, (question, ranks))
        expected = sum(max(1, len(ranks)) for ranks in about.values())
        answers: dict[int, Status] = {}
        end = time.monotonic() + ANSWER_SECONDS
        while len(answers) < expected and time.monotonic() < end:
            for sender, (kind, content) in self._mailbox.take():
                if kind == "answer":
                    answers[content.rank] = content
                else:
                    self._answer([(sender, (kind, content))])
            time.sleep(0.02)
        return answers

    def _status(self) -> Status:
        beat = heartbeat.read()
        return Status(self._me, True, beat, time.monotonic() - beat.since, self._stack())

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._main)
        return "".join(traceback.format_stack(frame)) if frame else ""

    def _end(self, report: str) -> None:
        tell(f"{self._name}: error: {report}")
        _end_soon()
        for (
            member
        ) in self._members:  # beyond a broken network, a launcher does not learn of an abort
            if member.rank != self._me.rank:
                self._mailbox.post(member.rank, ("end", []))
        self._end_all()


def _end_soon() -> None:
    """End this process even if MPI cannot abort."""
    threading.Timer(ANSWER_SECONDS, os._exit, [EXIT_STALLED]).start()


def look_at(member: Member) -> Status:
    """The status of another rank of this host, seen from outside."""
    beat = read_other(member.pid, member.descriptor)
    now = time.monotonic()
    if beat is None:
        return Status(member, False, None, 0.0, "", process_state(member.pid))
    stack = f"  (as it was {now - beat.stack_time:.0f} s ago)\n{beat.stack}" if beat.stack else ""
    return Status(member, False, beat, now - beat.since, stack, process_state(member.pid))


def process_state(pid: int) -> str:
    """The kernel's state of a process, such as "T (stopped)"; "gone" when there is none."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return "gone"
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("State:")), "unknown"
    )


def describe(everyone: list[Status], seconds: float) -> str:
    """The report: late ranks with host, activity and duration; waiting ranks; stacks."""
    late = [each for each in everyone if not each.answers] + [
        each for each in everyone if each.answers and not _waits(each)
    ]
    waiting = [each for each in everyone if each.answers and _waits(each)]
    lines = [f"stalled: no progress for {seconds:.0f} s (--stall-timeout)"]
    lines += [_late_line(each) for each in late] or [
        "every rank waits for the others: they have reached different points of the program"
    ]
    if waiting:
        ranks = ", ".join(str(each.rank) for each in waiting)
        lines.append(f"waiting: rank {ranks}: {_doing(waiting[0])}")
    shown = [*late[: MOST_STACKS - 1], *waiting[:1]] if late else waiting[:MOST_STACKS]
    lines += [f"stack of rank {each.rank}:\n{each.stack.rstrip()}" for each in shown if each.stack]
    return "\n".join(lines)


def _late_line(status: Status) -> str:
    member = status.member
    silent = (
        ""
        if status.answers
        else ", does not answer" + (f", state {status.state}" if status.state else "")
    )
    last = f", {'' if status.answers else 'last at '}{_doing(status)}" if status.beat else ""
    since = f", for {status.seconds:.0f} s" if status.beat else ""
    return (
        f"late: rank {status.rank} on host {member.host} (process"
        f" {member.pid}){silent}{last}{since}"
    )


def _doing(status: Status) -> str:
    return status.beat.text() if status.beat else "unknown"


def _waits(status: Status) -> bool:
    return status.beat is not None and status.beat.waiting
