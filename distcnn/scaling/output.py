"""Output of a complete sweep: the table, JSON, the picture."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence

from distcnn.plotting import Figure, has_matplotlib, png
from distcnn.scaling.options import Request, Settings
from distcnn.scaling.plot import prediction_figure, sweep_figure
from distcnn.scaling.points import STRONG, Job
from distcnn.scaling.prediction.calibration import calibrate
from distcnn.scaling.prediction.interconnect import parse_interconnect
from distcnn.scaling.prediction.predict import as_text, project
from distcnn.scaling.result import GROUPS
from distcnn.scaling.summary import Row, Summary
from distcnn.scaling.sweep_directory import Record, Sweep
from distcnn.system.wording import counted, printable

KIND = "distcnn.scaling"
SPREAD_WIDTH = 20


def headline(settings: Settings) -> Iterator[str]:
    """Yield lines on what will be measured."""
    points, steps = settings.points, counted(settings.steps, "step")
    yield f"sweep     {settings.repeats} x {counted(len(points), 'measurement')} of {steps}"
    yield f"launcher  {settings.launcher}"
    for mode in dict.fromkeys(point.mode for point in points):
        point = next(point for point in points if point.mode == mode)
        shards = point.num_shards if point.mode == STRONG else point.most_shards
        where = "at every point" if point.mode == STRONG else "on every rank"
        yield (
            f"{point.mode:<10}{counted(shards, 'shard')} of"
            f" {counted(point.microbatch_size, 'example')} per step {where}"
        )


def title_of(job: Job) -> str:
    """Return the title of a measurement."""
    point = job.point
    return f"{point.mode}, {counted(point.ranks, 'rank')}, repeat {job.repeat}"


def outcome(record: Record) -> str:
    """Return one measurement in a line."""
    if record.result is None:
        return f"failed after {record.seconds:.1f} s: {record.reason}"
    return (
        f"{record.result.images_per_second:,.0f} images/s,"
        f" {record.result.step_seconds * 1e3:.2f} ms per step ({record.seconds:.1f} s in all)"
    )


def table(summary: Summary, sweep: Sweep) -> Iterator[str]:
    """Yield the lines of the table, the footnotes and the failures."""
    yield (
        f"{'':<19}{'images/s':>10}{'':>{SPREAD_WIDTH}}{'step':>9}{'speed-':>8}{'effi-':>8}"
        f"  {'% of a step, mean over ranks':^50}"
    ).rstrip()
    groups = ("compute", f"{summary.reduction} sum", "comm.", "waiting", "data")
    yield (
        f"{'mode':<7}{'ranks':>6}{'hosts':>6}{'median':>10}{'[min .. max]':>{SPREAD_WIDTH}}"
        f"{'ms':>9}{'up':>8}{'ciency':>8}  {''.join(f'{name:>10}' for name in groups)}  bits"
    )
    yield from map(_line, summary.rows)
    if summary.footnotes or summary.failures:
        yield ""
    for note in summary.footnotes:
        yield f"note      {note}"
    for record in summary.failures:
        log = sweep.path / record.log
        yield f"failed    {title_of(record.job)}: {record.reason} (log: {log})"


def _line(row: Row) -> str:
    start, measured = f"{row.point.mode:<7}{row.point.ranks:>6}", row.measured
    if measured is None:
        return f"{start}  failed"
    spread = f"[{measured.slowest:,.0f} .. {measured.fastest:,.0f}]"
    shares = "".join(f"{100 * measured.shares[group]:10.1f}" for group in GROUPS)
    failed = f"  ({row.failed} of {row.failed + row.succeeded} failed)" if row.failed else ""
    return (
        f"{start}{measured.hosts:>6}{measured.images_per_second:>10,.0f}{spread:>{SPREAD_WIDTH}}"
        f"{measured.step_seconds * 1e3:>9.2f}{measured.speed_up:>8.2f}{measured.efficiency:>8.1%}"
        f"  {shares}  {row.bits}{failed}"
    )


def write_results(sweep: Sweep, records: Sequence[Record], summary: Summary) -> list[str]:
    """Write all files of a complete sweep; return a line on each."""
    content = {
        "kind": KIND,
        "settings": dataclasses.asdict(sweep.settings),
        "is_good": summary.is_good,
        "rows": [row.to_json() for row in summary.rows],
        "footnotes": summary.footnotes,
        "measurements": [record.to_json() for record in records],
    }
    lines = [f"results   {sweep.write('scaling.json', json.dumps(content, indent=1))}"]
    if any(row.measured for row in summary.rows):
        lines.append(
            _write_picture(sweep, "scaling", lambda: sweep_figure(summary, title(records)))
        )
    return lines


def _write_picture(sweep: Sweep, name: str, draw: Callable[[], Figure]) -> str:
    if has_matplotlib():
        return f"picture   {sweep.write(f'{name}.png', png(draw()))}"
    return (
        "picture   none without matplotlib: pip install matplotlib, then run the same command with"
        f" --output {sweep.path} again; nothing is measured again"
    )


def title(records: Sequence[Record]) -> str:
    """Return a line on what was measured and where."""
    results = [record.result for record in records if record.result]
    result = max(results, key=lambda result: result.world_size)  # one rank has no MPI
    hosts = counted(len(set(result.hosts)), "host")
    return printable(
        f"{result.model} on {result.data}, {result.reduction} sum, {result.mpi}; {hosts}"
        f" ({result.processor})"
    )


def write_prediction(
    sweep: Sweep, records: Sequence[Record], summary: Summary, request: Request
) -> list[str]:
    """Predict and write ``prediction.json`` and the picture; return the lines to print.

    Raises:
        InputError: something that the prediction needs was not measured.
    """
    calibration = calibrate([record.result for record in records if record.result])
    interconnects = list(map(parse_interconnect, request.interconnect))
    projection = project(
        calibration, summary.rows, request.predict, request.ranks_per_host, interconnects
    )
    content = json.dumps(projection.to_json(), indent=1)
    return [
        *as_text(projection),
        "",
        f"results   {sweep.write('prediction.json', content)}",
        _write_picture(sweep, "prediction", lambda: prediction_figure(projection, summary)),
    ]
