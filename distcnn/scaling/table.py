"""The summary, to be read on a screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from distcnn.scaling.footnotes import balance_remarks
from distcnn.scaling.options import Request
from distcnn.scaling.points import STRONG, Measurement
from distcnn.scaling.result import GROUPS
from distcnn.scaling.summary import Row, Summary
from distcnn.scaling.sweep_directory import Record
from distcnn.system.wording import counted

TITLES = {"compute": "compute", "communication": "comm.", "waiting": "waiting", "data": "data"}
"""Of the columns of the split."""


def headline(request: Request, path: Path) -> list[str]:
    """What is going to be measured, chosen or given, in lines."""
    settings = request.settings
    points, config = settings.points, settings.config_of(settings.points[0])
    measurements = (
        f"{settings.repeats} x {counted(len(points), 'measurement')} of"
        f" {counted(settings.steps, 'step')}, by turns"
    )
    lines = [
        f"sweep     {config.model}, {config.reduction} sum, {measurements}",
        f"launcher  {settings.launcher}",
    ]
    for mode in dict.fromkeys(each.mode for each in points):
        of_mode = [each for each in points if each.mode == mode]
        first = of_mode[0]
        if mode == STRONG:
            shards, examples = (
                counted(first.num_shards, "shard"),
                counted(first.microbatch_size, "example"),
            )
            cut = f"{shards} x {examples} = {first.global_batch_size:,}"
            lines.append(f"strong    {cut} a step at every point")
        else:
            cut = (
                f"{counted(first.most_shards, 'shard')} x"
                f" {counted(first.microbatch_size, 'example')}"
            )
            sizes = ", ".join(f"{point.global_batch_size:,} on {point.ranks}" for point in of_mode)
            lines.append(f"weak      {cut} a step on every rank: {sizes}")
    return [*lines, *(f"balance   {line}" for line in balance_remarks(points)), f"records   {path}"]


def table(summary: Summary, remarks: list[str], folder: Path) -> str:
    """All of it, in lines; ``folder`` is the sweep directory."""
    width = max(20, *(2 + len(_spread(row)) for row in summary.rows))
    rows = [_line(row, width) for row in summary.rows]
    return "\n".join(
        [
            *_head(summary.reduction, width),
            *rows,
            *_remarks(remarks),
            *_failures(summary.failures, folder),
        ]
    )


def _head(reduction: str, width: int) -> Iterator[str]:
    groups = "".join(f"{TITLES.get(group, f'{reduction} sum'):>10}" for group in GROUPS)
    over = (
        f"{'':<7}{'':>6}{'':>6}{'images/s':>10}{'':>{width}}{'step':>9}{'speed-':>8}{'effi-':>8} "
        f" {'% of a step, mean over ranks':^50}"
    )
    yield over.rstrip()
    yield (
        f"{'mode':<7}{'ranks':>6}{'hosts':>6}{'median':>10}{'[min .. max]':>{width}}{'ms':>9}{'up':>8}{'ciency':>8}"  # noqa: E501
        f"  {groups}  bits"
    )


def _line(row: Row, width: int) -> str:
    start = f"{row.mode:<7}{row.ranks:>6}"
    if row.images_per_second is None or row.split is None:
        return f"{start}  failed"
    groups = "".join(f"{100 * row.split[group]:10.1f}" for group in GROUPS)
    failed = f"  ({row.failed} of {row.failed + row.measured} failed)" if row.failed else ""
    return (
        f"{start}{row.hosts:>6}{row.images_per_second:>10,.0f}{_spread(row):>{width}}{(row.step_seconds or 0) * 1e3:>9.2f}{row.speed_up:>8.2f}{row.efficiency:>8.1%}"  # noqa: E501
        f"  {groups}  {row.bits}{failed}"
    )


def _spread(row: Row) -> str:
    return (
        ""
        if row.images_per_second_min is None
        else f"[{row.images_per_second_min:,.0f} .. {row.images_per_second_max:,.0f}]"
    )


def _remarks(remarks: list[str]) -> Iterator[str]:
    if remarks:
        yield ""
    for each in remarks:
        yield f"remark    {each}"


def _failures(failures: list[Record], folder: Path) -> Iterator[str]:
    if failures:
        yield ""
    for each in failures:
        yield f"failed    {title_of(each.measurement)}: {each.reason} (log: {folder / each.log})"


def title_of(measurement: Measurement) -> str:
    """Which one it is."""
    point = measurement.point
    return f"{point.mode}, {counted(point.ranks, 'rank')}, repeat {measurement.repeat}"


def outcome(record: Record) -> str:
    """One measurement in a line."""
    if record.result is None:
        return f"failed after {record.seconds:.1f} s: {record.reason}"
    return (
        f"{record.result['images_per_second']:,.0f} images/s,"
        f" {record.result['step_seconds'] * 1e3:.2f} ms a step ({record.seconds:.1f} s with start"
        " and data)"
    )
