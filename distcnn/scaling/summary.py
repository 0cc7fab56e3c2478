"""From records to the rows of a table: medians, spread, speed-up, efficiency, and whether points
that computed the same have the same bits.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from distcnn.scaling.points import Point
from distcnn.scaling.result import Result
from distcnn.scaling.sweep_directory import Record
from distcnn.system.wording import counted
from distcnn.training.fingerprint import differences

SAME, DIFFERENT, ALONE, NOT_PROMISED = "same", "DIFFERENT", "alone", "not promised"
"""The verdict on a point's bits; ``ALONE`` has nothing to compare with, ``NOT_PROMISED`` is the
fast sum.
"""


@dataclass(frozen=True)
class Measured:
    """Summary of the measurements of one point.

    Attributes:
        ranks_per_host: on the fullest host.
        images_per_second: the median; ``slowest`` and ``fastest`` are of one measurement.
        step_seconds: the median.
        speed_up: images per second relative to the smallest point of the mode (medians).
        efficiency: speed-up divided by how many times more ranks there are.
        shares: fractions of a step by group, of the measurement with the median step.
        params_sha256: of the first measurement.
    """

    hosts: int
    ranks_per_host: int
    images_per_second: float
    slowest: float
    fastest: float
    step_seconds: float
    speed_up: float
    efficiency: float
    shares: dict[str, float]
    params_sha256: str


@dataclass(frozen=True)
class Row:
    """One point; ``measured`` is None if all its measurements failed."""

    point: Point
    bits: str
    succeeded: int
    failed: int
    measured: Measured | None

    def to_json(self) -> dict[str, Any]:
        """One flat table."""
        table = dataclasses.asdict(self)
        return {**table.pop("point"), **(table.pop("measured") or {}), **table}


@dataclass(frozen=True)
class Summary:
    """The sweep: rows by mode and ranks, measurements that failed, footnotes."""

    rows: list[Row]
    failures: list[Record]
    footnotes: list[str]
    reduction: str

    @property
    def is_good(self) -> bool:
        """Whether all measurements succeeded with the expected bits."""
        return not self.failures and all(row.bits != DIFFERENT for row in self.rows)


def summarise(points: Sequence[Point], records: Sequence[Record]) -> Summary:
    """Summarise the records of ``points``."""
    results: dict[Point, list[Result]] = {point: [] for point in points}
    for record in records:
        if record.result:
            results[record.job.point].append(record.result)
    failures = [record for record in records if record.result is None]
    failed = Counter(record.job.point for record in failures)
    bits, differing = compare_bits(records)
    bases: dict[str, Point] = {}
    rows: list[Row] = []
    notes: list[str] = []
    for point, found in results.items():
        measured = None
        if found:
            base = bases.setdefault(point.mode, point)
            measured = _measured(point, found, base, results[base])
        rows.append(Row(point, bits.get(point, "-"), len(found), failed[point], measured))
        notes += _notes(point, found)
    relative = [
        f"{mode}: speed-up and efficiency are relative to {base.ranks} ranks"
        for mode, base in bases.items()
        if base.ranks > 1
    ]
    reduction = next((found[0].reduction for found in results.values() if found), "exact")
    return Summary(rows, failures, [*relative, *notes, *differing], reduction)


def _measured(point: Point, results: list[Result], base: Point, of_base: list[Result]) -> Measured:
    speeds = [result.images_per_second for result in results]
    speed_up = median(speeds) / median(result.images_per_second for result in of_base)
    by_step = sorted(results, key=lambda result: result.step_seconds)
    return Measured(
        hosts=max(len(set(result.hosts)) for result in results),
        ranks_per_host=max(result.ranks_per_host for result in results),
        images_per_second=median(speeds),
        slowest=min(speeds),
        fastest=max(speeds),
        step_seconds=median(result.step_seconds for result in results),
        speed_up=speed_up,
        efficiency=speed_up * base.ranks / point.ranks,
        shares=by_step[(len(by_step) - 1) // 2].shares,
        params_sha256=results[0].params_sha256,
    )


def compare_bits(records: Sequence[Record]) -> tuple[dict[Point, str], list[str]]:
    """Compare the weights of measurements with the same shards and microbatches, whatever their
    mode and number of ranks: they took the same steps and must agree.

    Returns the verdict on every point with a result, and a line for every group of measurements
    that disagree.
    """
    groups: dict[tuple[int, int], list[tuple[Record, Result]]] = defaultdict(list)
    words: dict[Point, str] = {}
    lines = []
    for record in records:
        point = record.job.point
        if record.result and record.result.reduction == "exact":
            groups[point.num_shards, point.microbatch_size].append((record, record.result))
        elif record.result:
            words[point] = NOT_PROMISED
    for (num_shards, microbatch_size), group in groups.items():
        hashes = Counter(result.params_sha256 for _, result in group)
        usual = hashes.most_common(1)[0][0]
        for record, _ in group:
            words[record.job.point] = SAME if len(group) > 1 else ALONE
        others = [pair for pair in group if pair[1].params_sha256 != usual]
        for record, _ in others:
            words[record.job.point] = DIFFERENT
        if others:
            names = ", ".join(record.job.name for record, _ in others)
            expected = next(result for _, result in group if result.params_sha256 == usual)
            changed = "; ".join(differences(expected.software, others[0][1].software))
            lines.append(
                f"bits differ at {counted(num_shards, 'shard')} of {microbatch_size}: {names}"
                f" {'has' if len(others) == 1 else 'have'} weights"
                f" {others[0][1].params_sha256[:16]}, the others {usual[:16]}"
                + (f"; the software differs: {changed}" if changed else "")
            )
    return words, lines


def _notes(point: Point, results: Sequence[Result]) -> Iterator[str]:
    """Yield notes on what limits the results of a point."""
    name = f"{point.mode}, {counted(point.ranks, 'rank')}"
    if point.balance < 1:
        yield (
            f"{name}: {point.num_shards} shards cannot be divided evenly; at most"
            f" {point.balance:.0%} efficiency"
        )
    for result in results[:1]:
        [(host, ranks)] = Counter(result.hosts).most_common(1)
        cores = result.cores_of_hosts.get(host, ranks)
        if ranks > cores:
            yield (
                f"{name}: the cores are oversubscribed ({ranks} ranks on"
                f" {counted(cores, 'core')} of {host})"
            )
