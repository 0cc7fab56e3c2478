"""Times of sums over all ranks."""

from __future__ import annotations

from typing import Any

from distcnn.distributed import Allreduce, Communicator
from distcnn.distributed.allreduce_timing import time_sums


class Beside(Communicator):
    """A second rank, which takes two seconds longer for each sum."""

    def allgather(self, item: Any) -> list[Any]:
        return [item, [seconds + 2 for seconds in item] if isinstance(item, list) else item]


def test_a_sum_counts_with_its_mean_over_ranks() -> None:
    sums = Allreduce(Communicator().allreduce_sum)
    rows = time_sums(Beside(), sums, [8, 1024, 80_000], 0.05)
    assert [nbytes for nbytes, _ in rows] == [8, 1024, 80_000]
    assert all(1 <= seconds < 1.5 for _, seconds in rows)


def test_sizes_that_do_not_fit_are_left_out_except_a_few() -> None:
    sums = Allreduce(Communicator().allreduce_sum)
    rows = time_sums(Communicator(), sums, [8, 16, 24, 32, 40], 0.0)
    assert [nbytes for nbytes, _ in rows] == [8, 16, 24]
