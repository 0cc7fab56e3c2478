"""The ledger proves that each epoch used every example exactly once over all ranks.

Each rank counts for its own shards what was really put into microbatches. A running SHA-256 of each
shard's order, in checkpoints and the receipt, makes the proof hold over resumes and in a replay.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distcnn.datasets import Part
from distcnn.distributed import Communicator
from distcnn.errors import TrainingError
from distcnn.system.wording import counted

MOST_NAMED = 8
"""Most examples named in an error."""


class Entry(NamedTuple):
    """A shard's part of an epoch: how many examples it has used, and the SHA-256 of their order."""

    shard: int
    used: int
    order_sha256: str


class Ledger:
    """The entries of this rank's ``shards``."""

    def __init__(self, shards: Sequence[Part]) -> None:
        self._shards = list(shards)
        self._counts = {shard.index: np.zeros(shard.examples, np.uint16) for shard in shards}
        self.begin()

    def begin(self) -> None:
        """Begin an epoch."""
        for counts in self._counts.values():
            counts.fill(0)
        self._used = dict.fromkeys(self._counts, 0)
        self._orders = {index: hashlib.sha256() for index in self._counts}

    def mark(self, shard: int, chosen: NDArray[np.integer]) -> None:
        """Record that the examples ``chosen`` of ``shard`` (indices in it) are in a microbatch."""
        np.add.at(self._counts[shard], chosen, 1)
        self._used[shard] += len(chosen)
        self._orders[shard].update(np.ascontiguousarray(chosen, "<i8").data)

    def replay(self, epoch: int, steps: int, microbatch_size: int) -> None:
        """Begin ``epoch`` and mark what its first ``steps`` steps use."""
        self.begin()
        for shard in self._shards:
            for step in range(min(steps, -(-shard.examples // microbatch_size))):
                self.mark(shard.index, shard.chosen(epoch, step, microbatch_size))

    def entries(self) -> list[Entry]:
        return [
            Entry(index, self._used[index], order.hexdigest())
            for index, order in self._orders.items()
        ]

    def problem(self) -> str | None:
        """The first of this rank's shards that did not use each example once, as text, or None."""
        for shard in self._shards:
            counts = self._counts[shard.index]
            wrong = np.flatnonzero(counts != 1)[:MOST_NAMED]
            if wrong.size:
                times = [f"{shard.first_example + index} {counts[index]} times" for index in wrong]
                used = counted(self._used[shard.index], "example")
                return f"shard {shard.index} used {used} of {len(counts)}: {', '.join(times)}"
        return None


def all_entries(ledger: Ledger, communicator: Communicator, num_shards: int) -> list[Entry]:
    """Every shard's entry. ``TrainingError`` on all ranks when one has no owner, or two."""
    entries = sorted(entry for rank in communicator.allgather(ledger.entries()) for entry in rank)
    owned = [entry.shard for entry in entries]
    if owned != list(range(num_shards)):
        raise TrainingError(
            f"the ranks own the shards {owned}, not 0 to {num_shards - 1} once each"
        )
    return entries


def close_epoch(
    ledger: Ledger, communicator: Communicator, num_shards: int, epoch: int, train_examples: int
) -> str:
    """The SHA-256 of all orders. ``TrainingError`` unless each example was used exactly once."""
    problems = [problem for problem in communicator.allgather(ledger.problem()) if problem]
    if problems:
        raise TrainingError(
            f"epoch {epoch} did not use every example exactly once:"
            f" {'; '.join(problems[:MOST_NAMED])}"
        )
    entries = all_entries(ledger, communicator, num_shards)
    used = sum(entry.used for entry in entries)
    if used != train_examples:
        raise TrainingError(f"epoch {epoch} used {counted(used, 'example')}, not {train_examples}")
    return digest(entries)


def digest(entries: Sequence[Entry]) -> str:
    """One SHA-256 for all shards' entries."""
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()
