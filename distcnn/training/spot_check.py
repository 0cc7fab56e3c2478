"""Spot checks (``--spot-check``): now and then another rank repeats what one has computed of a
shard. A difference means that a processor, memory or the software of one of them is at fault.

Whatever this finds, all ranks learn it in the same step, before its update.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distcnn import spans
from distcnn.datasets import Microbatch
from distcnn.distributed import Communicator, shards_of_rank
from distcnn.errors import TrainingError
from distcnn.nn import numpy_settings
from distcnn.nn.kernels.arena import allocate
from distcnn.nn.layer import Array
from distcnn.nn.losses import Loss
from distcnn.random_streams import SPOT_CHECK, generator
from distcnn.spans import Span
from distcnn.training.recording import Checksums, Recording, first_difference

if TYPE_CHECKING:
    from distcnn.training.step import Lane, Streams

_SPAN = Span(spans.SPOT_CHECK)
OR_OWN_CODE = (
    " (or a layer of your own is: it must not keep data outside of its call; with"
    " --threads-per-rank 1 it runs on one thread)"
)


class Check(NamedTuple):
    """``checker`` repeats what ``owner`` has computed of ``shard``."""

    shard: int
    owner: int
    checker: int


class SpotCheckSchedule:
    """Which shards are checked in a step, and by which rank: the same on all ranks.

    A shard is checked with probability ``fraction``. The first shards of all ranks are checked in
    the same steps, and so are the second ones, and so on. So the ranks repeat shards at the same
    time, and what the checks cost does not depend on the number of ranks.
    """

    def __init__(self, seed: int, fraction: float, num_shards: int, hosts: Sequence[str]) -> None:
        self._seed, self._threshold = seed, fraction * 2.0**64
        ranks = range(len(hosts))
        self._shards = [shards_of_rank(num_shards, len(hosts), rank) for rank in ranks]
        away = {host: others(hosts, {hosts.index(host)}) for host in set(hosts)}
        if len(away) > 1:  # the ranks of a host share a list
            self._checkers = [away[host] for host in hosts]
        else:
            self._checkers = [others(hosts, {rank}) or [rank] for rank in ranks]

    def checks(self, step: int) -> list[Check]:
        """The checks of a step."""
        most = max(map(len, self._shards))
        turn, *words = generator(self._seed, SPOT_CHECK, step).random_raw(1 + most).tolist()
        return [
            Check(shards[place], owner, checkers[(turn + owner) % len(checkers)])
            for owner, (shards, checkers) in enumerate(
                zip(self._shards, self._checkers, strict=True)
            )
            for place in range(len(shards))
            if words[place] < self._threshold
        ]


def others(hosts: Sequence[str], taken: Collection[int]) -> list[int]:
    """The ranks that are not ``taken``: those on other hosts than these, if there are any."""
    free = [rank for rank in range(len(hosts)) if rank not in taken]
    near = {hosts[rank] for rank in taken}
    return [rank for rank in free if hosts[rank] not in near] or free


Arrays = tuple[NDArray[Any], ...]
"""Images, labels and weights of a microbatch."""


def _arrays_of(microbatch: Microbatch) -> Arrays:
    return microbatch.images, microbatch.labels, microbatch.weights


@dataclass
class Evidence:
    """What another rank needs to repeat a shard, and the owner's checksums."""

    shard: int
    arrays: Arrays
    checksums: Checksums


class SpotCheckFailure(TrainingError):
    """Two ranks have computed different values; ``suspects`` are the ranks that may be wrong."""

    def __init__(self, text: str, suspects: Sequence[int]) -> None:
        super().__init__(text)
        self.suspects = suspects


