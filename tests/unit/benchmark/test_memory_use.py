"""Arrays are counted once, where they are held first; all parts sum to the peak."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import pytest

from distcnn.benchmark.memory_use import array_bytes, memory_parts, peak_bytes, resident_bytes
from distcnn.distributed.exact_sum import CHUNK
from distcnn.optim import optimizers
from tests.support.benchmark_fixtures import MakeRun


@dataclass
class Holder:
    held: object
    itself: object = None


def test_views_count_as_what_they_keep_alive_and_only_once() -> None:
    base, other = np.zeros(1000), np.zeros(10)
    holder = Holder({"views": [base[:3], base.reshape(10, 100)[2]], "other": (other,)})
    holder.itself = holder
    seen: set[int] = set()
    assert array_bytes([holder], seen) == base.nbytes + other.nbytes
    assert array_bytes([base, other], seen) == 0


def test_the_parts_are_those_of_the_arrays_and_sum_to_the_peak(make_run: MakeRun) -> None:
    run = make_run(model="mlp")
    parts = memory_parts(run, at_start=10, peak=10**9)
    assert sum(parts.values()) == 10**9
    size = run.network.values.nbytes
    scratch = 2 * optimizers.CHUNK * run.network.values.itemsize
    assert parts["parameters, gradient, optimizer"] == pytest.approx(
        3 * size + scratch, rel=0.01
    )  # values, gradients, velocity
    assert parts["data"] > (203 + 77) * 784
    assert (
        4 * size < parts["sum"] < 4 * size + 2.5 * 8 * CHUNK
    )  # three shards' gradients, their sum, and the exact sum's scratch
    assert parts["network buffers"] > 4 * 784 * 4


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_stays_when_memory_is_given_back() -> None:
    block = np.ones(2**23)
    peak = peak_bytes()
    del block
    assert peak_bytes() >= 0.98 * peak  # the kernel counts in batches
    assert peak >= 2**26
    assert 0 < resident_bytes() < peak - 2**25
