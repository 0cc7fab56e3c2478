"""Vectors in memory that the ranks of one host share: their sums against plain ones, under each MPI; and when none are shared."""

from __future__ import annotations

import json

import pytest

from tests.conftest import Launcher

SUMS = """
import json, sys, time
import numpy as np
from distcnn.parallel import shared_memory, shared_sums
from distcnn.parallel.mpi import MPICommunicator
from distcnn.parallel.tally import TALLY_SPACE

size, dtype, fault = int(sys.argv[1]), sys.argv[2], sys.argv[3]
world = MPICommunicator()
if fault and world.rank == 1:
    def refuse(path, *arguments):
        raise OSError(13, "on purpose")
    setattr(shared_memory.os, fault, refuse)
shared_sums.ELEMENTS_AT_A_TIME = 64
vectors = [world.vector(TALLY_SPACE + each, dtype) for each in (size, 7)]
assert all(each.dtype == dtype and not each.any() for each in vectors) and vectors[0].shape == (TALLY_SPACE + size,)
ways = [world.foreground_sums(each) for each in vectors]
rng = np.random.default_rng(world.rank)
rounds = 0
for _ in range(100):
    for vector, way in zip(vectors, ways):
        vector[:] = rng.integers(-1000, 1000, vector.size) / 8  # sums are exact in any order
        expected = sum(np.array(world.allgather(vector)))
        if rounds % 5 == world.rank:
            time.sleep(0.002)  # somebody is always late
        way.start(vector)
        way.finish()
        rounded = way.rounded(vector[TALLY_SPACE:], np.empty(vector.size - TALLY_SPACE, np.float32))
        assert rounded.dtype == np.float32
        assert np.array_equal(vector[:TALLY_SPACE], expected[:TALLY_SPACE]), rounds
        assert np.array_equal(rounded, expected[TALLY_SPACE:]), rounds
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
    assert sums(any_mpi, ranks, 1000) == {"rounds": 200, "shared": 2}


def test_float32_and_vectors_shorter_than_the_ranks_are_many(any_mpi: Launcher) -> None:
    assert sums(any_mpi, 2, 333, "float32")["shared"] == 2
    assert sums(any_mpi, 4, 7)["shared"] == 2


@pytest.mark.parametrize("fault", ["memfd_create", "posix_fallocate", "open"])
def test_where_one_rank_cannot_none_are_shared(any_mpi: Launcher, fault: str) -> None:
    assert sums(any_mpi, 2, 1000, fault=fault) == {"rounds": 200, "shared": 0}


def test_a_world_of_one_shares_with_nobody(any_mpi: Launcher) -> None:
    assert sums(any_mpi, 1, 100)["shared"] == 0
