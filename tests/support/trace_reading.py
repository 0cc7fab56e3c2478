"""A trace, checked strictly against Chrome's format as it is read."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Slice:
    """Times are whole nanoseconds since the trace began."""

    name: str
    rank: int
    thread: str
    begin: int
    end: int
    args: dict[str, Any]
    within: Slice | None = None
    children: list[Slice] = field(default_factory=list)

    @property
    def nanoseconds(self) -> int:
        return self.end - self.begin

    @property
    def step(self) -> int | None:
        """The step that contains it."""
        return (
            self.args["step"] if self.name == "step" else self.within.step if self.within else None
        )


@dataclass
class Trace:
    slices: list[Slice]
    facts: dict[str, Any]

    def named(self, name: str, rank: int | None = None) -> list[Slice]:
        return [each for each in self.slices if each.name == name and rank in (None, each.rank)]

    def steps(self, rank: int) -> list[int]:
        return [each.args["step"] for each in self.named("step", rank)]


def read_trace(path: Path) -> Trace:
    """Fails if the file violates the format or slices of one thread overlap partly."""
    content = json.loads(path.read_text())
    assert content.keys() == {"traceEvents", "displayTimeUnit", "otherData"}
    assert content["displayTimeUnit"] in ("ms", "ns")
    threads, processes = {}, set()
    for event in content["traceEvents"]:
        assert event["ph"] in ("X", "M")
        assert type(event["pid"]) is int
        if event["name"] == "thread_name":
            threads[event["pid"], event["tid"]] = event["args"]["name"]
        if event["name"] == "process_name":
            assert event["args"]["name"].startswith(f"rank {event['pid']} (")
            processes.add(event["pid"])
        if event["name"] == "process_sort_index":
            assert event["args"] == {"sort_index": event["pid"]}
    assert len({thread for _, thread in threads}) == len(threads)
    of_threads = defaultdict(list)
    for event in content["traceEvents"]:
        if event["ph"] == "X":
            assert event.keys() - {"args"} == {"ph", "name", "pid", "tid", "ts", "dur"}
            assert event["name"]
            assert event["dur"] >= 0 <= event["ts"]
            begin, duration = event["ts"] * 1000, event["dur"] * 1000
            assert begin.is_integer()  # exact, however a reader rounds
            assert duration.is_integer()
            place = event["pid"], event["tid"]
            args = event.get("args", {})
            of_threads[place].append(
                Slice(
                    event["name"],
                    event["pid"],
                    threads[place],
                    int(begin),
                    int(begin + duration),
                    args,
                )
            )
    assert {rank for rank, _ in of_threads} == processes
    for slices in of_threads.values():
        _nest(slices)
    return Trace([each for slices in of_threads.values() for each in slices], content["otherData"])


def _nest(slices: list[Slice]) -> None:
    """Slices come in the order of their beginnings; each ends before the one that contains it."""
    open_slices: list[Slice] = []
    last = 0
    for each in slices:
        assert each.begin >= last
        last = each.begin
        while open_slices and open_slices[-1].end <= each.begin:
            open_slices.pop()
        if open_slices:
            assert each.end <= open_slices[-1].end, f"{each} overlaps {open_slices[-1]}"
            each.within = open_slices[-1]
            each.within.children.append(each)
        open_slices.append(each)
