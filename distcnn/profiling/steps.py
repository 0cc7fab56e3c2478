"""Stopwatches around the parts of the steps that are traced."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from numpy.typing import NDArray

from distcnn.distributed import Reduction, Totals
from distcnn.profiling.recorder import Counts, Parts, Recorder, clock, stopwatch
from distcnn.training.parts import DATA, LOSS, SUM, Work, layer_places, replaced, shard_places
from distcnn.training.step import Step

REDUCE = "reduce bucket"


class StepTrace:
    """Records the steps of ``window`` on ``step``: this thread's part in ``main``, that of the
    sums' thread, if there is one, in ``sums``.

    Stopwatches stand there from the first of these steps to the last, or until a further step may
    find no room.
    """

    def __init__(
        self, step: Step, window: range, parts: Parts, main: Recorder, sums: Recorder, sum_name: str
    ) -> None:
        self._step, self._window, self._parts, self._main, self._sums = (
            step,
            window,
            parts,
            main,
            sums,
        )
        self._names = {DATA: "data", LOSS: "loss", SUM: sum_name}
        self._stopwatches = ExitStack()
        self._stand = False
        self._largest, self._bucket, self._update_begin = 1, 0, 0
        self.recorded = range(0)
        """The steps so far."""

    @contextmanager
    def entered(self) -> Iterator[None]:
        """While it is entered, the steps of the window are recorded."""
        with replaced(self._step, "take", self._take):
            try:
                yield
            finally:
                self.pause()

    def pause(self) -> None:
        """Take the stopwatches away, until the next step that is recorded."""
        self._stopwatches.close()
        self._stand = False

    def _take(self, take: Callable[..., Totals]) -> Callable[..., Totals]:
        part = self._parts.number_of("step", Counts.STEP)

        def call(step: int, *arguments: Any) -> Totals:
            if step not in self._window or not self._main.takes(self._largest):
                self.pause()
                return take(step, *arguments)
            self._put_stopwatches()
            self.recorded = range(self._window.start, step + 1)
            before, begin, loss = len(self._main.kept), clock(), math.nan
            try:
                totals = take(step, *arguments)
                loss = totals.loss
                return totals
            finally:
                self._main.add(part, step, begin, clock(), loss)
                self._largest = max(self._largest, len(self._main.kept) - before)

        return call

    def _put_stopwatches(self) -> None:
        if self._stand:
            return
        self._stand = True
        step, timing = self._step, self._step.timing

        def put(owner: Any, name: str, make: Callable[[Work], Work]) -> None:
            self._stopwatches.enter_context(replaced(owner, name, make))

        for owner, name, part in (*layer_places(step), *shard_places(step)):
            put(
                owner,
                name,
                self._timed(
                    self._names.get(part, part),
                    Counts.NOTHING if name == "sum_share" else Counts.SHARD,
                ),
            )
        put(step.ledger, "mark", self._timed("ledger", Counts.SHARD))
        if step.overlap is None:
            put(timing, "start", self._reduce)
            put(timing.sums, "allreduce_sum", self._allreduce)
        else:
            put(getattr(timing.sums, "inner", timing.sums), "allreduce_sum", self._allreduce_beside)
            put(timing, "finish", self._timed("wait for sums", Counts.NOTHING))
        put(step.reduction, "rounded", self._begin_update)
        put(step.optimizer, "step", self._end_update)

    def _timed(self, name: str, counts: Counts) -> Callable[[Work], Work]:
        return stopwatch(self._main, self._parts.number_of(name, counts))

    def _reduce(self, start: Work) -> Work:
        """Without overlap: a bucket from its hand-over to its sum."""
        part = self._parts.number_of(REDUCE, Counts.BUCKET)
        numbers = {bucket.start: number for number, bucket in enumerate(self._step.timing.buckets)}
        grads = self._step.network.grads

        def call(reduction: Reduction, bucket: slice) -> None:
            self._bucket, begin = numbers[bucket.start], clock()
            start(reduction, bucket)
            self._main.add(part, self._bucket, begin, clock(), grads[bucket].nbytes)

        return call

    def _allreduce(self, allreduce_sum: Work) -> Work:
        part = self._parts.number_of("allreduce", Counts.COLLECTIVE)

        def call(values: NDArray[Any]) -> None:
            begin = clock()
            allreduce_sum(values)
            self._main.add(part, self._bucket, begin, clock(), values.nbytes)

        return call

    def _allreduce_beside(self, allreduce_sum: Work) -> Work:
        """In the sums' thread: one sum for each bucket, in their order."""
        part = self._parts.number_of(REDUCE, Counts.COLLECTIVE)
        numbers = itertools.cycle(range(len(self._step.timing.buckets)))

        def call(values: NDArray[Any]) -> None:
            begin = clock()
            allreduce_sum(values)
            self._sums.add(part, next(numbers), begin, clock(), values.nbytes)

        return call

    def _begin_update(self, rounded: Work) -> Work:
        """The update begins with the division by the number of examples."""

        def call(*arguments: Any) -> Any:
            self._update_begin = clock()
            return rounded(*arguments)

        return call

    def _end_update(self, update: Work) -> Work:
        part = self._parts.number_of("optimizer")

        def call(*arguments: Any, **keywords: Any) -> Any:
            update(*arguments, **keywords)
            self._main.add(part, 0, self._update_begin, clock())

        return call
