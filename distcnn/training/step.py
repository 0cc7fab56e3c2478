"""One training step: every shard's gradient, their sum over all ranks, one update."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from distcnn.config import LARGEST_GRADIENT_LIMIT
from distcnn.datasets import Microbatch, Part
from distcnn.distributed import Communicator, RangeError, Reduction, Tally, Totals
from distcnn.errors import TrainingError
from distcnn.fault_tolerance.heartbeat import Activity, pulse
from distcnn.nn import computing
from distcnn.nn.losses import Loss
from distcnn.nn.planned import PlannedNetwork
from distcnn.optim import Updater
from distcnn.spans import LEDGER, LOCAL_SUM, LOSS, READ_DATA, SHARD, STEP, UPDATE, Span
from distcnn.training.ledger import Ledger
from distcnn.training.nan_check import first_not_finite
from distcnn.training.overlap import Lane, Overlap, no_overlap

DIVERGED = "the training has diverged; lower --learning-rate or lengthen --warmup-steps"
AT_ONCE = (
    "no update was made yet: check the image set's mean and std, and the model's first weights"
)
WIDEN = (
    "; only if gradients of this size are normal for this model, start again with a larger"
    " --gradient-limit"
)

_READ_DATA, _LEDGER, _LOSS = Span(READ_DATA), Span(LEDGER), Span(LOSS)
_LOCAL_SUM, _UPDATE = Span(LOCAL_SUM), Span(UPDATE)


class ShardFailure(TrainingError):
    """A shard's gradient or loss cannot be added."""

    def __init__(self, text: str, shard: int) -> None:
        super().__init__(text)
        self.shard = shard


