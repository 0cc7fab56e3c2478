"""How many threads a rank uses, and for what."""

from __future__ import annotations

import pytest

from distcnn.config import Config
from distcnn.system.host import Cores
from distcnn.training.threads import Threads

EIGHT = Cores("a", frozenset(range(8)), 8.0)
ONE_EACH = [Cores("a", frozenset(range(2)), 2.0)] * 2


@pytest.mark.parametrize(
    ("arithmetic", "given", "own_shards", "expected"),
    [
        ("native", "", 4, (1, 1)),
        ("native", "3", 4, (1, 3)),
        ("native", "auto", 4, (1, 8)),
        ("portable", "", 4, (4, 1)),  # a thread for each shard
        ("portable", "auto", 20, (8, 1)),
        ("portable", "1", 4, (1, 1)),
        ("portable", "2", 4, (2, 1)),
        ("portable", "6", 3, (3, 2)),  # what shards leave is BLAS's, if it was asked for
        ("portable", "3", 1, (1, 3)),
    ],
)
def test_what_the_flag_means(
    arithmetic: str, given: str, own_shards: int, expected: tuple[int, int]
) -> None:
    config = Config(arithmetic=arithmetic, threads_per_rank=given)
    threads = Threads.settle(config, [EIGHT], own_shards)
    assert (threads.side_by_side, threads.of_blas) == expected


def test_ranks_share_the_cores() -> None:
    assert Threads.settle(Config(arithmetic="portable"), ONE_EACH, 4) == Threads(1, 1)


def test_the_bits_of_native_runs_depend_on_threads_and_crowds_are_named() -> None:
    native, portable = Config(threads_per_rank="2"), Config(arithmetic="portable")
    assert "the bits depend on" in "".join(Threads(1, 2).lines(native, [EIGHT]))
    assert not list(Threads(2, 1).lines(portable, [EIGHT]))
    assert "oversubscribed: 2 ranks" in "".join(Threads(4, 1).lines(portable, ONE_EACH))
