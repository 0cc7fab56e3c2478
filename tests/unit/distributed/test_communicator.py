"""Errors of one rank reach all of them; the ranks here are threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from distcnn.distributed import Communicator, on_root, together
from distcnn.distributed.communicator import JointError
from distcnn.errors import InputError


class ThreadCommunicator:
    """A world of threads: the naive reference."""

    description = "threads"

    def __init__(
        self, rank: int, world_size: int, board: list[Any], barrier: threading.Barrier
    ) -> None:
        self.rank, self.world_size, self._board, self._barrier = rank, world_size, board, barrier

    def allgather(self, item: Any) -> list[Any]:
        self._board[self.rank] = item
        self._barrier.wait(10)
        items = list(self._board)
        self._barrier.wait(10)
        return items

    def broadcast(self, item: Any) -> Any:
        return self.allgather(item)[0]


def on_ranks(world_size: int, work: Callable[[Any], Any]) -> list[Any]:
    """What ``work`` returns or raises on each rank."""
    outcomes: list[Any] = [None] * world_size
    board: list[Any] = [None] * world_size
    barrier = threading.Barrier(world_size)

    def run(rank: int) -> None:
        try:
            outcomes[rank] = work(ThreadCommunicator(rank, world_size, board, barrier))
        except InputError as error:
            outcomes[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def fail_on(rank: int, failing: set[int]) -> int:
    if rank in failing:
        raise InputError(f"bad label in the shards of rank {rank}")
    return rank


def test_together_gives_each_rank_its_own_result() -> None:
    assert on_ranks(3, lambda world: together(world, lambda: world.rank * 10)) == [0, 10, 20]


@pytest.mark.parametrize("failing", [{0}, {2}, {1, 2}])
def test_an_error_on_some_ranks_is_raised_on_all_and_names_the_first(failing: set[int]) -> None:
    outcomes = on_ranks(3, lambda world: together(world, lambda: fail_on(world.rank, failing)))
    assert {type(each) for each in outcomes} == {JointError}
    assert {str(each) for each in outcomes} == {
        f"bad label in the shards of rank {min(failing)} (on rank {min(failing)})"
    }


def raise_input_error() -> None:
    raise InputError("no such file")


def test_an_error_that_all_ranks_share_names_no_rank() -> None:
    outcomes = on_ranks(3, lambda world: together(world, raise_input_error))
    assert {str(each) for each in outcomes} == {"no such file"}


def test_on_root_works_once_and_tells_all() -> None:
    calls: list[int] = []
    outcomes = on_ranks(3, lambda world: on_root(world, lambda: calls.append(world.rank) or "made"))
    assert outcomes == ["made"] * 3
    assert calls == [0]


def test_an_error_on_root_is_raised_on_all() -> None:
    outcomes = on_ranks(3, lambda world: on_root(world, raise_input_error))
    assert [str(each) for each in outcomes] == ["no such file"] * 3


def test_the_serial_communicator_is_a_world_of_one() -> None:
    world = Communicator()
    values = np.array([1.0, 2.0])
    world.allreduce_sum(values)
    world.barrier()
    assert (
        world.rank,
        world.world_size,
        values.tolist(),
        world.allgather("x"),
        world.broadcast("y"),
    ) == (0, 1, [1.0, 2.0], ["x"], "y")
