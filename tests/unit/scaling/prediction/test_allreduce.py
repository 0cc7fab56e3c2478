"""What an allreduce costs: closed forms against algorithms played through, and by hand."""

from __future__ import annotations

import pytest

from distcnn.scaling.prediction.allreduce import ALGORITHMS, Cost, algorithm_for, cost_of
from tests.support import naive_allreduce

PLAYED = {
    "recursive-doubling": naive_allreduce.recursive_doubling,
    "rabenseifner": naive_allreduce.rabenseifner,
    "ring": naive_allreduce.ring,
}


@pytest.mark.parametrize("name", PLAYED)
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 31, 32])
def test_closed_forms_are_what_playing_it_through_takes(name: str, ranks: int) -> None:
    size = 32 * 27 * 31 * 5  # divides evenly wherever a part of it is taken
    alpha, beta, gamma = 3.0, 1e-3, 1e-4
    world = naive_allreduce.World(ranks, size, alpha, beta, gamma)
    PLAYED[name](world)
    assert all((values == world.expected).all() for values in world.values)
    cost = ALGORITHMS[name](ranks, size)
    seconds = cost.exchanges * alpha + cost.nbytes * beta + cost.added_bytes * gamma
    assert max(world.clock) == pytest.approx(seconds, rel=1e-3 if name == "ring" else 1e-9)


def test_by_hand() -> None:
    assert cost_of(4, 1e6) == Cost(4, 1.5e6, 0.75e6)
    assert cost_of(4, 1000) == Cost(2, 2000, 2000)
    assert cost_of(3, 1e6) == Cost(4, 3e6, 1.5e6)
    assert cost_of(4096, 4096e3).exchanges == 24
    assert cost_of(4, 1e6, "ring") == Cost(6, 1.5e6, 0.75e6)
    assert cost_of(1, 1e6) == Cost(0, 0, 0)


def test_short_messages_are_doubled() -> None:
    assert [algorithm_for(nbytes) for nbytes in (8, 2048, 2049)] == [
        "recursive-doubling",
        "recursive-doubling",
        "rabenseifner",
    ]
    assert algorithm_for(8, "ring") == "ring"
