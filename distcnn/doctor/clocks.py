"""The hosts' clocks against rank 0's, and whether clocks go at all.

Rank 0 notes the time, all meet at a barrier, note theirs and tell it, rank 0 notes the time again.
Each was noted between rank 0's two, so its clock is off by no less than one difference and no more
than the other. Of several rounds the tightest counts.
"""

from __future__ import annotations

import time
from typing import Any

from distcnn.doctor.check import Everyone, Facts, Section
from distcnn.doctor.finding import BAD, GOOD, WARNING, Finding, Places, gathered
from distcnn.system.environment import source_files

ROUNDS = 20
NAP_SECONDS = 0.05
NOTED_SECONDS, WRONG_SECONDS = 0.5, 10.0
"""Beyond these a clock is odd, or wrong: a cluster keeps its hosts within milliseconds."""

SET_CLOCK = (
    "have the hosts' clocks set (chrony, ntp): ask the site. Logins, credentials (munge, Kerberos)"
    " and files' times hang on them"
)


def look(communicator: Any) -> Facts:
    """Rounds of (rank 0's time before, all ranks' times, rank 0's time after), as this rank sees
    them; how its clocks go.
    """
    communicator.barrier()
    rounds = []
    for _ in range(ROUNDS):
        before = time.time()
        communicator.barrier()
        times = communicator.allgather(time.time())
        rounds.append([before, times, time.time()])
    newest = max(each.stat().st_mtime for each in source_files())
    return _going() | {"rounds": rounds if communicator.rank == 0 else [], "newest": newest}


def judge(places: Places, everyone: Everyone) -> list[Finding]:
    """One line for all, or one for each host that is off."""
    return [
        *_against_root(places, everyone),
        *gathered(places, {rank: _standing(facts) for rank, facts in everyone.items()}),
    ]


def offsets(rounds: list[list[Any]]) -> tuple[list[float], float]:
    """How far each rank's clock is before rank 0's, in seconds, and how uncertain that is."""
    before, times, after = min(rounds, key=lambda each: abs(float(each[2]) - float(each[0])))
    middle, uncertain = (before + after) / 2, abs(after - before) / 2
    return [float(each) - middle for each in times], uncertain


def offset_of_hosts(places: Places, everyone: Everyone) -> dict[str, float]:
    """By host, that of its first rank."""
    if 0 not in everyone:
        return {}
    found, _ = offsets(everyone[0]["rounds"])
    return {host: found[ranks[0]] for host, ranks in places.ranks_of_host.items()}


def _against_root(places: Places, everyone: Everyone) -> list[Finding]:
    if 0 not in everyone or len(places.hosts) == 1:
        return []
    found, uncertain = offsets(everyone[0]["rounds"])
    off = {rank: each for rank, each in enumerate(found) if abs(each) > NOTED_SECONDS + uncertain}
    if not off:
        most = max(abs(each) for each in found)
        return [
            Finding(
                "clock",
                GOOD,
                f"all within {most + uncertain:.2g} s of rank 0's (uncertain by {uncertain:.1g} s)",
            )
        ]
    lines = {}
    for rank, seconds in off.items():
        state = BAD if abs(seconds) > WRONG_SECONDS + uncertain else WARNING
        text = (
            f"{abs(seconds):.1f} s {'before' if seconds > 0 else 'behind'} rank 0's (uncertain by"
            f" {uncertain:.1g} s)"
        )
        lines[rank] = [Finding("clock", state, text, SET_CLOCK)]
    return gathered(places, lines)


def _going() -> Facts:
    """How far each clock goes in a short sleep."""
    start = time.monotonic(), time.perf_counter(), time.time()
    time.sleep(NAP_SECONDS)
    return {
        "went": [
            time.monotonic() - start[0],
            time.perf_counter() - start[1],
            time.time() - start[2],
        ],
        "now": time.time(),
    }


def _standing(facts: Facts) -> list[Finding]:
    monotonic, counter, wall = facts["went"]
    remedy = (
        "the machine's timer is broken, or it is a virtual machine that was moved: restart it, or"
        " leave this host out"
    )
    if min(monotonic, counter) < NAP_SECONDS / 2:
        return [
            Finding("clock", BAD, "the monotonic clock stands still: nothing can be timed", remedy)
        ]
    if abs(wall - monotonic) > max(NOTED_SECONDS, monotonic / 2):
        return [
            Finding(
                "clock",
                WARNING,
                f"the time of day jumped by {wall - monotonic:+.1f} s while we looked",
                SET_CLOCK,
            )
        ]
    if facts["now"] < facts["newest"] - WRONG_SECONDS:
        return [
            Finding(
                "clock",
                WARNING,
                "the time of day is before distcnn's own files were written",
                SET_CLOCK,
            )
        ]
    return []


SECTION = Section("clock", look, judge)
