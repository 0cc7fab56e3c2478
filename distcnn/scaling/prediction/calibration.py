"""From the records of a sweep to what a step is made of: seconds of one shard, by piece of the
step; of one update; of sums on one host.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, median, quantiles
from typing import Any

from distcnn.distributed import plan_buckets
from distcnn.errors import InputError
from distcnn.scaling.prediction.interconnect import Network, fit_network
from distcnn.scaling.result import Result
from distcnn.scaling.sweep_directory import Record
from distcnn.spans import ALLREDUCE, BACKWARD, LOCAL_SUM, READ_DATA, UPDATE
from distcnn.system.wording import counted

POINTS = 2
"""The smallest numbers of ranks calibrate; what was measured on more is compared with what is
predicted.
"""
NEW = "measure in a new --output"


@dataclass(frozen=True)
class Shard:
    """Seconds of one shard on one rank.

    ``backward`` and ``add`` by bucket, in the order in which they are summed.
    """

    data: float
    forward: float
    """With the loss, Python between the parts, and what even the rank that waits least waits: ranks
    of a host disturb each other.
    """
    backward: tuple[float, ...]
    add_first: float
    """Its gradient to the rank's sum, the first of a step, and any other."""
    add_other: float
    kept: float | None
    """Its part of the sum where gradients are kept; None where no point did so."""

    @property
    def compute(self) -> float:
        """Forward and backward."""
        return self.forward + sum(self.backward)


@dataclass(frozen=True)
class Calibration:
    """What is known of the machine and the model.

    ``shards`` by ranks of a host, as are ``on_host``, the sums within one host.
    """

    model: str
    reduction: str
    overlap: str
    """The flag."""
    microbatch_size: int
    train_examples: int
    bucket_bytes: tuple[int, ...]
    shards: Mapping[int, Shard]
    update: float
    on_host: Mapping[int, Network]
    between: Network | None
    """Of a point that lay on several hosts, one rank on each."""
    add_seconds_per_byte: float
    spread: float
    """Standard deviation of a rank's steps, as a fraction, by their quartiles."""
    ranks: tuple[int, ...]
    """Of the points that calibrated it."""

    def shard(self, ranks_of_host: int) -> Shard:
        """With so many ranks on its host; the nearest number below that was measured, else the
        smallest.
        """
        return self.shards[_nearest(self.shards, ranks_of_host)]

    def host_network(self, ranks_of_host: int) -> Network | None:
        """For sums over so many ranks of one host."""
        return self.on_host[_nearest(self.on_host, ranks_of_host)] if self.on_host else None


def calibrate(
    records: Sequence[Record], layers: Sequence[tuple[str, int]], parameters: int
) -> Calibration:
    """Of the points on the fewest ranks.

    ``layers`` are names and where their parameters begin. ``InputError`` says what is missing.
    """
    found: dict[int, list[Result]] = defaultdict(list)
    for each in records:
        if each.result is not None:
            found[each.measurement.point.ranks].append(each.result)
    used = sorted(found)[:POINTS]
    if not used:
        raise InputError(
            "--predict needs measurements, and all of them failed: see their reasons above, then"
            " run the same command again"
        )
    results = {ranks: found[ranks] for ranks in used}
    for ranks, of_point in results.items():
        if not all("adding" in each and "network" in each for each in of_point):
            raise InputError(
                f"the measurements on {counted(ranks, 'rank')} are an earlier version's, without"
                f" what --predict needs: {NEW}"
            )
    first = results[used[0]][0]
    buckets = plan_buckets(sorted({0, *(start for _, start in layers), parameters}))
    itemsize = 8 if first["reduction"] == "exact" else 4
    shards: dict[int, Shard] = {}
    for of_point in results.values():
        shards.setdefault(
            ranks_a_host(of_point[0]), shard_of(of_point, layers, [each.start for each in buckets])
        )
    spans = {ranks: len(set(of_point[0]["hosts"])) for ranks, of_point in results.items()}
    networks = {ranks: middle_network(of_point) for ranks, of_point in results.items() if ranks > 1}
    apart = [ranks for ranks in networks if spans[ranks] == ranks]
    return Calibration(
        model=first["model"],
        reduction=first["reduction"],
        overlap=first["flags"]["overlap"],
        microbatch_size=first["microbatch_size"],
        train_examples=first["train_examples"],
        bucket_bytes=tuple((each.stop - each.start) * itemsize for each in buckets),
        shards=shards,
        update=median(_scaled(each, UPDATE) for each in results[used[0]]),
        on_host={ranks: each for ranks, each in networks.items() if spans[ranks] == 1},
        between=networks[apart[0]] if apart else None,
        add_seconds_per_byte=median(
            each["network"]["add_seconds_per_byte"] for each in results[used[0]]
        ),
        spread=median(spread_of(each["step_seconds_each"]) for each in results[used[0]]),
        ranks=tuple(used),
    )


