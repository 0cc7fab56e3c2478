"""What a sweep leaves beside its records: JSON, CSV, picture."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from distcnn.plotting import has_matplotlib
from distcnn.scaling.csv_files import measurements_sheet, points_sheet
from distcnn.scaling.plot import content_of, draw
from distcnn.scaling.summary import Summary
from distcnn.scaling.sweep_directory import Record, Records
from distcnn.system.wording import counted

KIND = "distcnn.scaling"


def write_outputs(
    records: Records, found: Sequence[Record], summary: Summary, remarks: list[str]
) -> list[str]:
    """Write all files; a line on each, or on why there is none."""
    written = [
        records.write(
            "scaling.json", json.dumps(as_table(records, found, summary, remarks), indent=1) + "\n"
        ),
        records.write("scaling.csv", points_sheet(summary.rows)),
        records.write("measurements.csv", measurements_sheet(found)),
    ]
    lines = [f"results   {', '.join(str(file) for file in written)}"]
    if not any(each.ok for each in found):
        return [*lines, "picture   there is nothing to draw"]
    if not has_matplotlib():
        return [
            *lines,
            (
                "picture   none without matplotlib: pip install matplotlib, then run the same"
                f" command with --output {records.path} again; nothing is measured anew"
            ),
        ]
    picture = records.write("scaling.png", draw(content_of(summary, title(found))))
    return [*lines, f"picture   {picture}"]


def as_table(
    records: Records, found: Sequence[Record], summary: Summary, remarks: list[str]
) -> dict[str, Any]:
    """Everything, for JSON: what was asked for, a row for each point, each measurement with all
    that its ranks saw.
    """
    return {
        "kind": KIND,
        "settings": dataclasses.asdict(records.settings),
        "rows": [dataclasses.asdict(each) for each in summary.rows],
        "bases": summary.bases,
        "all_good": summary.all_good,
        "same_bits": not summary.bits.differences,
        "remarks": remarks,
        "failures": [each.as_table() for each in summary.failures],
        "measurements": [each.as_table() for each in found],
    }


def title(found: Sequence[Record]) -> str:
    """What was measured, and on what, in a line; of the measurement on most ranks, for one rank
    needs no MPI.
    """
    result = max(
        (each.result for each in found if each.result), key=lambda result: result["world_size"]
    )
    machine, hosts = (
        result["machine"],
        max(len(set(each.result["hosts"])) for each in found if each.result),
    )
    where = (
        f"{f'{hosts} hosts' if hosts > 1 else 'one host'} of {counted(machine['cores'], 'core')}"
    )
    return (
        f"{result['model']} on {result['data']}, {result['reduction']} sum, {machine['mpi']};"
        f" {where} ({machine['processor']})"
    )
