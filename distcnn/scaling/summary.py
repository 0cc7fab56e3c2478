"""From records to the rows of a table: medians, spread, speed-up, efficiency, the split, the bits.

Pure functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from distcnn.scaling.points import Point
from distcnn.scaling.reproducibility import DIFFERENT, Bits, compare_bits
from distcnn.scaling.result import GROUPS, Result
from distcnn.scaling.sweep_directory import Record


@dataclass(frozen=True)
class Row:
    """What the measurements of one point come to; None where none of them has a result."""

    mode: str
    ranks: int
    num_shards: int
    microbatch_size: int
    global_batch_size: int
    measured: int
    """How many measurements have a result, and how many ``failed``."""
    failed: int
    bits: str
    """``same``, ``DIFFERENT``, ``alone`` (nothing to compare with), ``unpromised`` (the fast sum),
    or ``-`` without a result.
    """
    hosts: int | None = None
    images_per_second: float | None = None
    """The median; ``_min`` and ``_max`` are of the slowest and the fastest measurement, here and
    below.
    """
    images_per_second_min: float | None = None
    images_per_second_max: float | None = None
    step_seconds: float | None = None
    speed_up: float | None = None
    """How many times the base's images a second, of medians."""
    efficiency: float | None = None
    """The speed-up, over how many times the base's ranks these are."""
    efficiency_min: float | None = None
    efficiency_max: float | None = None
    split: dict[str, float] | None = None
    """Fractions of a step, which sum to 1: the mean over ranks, of the measurement with the median
    step.
    """
    split_slowest: dict[str, float] | None = None
    """The same of its rank that waited least."""
    split_step_seconds: float | None = None
    """That step, with stopwatches."""
    params_sha256: str | None = None
    """Of the weights at the end; None where bits differ."""


@dataclass(frozen=True)
class Summary:
    """All rows, in order of modes and ranks; the base of each mode, in ranks; what was found of the
    bits.
    """

    rows: list[Row]
    bases: dict[str, int]
    bits: Bits
    failures: list[Record]
    reduction: str
    """``exact`` or ``fast``."""

    @property
    def all_good(self) -> bool:
        """Whether every measurement has a result, and none different bits."""
        return not self.failures and not self.bits.differences


def summarise(points: Sequence[Point], records: Sequence[Record]) -> Summary:
    """The rows of ``points``, from the records that there are."""
    results = {
        point: [each.result for each in records if each.measurement.point == point and each.result]
        for point in points
    }
    bits = compare_bits(records)
    bases: dict[str, Point] = {}
    for point in points:
        if results[point]:
            bases.setdefault(point.mode, point)
    rows = []
    for point in points:
        failed = sum(each.measurement.point == point and not each.ok for each in records)
        base = bases.get(point.mode)
        rows.append(_row(point, results[point], failed, base, results[base] if base else [], bits))
    failures = [each for each in records if not each.ok]
    reductions = {each["reduction"] for of_point in results.values() for each in of_point}
    return Summary(
        rows,
        {mode: base.ranks for mode, base in bases.items()},
        bits,
        failures,
        "fast" if "fast" in reductions else "exact",
    )


def _row(
    point: Point,
    results: list[Result],
    failed: int,
    base: Point | None,
    of_base: list[Result],
    bits: Bits,
) -> Row:
    sizes = (point.num_shards, point.microbatch_size, point.global_batch_size)
    row = Row(point.mode, point.ranks, *sizes, len(results), failed, bits.of(point))
    if not results or base is None:
        return row
    speeds = [each["images_per_second"] for each in results]
    base_speed, times = (
        median(each["images_per_second"] for each in of_base),
        point.ranks / base.ranks,
    )
    low, middle, high = min(speeds), median(speeds), max(speeds)
    split = median_split(results)
    return replace(
        row,
        hosts=max(len(set(each["hosts"])) for each in results),
        images_per_second=middle,
        images_per_second_min=low,
        images_per_second_max=high,
        step_seconds=median(each["step_seconds"] for each in results),
        speed_up=middle / base_speed,
        efficiency=middle / base_speed / times,
        efficiency_min=low / base_speed / times,
        efficiency_max=high / base_speed / times,
        split=fractions(split["mean"]),
        split_slowest=fractions(split["ranks"][split["slowest_rank"]]),
        split_step_seconds=split["mean"]["step_seconds"],
        params_sha256=None if row.bits == DIFFERENT else results[0]["params_sha256"],
    )


def median_split(results: Sequence[Result]) -> Result:
    """The split of the measurement whose step with stopwatches took the median; the faster of two
    in the middle.

    Medians of each group apart would not add up to any step.
    """
    ordered = sorted(
        (each["split"] for each in results), key=lambda split: split["mean"]["step_seconds"]
    )
    middle: Result = ordered[(len(ordered) - 1) // 2]
    return middle


def fractions(split: Result) -> dict[str, float]:
    """Each group's part of the step."""
    return {group: split[f"{group}_seconds"] / split["step_seconds"] for group in GROUPS}