class SpotCheck:
    """Watches the shards of this rank that are checked, and repeats those of others.

    Shards are repeated in ``lane``, which must be free when ``compare`` is called.
    """

    def __init__(
        self,
        schedule: SpotCheckSchedule,
        communicator: Communicator,
        lane: Lane,
        loss: Loss,
        streams: Streams,
    ) -> None:
        self._schedule, self._communicator = schedule, communicator
        self._lane, self._loss, self._streams = lane, loss, streams
        values = lane.plan.parameters.values
        self._gradient: Array = allocate(values.shape, values.dtype)
        self._checks: list[Check] = []
        self._watched: dict[int, Evidence] = {}
        self.count = 0
        """Shards of all ranks that were checked in the latest step."""

    def begin(self, step: int) -> None:
        """Begin ``step``."""
        self._step, self._checks = step, self._schedule.checks(step)
        self._watched.clear()

    def watch(self, shard: int, lane: Lane) -> Recording | None:
        """What computes the filled microbatch of ``lane``; None if it is not checked."""
        if all(check.shard != shard for check in self._checks):
            return None
        recording = Recording(lane.plan, self._loss)
        arrays = tuple(array.copy() for array in _arrays_of(lane.microbatch))
        self._watched[shard] = Evidence(shard, arrays, recording.checksums)
        return recording

    def compare(self) -> None:
        """Repeat each other's shards; ``SpotCheckFailure`` on all ranks if one differs. Collective.

        A shard that failed is compared as far as it was computed.
        """
        self.count = len(self._checks)
        if not self._checks:
            return
        with _SPAN:
            checkers = {check.shard: check.checker for check in self._checks}
            received = self._send(lambda evidence: checkers[evidence.shard])
            repeated = [(each, self._repeat(each)) for each in received]
            differing = [
                (each.shard, each.checksums, checksums)
                for each, checksums in repeated
                if first_difference(each.checksums, checksums)
            ]
            found = [
                each for of_rank in self._communicator.allgather(differing) for each in of_rank
            ]
            if found:
                raise self._failure(*min(found, key=lambda each: each[0]))

    def _send(self, receiver: Callable[[Evidence], int | None]) -> list[Evidence]:
        """Send what this rank has watched, and receive what others have. Collective."""
        outgoing: list[list[Evidence]] = [[] for _ in range(self._communicator.world_size)]
        for evidence in self._watched.values():
            if (rank := receiver(evidence)) is not None:
                outgoing[rank].append(evidence)
        return [each for of_rank in self._communicator.exchange(outgoing) for each in of_rank]

    def _repeat(self, evidence: Evidence) -> Checksums:
        plan, batch = self._lane
        for buffer, values in zip(_arrays_of(batch), evidence.arrays, strict=True):
            np.copyto(buffer, values)
        recording, streams = Recording(plan, self._loss), self._streams(self._step, evidence.shard)
        with suppress(TrainingError), numpy_settings():
            logits = recording.forward(batch.images, True, streams)
            _, grad_logits = recording.loss(logits, batch.labels, batch.weights)
            recording.backward(grad_logits, out=self._gradient)
        return recording.checksums

    def _failure(self, shard: int, own: Checksums, other: Checksums) -> SpotCheckFailure:
        """Who is wrong, by the word of a third rank if there is one. Collective."""
        hosts = self._communicator.hosts
        _, owner, checker = next(check for check in self._checks if check.shard == shard)
        third = next(iter(others(hosts, {owner, checker})), None)
        received = self._send(lambda evidence: third if evidence.shard == shard else None)
        repeated = self._communicator.allgather([self._repeat(each) for each in received])
        results = [(owner, own), (checker, other)]
        results += [(rank, each) for rank, of_rank in enumerate(repeated) for each in of_rank]
        text, suspects = verdict(results, hosts)
        return SpotCheckFailure(f"spot check: step {self._step}, shard {shard}: {text}", suspects)


def verdict(
    results: Sequence[tuple[int, Checksums]], hosts: Sequence[str]
) -> tuple[str, list[int]]:
    """Who is at fault, as text, and the ranks that may be.

    ``results`` are those of the owner, of the rank that repeated its shard, and perhaps of a third.
    """
    names = {rank: f"rank {rank} (host {hosts[rank]})" for rank, _ in results}
    (owner, own), (checker, other), *_ = results
    what = first_difference(own, other)
    if owner == checker:
        text = f"{names[owner]} computed the {what} twice, with different results: its"
        return f"{text} processor, memory or software is at fault{OR_OWN_CODE}", [owner]
    for wrong, its in results if len(results) == 3 else []:
        (one, right), (another, same) = (each for each in results if each[0] != wrong)
        if not first_difference(right, same):
            text = (
                f"the {first_difference(right, its)} that {names[wrong]} computed is not the one"
                f" that {names[one]} and {names[another]} compute: rank {wrong}'s processor, memory"
                " or software is at fault"
            )
            return text, [wrong]
    suspects = sorted(names)
    *most, last = (names[rank] for rank in suspects)
    text = f"{', '.join(most)} and {last} compute different values of the {what}"
    if most[1:]:
        return (f"{text}: several are at fault{OR_OWN_CODE}", suspects)
    return (
        f"{text}: the processor, memory or software of one of them is at fault{OR_OWN_CODE}; on"
        " three ranks or more, a third one decides which",
        suspects,
    )
