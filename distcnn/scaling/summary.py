"""From records to the rows of a table: medians, spread, speed-up, efficiency, and whether points
that computed the same have the same bits.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from distcnn.scaling.points import Job, Point
from distcnn.scaling.records import Record, Result
from distcnn.system.wording import counted
from distcnn.training.fingerprint import differences

# The verdict on a point's bits: the last two have nothing to compare with, or are the fast sum's.
SAME, DIFFERENT, ALONE, NOT_PROMISED = "same", "DIFFERENT", "alone", "not promised"


@dataclass(frozen=True)
class Measured:
    """Summary of the measurements of one point."""

    hosts: int
    ranks_per_host: int  # on the fullest host
    images_per_second: float  # the median, as the step
    slowest: float
    fastest: float
    step_seconds: float
    speed_up: float  # images per second relative to the smallest point of the mode
    efficiency: float  # speed-up divided by how many times more ranks there are
    shares: dict[str, float]  # of a step by group, of the measurement with the median step
    params_sha256: str  # of the first measurement


@dataclass(frozen=True)
class Row:
    """One point; ``measured`` is None if all its measurements failed."""

    point: Point
    bits: str
    succeeded: int
    failed: int
    measured: Measured | None

    def to_json(self) -> dict[str, Any]:
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
    done = {record.job: record.result for record in records if record.result}
    failures = [record for record in records if record.result is None]
    bits, differing = compare_bits(done)
    bases: dict[str, tuple[int, float]] = {}
    rows: list[Row] = []
    notes: list[str] = []
    for point in points:
        found = [result for job, result in done.items() if job.point == point]
        failed = sum(record.job.point == point for record in failures)
        measured = None
        if found:
            speed = median(result.images_per_second for result in found)
            base_ranks, base_speed = bases.setdefault(point.mode, (point.ranks, speed))
            measured = _measured(found, speed / base_speed, point.ranks / base_ranks)
        rows.append(Row(point, bits.get(point, "-"), len(found), failed, measured))
        notes += _notes(point, found)
    relative = [
        f"{mode}: speed-up and efficiency are relative to {ranks} ranks"
        for mode, (ranks, _) in bases.items()
        if ranks > 1
    ]
    reduction = next((result.reduction for result in done.values()), "exact")
    return Summary(rows, failures, [*relative, *notes, *differing], reduction)


def _measured(results: Sequence[Result], speed_up: float, growth: float) -> Measured:
    speeds = [result.images_per_second for result in results]
    by_step = sorted(results, key=lambda result: result.step_seconds)
    return Measured(
        hosts=max(len(set(result.hosts)) for result in results),
        ranks_per_host=max(result.ranks_per_host for result in results),
        images_per_second=median(speeds),
        slowest=min(speeds),
        fastest=max(speeds),
        step_seconds=median(result.step_seconds for result in results),
        speed_up=speed_up,
        efficiency=speed_up / growth,
        shares=by_step[(len(by_step) - 1) // 2].shares,
        params_sha256=results[0].params_sha256,
    )


def compare_bits(done: Mapping[Job, Result]) -> tuple[dict[Point, str], list[str]]:
    """Compare the weights of measurements with the same shards and microbatches, whatever their
    mode and number of ranks: they took the same steps and must agree.

    Returns the verdict on every point, and a line for every group that disagrees.
    """
    groups: dict[tuple[int, int], list[Job]] = defaultdict(list)
    verdicts: dict[Point, str] = {}
    lines = []
    for job, result in done.items():
        if result.reduction == "exact":
            groups[job.point.num_shards, job.point.microbatch_size].append(job)
        else:
            verdicts[job.point] = NOT_PROMISED
    for (num_shards, microbatch_size), jobs in groups.items():
        usual = Counter(done[job].params_sha256 for job in jobs).most_common(1)[0][0]
        others = [job for job in jobs if done[job].params_sha256 != usual]
        verdicts |= {job.point: SAME if len(jobs) > 1 else ALONE for job in jobs}
        verdicts |= {job.point: DIFFERENT for job in others}
        if others:
            expected = next(done[job] for job in jobs if job not in others)
            other = done[others[0]]
            changed = "; ".join(differences(expected.software, other.software))
            names = ", ".join(job.name for job in others)
            line = (
                f"bits differ at {counted(num_shards, 'shard')} of {microbatch_size}: {names}"
                f" {'has' if len(others) == 1 else 'have'} weights {other.params_sha256[:16]},"
                f" the others {usual[:16]}"
            )
            lines.append(f"{line}; the software differs: {changed}" if changed else line)
    return verdicts, lines


def _notes(point: Point, results: Sequence[Result]) -> Iterator[str]:
    name = f"{point.mode}, {counted(point.ranks, 'rank')}"
    if point.balance < 1:
        yield (
            f"{name}: {point.num_shards} shards cannot be divided evenly; at most"
            f" {point.balance:.0%} efficiency"
        )
    for crowd in {result.crowd for result in results if result.crowd}:
        yield f"{name}: the cores are oversubscribed ({crowd})"
