"""Times of allreduces: of every size that fits into the time, of the rank that takes longest."""

from __future__ import annotations

import time
from typing import Any

from numpy.typing import NDArray

from distcnn.distributed import ForegroundSums, SerialCommunicator
from distcnn.distributed.allreduce_timing import FEWEST, time_allreduce, time_sums

SLEEP_SECONDS = 0.01


class Slow(SerialCommunicator):
    """Sums that take their time, beside a rank where all takes a second more."""

    def __init__(self) -> None:
        super().__init__()
        self.sums: list[int] = []

    def allreduce_sum(self, values: NDArray[Any]) -> None:
        self.sums.append(values.nbytes)
        time.sleep(SLEEP_SECONDS)

    def allgather(self, item: Any) -> list[Any]:
        return [item, item + 1 if isinstance(item, float) else 10**6]


def test_each_size_has_its_time() -> None:
    rows = time_allreduce(SerialCommunicator(), [8, 1024, 80_000], 0.05)
    assert [each.nbytes for each in rows] == [8, 1024, 80_000]
    assert all(0 <= each.seconds < 1 for each in rows)


def test_what_does_not_fit_is_left_out_but_for_the_first() -> None:
    communicator = Slow()
    [row] = time_allreduce(communicator, [8, 1024, 4096], SLEEP_SECONDS)
    assert row.nbytes == 8
    assert communicator.sums == [8] * (2 + FEWEST) + [1024] * 2


def test_the_slowest_rank_counts() -> None:
    [row] = time_allreduce(Slow(), [8], 0.1)
    assert 1 + SLEEP_SECONDS <= row.seconds < 2


class Beside(SerialCommunicator):
    """Another rank is here, that takes two seconds more for each sum."""

    def allgather(self, item: Any) -> list[Any]:
        return [item, [each + 2 for each in item] if isinstance(item, list) else item]


def test_sums_count_in_the_mean_over_ranks() -> None:
    sums = ForegroundSums(SerialCommunicator().allreduce_sum)
    rows = time_sums(Beside(), sums, [8, 1024, 80_000], 0.05)
    assert [each.nbytes for each in rows] == [8, 1024, 80_000]
    assert all(1 <= each.seconds < 1.5 for each in rows)


def test_sums_that_do_not_fit_are_left_out_but_for_a_few() -> None:
    communicator = Slow()
    rows = time_sums(
        SerialCommunicator(), ForegroundSums(communicator.allreduce_sum), [8, 16, 24, 32, 40], 0.0
    )
    assert [each.nbytes for each in rows] == [8, 16, 24]
