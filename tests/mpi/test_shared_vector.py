"""Vectors in memory that the ranks of one host share: their sums against plain ones, under each MPI; and when none are shared."""

from __future__ import annotations

import json

import pytest

from tests.conftest import Launcher

SUMS = """
import json, sys, time
import numpy as np
from distcnn.parallel import shared_vector
from distcnn.parallel.mpi import MPICommunicator

size, dtype, fault = int(sys.argv[1]), sys.argv[2], sys.argv[3]
world = MPICommunicator()
if fault and world.rank == 1:
    def refuse(path, *arguments):
        raise OSError(13, "on purpose")
    setattr(shared_vector.os, fault, refuse)
shared_vector.ELEMENTS_AT_A_TIME = 64
vector, other = world.vector(size, dtype), world.vector(7, dtype)
assert vector.dtype == dtype and vector.shape == (size,) and not vector.any()
rng = np.random.default_rng(world.rank)
rounds = 0
for _ in range(25):
    for part in (slice(0, size), slice(size // 3, size), slice(1, size - 1), slice(5, 6), slice(4, 4)):
        vector[:] = mine = rng.integers(-1000, 1000, size) / 8  # sums are exact in any order
        other[:] = world.rank
        if rounds % 5 == world.rank:
            time.sleep(0.002)  # somebody is always late
        world.allreduce_sum(vector[part])
        expected = mine.copy()
        expected[part] = sum(np.array(world.allgather(mine)))[part]
        assert np.array_equal(vector, expected), (part, rounds)
        world.allreduce_sum(other)
        assert (other == sum(range(world.world_size))).all()
        rounds += 1
loose = np.full(3, 1.5, dtype)
world.allreduce_sum(loose)
assert (loose == 1.5 * world.world_size).all()
if world.rank == 0:
    print(json.dumps({"rounds": rounds, "shared": len(world._shared)}))
"""


def sums(launcher: Launcher, ranks: int, size: int, dtype: str = "float64", fault: str = "") -> dict[str, int]:
    done = launcher.run(ranks, "-c", SUMS, str(size), dtype, fault)
    assert (done.returncode, done.stderr) == (0, "")
    result: dict[str, int] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_sums_are_those_of_plain_vectors_whoever_is_late(any_mpi: Launcher, ranks: int) -> None:
    assert sums(any_mpi, ranks, 1000) == {"rounds": 125, "shared": 2}


def test_float32_and_vectors_shorter_than_the_ranks_are_many(any_mpi: Launcher) -> None:
    assert sums(any_mpi, 2, 333, "float32")["shared"] == 2
    assert sums(any_mpi, 4, 7)["shared"] == 2


@pytest.mark.parametrize("fault", ["memfd_create", "posix_fallocate", "open"])
def test_where_one_rank_cannot_none_are_shared(any_mpi: Launcher, fault: str) -> None:
    assert sums(any_mpi, 2, 1000, fault=fault) == {"rounds": 125, "shared": 0}


def test_a_world_of_one_shares_with_nobody(any_mpi: Launcher) -> None:
    assert sums(any_mpi, 1, 100)["shared"] == 0
