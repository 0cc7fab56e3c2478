"""What must be known beside the figures: lines below the table. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from distcnn.scaling.points import Point
from distcnn.scaling.result import Result
from distcnn.scaling.summary import Summary
from distcnn.scaling.sweep_directory import Record
from distcnn.system.wording import counted

WIDE = 1.5
"""A point's fastest measurement over its slowest: beyond it a remark says so."""


def balance_remarks(points: Iterable[Point]) -> Iterator[str]:
    """Points where some ranks have more shards than others."""
    for point in points:
        if point.balance < 1:
            yield (
                f"{point.mode}, {counted(point.ranks, 'rank')}: {point.num_shards} shards do not"
                f" divide evenly, some ranks have {point.most_shards}, others"
                f" {point.num_shards // point.ranks}: at most {point.balance:.0%} efficiency"
            )


def remarks(points: Sequence[Point], records: Sequence[Record], summary: Summary) -> list[str]:
    """All that there are."""
    results = {each.measurement.point: each.result for each in records if each.result}
    return [
        *_base_remarks(points, summary),
        *balance_remarks(points),
        *(line for point, result in results.items() for line in _crowd_remarks(point, result)),
        *(line for point, result in results.items() for line in _padding_remarks(point, result)),
        *_sum_remarks(results),
        *_spread_remarks(summary),
        *summary.bits.differences,
    ]


def _base_remarks(points: Sequence[Point], summary: Summary) -> Iterator[str]:
    for mode in dict.fromkeys(each.mode for each in points):
        smallest, base = (
            min(each.ranks for each in points if each.mode == mode),
            summary.bases.get(mode),
        )
        if base is None:
            continue
        if base != smallest:
            yield (
                f"{mode}: {counted(smallest, 'rank')} failed, so speed-up and efficiency are"
                f" against {counted(base, 'rank')}"
            )
        elif base != 1:
            yield (
                f"{mode}: speed-up and efficiency are against {counted(base, 'rank')}, the smallest"
                " number here"
            )


def _crowd_remarks(point: Point, result: Result) -> Iterator[str]:
    """Points with more ranks than cores on some host; the most crowded one is named."""
    cores: dict[str, int] = result.get("cores_of_hosts", {})
    hosts: list[str] = result["hosts"]
    crowded = {
        host: ranks for host, ranks in Counter(hosts).items() if ranks > cores.get(host, ranks)
    }
    if crowded:
        host = max(crowded, key=lambda host: crowded[host] / cores[host])
        shared = f"{crowded[host]} of them share {counted(cores[host], 'core')} of {host}"
        others = (
            f" (and so on {counted(len(crowded) - 1, 'more host')})" if len(crowded) > 1 else ""
        )
        yield (
            f"{point.mode}, {counted(point.ranks, 'rank')}: {shared}{others}: more ranks than cores"
            " cannot scale"
        )


def _padding_remarks(point: Point, result: Result) -> Iterator[str]:
    """Steps that are larger than the training set."""
    examples, size = result.get("train_examples", point.global_batch_size), point.global_batch_size
    if examples < size:
        yield (
            f"{point.mode}, {counted(point.ranks, 'rank')}: a step has room for {size:,} examples,"
            f" but the set has only {examples:,}: the rest is computed, but not counted as images"
        )


def _sum_remarks(results: dict[Point, Result]) -> Iterator[str]:
    """Where points do not sum their gradients in the same way, a jump between them is no
    scaling.
    """
    kept = {result.get("kept_gradients") for result in results.values()}
    if len(kept) > 1:
        names = ", ".join(
            f"{point.mode} {point.ranks}"
            for point, result in results.items()
            if result.get("kept_gradients")
        )
        yield (
            f"gradients are summed in memory that ranks share at {names}; elsewhere by MPI, or"
            " shard by shard (docs/speed.md)"
        )
    if any(result["reduction"] != "exact" for result in results.values()):
        yield "--reduction fast promises no bits: they were not compared"


def _spread_remarks(summary: Summary) -> Iterator[str]:
    """Points whose measurements are far apart."""
    wide = [
        f"{row.mode} {row.ranks}"
        for row in summary.rows
        if row.images_per_second_min is not None
        and (row.images_per_second_max or 0.0) > WIDE * row.images_per_second_min
    ]
    if wide:
        yield (
            f"the fastest measurement is more than {WIDE:g} times the slowest at {', '.join(wide)}:"
            " something else used the machine or the network, so trust these figures little, and"
            " take more --repeats when it is quiet"
        )
