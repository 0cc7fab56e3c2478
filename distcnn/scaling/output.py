"""Output of a complete sweep: the tables, JSON, the pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from distcnn.plotting import Figure, has_matplotlib, png
from distcnn.scaling.options import Settings
from distcnn.scaling.plot import prediction_figure, sweep_figure
from distcnn.scaling.points import STRONG, Job
from distcnn.scaling.prediction import Projection, Series
from distcnn.scaling.records import GROUPS, Record, Sweep
from distcnn.scaling.summary import Row, Summary
from distcnn.system.json_values import to_json
from distcnn.system.wording import counted, plural, printable


def headline(settings: Settings) -> Iterator[str]:
    """Yield lines on what will be measured."""
    points, steps = settings.points, counted(settings.steps, "step")
    yield f"sweep     {settings.repeats} x {counted(len(points), 'measurement')} of {steps}"
    yield f"launcher  {settings.launcher}"
    for point in points:
        if point.ranks == points[0].ranks:
            yield (
                f"{point.mode:<10}{counted(point.num_shards, 'shard')} of"
                f" {counted(point.microbatch_size, 'example')} per step on"
                f" {counted(point.ranks, 'rank')}"
            )


def title_of(job: Job) -> str:
    return f"{job.point.mode}, {counted(job.point.ranks, 'rank')}, repeat {job.repeat}"


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
        f"{'':<19}{'images/s':>10}{'':>20}{'step':>9}{'speed-':>8}{'effi-':>8}"
        f"  {'% of a step, mean over ranks':^50}"
    ).rstrip()
    groups = ("compute", f"{summary.reduction} sum", "comm.", "waiting", "data")
    yield (
        f"{'mode':<7}{'ranks':>6}{'hosts':>6}{'median':>10}{'[min .. max]':>20}"
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
        f"{start}{measured.hosts:>6}{measured.images_per_second:>10,.0f}{spread:>20}"
        f"{measured.step_seconds * 1e3:>9.2f}{measured.speed_up:>8.2f}{measured.efficiency:>8.1%}"
        f"  {shares}  {row.bits}{failed}"
    )


def write_results(sweep: Sweep, records: Sequence[Record], summary: Summary) -> list[str]:
    """Write all files of a complete sweep; return a line on each."""
    content = {
        "kind": "distcnn.scaling",
        "settings": dataclasses.asdict(sweep.settings),
        "is_good": summary.is_good,
        "rows": [row.to_json() for row in summary.rows],
        "footnotes": summary.footnotes,
        "measurements": [record.to_json() for record in records],
    }
    lines = [f"results   {sweep.write('scaling.json', content)}"]
    results = [record.result for record in records if record.result]
    if results:
        one = max(results, key=lambda result: result.world_size)  # one rank has no MPI
        title = printable(
            f"{one.model} on {one.data}, {one.reduction} sum, {one.mpi};"
            f" {counted(len(set(one.hosts)), 'host')} ({one.processor})"
        )
        lines.append(_write_picture(sweep, "scaling.png", lambda: sweep_figure(summary, title)))
    return lines


def _write_picture(sweep: Sweep, name: str, draw: Callable[[], Figure]) -> str:
    if has_matplotlib():
        return f"picture   {sweep.write(name, png(draw()))}"
    return (
        "picture   none without matplotlib: pip install matplotlib, then run the same command with"
        f" --output {sweep.path} again; nothing is measured again"
    )


def write_prediction(sweep: Sweep, projection: Projection, summary: Summary) -> list[str]:
    """Write a prediction and its picture; return a line on each."""
    return [
        f"results   {sweep.write('prediction.json', to_json(projection))}",
        _write_picture(sweep, "prediction.png", lambda: prediction_figure(projection, summary)),
    ]


def prediction_table(projection: Projection) -> Iterator[str]:
    calibration = projection.calibration
    yield (
        f"predicted {printable(calibration.model)}, {calibration.reduction} sum,"
        f" {counted(projection.ranks_per_host, 'rank')} per host; calibrated on"
        f" {' and '.join(map(str, calibration.ranks))} {plural(calibration.ranks[-1], 'rank')}"
    )
    for count, interconnect in calibration.on_host.items():
        yield f"one host  {counted(count, 'rank')}: {interconnect.describe()}"
    for name, between in {one.name: one.interconnect for one in projection.series}.items():
        if between:
            yield f"network   {name}: {between.describe()}"
    if projection.left_out:
        shards = next(one.base.point.num_shards for one in projection.series if one.mode == STRONG)
        yield (
            f"left out  {', '.join(map(str, projection.left_out))} ranks of strong scaling: it was"
            f" measured with {counted(shards, 'shard')}, and every rank needs one; measure with"
            f" --num-shards {projection.left_out[-1]} in a new --output"
        )
    for series in projection.series:
        yield ""
        yield from _series_table(series, calibration.reduction)
    yield ""
    yield (
        f"{'mode':<7}{'ranks':>6}{'hosts':>6}{'predicted ms':>14}{'measured ms':>13}{'error':>8}"
    )
    for one in projection.compared:
        yield (
            f"{one.point.mode:<7}{one.point.ranks:>6}{one.hosts:>6}"
            f"{one.predicted_seconds * 1e3:>14.2f}{one.measured_seconds * 1e3:>13.2f}"
            f"{one.error:>+8.1%}{'  (calibrated on it)' if one.is_calibrated else ''}"
        )


def _series_table(series: Series, reduction: str) -> Iterator[str]:
    base = counted(series.base.point.ranks, "rank")
    yield f"{series.mode} scaling, {series.name}; efficiency relative to {base}"
    yield (
        f"{'ranks':>6}{'hosts':>6}{'shards':>8}{'step ms':>10}{'images/s':>13}{'efficiency':>11}"
        f"{'compute':>9}{reduction + ' sum':>11}{'comm.':>8}{'waiting':>8}{'data':>7}"
    )
    for one in series.predictions:
        shares = (
            f"{100 * one.shares[group]:>{width}.1f}"
            for group, width in zip(GROUPS, (9, 11, 8, 8, 7), strict=True)
        )
        yield (
            f"{one.point.ranks:>6}{one.hosts:>6}{one.point.num_shards:>8}"
            f"{one.step_seconds * 1e3:>10.2f}{one.images_per_second:>13,.0f}"
            f"{series.efficiency(one):>11.1%}{''.join(shares)}"
        )
