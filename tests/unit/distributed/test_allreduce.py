"""Sums on a thread are done in order while the main thread continues."""

from __future__ import annotations

import threading

import numpy as np

from distcnn.distributed.allreduce import ThreadedAllreduce


def test_a_thread_sums_in_order_while_the_main_thread_continues() -> None:
    allowed, seen = threading.Event(), []

    def allreduce_sum(values: np.ndarray) -> None:
        allowed.wait(10)
        seen.append(int(values[0]))
        values *= 2

    sums, vectors = ThreadedAllreduce(allreduce_sum), [np.array([number]) for number in range(3)]
    for vector in vectors:
        sums.start(vector)
    assert seen == []
    allowed.set()
    sums.finish()
    assert seen == [0, 1, 2]
    assert [int(vector[0]) for vector in vectors] == [0, 2, 4]