def shard_of(
    results: Sequence[Result], layers: Sequence[tuple[str, int]], bucket_starts: Sequence[int]
) -> Shard:
    """The medians over the measurements of a point, of the rank that waited least; parts scaled to
    the steps without stopwatches.
    """
    rows: dict[str, list[float]] = defaultdict(list)
    for result in results:
        count = max(result["shards_of_ranks"])
        parts = {name: _scaled(result, name) / count for name in _slowest(result)["parts"]}
        earlier = parts.pop("data", 0.0)  # what versions before 0.3 called it
        rows["data"].append(parts.pop(READ_DATA, earlier))
        rows["kept"].append(parts.pop(LOCAL_SUM, 0.0))
        for name in (UPDATE, ALLREDUCE):
            parts.pop(name, None)
        for number, seconds in enumerate(backward_by_bucket(parts, layers, bucket_starts)):
            rows[f"bucket {number}"].append(seconds)
        rows["forward"].append(
            sum(value for name, value in parts.items() if not name.endswith(f" {BACKWARD}"))
        )
    seconds_of = {name: median(each) for name, each in rows.items()}
    return Shard(
        seconds_of["data"],
        seconds_of["forward"],
        tuple(seconds_of[f"bucket {number}"] for number in range(len(bucket_starts))),
        median(each["adding"]["first"] for each in results),
        median(each["adding"]["others"] for each in results),
        seconds_of["kept"] if all(each["kept_gradients"] for each in results) else None,
    )


def backward_by_bucket(
    parts: Mapping[str, float], layers: Sequence[tuple[str, int]], bucket_starts: Sequence[int]
) -> list[float]:
    """What backward takes for each bucket: from the last layer on until the gradients from the
    bucket's first element on are complete.
    """
    seconds, bucket = [0.0] * len(bucket_starts), 0
    for name, start in reversed(layers):
        seconds[bucket] += parts.get(f"{name} {BACKWARD}", 0.0)
        if start <= bucket_starts[bucket]:
            bucket = min(bucket + 1, len(bucket_starts) - 1)
    return seconds


def middle_network(results: Sequence[Result]) -> Network:
    """Fitted to the medians of all measurements' rows."""
    tests: list[Any] = [each["network"] for each in results]
    rows: dict[str, list[list[float]]] = {}
    for way in tests[0]["rows"]:
        of_size: dict[int, list[float]] = defaultdict(list)
        for test in tests:
            for nbytes, seconds in test["rows"].get(way, ()):
                of_size[nbytes].append(seconds)
        rows[way] = [[nbytes, median(seconds)] for nbytes, seconds in sorted(of_size.items())]
    return fit_network({**tests[0], "rows": rows}, "measured in this sweep")


def spread_of(seconds: Sequence[float]) -> float:
    """Of a normal distribution with such quartiles: its standard deviation over its median."""
    if len(seconds) < 4:
        return 0.0
    low, middle, high = quantiles(seconds, n=4)
    return (high - low) / 1.349 / middle


def ranks_a_host(result: Result) -> int:
    """Of the host that has most."""
    hosts: list[str] = result["hosts"]
    return max(map(hosts.count, hosts))


def expected_lateness(ranks: int, spread: float) -> float:
    """By what fraction the slowest of so many ranks is expected to be late, were steps normal and
    independent (Blom 1958).
    """
    return spread * NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25)) if ranks > 1 else 0.0


def _slowest(result: Result) -> Any:
    split = result["split"]
    return split["ranks"][split["slowest_rank"]]


def _scaled(result: Result, part: str) -> float:
    """Seconds of a part of a step, as it would be without stopwatches."""
    rank = _slowest(result)
    seconds: float = rank["parts"].get(part, 0.0) * result["step_seconds"] / rank["step_seconds"]
    return seconds if math.isfinite(seconds) else 0.0


def _nearest(measured: Mapping[int, Any], wanted: int) -> int:
    return max((each for each in measured if each <= wanted), default=min(measured))
