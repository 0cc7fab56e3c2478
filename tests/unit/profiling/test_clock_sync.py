"""The ranks' clocks: bounds from barriers, and times converted to rank 0's."""

from __future__ import annotations

import numpy as np
import pytest

from distcnn.distributed import Communicator
from distcnn.profiling.clock_sync import Clock, Offset, last_arrivals, measure_offsets, offset


def test_bounds_by_hand() -> None:
    # Barriers end at 10, 20, 30 of rank 0's time; the rank's clock is 1000 ahead, and it leaves 1,
    # 4 and 2 later.
    found = offset([0, 10, 20, 30], [995, 1011, 1024, 1032])
    assert (found.low, found.high) == (1024 - 30, 1011 - 0)  # tighter than 1011 - 20 and 1024 - 10
    assert (found.middle, found.error, found.at) == (1002, 9, 1032)


@pytest.mark.parametrize("ahead", [-(10**12), 0, 5 * 10**9])
def test_the_truth_is_always_within_the_bounds(ahead: int) -> None:
    rng = np.random.default_rng(abs(ahead) % 97)
    root, rank, now = [0], [ahead - 3], 0
    for _ in range(50):
        now += int(rng.integers(100, 10000))  # the last rank comes to the barrier
        left = now + rng.integers(1, 3000, 2)
        root.append(int(left[0]))
        rank.append(int(left[1]) + ahead)
        now = int(max(left))
    found = offset(root, rank)
    assert found.low <= ahead <= found.high
    assert abs(found.middle - ahead) <= found.error <= 5000


def test_a_clock_is_rank_0s_where_both_measurements_allow_it() -> None:
    at_zero, apart = Offset(-5, 7, 100), Offset(6, 7, 100)
    assert Clock(at_zero, at_zero).to_root([100, 150]) == [100, 150]
    assert Clock(at_zero, at_zero).error == 0
    assert Clock(apart, apart).to_root([100, 150]) == [94, 144]
    assert not Clock(at_zero, apart).same
    assert Clock(at_zero, apart).error == 6


def test_drift_is_taken_out_linearly_and_keeps_the_order() -> None:
    clock = Clock(Offset(999, 1001, 10_000), Offset(1199, 1201, 20_000))  # 1000 ahead, then 1200
    assert clock.to_root([10_000, 15_000, 20_000]) == [9_000, 13_900, 18_800]
    assert clock.error == 1
    assert (np.diff(clock.to_root(range(10_000, 11_000))) >= 0).all()


def test_a_world_of_one_has_one_clock() -> None:
    (only,) = measure_offsets(Communicator())
    assert only.low <= 0 <= only.high


def test_the_last_to_arrive_at_each_meeting() -> None:
    # Of three ranks, one recorded two meetings only.
    assert last_arrivals([[10, 50, 70], [25, 40], [12, 65, 70]]) == [(25, 1), (65, 2)]
    assert last_arrivals([[10], [10]]) == [(10, 1)]
