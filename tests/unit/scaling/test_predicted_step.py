"""The time of a step by hand, and overlap against a small simulation of a main thread and a thread
that sums.
"""

from __future__ import annotations

import random

import pytest

from distcnn.distributed import shards_of_rank
from distcnn.errors import InputError
from distcnn.scaling.interconnect import Line
from distcnn.scaling.prediction import (
    AFTER_COMPUTING,
    OVERLAPPED,
    SHARED_MEMORY,
    STATS_BYTES,
    bucket_times,
    overlapped_end,
    predict,
    way_of,
)
from tests.support.sweep_cases import ON_HOST, SHARD, calibration, interconnect, strong

NETWORK = interconnect(Line(1e-3, 8e-9))


def test_one_host_by_hand() -> None:
    one = predict(calibration(), strong(1, 8), 2, None)
    assert one.step_seconds == pytest.approx(8 * (0.001 + 0.020) + 8 * 0.001 + 0.003)
    assert one.shares["communication"] == pytest.approx(0)
    shared = predict(calibration(), strong(1, 4), 2, None)
    assert shared.step_seconds == pytest.approx(4 * (0.021 + 0.0005) + 0.003)
    two = predict(calibration(), strong(2, 8), 2, None)
    assert two.step_seconds == pytest.approx(4 * (0.021 + 0.0005) + 2e-5 + 48e-10 + 0.003)


def test_between_hosts_by_hand() -> None:
    """Four hosts with two shards each: the first bucket's sum is not done when the second bucket is
    complete.
    """
    found = predict(calibration(), strong(4, 8), 1, NETWORK)
    first, second = 4e-3 + 1.5 * 480_000 * 8e-9, 4e-3 + 1.5 * (320_000 + STATS_BYTES) * 8e-9
    complete = 2 * (0.001 + 0.010 + 0.004) + 2 * 0.001 * 0.6
    assert found.step_seconds == pytest.approx(
        max(complete + first, complete + 2 * 0.006 + 2 * 0.001 * 0.4) + second + 0.003
    )
    off = predict(calibration(overlap="off"), strong(4, 8), 1, NETWORK)
    assert off.step_seconds == pytest.approx(
        2 * 0.021 + 0.002 + 4e-3 + 1.5 * (800_000 + STATS_BYTES) * 8e-9 + 0.003
    )


def test_on_each_host_and_then_between_them() -> None:
    found = predict(calibration(overlap="off"), strong(8, 8), 2, NETWORK)
    nbytes = 800_000 + STATS_BYTES
    sums = ON_HOST.seconds(2, nbytes) + Line(1e-3, 8e-9).seconds(4, nbytes)
    assert found.shares["communication"] * found.step_seconds == pytest.approx(sums)


@pytest.mark.parametrize(
    ("ranks", "num_shards"), [(1, 8), (2, 8), (3, 8), (5, 8), (8, 8), (7, 100), (64, 1000)]
)
def test_the_parts_add_up_and_imbalance_is_waiting(ranks: int, num_shards: int) -> None:
    found = predict(calibration(), strong(ranks, num_shards), 1, NETWORK)
    assert sum(found.shares.values()) == pytest.approx(1)
    own = [len(shards_of_rank(num_shards, ranks, rank)) for rank in range(ranks)]
    assert found.point.most_shards == max(own)
    assert (found.shares["waiting"] > 1e-9) == (min(own) < max(own))


def simulate(starts: list[float], seconds: list[float]) -> float:
    """In small time steps: the main thread hands each bucket to a thread that sums them in turn."""
    tick, now, queue, done, left = 1e-4, 0.0, 0, 0, 0.0
    while done < len(seconds):
        while queue < len(starts) and starts[queue] <= now:
            queue += 1
        if left <= 0 and done < queue:
            left = seconds[done]
        if left > 0:
            left -= tick
            done += left <= 0
        now += tick
    return now


def test_overlap_is_what_a_simulation_takes() -> None:
    rng = random.Random(3)
    for _ in range(20):
        count = rng.randint(1, 5)
        starts = sorted(rng.uniform(0, 0.1) for _ in range(count))
        seconds = [rng.uniform(0.001, 0.08) for _ in range(count)]
        assert overlapped_end(starts, seconds) == pytest.approx(simulate(starts, seconds), abs=2e-3)


def test_buckets_of_more_shards_than_lanes() -> None:
    """Ten shards: two are processed whole, eight go through backward together."""
    first, second = bucket_times(SHARD, 10, (480_000, 320_000))
    assert first == pytest.approx(2 * (0.021 + 0.001) + 8 * (0.011 + 0.004) + 8 * 0.001 * 0.6)
    assert second == pytest.approx(10 * 0.021 + 10 * 0.001)


def test_how_gradients_are_summed() -> None:
    def way(per_host: int, shards: int, overlap: str, **changes: str) -> str:
        hosts = 2 // per_host
        return way_of(calibration(overlap=overlap, **changes), strong(2, shards), per_host, hosts)

    assert way(2, 8, "auto") == SHARED_MEMORY
    assert way(2, 10, "auto") == AFTER_COMPUTING
    assert way(2, 8, "on") == OVERLAPPED
    assert way(1, 8, "auto") == OVERLAPPED
    assert way(1, 8, "off") == AFTER_COMPUTING
    assert way(1, 8, "auto", reduction="fast") == AFTER_COMPUTING


def test_what_is_not_known_is_asked_for() -> None:
    with pytest.raises(InputError, match=r"--predict 4 .* use --interconnect latency="):
        predict(calibration(), strong(4, 8), 2, None)
    with pytest.raises(InputError, match=r"--predict 4 .* --ranks-per-host 1"):
        predict(calibration(on_host={}), strong(4, 8), 2, NETWORK)
