"""Buckets cover the vector once, from its end, at the borders of layers; sums in a thread are done
in order.
"""

from __future__ import annotations

import threading
import time

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from distcnn.distributed import plan_buckets
from distcnn.distributed.async_allreduce import ThreadedSums


@given(st.lists(st.integers(0, 1000), max_size=20), st.integers(1, 2000))
def test_buckets_cover_all_once_in_order_and_only_the_last_is_small(
    sizes: list[int], smallest: int
) -> None:
    borders = [0, *np.cumsum(sizes).tolist()] if sizes else [0, 0]
    buckets = plan_buckets(sorted(set(borders)) if borders[-1] else [0, 0], smallest)
    elements = [index for bucket in reversed(buckets) for index in range(bucket.start, bucket.stop)]
    assert elements == list(range(borders[-1]))
    assert all({bucket.start, bucket.stop} <= set(borders) for bucket in buckets)
    assert all(bucket.stop - bucket.start >= smallest for bucket in buckets[:-1])
    assert buckets[-1].start == 0


def test_lenet_has_a_bucket_of_dense_and_one_of_convolution() -> None:
    assert plan_buckets([0, 520, 25_570, 426_070, 431_080]) == [
        slice(25_570, 431_080),
        slice(0, 25_570),
    ]


def test_a_thread_sums_in_order_while_the_main_thread_goes_on() -> None:
    allowed, seen = threading.Event(), []

    def allreduce_sum(values: np.ndarray) -> None:
        allowed.wait(10)
        seen.append(int(values[0]))
        values *= 2
        time.sleep(0.01)

    sums, vectors = ThreadedSums(allreduce_sum), [np.array([number]) for number in range(3)]
    for vector in vectors:
        sums.start(vector)
    assert seen == []
    allowed.set()
    sums.finish()
    assert seen == [0, 1, 2]
    assert [int(vector[0]) for vector in vectors] == [0, 2, 4]
    assert sums.allreduce_seconds > 0.03
