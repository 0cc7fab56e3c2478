"""A measuring session: turns of everything, so that whatever else the machine does meets all of it
alike.

Each turn: steps as they are, timed as a whole; steps with instruments; the products alone; the
plain products alone; a test pass; the peer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from distcnn.benchmark.im2col_bound import plain_products
from distcnn.benchmark.matrix_products import Product, operations_of, recorded, replay_seconds
from distcnn.benchmark.memory_use import memory_parts, peak_bytes
from distcnn.benchmark.time_split import Instruments, Split, StepTimes, average
from distcnn.fault_tolerance.heartbeat import Activity, pulse
from distcnn.training.setup import Run

WARM_UP_STEPS = 3
SHARE_OF_STEPS = 3
"""Of the steps of a turn, so many times fewer go through instruments; as often the products are
replayed.
"""

PeerTurn = Callable[[int], dict[str, Any]]


class Steps:
    """Steps of ``run``, one after the other, epoch after epoch; the padded ones at an epoch's end
    are left out where there are others.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._taken = run, 0
        config = run.config
        shortest = run.dataset.examples["train"] // config.num_shards
        self._an_epoch = shortest // config.microbatch_size or run.plan.steps_an_epoch

    def take(self) -> int:
        """Take the next one; how many examples it used."""
        epoch, step_of_epoch = divmod(self._taken, self._an_epoch)
        learning_rate = self._run.plan.learning_rate(
            min(self._taken, self._run.plan.scheduled_steps - 1)
        )
        totals = self._run.step(self._taken, epoch, step_of_epoch, learning_rate)
        self._taken += 1
        return totals.examples


@dataclass(frozen=True)
class Bound:
    """What products alone take in one step on this rank: seconds in each turn, calls,
    multiplications and additions.
    """

    seconds: list[float]
    calls: int
    operations: int


@dataclass
class Measured:
    """What this rank saw.

    Lists have an item for each turn, of which ``images_per_second`` and ``step_seconds`` are of all
    ranks.
    """

    images_per_second: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    tests_per_second: list[float] = field(default_factory=list)
    peer: list[dict[str, Any]] = field(default_factory=list)
    times: list[StepTimes] = field(default_factory=list)
    replays: list[float] = field(default_factory=list)
    plain_replays: list[float] = field(default_factory=list)

    @property
    def split(self) -> Split:
        """Of all steps with instruments."""
        return average(self.times)


class Session:
    """Collective, all of it.

    ``resident_at_start``: this process's memory before any data were read.
    """

    def __init__(self, run: Run, steps: int, resident_at_start: int) -> None:
        self._run, self._steps = run, steps
        self._few = max(2, steps // SHARE_OF_STEPS)
        self._next = Steps(run)
        self.measured = Measured()
        for _ in range(WARM_UP_STEPS):
            self._next.take()
        run.evaluation()
        self.peak_bytes = peak_bytes()  # before any instrument takes memory of its own
        self.memory_parts = memory_parts(run, resident_at_start, self.peak_bytes)
        self._products = record_step(self._next.take)
        self._plain: list[Product] = []

    def turn(self, peer: PeerTurn | None) -> None:
        """Measure everything once."""
        run, measured = self._run, self.measured
        seconds, images = self._timed(lambda: sum(self._next.take() for _ in range(self._steps)))
        measured.images_per_second.append(images / seconds)
        measured.step_seconds.append(seconds / self._steps)
        instruments = Instruments(run.step)
        run.communicator.barrier()
        with instruments.entered():
            measured.times += [instruments.take(self._next.take) for _ in range(self._few)]
        measured.replays.append(self._alone(self._products))
        self._plain = self._plain or plain_products(run.network)
        measured.plain_replays.append(self._alone(self._plain * len(run.step.shards)))
        seconds, tests = self._timed(lambda: run.evaluation().examples)
        measured.tests_per_second.append(tests / seconds)
        if peer is not None:
            measured.peer.append(peer(self._steps))

    @property
    def bound(self) -> Bound:
        """Of the products that a step calls."""
        return Bound(self.measured.replays, len(self._products), operations_of(self._products))

    @property
    def plain_bound(self) -> Bound:
        """Of the plain products."""
        shards = len(self._run.step.shards)
        return Bound(
            self.measured.plain_replays,
            len(self._plain) * shards,
            operations_of(self._plain) * shards,
        )

    def _timed(self, work: Callable[[], int]) -> tuple[float, int]:
        """``work`` of all ranks: they begin together, and its last act is a sum over all of
        them.
        """
        self._run.communicator.barrier()
        start = time.perf_counter()
        result = work()
        return time.perf_counter() - start, result

    def _alone(self, products: list[Product]) -> float:
        """Median seconds of ``products``, replayed by all ranks at the same time, for they share
        the machine; the first only warms up.
        """
        self._run.communicator.barrier()
        seconds = []
        for _ in range(self._few + 1):
            pulse.beat(Activity.MEASURING)
            seconds.append(replay_seconds(products))
        return median(seconds[1:])


def record_step(take: Callable[[], int]) -> list[Product]:
    """The products of one step."""
    with recorded() as products:
        take()
    return products
