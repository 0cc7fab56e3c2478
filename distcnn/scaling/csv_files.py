"""CSV for spreadsheets: a row for each point, and a row for each measurement."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence
from typing import Any

from distcnn.scaling.result import GROUPS
from distcnn.scaling.summary import Row
from distcnn.scaling.sweep_directory import Record


def points_sheet(rows: Iterable[Row]) -> str:
    """The fields of ``Row``, and a column for each group of the split; empty where there is no
    figure.
    """
    names = [
        each.name for each in dataclasses.fields(Row) if each.name not in ("split", "split_slowest")
    ]
    lines = []
    for row in rows:
        splits = [
            ((kind or {}).get(group)) for kind in (row.split, row.split_slowest) for group in GROUPS
        ]
        lines.append([*(getattr(row, name) for name in names), *splits])
    heads = [f"{group}_fraction{of}" for of in ("", "_slowest_rank") for group in GROUPS]
    return _sheet([*names, *heads], lines)


def measurements_sheet(records: Iterable[Record]) -> str:
    """What each measurement found, seconds of a step as the mean over ranks; those that failed with
    the reason.
    """
    of_point = ("mode", "ranks", "num_shards", "microbatch_size")
    of_result = ("images_per_second", "step_seconds")
    of_split = ("step_seconds", *(f"{group}_seconds" for group in GROUPS))
    lines = []
    for each in records:
        result, point = each.result or {}, each.measurement.point
        mean = result.get("split", {}).get("mean", {})
        lines.append(
            [
                *(getattr(point, name) for name in of_point),
                each.measurement.repeat,
                each.ok,
                *(result.get(name) for name in of_result),
                *(mean.get(name) for name in of_split),
                result.get("params_sha256"),
                each.seconds,
                each.reason,
                each.log,
            ]
        )
    return _sheet(
        [
            *of_point,
            "repeat",
            "ok",
            *of_result,
            *(f"split_{name}" for name in of_split),
            "params_sha256",
            "seconds",
            "reason",
            "log",
        ],
        lines,
    )


def _sheet(heads: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(["" if cell is None else cell for cell in line] for line in lines)
    return text.getvalue()
