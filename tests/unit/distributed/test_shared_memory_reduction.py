"""Gradients in shared memory: the sums have the bits of the reducer that adds gradients as they
come; and when memory is not shared.

The ranks are objects here, which use the same memory in turn. ``tests/mpi`` tests processes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from distcnn.distributed import (
    SUMS,
    Allreduce,
    BucketReducer,
    Communicator,
    ExactSum,
    shards_of_rank,
    shared_memory_reducer,
    shared_memory_reduction,
)
from distcnn.distributed.shared_memory_reduction import MOST_KEPT, SharedMemoryReducer

LIMIT = 4096.0
SPACE = 4096
"""Elements of each rank's memory: enough for the gradients of these tests."""


class RankOf(Communicator):
    """Rank ``rank`` of a world of threads that share memory; their counts stay their own."""

    def __init__(
        self, rank: int, memory: list[NDArray[np.float32]], barrier: threading.Barrier
    ) -> None:
        super().__init__()
        self.rank, self.world_size, self._memory = rank, len(memory), memory
        self._barrier = barrier

    def shared_floats(self, count: int) -> list[NDArray[np.float32]] | None:
        assert count <= self._memory[self.rank].size
        return self._memory

    def allreduce_sum(self, values: object) -> None:
        self._barrier.wait(10)


def ranks_of(world_size: int, name: str, size: int, num_shards: int) -> list[SharedMemoryReducer]:
    memory = [np.zeros(SPACE, np.float32) for _ in range(world_size)]
    barrier = threading.Barrier(world_size)
    reducers = [
        shared_memory_reducer(SUMS[name](num_shards, LIMIT), size, RankOf(rank, memory, barrier))
        for rank in range(world_size)
    ]
    return [reducer for reducer in reducers if reducer is not None]


def take_step(
    reducers: list[SharedMemoryReducer], gradients: Iterator[NDArray[np.float32]], num_shards: int
) -> list[NDArray[np.floating]]:
    """Give each rank the next shards; return the sum on every rank."""
    for rank, reducer in enumerate(reducers):
        reducer.begin()
        for _ in shards_of_rank(num_shards, len(reducers), rank):
            with reducer.slot() as slot:
                slot[:] = next(gradients)
    threads = [threading.Thread(target=reducer.all_reduce) for reducer in reducers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [reducer.gradient for reducer in reducers]


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize(
    ("world_size", "num_shards"), [(1, 1), (1, 3), (1, 4), (2, 4), (3, 8), (4, 4)]
)
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1000.0])
def test_the_bits_are_those_of_the_sum_as_they_come(
    name: str, world_size: int, num_shards: int, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``scale``: small terms are added in pairs, large ones are not."""
    monkeypatch.setattr(shared_memory_reduction, "CHUNK", 7)
    rng, size = np.random.default_rng(num_shards), 41
    reducers = ranks_of(world_size, name, size, num_shards)
    assert len(reducers) == world_size
    for _ in range(2):  # a second step begins anew
        gradients = [
            (scale * rng.uniform(-4, 4, size)).astype(np.float32) for _ in range(num_shards)
        ]
        totals = take_step(reducers, iter(gradients), num_shards)
        expected = sum_as_they_come(name, gradients, world_size)
        assert [one.tobytes() for one in totals] == [expected.tobytes()] * world_size


def sum_as_they_come(
    name: str, gradients: list[NDArray[np.float32]], world_size: int
) -> NDArray[np.float32]:
    """Each rank's sum, then the sum over ranks; in float64 for the exact one."""
    messages: list[NDArray[np.floating]] = []
    sums = Allreduce(lambda values: messages.append(values.copy()))
    size, num_shards = gradients[0].size, len(gradients)
    for rank in range(world_size):
        own = shards_of_rank(num_shards, world_size, rank)
        slot = np.zeros(size, np.float32)
        reducer = BucketReducer(SUMS[name](num_shards, LIMIT), len(own), slot, sums)
        reducer.begin()
        for shard in own:
            with reducer.slot() as gradient:
                gradient[:] = gradients[shard]
        reducer.all_reduce()
    total = sum(messages[1:], messages[0])[-size:]
    return np.asarray(total).astype(np.float32)


def test_gradients_begin_on_cache_lines_and_do_not_overlap() -> None:
    (reducer,) = ranks_of(1, "exact", 41, 3)
    reducer.begin()
    slots = []
    for _ in range(3):
        with reducer.slot() as slot:
            slots.append(slot)
    addresses = [slot.ctypes.data - slots[0].ctypes.data for slot in slots]
    assert [address % 64 for address in addresses] == [0, 0, 0]
    assert [slot.size for slot in slots] == [41, 41, 41]
    assert not np.shares_memory(slots[0], slots[1])


@pytest.mark.parametrize(("world_size", "num_shards"), [(1, MOST_KEPT + 1), (2, 2 * MOST_KEPT + 1)])
def test_too_many_gradients_are_not_kept(world_size: int, num_shards: int) -> None:
    assert ranks_of(world_size, "exact", 5, num_shards) == []


def test_none_where_ranks_do_not_share_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Communicator, "shared_floats", lambda self, count: None)
    assert shared_memory_reducer(ExactSum(2, LIMIT), 5, Communicator()) is None


def test_a_step_waits_for_all_ranks_before_it_sums_and_after() -> None:
    class Watching(Communicator):
        def allreduce_sum(self, values: NDArray[np.float64]) -> None:
            seen.append(totals_so_far.tolist())

    seen: list[list[float]] = []
    reducer = shared_memory_reducer(ExactSum(1, LIMIT), 2, Watching())
    assert reducer is not None
    totals_so_far = np.zeros(2, np.float32)
    for gradient in ([1, 2], [3, 4]):
        reducer.begin()
        with reducer.slot() as slot:
            slot[:] = gradient
        reducer.all_reduce()
        totals_so_far = reducer.gradient
    assert seen[2:] == [[1, 2], [3, 4]]
