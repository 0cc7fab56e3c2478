"""The split: what each part of a step takes. Stopwatches stand around the parts of a real ``Step``
while they are entered.

They change no bit: each calls what stood there, with the same arguments. They are taken out again,
so that a speed is never measured through them. Each step's seconds go to the part that ran, summed
over this rank's shards; what none of them saw is the rest.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distcnn.benchmark.matrix_products import FUNCTIONS
from distcnn.training.parts import DATA, LOSS, SUM, Work, layer_places, replaced, shard_places
from distcnn.training.step import Step

WAITING, ALLREDUCE, UPDATE, REST = "waiting", "allreduce", "update", "rest"
OTHERS = (DATA, LOSS, SUM, WAITING, ALLREDUCE, UPDATE)
"""The parts of a step that are no layer's, in the order of a step; and what is left."""

Seconds = dict[str, float]


@dataclass
class StepTimes:
    """Of one step on this rank: the whole, each part, and the matrix products within each.

    ``sums``: all sums over ranks, hidden or not.
    """

    step: float = 0.0
    parts: Seconds = field(default_factory=lambda: defaultdict(float))
    products: Seconds = field(default_factory=lambda: defaultdict(float))
    sums: float = 0.0


class Instruments:
    """Stopwatches on ``step``, for all its lanes. ``take`` runs one step through them."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._now, self._part, self._counted = StepTimes(), "", 0.0

    @contextmanager
    def entered(self) -> Iterator[None]:
        """While it is entered, every step is measured."""
        step, timing = self._step, self._step.timing
        with ExitStack() as held:

            def put(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
                held.enter_context(replaced(owner, name, make))

            for owner, name, part in (*layer_places(step), *shard_places(step)):
                put(owner, name, self._timed(part))
            put(step.reduction, "clear", self._timed(SUM))
            put(timing, "start", lambda start: self._timed(ALLREDUCE)(self._after_the_last(start)))
            put(timing, "finish", self._timed(ALLREDUCE))
            put(step.reduction.tally, "totals", self._noted)
            put(step.optimizer, "step", self._since_totals)
            for function in FUNCTIONS:
                put(np, function, self._product)
            yield

    def take(self, work: Callable[[], Any]) -> StepTimes:
        """Run ``work``, which takes one step; its times."""
        now = self._now = StepTimes()
        sums = self._step.timing.sums
        before, start = sums.allreduce_seconds, time.perf_counter()
        work()
        now.step = time.perf_counter() - start
        now.sums = sums.allreduce_seconds - before
        now.parts[REST] = now.step - sum(now.parts.values())
        return now

    def _timed(self, part: str) -> Callable[[Work], Work]:
        def around(work: Work) -> Work:
            def call(*arguments: Any, **keywords: Any) -> Any:
                outer, self._part = self._part, part
                start, counted = time.perf_counter(), self._counted
                result = work(*arguments, **keywords)
                seconds = time.perf_counter() - start - (self._counted - counted)
                self._now.parts[part] += seconds
                self._counted += seconds
                self._part = outer
                return result

            return call

        return around

    def _product(self, function: Work) -> Work:
        def call(*operands: Any, **keywords: Any) -> Any:
            start = time.perf_counter()
            result = function(*operands, **keywords)
            self._now.products[self._part] += time.perf_counter() - start
            return result

        return call

    def _after_the_last(self, start: Work) -> Work:
        """The ranks meet before the last bucket's sum, without which none can end: so waiting for
        the last rank is told from summing.
        """
        communicator = self._step.communicator
        if communicator.world_size == 1:
            return start
        meet = self._timed(WAITING)(communicator.barrier)

        def call(reduction: Any, bucket: slice) -> Any:
            if bucket.start == 0:
                meet()
            return start(reduction, bucket)

        return call

    def _noted(self, totals: Work) -> Work:
        def call() -> Any:
            result = totals()
            self._totals_end = time.perf_counter()
            return result

        return call

    def _since_totals(self, update: Work) -> Work:
        """The division by the number of examples lies between the two and counts as part of the
        update.
        """

        def call(*arguments: Any, **keywords: Any) -> Any:
            update(*arguments, **keywords)
            self._now.parts[UPDATE] += time.perf_counter() - self._totals_end

        return call


@dataclass(frozen=True)
class Split:
    """What a step of this rank takes on average, in seconds; the ``parts`` (the rest is one) sum to
    ``step``.
    """

    step: float
    parts: Seconds
    products: Seconds
    sums: float


def average(steps: Sequence[StepTimes]) -> Split:
    """The mean over the middle half of ``steps``, by how long they took.

    As robust as a median, and it adds up: all parts are of the same steps.
    """
    return mean([steps[index] for index in middle_half([each.step for each in steps])])


def mean(steps: Sequence[StepTimes]) -> Split:
    """What a step of these takes in the mean."""
    return Split(
        sum(each.step for each in steps) / len(steps),
        _mean([each.parts for each in steps]),
        _mean([each.products for each in steps]),
        sum(each.sums for each in steps) / len(steps),
    )


def middle_half(seconds: Sequence[float]) -> list[int]:
    """Which of ``seconds`` are neither among the shortest quarter nor among the longest."""
    ordered = sorted(range(len(seconds)), key=seconds.__getitem__)
    return ordered[len(ordered) // 4 : len(ordered) - len(ordered) // 4]


def _mean(rows: Sequence[Seconds]) -> Seconds:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: sum(row.get(name, 0.0) for row in rows) / len(rows) for name in names}
