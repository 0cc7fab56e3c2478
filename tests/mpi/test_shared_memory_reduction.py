"""Gradients kept in memory that the ranks of one host share: their sums, under each MPI; and when
none are.
"""

from __future__ import annotations

import json

import pytest

from tests.conftest import Launcher

SUMS = """
import json, sys, time
import numpy as np
from distcnn.distributed import ForegroundSums, keep_gradients, shared_memory_reduction, shared_memory
from distcnn.distributed.mpi import MPICommunicator

size, name, fault = int(sys.argv[1]), sys.argv[2], sys.argv[3]
world = MPICommunicator()
if fault and world.rank == 1:
    def refuse(path, *arguments):
        raise OSError(13, "on purpose")
    setattr(shared_memory.os, fault, refuse)
kept.CHUNK = 64
num_shards = 2 * world.world_size + 1  # one rank has more than the others
reductions = [keep_gradients(name, each, num_shards, 4096.0, world) for each in (size, 7)]
shared = [each for each in reductions if each is not None]
rng, sums = np.random.default_rng(world.rank), ForegroundSums(world.allreduce_sum)
rounds = 0
for _ in range(100):
    for reduction in shared:
        reduction.clear()
        expected = 0
        for _ in reduction._own:
            place = reduction.place()
            place[:] = rng.integers(-1000, 1000, place.size) / 8  # sums are exact in any order
            expected = expected + place
            reduction.add(place)
            reduction.tally.add(1.0, 2, 3)
        expected = sum(world.allgather(expected))
        if rounds % 5 == world.rank:
            time.sleep(0.002)  # somebody is always late
        reduction.start(slice(0, place.size), sums)
        total = reduction.finish(sums)
        assert total.dtype == np.float32
        assert np.array_equal(total, expected), rounds
        assert reduction.tally.totals().examples == 3 * num_shards
        rounds += 1
loose = np.full(3, 1.5)
world.allreduce_sum(loose)
assert (loose == 1.5 * world.world_size).all()
if world.rank == 0:
    print(json.dumps({"rounds": rounds, "shared": len(shared)}))
"""  # noqa: E501


def sums(
    launcher: Launcher, ranks: int, size: int, name: str = "exact", fault: str = ""
) -> dict[str, int]:
    done = launcher.run(ranks, "-c", SUMS, str(size), name, fault)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    result: dict[str, int] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_sums_are_those_of_all_gradients_whoever_is_late(any_mpi: Launcher, ranks: int) -> None:
    assert sums(any_mpi, ranks, 1000) == {"rounds": 200, "shared": 2}


def test_the_fast_sum_and_vectors_shorter_than_the_ranks_are_many(any_mpi: Launcher) -> None:
    assert sums(any_mpi, 2, 333, "fast")["shared"] == 2
    assert sums(any_mpi, 4, 3)["shared"] == 2


@pytest.mark.parametrize("fault", ["memfd_create", "posix_fallocate", "open"])
def test_where_one_rank_cannot_none_are_kept(any_mpi: Launcher, fault: str) -> None:
    assert sums(any_mpi, 2, 1000, fault=fault) == {"rounds": 0, "shared": 0}
