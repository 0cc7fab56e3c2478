"""Gradients that are kept: their sums are those of the reduction that adds up as they come, to the
last bit; and when none are kept.

The ranks are objects here, over the same memory, one after the other. Between processes:
``tests/mpi``.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from distcnn.distributed import (
    REDUCTIONS,
    ForegroundSums,
    RangeError,
    SerialCommunicator,
    keep_gradients,
    shards_of_rank,
    shared_memory_reduction,
)
from distcnn.distributed.shared_memory_reduction import MOST_KEPT, REACH, KeptReduction

LIMIT = 4096.0


class RankOf(SerialCommunicator):
    """Rank ``rank`` of some, whose memory all have."""

    def __init__(self, rank: int, memory: list[NDArray[np.float32]]) -> None:
        super().__init__()
        self.rank, self.world_size, self._memory = rank, len(memory), memory

    def shared_floats(self, count: int) -> list[NDArray[np.float32]] | None:
        assert count <= self._memory[self.rank].size
        return self._memory


def ranks_of(world_size: int, name: str, size: int, num_shards: int) -> list[KeptReduction]:
    memory = [
        np.zeros(MOST_KEPT * (REACH + 2 * size) + size, np.float32) for _ in range(world_size)
    ]
    reductions = [
        keep_gradients(name, size, num_shards, LIMIT, RankOf(rank, memory))
        for rank in range(world_size)
    ]
    assert all(each is not None for each in reductions)
    return [each for each in reductions if each is not None]


def add_all(
    reductions: list[KeptReduction], gradients: list[NDArray[np.float32]]
) -> NDArray[np.floating]:
    """A step: each rank has the next shards; the total, as the last rank sees it."""
    following = iter(gradients)
    for reduction in reductions:
        reduction.clear()
        for _ in reduction._own:
            place = reduction.place()
            place[:] = next(following)
            reduction.add(place)
    for reduction in reductions:
        reduction.start(slice(0, None), ForegroundSums(lambda values: None))
    assert not list(following)
    return reductions[-1].finish(ForegroundSums(lambda values: None))


@pytest.mark.parametrize("name", ["exact", "fast"])
@pytest.mark.parametrize(
    ("world_size", "num_shards"), [(1, 1), (1, 3), (1, 4), (2, 4), (3, 8), (4, 4)]
)
@pytest.mark.parametrize("scale", [1e-3, 1000.0])
def test_the_bits_are_those_of_the_sum_as_they_come(
    name: str, world_size: int, num_shards: int, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``scale``: small terms go in pairs, large ones do not."""
    monkeypatch.setattr(shared_memory_reduction, "CHUNK", 7)
    rng, size = np.random.default_rng(num_shards), 41
    reductions, other = (
        ranks_of(world_size, name, size, num_shards),
        REDUCTIONS[name](size, num_shards, LIMIT),
    )
    for _ in range(2):  # a second step begins anew
        gradients = [
            (scale * rng.uniform(-4, 4, size)).astype(np.float32) for _ in range(num_shards)
        ]
        total = add_all(reductions, gradients)
        sums = []
        for rank in range(world_size):
            other.clear()
            for shard in shards_of_rank(num_shards, world_size, rank):
                other.place()
                other.add(gradients[shard])
            sums.append(other.allreduce(SerialCommunicator()).copy())
        expected = sum(sums[1:], sums[0]).astype(np.float32)
        assert total.tobytes() == expected.tobytes()
        assert reductions[0].rounded(np.zeros(size, np.float32)).tobytes() == expected.tobytes()


def test_gradients_begin_on_a_cache_line() -> None:
    reduction = keep_gradients("exact", 41, 3, LIMIT, SerialCommunicator())
    assert reduction is not None
    places = [reduction.place() for _ in range(3)]
    assert [place.ctypes.data % 64 for place in places] == [0, 0, 0]
    assert [place.size for place in places] == [41, 41, 41]
    assert not np.shares_memory(places[0], places[1])


@pytest.mark.parametrize("name", ["exact", "fast"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_no_number_is_refused(name: str, bad: float) -> None:
    reduction = keep_gradients(name, 3, 2, LIMIT, SerialCommunicator())
    assert reduction is not None
    place = reduction.place()
    place[:] = [0, bad, 1]
    with pytest.raises(RangeError) as caught:
        reduction.add(place)
    assert caught.value.index == 1
    with pytest.raises(RangeError):
        reduction.check(place)


def test_only_the_exact_sum_has_a_narrow_range() -> None:
    for name, refused in (("exact", True), ("fast", False)):
        reduction = keep_gradients(name, 2, 2, LIMIT, SerialCommunicator())
        assert reduction is not None
        large = reduction.place()
        large[:] = [1e6, 0]
        if refused:
            with pytest.raises(RangeError):
                reduction.add(large)
        else:
            reduction.add(large)


def test_the_reach_is_noted_and_never_too_small() -> None:
    reduction = keep_gradients("exact", 3, 1, LIMIT, SerialCommunicator())
    assert reduction is not None
    for value in (0.0, 1e-30, 1 / 3, 100.0, LIMIT):
        reduction.clear()
        place = reduction.place()
        place[:] = [0, -value, value / 2]
        reduction.add(place)
        assert reduction._own[0, 0] >= value
        assert reduction._own[0, 0] <= 2.5 * value + 1e-20


def test_the_tally_starts_anew_and_is_summed() -> None:
    reduction = keep_gradients("exact", 2, 2, LIMIT, SerialCommunicator())
    assert reduction is not None
    for _ in range(2):
        reduction.clear()
        reduction.tally.add(1.5, 4, 5)
        reduction.start(
            slice(0, 2), ForegroundSums(lambda values: np.multiply(values, 3, out=values))
        )
        totals = reduction.tally.totals()
        assert (totals.loss_sum, totals.correct, totals.examples) == (4.5, 12, 15)


@pytest.mark.parametrize(("world_size", "num_shards"), [(1, MOST_KEPT + 1), (2, 2 * MOST_KEPT + 1)])
def test_too_many_are_not_kept(world_size: int, num_shards: int) -> None:
    for rank in range(world_size):
        communicator = RankOf(rank, [np.zeros(0, np.float32)] * world_size)
        assert keep_gradients("exact", 5, num_shards, LIMIT, communicator) is None


def test_none_are_kept_where_ranks_do_not_see_each_others_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SerialCommunicator, "shared_floats", lambda self, count: None)
    assert keep_gradients("exact", 5, 2, LIMIT, SerialCommunicator()) is None


def test_a_step_waits_for_all_before_it_sums_and_after() -> None:
    reduction = keep_gradients("exact", 2, 1, LIMIT, SerialCommunicator())
    assert reduction is not None
    place, seen = reduction.place(), []
    place[:] = [1, 2]
    reduction.add(place)
    reduction.start(
        slice(0, 2),
        ForegroundSums(lambda values: seen.append((values.size, reduction._totals.tolist()))),
    )
    assert [totals for _, totals in seen] == [[0, 0], [1, 2]]
    assert REACH * place.itemsize == 64
