"""Overlap: the sum over all ranks of the last layers' gradients goes on while the first layers' are
still computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from distcnn.datasets import Microbatch
from distcnn.distributed import Communicator, ForegroundSums, Reduction, Sums, plan_buckets
from distcnn.nn.planned import PlannedNetwork
from distcnn.spans import REDUCE, WAIT_FOR_SUMS, Span

T = TypeVar("T")

MOST_LANES = 8
"""Shards of a rank whose backward can be stopped half way: each needs the buffers of a whole
network.
"""

_WAIT_FOR_SUMS = Span(WAIT_FOR_SUMS)


@dataclass(frozen=True)
class Lane:
    """What one shard computes with.

    Lanes share the network's values and gradients, but no other buffers.
    """

    network: PlannedNetwork
    microbatch: Microbatch


@dataclass
class Overlap:
    """How a step's computing and summing share the time.

    The rank's last ``len(lanes)`` shards go through backward together: all of them the layers of
    the first bucket, whose sum over all ranks then starts, and so on.
    """

    lanes: Sequence[Lane]
    buckets: Sequence[slice]
    sums: Sums
    waited_seconds: float = 0.0
    """Of all steps so far: the time in which the main thread only waited for the sums
    (``sums.allreduce_seconds``: what they took).
    """

    def __post_init__(self) -> None:
        itemsize = self.lanes[0].network.dtype.itemsize
        self._spans = {
            bucket.start: Span(
                REDUCE,
                bucket=number,
                nbytes=itemsize * (bucket.stop - bucket.start),
                is_last=bucket.start == 0,
            )
            for number, bucket in enumerate(self.buckets)
        }

    def start(self, reduction: Reduction, bucket: slice) -> None:
        """``bucket`` is complete on this rank: sum it over all ranks."""
        with self._spans[bucket.start]:
            self._waiting(lambda: reduction.start(bucket, self.sums))

    def finish(self, reduction: Reduction) -> None:
        """Wait for all buckets."""
        with _WAIT_FOR_SUMS:
            self._waiting(lambda: reduction.finish(self.sums))

    def _waiting(self, work: Callable[[], T]) -> T:
        start = time.perf_counter()
        result = work()
        self.waited_seconds += time.perf_counter() - start
        return result

    @property
    def hidden_seconds(self) -> float:
        """Of all steps so far: the time of sums in which the main thread computed."""
        return self.sums.allreduce_seconds - self.waited_seconds


def no_overlap(
    network: PlannedNetwork, microbatch: Microbatch, communicator: Communicator
) -> Overlap:
    """Shard by shard; then one sum."""
    return Overlap(
        [Lane(network, microbatch)],
        [slice(0, network.values.size)],
        ForegroundSums(communicator.allreduce_sum),
    )


def open_sums(wanted: str, reduction: str, communicator: Communicator) -> Sums | None:
    """For ``wanted`` on, off, or auto; None for off, and where MPI allows no second thread.
    Collective.

    auto is on where it was measured to be faster (docs/overlap.md): for the exact sum between
    hosts. Within one host a sum is short, and its thread takes a core from the computing; the fast
    sum gained nothing that stood out of the noise.
    """
    faster = len(set(communicator.hosts)) > 1 and reduction == "exact"
    return (
        communicator.background_sums() if wanted == "on" or (wanted == "auto" and faster) else None
    )


def plan_overlap(
    first: Lane, make_lane: Callable[[], Lane], num_shards: int, sums: Sums
) -> Overlap:
    """Lanes and buckets for ``num_shards`` of this rank.

    ``make_lane`` makes one that shares the values and gradients of ``first``.
    """
    more = [make_lane() for _ in range(min(num_shards, MOST_LANES) - 1)]
    buckets = plan_buckets(sorted({0, *first.network.layer_starts, first.network.values.size}))
    return Overlap([first, *more], buckets, sums)
