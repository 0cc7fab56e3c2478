"""Gradients in memory that the ranks of a host share: their sums under each MPI, and when the
memory is not shared.
"""

from __future__ import annotations

import json

import pytest

from tests.conftest import Launcher, slow

SUMS = """
import json, sys, time
import numpy as np
from distcnn.distributed import SUMS, shared_memory_reducer, shards_of_rank
from distcnn.distributed import shared_memory_reduction
from distcnn.distributed.mpi import MPICommunicator

size, name, fault = int(sys.argv[1]), sys.argv[2], sys.argv[3]
world = MPICommunicator()
if fault and world.rank == 1:
    def refuse(path, *arguments):
        raise OSError(13, "on purpose")
    setattr(shared_memory_reduction.os, fault, refuse)
shared_memory_reduction.CHUNK = 64
num_shards = 2 * world.world_size + 1  # one rank has more than the others
own_shards = shards_of_rank(num_shards, world.world_size, world.rank)
arithmetic = SUMS[name](num_shards, 4096.0)
reducers = [shared_memory_reducer(arithmetic, each, world) for each in (size, 7)]
shared = [reducer for reducer in reducers if reducer is not None]
rng, rounds = np.random.default_rng(world.rank), 0
for _ in range(40):
    for reducer in shared:
        reducer.begin()
        expected = 0
        for _ in own_shards:
            with reducer.slot() as gradient:
                # sums are exact in any order
                gradient[:] = rng.integers(-1000, 1000, gradient.size) / 8
            expected = expected + gradient
            reducer.count(1.0, 2, 3)
        expected = sum(world.allgather(expected))
        if rounds % 5 == world.rank:
            time.sleep(0.002)  # somebody is always late
        totals = reducer.all_reduce()
        assert reducer.gradient.dtype == np.float32
        assert np.array_equal(reducer.gradient, expected), rounds
        assert totals.examples == 3 * num_shards
        rounds += 1
loose = np.full(3, 1.5)
world.allreduce_sum(loose)
assert (loose == 1.5 * world.world_size).all()
if world.rank == 0:
    print(json.dumps({"rounds": rounds, "shared": len(shared)}))
"""


def sums(
    launcher: Launcher, ranks: int, size: int, name: str = "exact", fault: str = ""
) -> dict[str, int]:
    done = launcher.run(ranks, "-c", SUMS, str(size), name, fault)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    result: dict[str, int] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("ranks", [2, 3, *slow(1, 4)])
def test_sums_are_those_of_all_gradients_whichever_rank_is_late(
    any_mpi: Launcher, ranks: int
) -> None:
    assert sums(any_mpi, ranks, 1000) == {"rounds": 80, "shared": 2}


def test_the_fast_sum_and_vectors_shorter_than_the_ranks_are_many(any_mpi: Launcher) -> None:
    assert sums(any_mpi, 2, 333, "fast")["shared"] == 2
    assert sums(any_mpi, 4, 3)["shared"] == 2


@pytest.mark.parametrize("fault", ["memfd_create", "posix_fallocate", "open"])
def test_where_one_rank_cannot_none_are_kept(any_mpi: Launcher, fault: str) -> None:
    assert sums(any_mpi, 2, 1000, fault=fault) == {"rounds": 0, "shared": 0}
