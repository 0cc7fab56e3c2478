"""One training step: the gradients of all shards, their sum over all ranks, one update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from distcnn import spans
from distcnn.datasets import Microbatch, Part
from distcnn.distributed import Reducer, Totals
from distcnn.nn import Plan, numpy_settings
from distcnn.nn.layer import Array, RandomSource
from distcnn.nn.losses import Loss
from distcnn.optim import Updater
from distcnn.spans import Span
from distcnn.training.failures import ShardFailures
from distcnn.training.ledger import Ledger
from distcnn.training.recording import Recording
from distcnn.training.spot_check import SpotCheck


class Position(NamedTuple):
    """Which step: ``step`` from 0 over the run, ``step_of_epoch`` from 0 within its ``epoch``."""

    step: int
    epoch: int
    step_of_epoch: int


class Lane(NamedTuple):
    """What one shard computes with: a plan, and the microbatch that it is filled into."""

    plan: Plan
    microbatch: Microbatch


Counts = tuple[float, int, int]
"""The sum of a shard's losses, its correct answers, its examples."""
Streams = Callable[[int, int], RandomSource]
"""``(step, shard) -> random source`` of the layers."""
StopRequest = Callable[[], str | None]
"""Why this rank should stop, as text (a signal, or a callback that failed); else None."""
Hook = Callable[[Position, Part, Lane], None]
"""Called for each shard of a step when its microbatch is filled: a place for a debugger."""


class TrainingStep:
    """Takes steps: for each shard of this rank, fill a microbatch, go forward, go backward, and
    add the gradient; then sum over all ranks, and update the parameters.

    Shards compute with the first of the ``lanes``, unless there is overlap.
    """

    overlaps = False
    """Whether gradients are summed while others are still being computed."""
    at_a_time = 1
    """How many shards are computed side by side."""

    def __init__(
        self,
        lanes: Sequence[Lane],
        loss: Loss,
        updater: Updater,
        shards: Sequence[Part],
        reducer: Reducer,
        failures: ShardFailures,
        streams: Streams,
        stop_request: StopRequest,
        spot_check: SpotCheck | None = None,
    ) -> None:
        self.lanes, self.lane = lanes, lanes[0]
        self.loss, self.updater, self.shards = loss, updater, shards
        self.reducer, self.failures, self.streams = reducer, failures, streams
        self.ledger = Ledger(shards)
        self.stop_request = stop_request
        """Asked once in a step; the totals tell all ranks."""
        self.spot_check = spot_check
        self._hooks: list[Hook] = []

    def add_hook(self, hook: Hook) -> None:
        """Call ``hook`` for every shard from now on, before the hooks added earlier."""
        self._hooks.insert(0, hook)

    def __call__(self, step: int, epoch: int, step_of_epoch: int, learning_rate: float) -> Totals:
        """Take a step, all ranks together; its totals.

        On all ranks, before any update, ``ShardFailure`` when a gradient or loss cannot be added,
        and ``SpotCheckFailure`` when two ranks computed different ones.
        """
        with Span(spans.STEP, step=step, epoch=epoch):
            self.reducer.begin()
            self.failures.begin(step)
            if self.spot_check:
                self.spot_check.begin(step)
            totals = self._sum_gradients(Position(step, epoch, step_of_epoch))
            if self.spot_check:
                self.spot_check.compare()
            self.failures.raise_first(totals)
            # The next step's sums reject values that overflow here.
            parameters, gradient = self.lane.plan.parameters, self.reducer.gradient
            with (
                Span(spans.UPDATE),
                np.errstate(over="ignore", invalid="ignore"),
                parameters.changing() as values,
            ):
                self.updater.step(values, gradient, learning_rate, count=totals.examples)
        return totals

    def _sum_gradients(self, at: Position) -> Totals:
        self._add_shards(self.shards, at)
        self._pass_on_stop_request()
        return self.reducer.all_reduce()

    def _add_shards(self, shards: Sequence[Part], at: Position) -> None:
        for shard in shards:
            with Span(spans.SHARD, shard=shard.index), self.failures.caught(shard, self.lane):
                plan, grad_logits, counts = self._forward(shard, self.lane, at)
                with self.reducer.slot() as gradients, numpy_settings():
                    plan.backward(grad_logits, out=gradients)
                self.reducer.count(*counts)

    def _forward(
        self, shard: Part, lane: Lane, at: Position
    ) -> tuple[Plan | Recording, Array, Counts]:
        """Fill the lane with the shard's next examples; what goes backward, and the gradient of
        their loss.
        """
        microbatch = lane.microbatch
        with Span(spans.READ_DATA):
            examples = shard.fill(microbatch, at.epoch, at.step_of_epoch)
        with Span(spans.LEDGER):
            self.ledger.mark(shard.index, microbatch.chosen)
        for hook in self._hooks:
            hook(at, shard, lane)
        plan, loss = self._watched(shard, lane)
        random_source = self.streams(at.step, shard.index)
        with numpy_settings():
            logits = plan.forward(microbatch.images, training=True, random_source=random_source)
            with Span(spans.LOSS):
                loss_sum, grad_logits = loss(logits, microbatch.labels, microbatch.weights)
        return plan, grad_logits, (loss_sum, count_correct(logits, microbatch), examples)

    def _watched(self, shard: Part, lane: Lane) -> tuple[Plan | Recording, Loss]:
        """What computes the filled lane: a recording of it if another rank will repeat it."""
        recording = self.spot_check.watch(shard.index, lane) if self.spot_check else None
        return (recording, recording.loss) if recording else (lane.plan, self.loss)

    def _pass_on_stop_request(self) -> None:
        if self.stop_request():
            self.reducer.stats.ask_to_stop()


def count_correct(logits: np.ndarray, microbatch: Microbatch) -> int:
    """How many examples (not padding) have their largest logit at their label."""
    is_correct = logits.argmax(axis=0) == microbatch.labels
    return int(np.count_nonzero(is_correct & (microbatch.weights > 0)))