@dataclass
class Step:
    """What a step needs; ``shards`` are this rank's."""

    network: PlannedNetwork
    loss: Loss
    optimizer: Updater
    shards: Sequence[Part]
    microbatch: Microbatch
    reduction: Reduction
    communicator: Communicator
    stop_request: Callable[[], str | None] = lambda: None
    """The signal that asked this rank to stop, if any: the totals then say so to all."""
    before_shard: Callable[[int, int], None] | None = None
    """Called with (step, shard) when the microbatch is filled: a place for a debugger."""
    overlap: Overlap | None = None
    """How computing and summing share the time; by default one after the other."""
    ledger: Ledger = field(init=False)
    gradient: np.ndarray | None = field(default=None, init=False)
    """After a step, until the next one: the sum over all examples of all ranks."""

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.shards)
        self._spans = {shard.index: Span(SHARD, shard=shard.index) for shard in self.shards}
        self.timing = self.overlap or no_overlap(self.network, self.microbatch, self.communicator)

    def __call__(self, step: int, epoch: int, step_of_epoch: int, learning_rate: float) -> Totals:
        """Take step ``step`` (from 0 over the run; ``step_of_epoch`` within its epoch) on all
        ranks, and return its totals.

        ``ShardFailure`` on all ranks, before any update, when a shard's gradient or loss cannot be
        added.
        """
        with Span(STEP, step=step, epoch=epoch):
            return self.take(step, epoch, step_of_epoch, learning_rate)

    def take(self, step: int, epoch: int, step_of_epoch: int, learning_rate: float) -> Totals:
        """What a call does; with a name of its own, so that an instrument can stand in its place
        (``distcnn.training.parts``).
        """
        timing, failures = self.timing, Failures(self.reduction.tally, self._spans)
        self.reduction.clear()
        whole = len(self.shards) - len(timing.lanes)
        lanes = [*[timing.lanes[0]] * whole, *timing.lanes]
        passes = [
            failures.caught(
                step, shard, lane, self._add_shard(shard, lane, step, epoch, step_of_epoch)
            )
            for shard, lane in zip(self.shards, lanes, strict=True)
        ]
        for each in passes[:whole]:
            deque(each, maxlen=0)
        for bucket in timing.buckets:
            for each in passes[whole:]:
                next(each, None)
            pulse.beat(Activity.SUMMING)
            if bucket.start == 0 and self.stop_request():
                self.reduction.tally.ask_to_stop()
            timing.start(self.reduction, bucket)
        timing.finish(self.reduction)
        pulse.beat(Activity.UPDATING)
        totals = self.reduction.tally.totals()
        if totals.failures:
            raise ShardFailure(
                *next(each for each in self.communicator.allgather(failures.first()) if each)
            )
        # The next step's sums reject values that overflow here.
        with _UPDATE, np.errstate(over="ignore", invalid="ignore"):
            # To float32: a division takes half the time of one in float64.
            self.gradient = self.reduction.rounded(self.network.grads)
            self.optimizer.step(
                self.network.values, self.gradient, learning_rate, count=totals.examples
            )
        return totals

    def _add_shard(
        self, shard: Part, lane: Lane, step: int, epoch: int, step_of_epoch: int
    ) -> Iterator[None]:
        """Forward and backward of one shard's microbatch, added to the sum; a pause after each
        bucket.
        """
        with _READ_DATA:
            examples = shard.fill(lane.microbatch, epoch, step_of_epoch)
        with _LEDGER:
            self.ledger.mark(shard.index, lane.microbatch.chosen)
        if self.before_shard is not None:
            self.before_shard(step, shard.index)
        place = self.reduction.place()
        if place is not None:
            lane.network.write_gradients_to(place)
        with computing():  # the sums below refuse what is out of range
            logits = lane.network.forward(lane.microbatch.images)
            with _LOSS:
                loss_sum, grad_logits = self.loss(
                    logits, lane.microbatch.labels, lane.microbatch.weights
                )
        backward, complete = lane.network.backward_by_layer(grad_logits), lane.network.grads.size
        for bucket in self.timing.buckets:
            with computing():
                while complete > bucket.start:
                    _, complete = next(backward)
            try:
                with _LOCAL_SUM:
                    self.reduction.add(lane.network.grads, bucket)
                if bucket.start == 0:
                    self.reduction.tally.add(
                        loss_sum, count_correct(logits, lane.microbatch), examples
                    )
            except RangeError as error:
                raise self._named(error, lane, step) from error
            yield

    def _named(self, error: RangeError, lane: Lane, step: int) -> TrainingError:
        """What is out of range, where that began, and the remedy: the same with any buckets, for
        all is computed once more, as one.
        """
        what, remedy, wider = "the loss", DIVERGED if step else AT_ONCE, ""
        with computing():
            logits = lane.network.forward(lane.microbatch.images)
            lane.network.backward(
                self.loss(logits, lane.microbatch.labels, lane.microbatch.weights)[1]
            )
        try:
            self.reduction.check(lane.network.grads)
        except RangeError as first:
            error, what = first, f"the gradient of {lane.network.parameter_at(first.index)}"
            wider = WIDEN if error.limit < LARGEST_GRADIENT_LIMIT else ""
        if math.isfinite(error.value):
            return TrainingError(
                f"{what} is {error.value:g}, beyond the sum's limit of {error.limit:g} for one"
                f" shard: {remedy}{wider}"
            )
        origin = first_not_finite(lane.network, self.loss, lane.microbatch)
        return TrainingError(
            f"{what} is {error.value:g}: {remedy}; first not finite: {origin or what}"
        )


class Failures:
    """This rank's shards that cannot be added, counted in ``tally``."""

    def __init__(self, tally: Tally, spans: dict[int, Span]) -> None:
        self._tally, self._spans = tally, spans
        self._texts: dict[int, str] = {}

    def caught(self, step: int, shard: Part, lane: Lane, work: Iterator[None]) -> Iterator[None]:
        """``work`` on ``shard``, piece by piece; a ``TrainingError`` is kept, and ends it."""
        try:
            while True:
                pulse.beat(Activity.COMPUTING_SHARD, step, shard.index)
                with self._spans[shard.index]:
                    next(work)
                yield
        except StopIteration:
            return
        except TrainingError as error:
            examples = ", ".join(
                str(shard.first_example + index) for index in lane.microbatch.chosen
            )
            self._texts[shard.index] = (
                f"step {step}, shard {shard.index}: {error}; training examples {examples}"
            )
            self._tally.fail()

    def first(self) -> tuple[str, int] | None:
        """Text and index of the first of these shards, whichever was found first."""
        return next(((text, index) for index, text in sorted(self._texts.items())), None)


def count_correct(logits: np.ndarray, microbatch: Microbatch) -> int:
    """How many examples (not padding) have their largest logit at their label."""
    return int(
        np.count_nonzero((logits.argmax(axis=0) == microbatch.labels) & (microbatch.weights > 0))
    )
