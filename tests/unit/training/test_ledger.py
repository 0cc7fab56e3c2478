"""The ledger: each example exactly once an epoch, over all ranks; deviations are named."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcnn.datasets import Microbatch, Shard
from distcnn.distributed import Communicator
from distcnn.errors import TrainingError
from distcnn.training.ledger import Entry, Ledger, all_entries, close_epoch, digest
from tests.unit.distributed.test_communicator import on_ranks

SIZES, EPOCH = (3, 4, 3), 5  # shards that begin at examples 0, 3 and 7


def make_shards(sizes: Sequence[int] = SIZES) -> list[Shard]:
    starts = np.cumsum([0, *sizes]).tolist()
    return [
        Shard(
            index,
            np.zeros((size, 1, 1, 1), np.uint8),
            np.zeros(size, np.int64),
            seed=3,
            first_example=starts[index],
        )
        for index, size in enumerate(sizes)
    ]


def marked(
    shards: Sequence[Shard], microbatches: dict[int, list[list[int]]] | None = None
) -> Ledger:
    """A ledger with every shard's order marked in microbatches of 2; ``microbatches`` replaces it
    for some shards.
    """
    ledger = Ledger(shards)
    for shard in shards:
        order = shard.order(EPOCH).tolist()
        for chosen in (microbatches or {}).get(
            shard.index, [order[start : start + 2] for start in range(0, len(order), 2)]
        ):
            ledger.mark(shard.index, np.array(chosen, np.int64))
    return ledger


def close(ledger: Ledger) -> str:
    return close_epoch(ledger, Communicator(), len(SIZES), EPOCH, sum(SIZES))


def on_all(
    owned: Sequence[Sequence[Shard]], work: Callable[[Ledger, Any], Any], **options: Any
) -> list[Any]:
    """The result of ``work`` on each rank, or the text of its ``TrainingError``."""

    def on_rank(world: Any) -> Any:
        try:
            return work(marked(owned[world.rank], **options), world)
        except TrainingError as error:
            return str(error)

    return on_ranks(len(owned), on_rank)


def test_each_example_once_gives_the_hash_of_all_orders() -> None:
    shards = make_shards()
    assert all(sorted(shard.order(EPOCH)) == list(range(len(shard.labels))) for shard in shards)
    orders = [
        hashlib.sha256(shard.order(EPOCH).astype("<i8").tobytes()).hexdigest() for shard in shards
    ]
    by_hand = json.dumps([[0, 3, orders[0]], [1, 4, orders[1]], [2, 3, orders[2]]])
    assert close(marked(shards)) == hashlib.sha256(by_hand.encode()).hexdigest()


@pytest.mark.parametrize(
    ("microbatches", "message"),
    [
        ([[0, 1], [2, 3], [1]], r"shard 1 used 5 examples of 4: 4 2 times"),
        ([[0, 1], [2]], r"shard 1 used 3 examples of 4: 6 0 times"),
        ([[0, 1], [2, 0]], r"shard 1 used 4 examples of 4: 3 2 times, 6 0 times"),
        ([], r"shard 1 used 0 examples of 4: 3 0 times, 4 0 times, 5 0 times, 6 0 times"),
        ([[0, 1], [2, 2], [3]], r"shard 1 used 5 examples of 4: 5 2 times"),
        ([[0, 1], [2, 2]], r"shard 1 used 4 examples of 4: 5 2 times, 6 0 times"),
    ],
)
def test_what_was_not_used_once_is_named(microbatches: list[list[int]], message: str) -> None:
    with pytest.raises(TrainingError, match=f"^epoch {EPOCH} did not .*: {message}$"):
        close(marked(make_shards(), {1: microbatches}))


def test_a_fault_on_one_rank_is_raised_on_all() -> None:
    shards = make_shards()
    outcomes = on_all(
        [shards[:1], shards[1:]],
        lambda ledger, world: close_epoch(ledger, world, 3, EPOCH, 10),
        microbatches={2: [[0, 1], [1, 2]]},
    )
    assert (
        outcomes
        == [
            f"epoch {EPOCH} did not use every example exactly once: shard 2 used 4 examples of 3: 8"
            " 2 times"
        ]
        * 2
    )


@pytest.mark.parametrize(
    ("owners", "owned"),
    [([[0], [2]], "[0, 2]"), ([[0, 1], [1, 2]], "[0, 1, 1, 2]"), ([[0, 1], [1]], "[0, 1, 1]")],
)
def test_a_shard_without_owner_or_with_two_is_named_on_all_ranks(
    owners: list[list[int]], owned: str
) -> None:
    shards = make_shards()
    of_ranks = [[shards[index] for index in rank] for rank in owners]
    expected = [f"the ranks own the shards {owned}, not 0 to 2 once each"] * 2
    assert (
        on_all(of_ranks, lambda ledger, world: close_epoch(ledger, world, 3, EPOCH, 10)) == expected
    )
    assert on_all(of_ranks, lambda ledger, world: all_entries(ledger, world, 3)) == expected


def test_shards_that_do_not_cover_the_training_set_are_noticed() -> None:
    with pytest.raises(TrainingError, match=f"epoch {EPOCH} used 10 examples, not 11"):
        close_epoch(marked(make_shards()), Communicator(), 3, EPOCH, 11)


def test_another_order_gives_another_hash() -> None:
    shards = make_shards()
    order = shards[1].order(EPOCH).tolist()
    swapped = [[order[1], order[0]], order[2:]]
    assert close(marked(shards, {1: swapped})) != close(marked(shards))
    assert close(marked(shards, {1: [[each] for each in order]})) == close(
        marked(shards)
    )  # where microbatches end does not count


def test_the_digest_sees_shard_count_and_order() -> None:
    entry = Entry(0, 3, "ab")
    assert (
        len(
            {
                digest([each])
                for each in (entry, Entry(1, 3, "ab"), Entry(0, 4, "ab"), Entry(0, 3, "ac"))
            }
        )
        == 4
    )


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 6), min_size=4, max_size=8),
    cuts=st.sets(st.integers(1, 7), max_size=3),
)
def test_the_hash_does_not_depend_on_the_ranks(sizes: list[int], cuts: set[int]) -> None:
    shards = make_shards(sizes)
    bounds = [0, *sorted(cut for cut in cuts if cut < len(sizes)), len(sizes)]
    owned = [shards[start:stop] for start, stop in itertools.pairwise(bounds)]
    alone = close_epoch(marked(shards), Communicator(), len(sizes), EPOCH, sum(sizes))
    assert on_all(
        owned, lambda ledger, world: close_epoch(ledger, world, len(sizes), EPOCH, sum(sizes))
    ) == [alone] * len(owned)


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    size=st.integers(1, 4),
    steps=st.integers(0, 12),
    epoch=st.integers(0, 3),
)
def test_a_replay_reaches_what_stepping_reached(
    sizes: list[int], size: int, steps: int, epoch: int
) -> None:
    shards = make_shards(sizes)
    microbatch = Microbatch((1, 1, 1), size, np.array([0.0]), np.array([1.0]))
    stepped, replayed = Ledger(shards), marked(shards)  # what was marked before does not count
    for step in range(steps):
        for shard in shards:
            shard.fill(microbatch, epoch, step)
            stepped.mark(shard.index, microbatch.chosen)
    replayed.replay(epoch, steps, size)
    assert replayed.entries() == stepped.entries()
    assert [entry.used for entry in stepped.entries()] == [
        min(steps * size, each) for each in sizes
    ]
    assert (replayed.problem() is None) == (steps * size >= max(sizes))
