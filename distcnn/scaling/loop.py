"""The sweep itself: one measurement after the other, those that have a result already left out."""

from __future__ import annotations

from collections.abc import Callable

from distcnn.scaling.launch_job import measure
from distcnn.scaling.points import in_order
from distcnn.scaling.processes import end_all
from distcnn.scaling.stop_requests import StopRequests
from distcnn.scaling.sweep_directory import Record, Records
from distcnn.scaling.table import outcome, title_of
from distcnn.system.wording import counted


def measure_all(
    records: Records, timeout: float, stop: StopRequests, say: Callable[[str], None]
) -> list[Record] | None:
    """The records of all measurements, in their order; failed ones are tried anew.

    None when a signal asked to stop before the last.
    """
    end_all(str(records.path.resolve()))  # an earlier sweep may have been killed
    records.remove_unfinished()
    wanted = list(in_order(records.settings.points, records.settings.repeats))
    before = {each: record for each in wanted if (record := records.find(each)) and record.ok}
    if before:
        say(f"going on  {len(before)} of {counted(len(wanted), 'measurement')} already done")
    found = []
    for number, each in enumerate(wanted, start=1):
        record = before.get(each)
        if record is None:
            record = measure(each, records, timeout, stop)
            if record is None:
                return None
            records.add(record)
            say(f"[{number}/{len(wanted)}] {title_of(each)}: {outcome(record)}")
        found.append(record)
    return found
