"""Sums in memory that ranks share; the ranks are objects here, over the same vectors. Between processes: ``tests/mpi``."""

from __future__ import annotations

import numpy as np
import pytest

from distcnn.parallel.shared_sums import SharedSums
from distcnn.parallel.tally import TALLY_SPACE


def test_a_rank_sums_its_share_in_rank_order_between_two_meetings() -> None:
    tally, sums, meetings = [0.0] * TALLY_SPACE, np.zeros(4, np.float32), []
    vectors = [np.array(tally + rest) for rest in ([1e16, 1, 2, 3], [1.0, 10, 20, 30], [-1e16, 100, 200, 300])]
    SharedSums(vectors, sums, 0, lambda values: meetings.append((values.size, sums.tolist()))).start(vectors[0])
    assert meetings == [(TALLY_SPACE, [0, 0, 0, 0]), (1, [0, 0, 0, 0])]  # (1e16 + 1) - 1e16 is 0 in this order
    for rank, expected in ((1, [0, 111, 0, 0]), (2, [0, 111, 222, 333])):
        other = SharedSums(vectors, sums, rank, lambda values: None)
        other.start(vectors[rank])
        other.finish()
        assert sums.tolist() == expected
        assert other.rounded(vectors[rank][TALLY_SPACE:], np.zeros(4, np.float32)) is sums


def test_sums_are_rounded_to_the_nearest_number() -> None:
    vectors, sums = [np.full(TALLY_SPACE + 1, value) for value in (1.0, 2.0**-24, 2.0**-40)], np.zeros(1, np.float32)
    SharedSums(vectors, sums, 2, lambda values: None).start(vectors[2])
    assert sums[0] == np.float32(1 + 2**-23)  # one tie, and a little


def test_a_part_alone_is_refused() -> None:
    vectors = [np.zeros(TALLY_SPACE + 4)] * 2
    with pytest.raises(ValueError, match=r"a part of 3 elements cannot be summed on its own: hand over all 12"):
        SharedSums(vectors, np.zeros(4, np.float32), 0, lambda values: None).start(vectors[0][:3])
