"""Times of allreduces: of every size that fits into the time, in the mean over the ranks."""

from __future__ import annotations

import time
from typing import Any

from distcnn.distributed import ForegroundSums, SerialCommunicator
from distcnn.distributed.allreduce_benchmark import time_sums


class Beside(SerialCommunicator):
    """Another rank is here, that takes two seconds more for each sum."""

    def allgather(self, item: Any) -> list[Any]:
        return [item, [seconds + 2 for seconds in item] if isinstance(item, list) else item]


def test_sums_count_in_the_mean_over_ranks() -> None:
    sums = ForegroundSums(SerialCommunicator().allreduce_sum)
    rows = time_sums(Beside(), sums, [8, 1024, 80_000], 0.05)
    assert [row.nbytes for row in rows] == [8, 1024, 80_000]
    assert all(1 <= row.seconds < 1.5 for row in rows)


def test_sums_that_do_not_fit_are_left_out_but_for_a_few() -> None:
    sums = ForegroundSums(lambda values: time.sleep(0.01))
    rows = time_sums(SerialCommunicator(), sums, [8, 16, 24, 32, 40], 0.0)
    assert [row.nbytes for row in rows] == [8, 16, 24]
